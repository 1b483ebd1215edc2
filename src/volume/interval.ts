// SPDX-License-Identifier: Apache-2.0
// A set of whole numbers as sorted, disjoint, non-touching intervals [first, end). A TRIM of
// 16 TiB is one interval, so its cost does not depend on its length.
//
// Invariant: firsts[0] < ends[0] < firsts[1] < ends[1] < …

import { assert } from "../base/assert.js";

const CAPACITY_FIRST = 8;

export class IntervalSet {
  #firsts = new Float64Array(CAPACITY_FIRST);
  #ends = new Float64Array(CAPACITY_FIRST);
  #count = 0;

  /** Intervals in the set, which have the indexes below it. */
  get count(): number {
    return this.#count;
  }

  /** First number of the interval at an index. */
  first(index: number): number {
    assert(index < this.#count, "the interval exists");
    return this.#firsts[index];
  }

  /** The number behind the interval at an index. */
  end(index: number): number {
    assert(index < this.#count, "the interval exists");
    return this.#ends[index];
  }

  /** Index of the first interval that ends after `value`; `count` when there is none. */
  search(value: number): number {
    let low = 0;
    let high = this.#count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#ends[middle] > value) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** True when an interval holds the number. */
  contains(value: number): boolean {
    if (this.#count === 0) return false;
    const index = this.search(value);
    return index < this.#count && this.#firsts[index] <= value;
  }

  /** Adds [first, end), merging with what it overlaps or touches. */
  add(first: number, end: number): void {
    assert(first < end, "an interval is not empty");
    let from = this.search(first);
    if (from > 0 && this.#ends[from - 1] === first) from--;
    let to = from;
    while (to < this.#count && this.#firsts[to] <= end) to++;
    if (from < to) {
      this.#firsts[from] = Math.min(first, this.#firsts[from]);
      this.#ends[from] = Math.max(end, this.#ends[to - 1]);
      this.#closeGap(from + 1, to);
      return;
    }
    this.#openGap(from);
    this.#firsts[from] = first;
    this.#ends[from] = end;
  }

  /** Empties the set; its memory is kept. */
  clear(): void {
    this.#count = 0;
  }

  #closeGap(from: number, to: number): void {
    if (from === to) return;
    this.#firsts.copyWithin(from, to, this.#count);
    this.#ends.copyWithin(from, to, this.#count);
    this.#count -= to - from;
  }

  #openGap(at: number): void {
    if (this.#count === this.#firsts.length) this.#grow();
    this.#firsts.copyWithin(at + 1, at, this.#count);
    this.#ends.copyWithin(at + 1, at, this.#count);
    this.#count++;
  }

  #grow(): void {
    const firsts = new Float64Array(this.#firsts.length * 2);
    const ends = new Float64Array(this.#firsts.length * 2);
    firsts.set(this.#firsts);
    ends.set(this.#ends);
    this.#firsts = firsts;
    this.#ends = ends;
  }
}
