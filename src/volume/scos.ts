// SPDX-License-Identifier: Apache-2.0
// The SCOs of a vDisk: how many clusters each has, and how many of them the map still names. A
// hash table in typed arrays; a million SCOs take 48 MB at most. Its content is stored with the
// map, in the same batches, so that it is always that of the map's mark.

import { assert } from "../base/assert.js";

const CAPACITY_FIRST = 256;
const TWO_32 = 2 ** 32;

export class ScoTable {
  #mask = CAPACITY_FIRST - 1;
  #ids = new Float64Array(CAPACITY_FIRST);
  #live = new Uint32Array(CAPACITY_FIRST);
  #total = new Uint32Array(CAPACITY_FIRST);
  /** 1: changed since `takeTouched`. */
  #touched = new Uint8Array(CAPACITY_FIRST);
  #touchedIds: number[] = [];
  #count = 0;
  /** Sums over all SCOs, in clusters. */
  liveClusters = 0;
  totalClusters = 0;

  /** SCOs in the table. */
  get count(): number {
    return this.#count;
  }

  /** True when the SCO is in the table, also an empty one. */
  has(id: number): boolean {
    return this.#ids[this.#place(id)] === id;
  }

  /** Clusters of the SCO that the map names; 0 for one that is not in the table. */
  live(id: number): number {
    const place = this.#place(id);
    return this.#ids[place] === id ? this.#live[place] : 0;
  }

  /** Clusters of the SCO; 0 for one that is not in the table. */
  total(id: number): number {
    const place = this.#place(id);
    return this.#ids[place] === id ? this.#total[place] : 0;
  }

  /** Enters a SCO with counts as they were stored. */
  load(id: number, live: number, total: number): void {
    if ((this.#count + 1) * 2 > this.#ids.length) this.#grow();
    const place = this.#place(id);
    assert(this.#ids[place] !== id, "a SCO is entered once");
    this.#ids[place] = id;
    this.#live[place] = live;
    this.#total[place] = total;
    this.#touched[place] = 0;
    this.#count++;
    this.liveClusters += live;
    this.totalClusters += total;
  }

  /** Makes sure that the SCO is there and has at least `total` clusters. */
  extend(id: number, total: number): void {
    if (!this.has(id)) this.load(id, 0, 0);
    const place = this.#place(id);
    if (this.#total[place] >= total) return;
    this.totalClusters += total - this.#total[place];
    this.#total[place] = total;
    this.#touch(place);
  }

  /**
   * Changes the number of live clusters; false when the table has no such SCO or it would go below
   * 0.
   */
  add(id: number, difference: number): boolean {
    const place = this.#place(id);
    if (this.#ids[place] !== id) return false;
    const live = this.#live[place] + difference;
    if (live < 0 || live > this.#total[place]) return false;
    this.#live[place] = live;
    this.liveClusters += difference;
    this.#touch(place);
    return true;
  }

  /** Takes a SCO out of the table and the sums; fine when it is not there. */
  remove(id: number): void {
    let place = this.#place(id);
    if (this.#ids[place] !== id) return;
    this.#count--;
    this.liveClusters -= this.#live[place];
    this.totalClusters -= this.#total[place];
    this.#ids[place] = 0;
    this.#touched[place] = 0;
    // Open addressing without tombstones: what follows in the run is entered again.
    for (;;) {
      place = (place + 1) & this.#mask;
      const next = this.#ids[place];
      if (next === 0) return;
      const touched = this.#touched[place];
      this.#ids[place] = 0;
      this.#touched[place] = 0;
      const target = this.#place(next);
      this.#ids[target] = next;
      this.#live[target] = this.#live[place];
      this.#total[target] = this.#total[place];
      this.#touched[target] = touched;
    }
  }

  /** Ids whose counts changed since the last call. */
  takeTouched(): number[] {
    const ids = this.#touchedIds;
    for (const id of ids) {
      const place = this.#place(id);
      if (this.#ids[place] === id) this.#touched[place] = 0;
    }
    this.#touchedIds = [];
    return ids;
  }

  /** Calls `visit` for every SCO. */
  forEach(visit: (id: number, live: number, total: number) => void): void {
    for (let place = 0; place < this.#ids.length; place++) {
      if (this.#ids[place] !== 0) visit(this.#ids[place], this.#live[place], this.#total[place]);
    }
  }

  /** Empties the table and the sums; nothing counts as touched. */
  clear(): void {
    this.#ids.fill(0);
    this.#touched.fill(0);
    this.#touchedIds = [];
    this.#count = 0;
    this.liveClusters = 0;
    this.totalClusters = 0;
  }

  #touch(place: number): void {
    if (this.#touched[place] === 1) return;
    this.#touched[place] = 1;
    this.#touchedIds.push(this.#ids[place]);
  }

  #place(id: number): number {
    assert(id > 1, "ids 0 and 1 are no SCOs");
    const mixed = Math.imul((id >>> 0) ^ Math.imul((id / TWO_32) | 0, 0x85ebca6b), 0x9e3779b1);
    let place = (mixed ^ (mixed >>> 15)) & this.#mask;
    while (this.#ids[place] !== 0 && this.#ids[place] !== id) place = (place + 1) & this.#mask;
    return place;
  }

  #grow(): void {
    const old = { ids: this.#ids, live: this.#live, total: this.#total, touched: this.#touched };
    const capacity = this.#ids.length * 2;
    this.#mask = capacity - 1;
    this.#ids = new Float64Array(capacity);
    this.#live = new Uint32Array(capacity);
    this.#total = new Uint32Array(capacity);
    this.#touched = new Uint8Array(capacity);
    for (let i = 0; i < old.ids.length; i++) {
      if (old.ids[i] === 0) continue;
      const place = this.#place(old.ids[i]);
      this.#ids[place] = old.ids[i];
      this.#live[place] = old.live[i];
      this.#total[place] = old.total[i];
      this.#touched[place] = old.touched[i];
    }
  }
}
