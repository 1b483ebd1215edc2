// SPDX-License-Identifier: Apache-2.0
// What a simulated key-value store has on its disk: the map, and the log of batches since a moment
// that is durable. A power loss takes batches from the end of the log, down to the last sync.
//
//   base (durable) │ batch, batch, batch │ batch, batch     map = base and all batches
//                                 synced ┘

import { applyBatch } from "../platform/kvbatch.js";
import type { Dice } from "./dice.js";
import type { LossChooser } from "./loss.js";
import { compareKeys, SortedMap } from "./sortedmap.js";

/** Batches of the log after which a synced log is folded into its base. */
const FOLD_BATCHES = 64;
/** Batches after which the store writes its tables by itself, as a full write buffer does. */
const FLUSH_BATCHES = 4096;
const FLUSH_BYTES = 4 * 2 ** 20;
const DAMAGED_KEYS = 16;

export class KvContent {
  /** Words for who has it open; null: nobody has. */
  openBy: string | null = null;
  /** False when no folder holds it any more; it occupies nothing then. */
  isNamed = true;
  #map = new SortedMap();
  #base = new SortedMap();
  #log: Uint8Array[] = [];
  #logBytes = 0;
  #synced = 0;
  #isLogDamaged = false;
  #damaged: { first: Uint8Array; last: Uint8Array } | null = null;

  /** What readers see, also what a loss of power would take. To be changed by `apply` only. */
  get map(): SortedMap {
    return this.#map;
  }

  /** What it occupies on the device: keys and values, nothing for logs or levels. */
  get diskBytes(): number {
    return this.#map.bytes;
  }

  /** Batches that a power loss may take. */
  get unsynced(): number {
    return this.#log.length - this.#synced;
  }

  /** True when it cannot be opened. */
  get isLogDamaged(): boolean {
    return this.#isLogDamaged;
  }

  /** Takes a packed batch. */
  apply(packed: Uint8Array): void {
    applyBatch(packed, this.#map);
    this.#log.push(packed);
    this.#logBytes += packed.byteLength;
    if (this.#log.length > FLUSH_BATCHES || this.#logBytes > FLUSH_BYTES) this.#fold();
  }

  /** All batches until now are durable. */
  sync(): void {
    this.#synced = this.#log.length;
    if (this.#synced > FOLD_BATCHES) this.#fold();
  }

  /** A store of its own with the same content, durable. */
  copy(): KvContent {
    const copy = new KvContent();
    copy.#map = this.#map.view();
    copy.#fold();
    copy.#damaged = this.#damaged;
    return copy;
  }

  /** The power fails: of the batches that were not synced the first few are left. */
  lose(path: string, chooser: LossChooser): void {
    this.openBy = null;
    this.isNamed = true;
    if (this.unsynced === 0) return;
    const kept = this.#synced + chooser.batches(path, this.unsynced);
    if (kept < this.#log.length) {
      this.#map = this.#base.view();
      for (const packed of this.#log.slice(0, kept)) applyBatch(packed, this.#map);
    }
    this.#fold();
  }

  /** Damages what is on the disk: its log, or some keys that lie together; false: no key. */
  corrupt(dice: Dice): boolean {
    if (this.#map.count === 0) return false;
    if (dice.chance(0.3)) {
      this.#isLogDamaged = true;
      return true;
    }
    const keys = this.#map.range(null, null, false, this.#map.count);
    const first = dice.below(keys.length);
    const last = Math.min(first + DAMAGED_KEYS, keys.length) - 1;
    this.#damaged = { first: keys[first]!.key, last: keys[last]!.key };
    return true;
  }

  /** True when the key lies where the disk is damaged. */
  isDamaged(key: Uint8Array): boolean {
    const damaged = this.#damaged;
    if (damaged === null) return false;
    return compareKeys(key, damaged.first) >= 0 && compareKeys(key, damaged.last) <= 0;
  }

  /** What is in the map is durable. */
  #fold(): void {
    this.#base = this.#map.view();
    this.#log = [];
    this.#logBytes = 0;
    this.#synced = 0;
  }
}
