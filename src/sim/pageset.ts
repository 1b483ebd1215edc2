// SPDX-License-Identifier: Apache-2.0
// A set of page numbers as intervals: edges e0 < e1 < e2 …, where [e0, e1), [e2, e3) … are in it.

import { assert } from "../base/assert.js";

export class PageSet {
  #edges: number[] = [];
  #count = 0;

  /** Pages in it. */
  get count(): number {
    return this.#count;
  }

  /** Pages of [first, end) that are in it. */
  within(first: number, end: number): number {
    const edges = this.#edges;
    let sum = 0;
    for (let i = this.#edgesBelow(first, true) & ~1; i < edges.length && edges[i]! < end; i += 2) {
      sum += Math.max(0, Math.min(end, edges[i + 1]!) - Math.max(first, edges[i]!));
    }
    return sum;
  }

  /** Adds [first, end); returns how many were new. */
  add(first: number, end: number): number {
    assert(first < end, "an interval has pages");
    const fresh = end - first - this.within(first, end);
    if (fresh > 0) this.#splice(first, end, 0);
    this.#count += fresh;
    return fresh;
  }

  /** Removes [first, end); returns how many were in it. */
  remove(first: number, end: number): number {
    const gone = first < end ? this.within(first, end) : 0;
    if (gone > 0) this.#splice(first, end, 1);
    this.#count -= gone;
    return gone;
  }

  /** A copy that changes on its own. */
  clone(): PageSet {
    const copy = new PageSet();
    copy.#edges = this.#edges.slice();
    copy.#count = this.#count;
    return copy;
  }

  /** Puts the interval's own edges where the number of edges below has this parity. */
  #splice(first: number, end: number, parity: number): void {
    const low = this.#edgesBelow(first, false);
    const high = this.#edgesBelow(end, true);
    const fresh: number[] = [];
    if ((low & 1) === parity) fresh.push(first);
    if ((high & 1) === parity) fresh.push(end);
    this.#edges.splice(low, high - low, ...fresh);
    assert(this.#edges.length % 2 === 0, "every interval ends");
  }

  /** Edges below `page`, or at it too. */
  #edgesBelow(page: number, orAt: boolean): number {
    const edges = this.#edges;
    let low = 0;
    let high = edges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const edge = edges[middle]!;
      if (edge < page || (orAt && edge === page)) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
