// SPDX-License-Identifier: Apache-2.0
// Leaf pages of the maps of a thread's volumes, a bounded number of them, evicted by CLOCK. Reads
// find entries here without making an object; a page that is not here is asked for, and the job
// that asked waits in a list of the frame until it is loaded.
//
//   frame:  free ──request──► loading ──fill──► loaded ──evict──► free
//
// A page that the map changes while it is being loaded is marked stale and loaded once more.

import { assert } from "../base/assert.js";
import type { PageView } from "./page.js";
import { BITS_WORDS, ENTRY_WORDS, PAGE_ENTRIES, PAGE_WORDS } from "./page.js";

const STATE_FREE = 0;
const STATE_LOADING = 1;
const STATE_LOADED = 2;
/** Keys are owner × this + page: pages of one map are fewer. */
const PAGES_PER_OWNER = 2 ** 27;
const TWO_32 = 2 ** 32;

export class PageCache {
  readonly frames: number;
  readonly words: Uint32Array;
  readonly bits: Uint32Array;
  readonly #keys: Float64Array;
  readonly #state: Uint8Array;
  readonly #stale: Uint8Array;
  readonly #used: Uint8Array;
  readonly #next: Int32Array;
  readonly #buckets: Int32Array;
  readonly #waitHead: Int32Array;
  /** Next job that waits for the same frame. */
  readonly #waitNext: Int32Array;
  /** Frames whose loading has not begun. */
  readonly #wanted: number[] = [];
  #hand = 0;
  hits = 0;
  misses = 0;

  /** `jobs`: most jobs that can wait; each waits for one page at a time. */
  constructor(frames: number, jobs: number) {
    assert(frames >= 64, "a page cache holds some pages");
    this.frames = frames;
    this.words = new Uint32Array(frames * PAGE_WORDS);
    this.bits = new Uint32Array(frames * BITS_WORDS);
    this.#keys = new Float64Array(frames).fill(-1);
    this.#state = new Uint8Array(frames);
    this.#stale = new Uint8Array(frames);
    this.#used = new Uint8Array(frames);
    this.#next = new Int32Array(frames).fill(-1);
    let buckets = 1024;
    while (buckets < frames * 2) buckets *= 2;
    this.#buckets = new Int32Array(buckets).fill(-1);
    this.#waitHead = new Int32Array(frames).fill(-1);
    this.#waitNext = new Int32Array(jobs).fill(-1);
  }

  /** The frame of a loaded page, or -1. */
  find(owner: number, page: number): number {
    const frame = this.#frameOf(owner * PAGES_PER_OWNER + page);
    if (frame < 0 || this.#state[frame] !== STATE_LOADED) {
      this.misses++;
      return -1;
    }
    this.#used[frame] = 1;
    this.hits++;
    return frame;
  }

  /** Index in `words` of the first word of a cluster's entry in a frame. */
  entryAt(frame: number, cluster: number): number {
    return frame * PAGE_WORDS + (cluster % PAGE_ENTRIES) * ENTRY_WORDS;
  }

  /** `job` waits for a page. False when every frame is being loaded: ask again later. */
  request(owner: number, page: number, job: number): boolean {
    const key = owner * PAGES_PER_OWNER + page;
    let frame = this.#frameOf(key);
    if (frame < 0) {
      frame = this.#evict();
      if (frame < 0) return false;
      this.#enter(frame, key);
      this.#state[frame] = STATE_LOADING;
      this.#wanted.push(frame);
    }
    assert(this.#state[frame] === STATE_LOADING, "only pages that are not there are asked for");
    this.#waitNext[job] = this.#waitHead[frame];
    this.#waitHead[frame] = job;
    return true;
  }

  /** Frames to load now; the caller loads each and calls `loaded` or `failed`. */
  takeWanted(): number[] {
    return this.#wanted.splice(0, this.#wanted.length);
  }

  /** True when pages were asked for that nobody has begun to load. */
  get anyWanted(): boolean {
    return this.#wanted.length > 0;
  }

  /** Number of the volume whose page is in a frame. */
  ownerOf(frame: number): number {
    return Math.floor(this.#keys[frame] / PAGES_PER_OWNER);
  }

  /** Index of the page in a frame, within its volume's map. */
  pageOf(frame: number): number {
    return this.#keys[frame] % PAGES_PER_OWNER;
  }

  /** The entries of a frame's page, for filling and changing. Valid while the page stays. */
  view(frame: number): PageView {
    return {
      words: this.words,
      at: frame * PAGE_WORDS,
      bits: this.bits,
      bitsAt: frame * BITS_WORDS,
    };
  }

  /** The frame's content is there; calls `resume` for each job that waited. */
  loaded(frame: number, resume: (job: number) => void): void {
    assert(this.#state[frame] === STATE_LOADING, "a frame is loaded once");
    if (this.#stale[frame] === 1) {
      this.#stale[frame] = 0;
      this.#wanted.push(frame);
      return;
    }
    this.#state[frame] = STATE_LOADED;
    this.#used[frame] = 1;
    this.#wake(frame, resume);
  }

  /** Loading failed: the frame is free again; calls `fail` for each job that waited. */
  failed(frame: number, fail: (job: number) => void): void {
    assert(this.#state[frame] === STATE_LOADING, "a frame is loaded once");
    this.#leave(frame);
    this.#wake(frame, fail);
  }

  /** The map changed a page: the frame to update, or -1 when there is nothing to update. */
  changing(owner: number, page: number): number {
    const frame = this.#frameOf(owner * PAGES_PER_OWNER + page);
    if (frame < 0) return -1;
    if (this.#state[frame] === STATE_LOADED) return frame;
    this.#stale[frame] = 1;
    return -1;
  }

  /** The map emptied the pages [first, end) of an owner. */
  emptied(owner: number, first: number, end: number): void {
    const low = owner * PAGES_PER_OWNER + first;
    const high = owner * PAGES_PER_OWNER + end;
    for (let frame = 0; frame < this.frames; frame++) {
      if (this.#state[frame] === STATE_FREE) continue;
      if (this.#keys[frame] < low || this.#keys[frame] >= high) continue;
      if (this.#state[frame] === STATE_LOADING) this.#stale[frame] = 1;
      else {
        this.words.fill(0, frame * PAGE_WORDS, (frame + 1) * PAGE_WORDS);
        this.bits.fill(0, frame * BITS_WORDS, (frame + 1) * BITS_WORDS);
      }
    }
  }

  /** Forgets one page, so that it is read from the store again (P-A5). */
  forget(owner: number, page: number): void {
    const frame = this.#frameOf(owner * PAGES_PER_OWNER + page);
    if (frame >= 0 && this.#state[frame] === STATE_LOADED) this.#leave(frame);
  }

  /** Forgets all pages of an owner; none is being loaded. */
  forgetAll(owner: number): void {
    for (let frame = 0; frame < this.frames; frame++) {
      if (this.#state[frame] === STATE_LOADED && this.ownerOf(frame) === owner) this.#leave(frame);
    }
  }

  #wake(frame: number, call: (job: number) => void): void {
    let job = this.#waitHead[frame];
    this.#waitHead[frame] = -1;
    while (job >= 0) {
      const next = this.#waitNext[job];
      call(job);
      job = next;
    }
  }

  #frameOf(key: number): number {
    let frame = this.#buckets[this.#bucketOf(key)];
    while (frame >= 0 && this.#keys[frame] !== key) frame = this.#next[frame];
    return frame;
  }

  #bucketOf(key: number): number {
    const mixed = Math.imul((key >>> 0) ^ Math.imul((key / TWO_32) | 0, 0x85ebca6b), 0x9e3779b1);
    return (mixed ^ (mixed >>> 15)) & (this.#buckets.length - 1);
  }

  #enter(frame: number, key: number): void {
    const bucket = this.#bucketOf(key);
    this.#keys[frame] = key;
    this.#next[frame] = this.#buckets[bucket];
    this.#buckets[bucket] = frame;
  }

  #leave(frame: number): void {
    const bucket = this.#bucketOf(this.#keys[frame]);
    let at = this.#buckets[bucket];
    if (at === frame) this.#buckets[bucket] = this.#next[frame];
    else {
      while (this.#next[at] !== frame) at = this.#next[at];
      this.#next[at] = this.#next[frame];
    }
    this.#keys[frame] = -1;
    this.#state[frame] = STATE_FREE;
    this.#stale[frame] = 0;
  }

  /** A free frame, evicting a loaded one that was not used lately; -1 when all are loading. */
  #evict(): number {
    for (let step = 0; step < 2 * this.frames; step++) {
      const frame = this.#hand;
      this.#hand = this.#hand + 1 === this.frames ? 0 : this.#hand + 1;
      if (this.#state[frame] === STATE_FREE) return frame;
      if (this.#state[frame] === STATE_LOADING) continue;
      if (this.#used[frame] === 1) {
        this.#used[frame] = 0;
        continue;
      }
      this.#leave(frame);
      return frame;
    }
    return -1;
  }
}
