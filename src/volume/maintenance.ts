// SPDX-License-Identifier: Apache-2.0
// What destage does beside batches: removes SCOs that a dead owner left without a TLog, deletes
// empty SCOs, rewrites the emptiest, begins checkpoints.

import { StorageError } from "../base/errors.js";
import { Checkpointer } from "./checkpoint.js";
import type { Destager } from "./destage.js";
import { numberOf, SCO_PREFIX, scoIdOf, scoName } from "./names.js";
import { Reclaim, type Relocated } from "./reclaim.js";
import type { ScoBuilder } from "./scobuilder.js";
import type { Volume } from "./volume.js";

const LIST_LIMIT = 1000;
/** Objects removed by one call. */
const REMOVE_MAX = 32;
/** Relocations that cannot be read are not tried again for this long. */
const PAUSE_MS = 10_000;

export class Maintenance {
  readonly checkpointer: Checkpointer;
  readonly reclaim: Reclaim;
  readonly #volume: Volume;
  readonly #destager: Destager;
  #orphansGone = false;
  #pausedUntilMs = 0;

  constructor(volume: Volume, destager: Destager, builder: ScoBuilder) {
    this.#volume = volume;
    this.#destager = destager;
    this.checkpointer = new Checkpointer(volume);
    this.reclaim = new Reclaim(volume, builder);
  }

  /** Before the first batch of this service. */
  async before(): Promise<void> {
    if (this.#orphansGone) return;
    await this.#destager.persist(() => this.#removeOrphans());
  }

  /** Whether clusters should move even without a batch. */
  get isWanted(): boolean {
    return this.#volume.thread.world.clock.nowMs() >= this.#pausedUntilMs && this.reclaim.isWanted;
  }

  /** How often `relocate` may be called for one TLog. */
  get rounds(): number {
    return this.reclaim.rounds;
  }

  /**
   * Clusters that go to a new SCO with this TLog, if any; their old SCOs are added to `taken`.
   * Gives the SCO's memory.
   */
  async relocate(taken: Set<number>): Promise<Relocated | null> {
    const { clock } = this.#volume.thread.world;
    if (clock.nowMs() < this.#pausedUntilMs) return null;
    try {
      return await this.reclaim.relocate(taken);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#pausedUntilMs = clock.nowMs() + PAUSE_MS;
      this.#destager.warn("space is not reclaimed now", error);
      return null;
    }
  }

  /** After a TLog of so many bytes is in the map. */
  async after(tlogBytes: number): Promise<void> {
    this.checkpointer.onTlog(tlogBytes);
    await this.removeEmpty();
  }

  /** P-A5, P-F2: a SCO goes when the TLog that emptied it is committed and no read holds it. */
  async removeEmpty(): Promise<void> {
    await this.#destager.mapTurn.with(() => this.#removeEmpty());
  }

  async #removeEmpty(): Promise<void> {
    const { map } = this.#volume;
    const empty: number[] = [];
    map.scos.forEach((id, live) => {
      if (live === 0) empty.push(id);
    });
    if (empty.length === 0) return;
    try {
      await Promise.allSettled(this.#volume.backendReads);
      await this.#remove(empty.map(scoName));
      await map.forgetScos(empty);
    } catch (error) {
      // The next batch tries again.
      if (!(error instanceof StorageError)) throw error;
      this.#destager.warn("empty SCOs are not deleted yet", error);
    }
  }

  /** Ends a checkpoint that is being written, and begins no other. */
  async stop(): Promise<void> {
    await this.checkpointer.stop();
  }

  /** SCOs above the last that a TLog names were put by an owner that died before its TLog. */
  async #removeOrphans(): Promise<true> {
    const { store, namespace, map, config } = this.#volume;
    let after = scoName(Math.max(map.mark.scoIdLast, 1));
    const end = scoName(scoIdOf(config.epoch, 1));
    for (;;) {
      const objects = await store.list(namespace, SCO_PREFIX, { after, limit: LIST_LIMIT });
      const names = objects.map((object) => object.name).filter((name) => name < end);
      const orphans = names.filter((name) => !map.scos.has(numberOf(name, SCO_PREFIX)));
      await this.#remove(orphans);
      if (objects.length < LIST_LIMIT || names.length < objects.length) break;
      after = objects[objects.length - 1]!.name;
    }
    this.#orphansGone = true;
    return true;
  }

  async #remove(names: readonly string[]): Promise<void> {
    const { store, namespace, config } = this.#volume;
    for (let i = 0; i < names.length; i += REMOVE_MAX) {
      const some = names.slice(i, i + REMOVE_MAX);
      await store.remove(namespace, some, config.epoch, { compares: [], operations: [] });
    }
  }
}
