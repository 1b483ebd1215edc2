// SPDX-License-Identifier: Apache-2.0
// What destage does beside batches: removes SCOs that a dead owner left without a TLog, deletes
// empty SCOs, and (reclaim.ts, checkpoint.ts) rewrites the emptiest and writes checkpoints.

import { StorageError } from "../base/errors.js";
import type { TlogRelocation } from "../wire/generated/tlog.js";
import type { Destager } from "./destage.js";
import { numberOf, SCO_PREFIX, scoIdOf, scoName } from "./names.js";
import type { Volume } from "./volume.js";

const LIST_LIMIT = 1000;
/** Objects removed by one call. */
const REMOVE_MAX = 32;

export class Maintenance {
  readonly #volume: Volume;
  readonly #destager: Destager;
  #orphansGone = false;

  constructor(volume: Volume, destager: Destager) {
    this.#volume = volume;
    this.#destager = destager;
  }

  /** Before the first batch of this service. */
  async before(): Promise<void> {
    if (this.#orphansGone) return;
    await this.#destager.persist(() => this.#removeOrphans());
  }

  /** Clusters that go to new SCOs with this batch. */
  async relocations(): Promise<TlogRelocation[]> {
    return [];
  }

  /** After a batch is in the map. */
  async after(): Promise<void> {
    try {
      await this.#removeEmpty();
    } catch (error) {
      // The next batch tries again.
      if (!(error instanceof StorageError)) throw error;
      this.#destager.warn("empty SCOs are not deleted yet", error);
    }
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

  /** P-A5, P-F2: a SCO goes when the TLog that emptied it is committed and no read holds it. */
  async #removeEmpty(): Promise<void> {
    const { map } = this.#volume;
    const empty: number[] = [];
    map.scos.forEach((id, live) => {
      if (live === 0) empty.push(id);
    });
    if (empty.length === 0) return;
    await Promise.allSettled(this.#volume.backendReads);
    await this.#remove(empty.map(scoName));
    await map.forgetScos(empty);
  }

  async #remove(names: readonly string[]): Promise<void> {
    const { store, namespace, config } = this.#volume;
    for (let i = 0; i < names.length; i += REMOVE_MAX) {
      const some = names.slice(i, i + REMOVE_MAX);
      await store.remove(namespace, some, config.epoch, { compares: [], operations: [] });
    }
  }
}
