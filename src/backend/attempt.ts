// SPDX-License-Identifier: Apache-2.0
// One try of an upload: a set of fragments under one object id and one upload epoch, and what
// became of each.

import { assert } from "../base/assert.js";
import type { StorageError } from "../base/errors.js";
import type { Random } from "../platform/world.js";
import { dataKey, type FragmentName, markKey, recoveryKey } from "./keys.js";
import type { LateDeletes } from "./marks.js";
import type { Candidate } from "./placement.js";

export const FIRST_VERSION = 1;

export class Attempt {
  readonly objectId: Uint8Array;
  readonly namespaceId: Uint8Array;
  /** Upload epoch of its marks. */
  readonly epoch: number;
  /** Where fragment f is, or was last tried. */
  readonly places: Candidate[];
  /** OSDs that failed, each with its last error. */
  readonly failed = new Map<number, StorageError>();
  /** The manifest as planned, for recovery records. */
  recovery: Uint8Array = new Uint8Array(0);
  readonly #acked = new Set<number>();
  /** Fragments that may have been written where they do not belong. */
  readonly #strays: Array<{ osd: number; f: number }> = [];

  constructor(objectId: Uint8Array, namespaceId: Uint8Array, epoch: number, places: Candidate[]) {
    this.objectId = objectId;
    this.namespaceId = namespaceId;
    this.epoch = epoch;
    this.places = places;
  }

  /** Fragments that are stored. */
  get acked(): number {
    return this.#acked.size;
  }

  /** True when fragment f is stored at its place. */
  isAcked(f: number): boolean {
    return this.#acked.has(f);
  }

  /** Fragment f is durable at its place. */
  ack(f: number): void {
    assert(!this.#acked.has(f), "a fragment is stored once");
    this.#acked.add(f);
  }

  /** The put of fragment f to an OSD failed; it may have been done all the same. */
  fail(osd: number, f: number, error: StorageError): void {
    this.failed.set(osd, error);
    this.#strays.push({ osd, f });
  }

  /** The name of fragment f under this attempt's object id. */
  name(f: number): FragmentName {
    return { objectId: this.objectId, chunk: 0, fragment: f, version: FIRST_VERSION };
  }

  /** The key of the garbage mark of fragment f (P-C6). */
  mark(f: number): Uint8Array {
    return markKey(this.namespaceId, this.epoch, this.name(f));
  }

  /** Deletes what failed puts may have left. Only after they have settled. */
  discardStrays(late: LateDeletes): void {
    for (const { osd, f } of this.#strays) {
      const isThere = this.places[f]!.id === osd && this.#acked.has(f);
      if (!isThere) this.#discardAt(late, osd, f);
    }
  }

  /** Deletes all that it may have written. Only when its commit is known to have failed. */
  discard(late: LateDeletes): void {
    this.discardStrays(late);
    this.places.forEach((place, f) => void this.#discardAt(late, place.id, f));
  }

  #discardAt(late: LateDeletes, osd: number, f: number): void {
    late.add(osd, dataKey(this.name(f)));
    late.add(osd, recoveryKey(this.name(f)));
    late.add(osd, this.mark(f));
  }
}

/** In place, by the caller's randomness. */
export function shuffle<T>(list: T[], random: Random): T[] {
  for (let i = list.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [list[i], list[j]] = [list[j]!, list[i]!];
  }
  return list;
}
