// SPDX-License-Identifier: Apache-2.0
// Removal of garbage marks and of fragments that are known to be garbage (P-C6): keys that may go
// from an OSD whenever it suits. They ride along with the next fragment that is written there, or
// go by themselves after a while. Nothing is lost when they never go: a mark that stays is found by
// garbage collection.

import { StorageError } from "../base/errors.js";
import type { Timer, World } from "../platform/world.js";
import { NO_CHANGE, Priority } from "./osd.js";
import type { OsdPool } from "./osdpool.js";

const KEYS_MAX = 8192;
const BATCH_MAX = 512;
const RIDE_MAX = 128;
const FLUSH_MS = 2000;
const TIMEOUT_MS = 10_000;

export class LateDeletes {
  readonly #world: Pick<World, "clock" | "log">;
  readonly #pool: OsdPool;
  readonly #keys = new Map<number, Uint8Array[]>();
  readonly #running = new Set<Promise<void>>();
  #timer: Timer | null = null;
  #stopped = false;

  constructor(world: Pick<World, "clock" | "log">, pool: OsdPool) {
    this.#world = world;
    this.#pool = pool;
  }

  /** Deletes the key some time soon; forgets it when there are too many. */
  add(osd: number, key: Uint8Array): void {
    let keys = this.#keys.get(osd);
    if (keys === undefined) {
      keys = [];
      this.#keys.set(osd, keys);
    }
    if (keys.length < KEYS_MAX) keys.push(key);
    if (this.#stopped) return;
    this.#timer ??= this.#world.clock.after(FLUSH_MS, () => {
      this.#timer = null;
      void this.flush();
    });
  }

  /** Keys to delete together with a change that goes to the OSD now. */
  take(osd: number): Uint8Array[] {
    const keys = this.#keys.get(osd);
    return keys === undefined ? [] : keys.splice(0, RIDE_MAX);
  }

  /** Sends everything; resolves when all of it is settled, whatever came of it. */
  async flush(): Promise<void> {
    for (const osd of this.#keys.keys()) {
      const run = this.#flushOsd(osd).finally(() => this.#running.delete(run));
      this.#running.add(run);
    }
    await Promise.all(this.#running);
  }

  /** Sends what is left and waits for it; later ones wait for a `flush` or a ride. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#timer = null;
    await this.flush();
  }

  async #flushOsd(id: number): Promise<void> {
    const keys = this.#keys.get(id)!;
    this.#keys.delete(id);
    const osd = this.#pool.get(id);
    if (osd === null || !osd.up) return;
    try {
      for (let at = 0; at < keys.length; at += BATCH_MAX) {
        const deletes = keys.slice(at, at + BATCH_MAX);
        const options = { timeoutMs: TIMEOUT_MS, priority: Priority.Background };
        await osd.apply({ ...NO_CHANGE, deletes }, options);
      }
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#world.log.debug("garbage marks stay for the collector", {
        osd: id,
        reason: error.message,
      });
    }
  }
}
