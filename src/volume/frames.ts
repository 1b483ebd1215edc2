// SPDX-License-Identifier: Apache-2.0
// A pool of equal frames of one cluster in a region of the arena: header buffers of records,
// scratch clusters of partial writes. Taking and giving make no object.

import { assert } from "../base/assert.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { Arena } from "../platform/arena.js";

export class FramePool {
  readonly #free: Uint32Array;
  readonly #first: number;
  #count: number;

  constructor(arena: Arena, frames: number, name: string) {
    assert(frames > 0, "a pool has frames");
    this.#first = arena.region(frames * CLUSTER_BYTES, name);
    this.#free = new Uint32Array(frames);
    this.#count = frames;
    for (let i = 0; i < frames; i++) this.#free[i] = this.#first + (frames - 1 - i) * CLUSTER_BYTES;
  }

  /** Frames that can be taken. */
  get free(): number {
    return this.#count;
  }

  /** Arena offset of a frame; there must be one. */
  take(): number {
    assert(this.#count > 0, "a frame is free");
    return this.#free[--this.#count];
  }

  /** Gives a frame back that `take` gave. */
  give(frame: number): void {
    const index = (frame - this.#first) / CLUSTER_BYTES;
    assert(
      Number.isInteger(index) && index >= 0 && index < this.#free.length,
      "the frame is of this pool",
    );
    assert(this.#count < this.#free.length, "a frame is given once");
    this.#free[this.#count++] = frame;
  }
}
