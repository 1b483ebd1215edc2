// SPDX-License-Identifier: Apache-2.0
// What the volume layer knows about a request beside what the NBD server wrote: typed arrays
// indexed by slot, shared by all volumes of a thread. And lists of slots that make no object.

import { assert } from "../base/assert.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { Requests } from "../nbd/target.js";

/** Bytes of one cluster never cross the ends of a request: these are the clusters it touches. */
export class SlotState {
  /** First cluster that the request touches, and the one after its last. */
  readonly first: Float64Array;
  readonly end: Float64Array;
  /**
   * Scratch frames with the merged first and last cluster; 0 where that cluster is covered whole.
   */
  readonly headFrame: Uint32Array;
  readonly tailFrame: Uint32Array;
  readonly headCrc: Uint32Array;
  readonly tailCrc: Uint32Array;
  /** Reads of old content that are under way. */
  readonly edgesPending: Uint8Array;
  readonly edgeFailed: Uint8Array;
  /** 1: the edges are merged, the locks are held. */
  readonly merged: Uint8Array;
  /** Sequence that must be committed before the old content is read. */
  readonly barrier: Float64Array;

  constructor(slots: number) {
    this.first = new Float64Array(slots);
    this.end = new Float64Array(slots);
    this.headFrame = new Uint32Array(slots);
    this.tailFrame = new Uint32Array(slots);
    this.headCrc = new Uint32Array(slots);
    this.tailCrc = new Uint32Array(slots);
    this.edgesPending = new Uint8Array(slots);
    this.edgeFailed = new Uint8Array(slots);
    this.merged = new Uint8Array(slots);
    this.barrier = new Float64Array(slots);
  }

  /** Works out the clusters of a new request. */
  begin(requests: Requests, slot: number): void {
    const offset = requests.offset[slot];
    this.first[slot] = Math.floor(offset / CLUSTER_BYTES);
    this.end[slot] = Math.ceil((offset + requests.length[slot]) / CLUSTER_BYTES);
    this.headFrame[slot] = 0;
    this.tailFrame[slot] = 0;
    this.edgesPending[slot] = 0;
    this.edgeFailed[slot] = 0;
    this.merged[slot] = 0;
  }
}

/** A double-ended queue of slots; each slot is in it at most once. */
export class SlotQueue {
  readonly #items: Uint32Array;
  #head = 0;
  #count = 0;

  constructor(slots: number) {
    this.#items = new Uint32Array(slots);
  }

  /** Slots in the queue. */
  get count(): number {
    return this.#count;
  }

  /** The slot at an index, counted from the front. */
  at(index: number): number {
    assert(index < this.#count, "the queue is that long");
    const place = this.#head + index;
    return this.#items[place < this.#items.length ? place : place - this.#items.length];
  }

  /** Adds a slot at the end. */
  push(slot: number): void {
    assert(this.#count < this.#items.length, "a queue has room for every slot");
    const place = this.#head + this.#count;
    this.#items[place < this.#items.length ? place : place - this.#items.length] = slot;
    this.#count++;
  }

  /** Adds a slot before all others. */
  pushFront(slot: number): void {
    assert(this.#count < this.#items.length, "a queue has room for every slot");
    this.#head = this.#head === 0 ? this.#items.length - 1 : this.#head - 1;
    this.#items[this.#head] = slot;
    this.#count++;
  }

  /** Takes the first slot; there must be one. */
  shift(): number {
    assert(this.#count > 0, "the queue is not empty");
    const slot = this.#items[this.#head];
    this.#head = this.#head + 1 === this.#items.length ? 0 : this.#head + 1;
    this.#count--;
    return slot;
  }
}
