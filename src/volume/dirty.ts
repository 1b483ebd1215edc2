// SPDX-License-Identifier: Apache-2.0
// The dirty map: where the newest version of each cluster that is not yet in the backend lies in
// the journal. It has one layer per batch (P-A1): the open one, which committed records enter, and
// the closed ones, which wait for destage, oldest first.
//
//   lookup:  open layer → closed, newest first → (map)
//
// A layer is a hash table in typed arrays (cluster → location, CRC) and a set of large zero
// ranges. An entry of the table wins over the ranges; a zero range that comes after entries turns
// those in it into zero. Nothing here makes objects per cluster.

import { assert } from "../base/assert.js";
import { IntervalSet } from "./interval.js";

/** Location of a cluster that reads zeroes. Other locations: segment slot << 16 | block. */
export const LOCATION_ZERO = 0xffffffff;
/** Zero ranges up to this many clusters become entries, longer ones intervals. */
const ZERO_ENTRIES_MAX = 64;
const CAPACITY_FIRST = 1024;
/** Emptied layers that each volume keeps with their tables, half a MiB each. */
const SPARES_MAX = 4;
const TWO_32 = 2 ** 32;

export const Found = { None: 0, Zero: 1, Data: 2 } as const;
export type Found = (typeof Found)[keyof typeof Found];

/** Makes a location from a segment's slot and a block (4 KiB) in it. */
export function locationOf(segmentSlot: number, block: number): number {
  assert(segmentSlot < 0xffff && block <= 0xffff, "a location fits 32 bits");
  return ((segmentSlot << 16) | block) >>> 0;
}

/** The slot of the segment that a location of the dirty map names. */
export function segmentSlotOf(location: number): number {
  return location >>> 16;
}

/** The block within the segment that a location of the dirty map names. */
export function blockOf(location: number): number {
  return location & 0xffff;
}

/** Sorted content of a layer. Arrays are owned by whoever asked. */
export interface LayerEntries {
  clusters: Float64Array;
  locations: Uint32Array;
  crcs: Uint32Array;
}

/** What one batch of records brought: newest places of clusters, and ranges of zeroes. */
export class Layer {
  readonly zeroes = new IntervalSet();
  /** Records of this layer: sequences firstSequence…lastSequence; lastSequence 0 while empty. */
  firstSequence = 0;
  lastSequence = 0;
  /** Owner epoch of the last record. */
  lastEpoch = 0;
  /** Clock when the first record came in. */
  openedMs = 0;
  /** Payload bytes that records brought, overwritten ones included. */
  payloadBytes = 0;
  /** Size of the vDisk that a resize record set, 0 for none. */
  sizeBytes = 0;
  /** Grows with every change; whoever keeps a sorted copy compares it. */
  version = 0;
  #sorted: { version: number; clusters: Float64Array } | null = null;

  #capacity = CAPACITY_FIRST;
  #mask = CAPACITY_FIRST - 1;
  #low = new Uint32Array(CAPACITY_FIRST);
  /** High bits of the cluster + 1; 0 marks a free place. */
  #high = new Uint8Array(CAPACITY_FIRST);
  #location = new Uint32Array(CAPACITY_FIRST);
  #crc = new Uint32Array(CAPACITY_FIRST);
  #count = 0;

  /** Entries in the table, zero ones included. */
  get entries(): number {
    return this.#count;
  }

  /** No record has come in. */
  get empty(): boolean {
    return this.lastSequence === 0;
  }

  /** Place of a cluster's entry, or -1. Valid until the next change. */
  find(cluster: number): number {
    const low = cluster >>> 0;
    const high = ((cluster / TWO_32) | 0) + 1;
    let place = this.#hash(low, high);
    while (this.#high[place] !== 0) {
      if (this.#low[place] === low && this.#high[place] === high) return place;
      place = (place + 1) & this.#mask;
    }
    return -1;
  }

  /** Where the bytes of the entry at a place are; LOCATION_ZERO: they are zeroes. */
  locationAt(place: number): number {
    return this.#location[place];
  }

  /** CRC-32C of the cluster whose entry is at a place. */
  crcAt(place: number): number {
    return this.#crc[place];
  }

  /** The newest bytes of a cluster are at `location` from here on, and have that CRC-32C. */
  set(cluster: number, location: number, crc: number): void {
    if (this.#count * 2 >= this.#capacity) this.#grow();
    this.version++;
    const low = cluster >>> 0;
    const high = ((cluster / TWO_32) | 0) + 1;
    let place = this.#hash(low, high);
    while (this.#high[place] !== 0) {
      if (this.#low[place] === low && this.#high[place] === high) break;
      place = (place + 1) & this.#mask;
    }
    if (this.#high[place] === 0) {
      this.#low[place] = low;
      this.#high[place] = high;
      this.#count++;
    }
    this.#location[place] = location;
    this.#crc[place] = crc;
  }

  /** P-A7: the clusters [first, first + count) read zeroes from here on. */
  setZero(first: number, count: number): void {
    assert(count > 0, "a zero range is not empty");
    this.version++;
    if (count <= ZERO_ENTRIES_MAX) {
      for (let i = 0; i < count; i++) this.set(first + i, LOCATION_ZERO, 0);
      return;
    }
    this.zeroes.add(first, first + count);
    if (this.#count === 0) return;
    const end = first + count;
    for (let place = 0; place < this.#capacity; place++) {
      if (this.#high[place] === 0) continue;
      const cluster = (this.#high[place] - 1) * TWO_32 + this.#low[place];
      if (cluster >= first && cluster < end) this.#location[place] = LOCATION_ZERO;
    }
  }

  /** Clusters of the table in order; cached until the next change. Borrowed. */
  sortedClusters(): Float64Array {
    if (this.#sorted?.version === this.version) return this.#sorted.clusters;
    const clusters = new Float64Array(this.#count);
    let n = 0;
    for (let place = 0; place < this.#capacity; place++) {
      if (this.#high[place] === 0) continue;
      clusters[n++] = (this.#high[place] - 1) * TWO_32 + this.#low[place];
    }
    assert(n === this.#count, "every entry is counted once");
    clusters.sort();
    this.#sorted = { version: this.version, clusters };
    return clusters;
  }

  /** Empties it for reuse; keeps the capacity. */
  clear(): void {
    this.#high.fill(0);
    this.#count = 0;
    this.zeroes.clear();
    this.firstSequence = 0;
    this.lastSequence = 0;
    this.lastEpoch = 0;
    this.openedMs = 0;
    this.payloadBytes = 0;
    this.sizeBytes = 0;
    this.version++;
    this.#sorted = null;
  }

  #hash(low: number, high: number): number {
    const mixed = Math.imul(low ^ (high << 27), 0x9e3779b1);
    return (mixed ^ (mixed >>> 15)) & this.#mask;
  }

  #grow(): void {
    const { low, high, location, crc } = {
      low: this.#low,
      high: this.#high,
      location: this.#location,
      crc: this.#crc,
    };
    this.#capacity *= 2;
    this.#mask = this.#capacity - 1;
    this.#low = new Uint32Array(this.#capacity);
    this.#high = new Uint8Array(this.#capacity);
    this.#location = new Uint32Array(this.#capacity);
    this.#crc = new Uint32Array(this.#capacity);
    for (let old = 0; old < high.length; old++) {
      if (high[old] === 0) continue;
      let place = this.#hash(low[old], high[old]);
      while (this.#high[place] !== 0) place = (place + 1) & this.#mask;
      this.#low[place] = low[old];
      this.#high[place] = high[old];
      this.#location[place] = location[old];
      this.#crc[place] = crc[old];
    }
  }
}

/** All layers of a vDisk, newest first when it is asked. */
export class DirtyMap {
  /** Oldest first; the last one is open. */
  readonly layers: Layer[] = [new Layer()];
  readonly #spare: Layer[] = [];
  /** Result of the last `find` that answered Data. */
  location = 0;
  crc = 0;

  /** The layer that committed records enter. */
  get open(): Layer {
    return this.layers[this.layers.length - 1]!;
  }

  /** The oldest closed layer, or null. */
  get oldestClosed(): Layer | null {
    return this.layers.length > 1 ? this.layers[0]! : null;
  }

  /** The closed layer behind the oldest one, or null. */
  closedAfter(oldest: Layer): Layer | null {
    assert(this.layers[0] === oldest, "batches are taken in order");
    return this.layers.length > 2 ? this.layers[1]! : null;
  }

  /** Batches that wait for destage or are in it. */
  get closedCount(): number {
    return this.layers.length - 1;
  }

  /** The newest version of a cluster; for Data, `location` and `crc` hold where it is. */
  find(cluster: number): Found {
    for (let i = this.layers.length - 1; i >= 0; i--) {
      const layer = this.layers[i]!;
      const place = layer.entries === 0 ? -1 : layer.find(cluster);
      if (place >= 0) {
        this.location = layer.locationAt(place);
        this.crc = layer.crcAt(place);
        return this.location === LOCATION_ZERO ? Found.Zero : Found.Data;
      }
      if (layer.zeroes.count > 0 && layer.zeroes.contains(cluster)) return Found.Zero;
    }
    return Found.None;
  }

  /** Closes the open layer; later records enter a new one. */
  close(): Layer {
    const closed = this.open;
    assert(!closed.empty, "an empty batch is not closed");
    this.layers.push(this.#spare.pop() ?? new Layer());
    return closed;
  }

  /** Drops the oldest closed layer: its content is in the map now. */
  drop(layer: Layer): void {
    assert(this.layers.length > 1 && this.layers[0] === layer, "batches are dropped in order");
    this.layers.shift();
    layer.clear();
    if (this.#spare.length < SPARES_MAX) this.#spare.push(layer);
  }

  /** Payload bytes in all layers. */
  get payloadBytes(): number {
    let bytes = 0;
    for (const layer of this.layers) bytes += layer.payloadBytes;
    return bytes;
  }

  /** Nothing is dirty. */
  get empty(): boolean {
    return this.layers.length === 1 && this.open.empty;
  }
}
