// SPDX-License-Identifier: Apache-2.0
// Locks of single clusters, for writes that cover a cluster partly (P-A6). A holder has at most
// two: the clusters at its ends. Held from before the old content is read until the merged record
// is committed. Few are held at a time, so a list that is scanned beats a tree.

import { assert } from "../base/assert.js";

export class ClusterLocks {
  readonly #clusters: Float64Array;
  readonly #holders: Int32Array;
  #count = 0;

  /** `max`: most locks at a time (two for each slot). */
  constructor(max: number) {
    this.#clusters = new Float64Array(max);
    this.#holders = new Int32Array(max);
  }

  get count(): number {
    return this.#count;
  }

  /** A holder of a lock in [first, end), or -1. */
  holderIn(first: number, end: number): number {
    for (let i = 0; i < this.#count; i++) {
      const cluster = this.#clusters[i];
      if (cluster >= first && cluster < end) return this.#holders[i];
    }
    return -1;
  }

  take(cluster: number, holder: number): void {
    assert(this.#count < this.#clusters.length, "there is room for every slot's locks");
    assert(this.holderIn(cluster, cluster + 1) < 0, "a lock has one holder");
    this.#clusters[this.#count] = cluster;
    this.#holders[this.#count] = holder;
    this.#count++;
  }

  /** Gives back all locks of a holder. */
  release(holder: number): void {
    let kept = 0;
    for (let i = 0; i < this.#count; i++) {
      if (this.#holders[i] === holder) continue;
      this.#clusters[kept] = this.#clusters[i];
      this.#holders[kept] = this.#holders[i];
      kept++;
    }
    this.#count = kept;
  }
}
