// SPDX-License-Identifier: Apache-2.0
// Lists of arena pieces, for payloads and for where they go.

import { assert } from "../base/assert.js";
import type { Segments } from "./network.js";

/** Most pieces of one payload. */
export const SEGMENTS_MAX = 16_384;

/** A list that grows by doubling and is used again and again. */
export class SegmentList implements Segments {
  list: Uint32Array;
  count = 0;
  bytes = 0;

  constructor(capacity = 8) {
    this.list = new Uint32Array(2 * capacity);
  }

  /** Empties the list for its next use; its memory is kept. */
  clear(): this {
    this.count = 0;
    this.bytes = 0;
    return this;
  }

  /** Adds a piece; one that continues the last is joined with it. */
  add(offset: number, bytes: number): this {
    assert(bytes > 0, "a piece has bytes");
    const last = 2 * this.count - 2;
    this.bytes += bytes;
    if (last >= 0 && this.list[last]! + this.list[last + 1]! === offset) {
      this.list[last + 1]! += bytes;
      return this;
    }
    assert(this.count < SEGMENTS_MAX, "a payload has a bounded number of pieces");
    if (2 * this.count === this.list.length) this.#grow();
    this.list[2 * this.count] = offset;
    this.list[2 * this.count + 1] = bytes;
    this.count++;
    return this;
  }

  #grow(): void {
    const list = new Uint32Array(2 * this.list.length);
    list.set(this.list);
    this.list = list;
  }
}

/** A payload of one piece. */
export function oneSegment(offset: number, bytes: number): Segments {
  return { list: Uint32Array.of(offset, bytes), count: 1 };
}

/** Bytes of all pieces. */
export function segmentsBytes(segments: Segments): number {
  let bytes = 0;
  for (let i = 0; i < segments.count; i++) bytes += segments.list[2 * i + 1]!;
  return bytes;
}

/** A list of its own, for keeping. */
export function copySegments(segments: Segments): Segments {
  return { list: segments.list.slice(0, 2 * segments.count), count: segments.count };
}
