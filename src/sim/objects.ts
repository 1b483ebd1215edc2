// SPDX-License-Identifier: Apache-2.0
// Whole objects of the backend as an operator reads them.

import type { BackendClient } from "../backend/client.js";
import { alignUp } from "../base/bytes.js";
import { CLUSTER_BYTES, MIB } from "../base/units.js";
import { ArenaPool } from "../platform/arena.js";
import type { SimWorld } from "./world.js";

const TIMEOUT_MS = 10_000;
/** Of the arena. */
const MEMORY_BYTES = 2 * MIB;

export class ObjectReader {
  readonly #world: SimWorld;
  readonly #backend: BackendClient;
  readonly #memory: ArenaPool;

  /** Takes 2 MiB of the world's arena. */
  constructor(world: SimWorld, backend: BackendClient) {
    this.#world = world;
    this.#backend = backend;
    this.#memory = new ArenaPool(world.arena.region(MEMORY_BYTES, "objects"), MEMORY_BYTES);
  }

  /** An object of so many bytes, a copy; rejects with a StorageError. */
  async read(namespace: string, name: string, bytes: number): Promise<Uint8Array> {
    const whole = alignUp(bytes, CLUSTER_BYTES);
    const into = await this.#memory.take(whole);
    try {
      const parts = [{ name, offset: 0, bytes: whole, into }];
      await this.#backend.read(namespace, parts, TIMEOUT_MS);
      return this.#world.arena.slice(into, bytes).slice();
    } finally {
      this.#memory.give(into);
    }
  }
}
