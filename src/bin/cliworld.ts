// SPDX-License-Identifier: Apache-2.0
// A small world for commands that talk to a running cluster.

import { MIB } from "../base/units.js";
import { createWorld, type NodeWorld } from "../platform/node/world.js";

const ARENA_BYTES = 64 * MIB;

/** Runs `work` in a world that ends with it. */
export async function withWorld<T>(work: (world: NodeWorld) => Promise<T>): Promise<T> {
  const world = createWorld({ name: "cli", arenaBytes: ARENA_BYTES, terminal: null });
  try {
    return await work(world);
  } finally {
    await world.stop();
  }
}
