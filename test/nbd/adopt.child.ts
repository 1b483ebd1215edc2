// SPDX-License-Identifier: Apache-2.0
// A worker thread that owns a vDisk: adopts the tickets that are posted to it.

import { parentPort } from "node:worker_threads";
import { MIB } from "../../src/base/units.js";
import type { NbdTicket } from "../../src/nbd/listener.js";
import { MemoryTarget } from "../../src/nbd/memory.js";
import { NbdServer } from "../../src/nbd/server.js";
import { createWorld } from "../../src/platform/node/world.js";

const world = createWorld({ name: "worker", arenaBytes: 8 * MIB, terminal: null });
const server = new NbdServer(world, { slots: 16 });
const target = new MemoryTarget(world.arena, server.requests, 64 * MIB, false);

parentPort!.on("message", (message: NbdTicket | "stop") => {
  if (message === "stop") void stop();
  else server.adopt(message, target);
});

async function stop(): Promise<void> {
  const { requests } = server.counters();
  await server.stop(100);
  await world.stop();
  parentPort!.postMessage({ requests });
  parentPort!.close();
}
