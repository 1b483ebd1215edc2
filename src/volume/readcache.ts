// SPDX-License-Identifier: Apache-2.0
// The read cache in memory: clusters by their immutable place (SCO id, index), so that it is never
// wrong, whatever becomes of addresses (P-A5). CLOCK over frames in a region of the arena; hits
// are copied inside the arena and make no object.

import { assert } from "../base/assert.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { Arena } from "../platform/arena.js";

const TWO_32 = 2 ** 32;

/** A chained hash table (SCO id, index) → frame number, with CLOCK. */
export class PlaceIndex {
  readonly frames: number;
  readonly #idLow: Uint32Array;
  readonly #idHigh: Uint32Array;
  readonly #index: Uint32Array;
  readonly #next: Int32Array;
  readonly #buckets: Int32Array;

  constructor(frames: number) {
    this.frames = frames;
    this.#idLow = new Uint32Array(frames);
    this.#idHigh = new Uint32Array(frames);
    this.#index = new Uint32Array(frames);
    this.#next = new Int32Array(frames).fill(-1);
    let buckets = 1024;
    while (buckets < frames) buckets *= 2;
    this.#buckets = new Int32Array(buckets).fill(-1);
  }

  /** The frame with that content, or -1. */
  find(scoId: number, index: number): number {
    const low = scoId >>> 0;
    const high = (scoId / TWO_32) >>> 0;
    let frame = this.#buckets[this.#bucketOf(low, high, index)];
    while (frame >= 0) {
      if (
        this.#index[frame] === index &&
        this.#idLow[frame] === low &&
        this.#idHigh[frame] === high
      )
        return frame;
      frame = this.#next[frame];
    }
    return -1;
  }

  /** True when the frame has content. */
  taken(frame: number): boolean {
    return this.#idLow[frame] !== 0 || this.#idHigh[frame] !== 0;
  }

  /** A free frame has the cluster (`scoId`, `index`) from now on. */
  enter(frame: number, scoId: number, index: number): void {
    assert(!this.taken(frame), "the frame is free");
    this.#idLow[frame] = scoId >>> 0;
    this.#idHigh[frame] = (scoId / TWO_32) >>> 0;
    this.#index[frame] = index;
    const bucket = this.#bucketOf(this.#idLow[frame], this.#idHigh[frame], index);
    this.#next[frame] = this.#buckets[bucket];
    this.#buckets[bucket] = frame;
  }

  /** Frees a frame; fine when it is free. */
  leave(frame: number): void {
    if (!this.taken(frame)) return;
    const bucket = this.#bucketOf(this.#idLow[frame], this.#idHigh[frame], this.#index[frame]);
    let at = this.#buckets[bucket];
    if (at === frame) this.#buckets[bucket] = this.#next[frame];
    else {
      while (this.#next[at] !== frame) at = this.#next[at];
      this.#next[at] = this.#next[frame];
    }
    this.#idLow[frame] = 0;
    this.#idHigh[frame] = 0;
  }

  /** Frees all frames. */
  clear(): void {
    this.#idLow.fill(0);
    this.#idHigh.fill(0);
    this.#buckets.fill(-1);
  }

  #bucketOf(low: number, high: number, index: number): number {
    let mixed =
      Math.imul(low ^ Math.imul(high, 0x85ebca6b), 0x9e3779b1) ^ Math.imul(index, 0xc2b2ae35);
    mixed ^= mixed >>> 15;
    mixed = Math.imul(mixed, 0x2c1b3c6d);
    return (mixed ^ (mixed >>> 13)) & (this.#buckets.length - 1);
  }
}

/** The cache of one thread, for all its volumes. */
export class MemoryCache {
  readonly #arena: Arena;
  readonly #region: number;
  readonly #places: PlaceIndex;
  readonly #used: Uint8Array;
  /** Frames that never had content. */
  #fresh: number;
  #hand = 0;
  hits = 0;
  misses = 0;

  /** Null-sized caches are fine: they never have anything. */
  constructor(arena: Arena, bytes: number) {
    const frames = Math.floor(bytes / CLUSTER_BYTES);
    this.#arena = arena;
    this.#region = frames > 0 ? arena.region(frames * CLUSTER_BYTES, "read cache") : 0;
    this.#places = new PlaceIndex(frames);
    this.#used = new Uint8Array(frames);
    this.#fresh = frames;
  }

  /** Memory of the cache, full or not. */
  get bytes(): number {
    return this.#places.frames * CLUSTER_BYTES;
  }

  /** Every frame has had content since the cache was made or cleared. */
  get isFull(): boolean {
    return this.#fresh === 0;
  }

  /** Copies the cluster to arena offset `into`; false when it is not here. */
  read(scoId: number, index: number, into: number): boolean {
    const frame = this.#places.frames === 0 ? -1 : this.#places.find(scoId, index);
    if (frame < 0) {
      this.misses++;
      return false;
    }
    this.hits++;
    this.#used[frame] = 1;
    const at = this.#region + frame * CLUSTER_BYTES;
    this.#arena.bytes.copyWithin(into, at, at + CLUSTER_BYTES);
    return true;
  }

  /** True when the cluster is here; neither a hit nor a use. */
  has(scoId: number, index: number): boolean {
    return this.#places.frames > 0 && this.#places.find(scoId, index) >= 0;
  }

  /** Keeps a copy of the verified cluster at arena offset `from`. */
  insert(scoId: number, index: number, from: number): void {
    if (this.#places.frames === 0 || this.#places.find(scoId, index) >= 0) return;
    const frame = this.#evict();
    this.#places.enter(frame, scoId, index);
    const at = this.#region + frame * CLUSTER_BYTES;
    this.#arena.bytes.copyWithin(at, from, from + CLUSTER_BYTES);
  }

  /** Forgets one cluster, whose copy turned out to be damaged. */
  forget(scoId: number, index: number): void {
    const frame = this.#places.frames === 0 ? -1 : this.#places.find(scoId, index);
    if (frame >= 0) this.#places.leave(frame);
  }

  /** Forgets all clusters; hits and misses go on. */
  clear(): void {
    this.#places.clear();
    this.#used.fill(0);
    this.#hand = 0;
    this.#fresh = this.#places.frames;
  }

  #evict(): number {
    for (;;) {
      const frame = this.#hand;
      if (this.#fresh > 0) this.#fresh--;
      this.#hand = frame + 1 === this.#places.frames ? 0 : frame + 1;
      if (this.#used[frame] === 0) {
        this.#places.leave(frame);
        return frame;
      }
      this.#used[frame] = 0;
    }
  }
}
