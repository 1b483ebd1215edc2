// SPDX-License-Identifier: Apache-2.0
// Locks of clusters for requests that cover a cluster partly (P-A6). Such a request holds all its
// clusters, not only the ones at its ends: another partial write in its middle would otherwise
// merge with content from before it. Held from before the old content is read until the merged
// record is committed. Few are held at a time, so a list that is scanned beats a tree.

import { assert } from "../base/assert.js";

export class ClusterLocks {
  readonly #firsts: Float64Array;
  readonly #ends: Float64Array;
  readonly #holders: Int32Array;
  #count = 0;

  /** `max`: most holders at a time. */
  constructor(max: number) {
    this.#firsts = new Float64Array(max);
    this.#ends = new Float64Array(max);
    this.#holders = new Int32Array(max);
  }

  /** Ranges that are locked. */
  get count(): number {
    return this.#count;
  }

  /** A holder of a cluster in [first, end), or -1. */
  holderIn(first: number, end: number): number {
    for (let i = 0; i < this.#count; i++) {
      if (this.#firsts[i] < end && this.#ends[i] > first) return this.#holders[i];
    }
    return -1;
  }

  /** Takes [first, end), which nobody holds. */
  take(first: number, end: number, holder: number): void {
    assert(first < end, "a lock covers something");
    assert(this.#count < this.#holders.length, "there is room for every slot's lock");
    assert(this.holderIn(first, end) < 0, "a cluster has one holder");
    this.#firsts[this.#count] = first;
    this.#ends[this.#count] = end;
    this.#holders[this.#count] = holder;
    this.#count++;
  }

  /** Gives back what a holder has. */
  release(holder: number): void {
    let kept = 0;
    for (let i = 0; i < this.#count; i++) {
      if (this.#holders[i] === holder) continue;
      this.#firsts[kept] = this.#firsts[i];
      this.#ends[kept] = this.#ends[i];
      this.#holders[kept] = this.#holders[i];
      kept++;
    }
    this.#count = kept;
  }
}
