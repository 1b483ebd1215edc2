// SPDX-License-Identifier: Apache-2.0
// The arena: one block of page-aligned memory a thread. Every byte that goes to or comes from a
// disk or a socket lies in it, and is named by its byte offset (a number below 4 GiB), so that the
// addons, which know the same block, exchange numbers and never buffers.
//
//   | region "nbd slots" | region "journal headers" | region "destage" | region "read cache" | …
//
// Regions are cut once at start-up and live as long as the arena; inside a region its owner
// decides. Moving bytes inside the arena is `bytes.copyWithin`, which makes no object.

import { assert } from "../base/assert.js";
import { alignUp } from "../base/bytes.js";
import { CLUSTER_BYTES } from "../base/units.js";

export const ARENA_BYTES_MAX = 2 ** 32 - CLUSTER_BYTES;

/** The whole block; regions are given out once, at start-up, and never come back. */
export class Arena {
  readonly buffer: ArrayBuffer;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly u32: Uint32Array;
  #used = CLUSTER_BYTES; // Offset 0 is never given out: it stands for "none".

  /**
   * `buffer` is zeroed memory aligned to 4 KiB (real: mapped by the disk addon; simulated: any).
   */
  constructor(buffer: ArrayBuffer) {
    assert(buffer.byteLength % CLUSTER_BYTES === 0, "an arena is whole clusters");
    assert(buffer.byteLength <= ARENA_BYTES_MAX, "offsets fit 32 bits");
    this.buffer = buffer;
    this.bytes = new Uint8Array(buffer);
    this.view = new DataView(buffer);
    this.u32 = new Uint32Array(buffer);
  }

  /** Cuts a region of whole clusters for the rest of the arena's life; returns its offset. */
  region(bytes: number, name: string): number {
    const offset = this.#used;
    const length = alignUp(bytes, CLUSTER_BYTES);
    assert(offset + length <= this.buffer.byteLength, `the arena has room for ${name}`);
    this.#used += length;
    return offset;
  }

  /** Bytes that no region has. */
  get freeBytes(): number {
    return this.buffer.byteLength - this.#used;
  }

  /** A view of a range, for cold paths only (it makes an object). */
  slice(offset: number, bytes: number): Uint8Array {
    assert(offset + bytes <= this.buffer.byteLength, "the range lies in the arena");
    return this.bytes.subarray(offset, offset + bytes);
  }
}

/**
 * Runs of clusters inside one region of an arena: first fit over a table of free runs. For
 * buffers of varying size that live for milliseconds (fragments, SCOs under construction).
 */
export class ArenaPool {
  readonly #runs: Array<{ offset: number; bytes: number }>;
  readonly #taken = new Map<number, number>();
  readonly #waiters: Array<{ bytes: number; resolve: (offset: number) => void }> = [];
  readonly bytes: number;
  #freeBytes: number;

  constructor(offset: number, bytes: number) {
    assert(offset % CLUSTER_BYTES === 0 && bytes % CLUSTER_BYTES === 0, "a pool is whole clusters");
    this.bytes = bytes;
    this.#freeBytes = bytes;
    this.#runs = [{ offset, bytes }];
  }

  /** Bytes that are not taken, in runs that may be shorter. */
  get freeBytes(): number {
    return this.#freeBytes;
  }

  /** Callers of `take` that wait for a run. */
  get waiting(): number {
    return this.#waiters.length;
  }

  /** Takes a run of at least `bytes`; 0 when there is none now. */
  tryTake(bytes: number): number {
    const need = alignUp(Math.max(bytes, 1), CLUSTER_BYTES);
    assert(need <= this.bytes, "one run fits the pool");
    for (let i = 0; i < this.#runs.length; i++) {
      const run = this.#runs[i]!;
      if (run.bytes < need) continue;
      const offset = run.offset;
      if (run.bytes === need) this.#runs.splice(i, 1);
      else {
        run.offset += need;
        run.bytes -= need;
      }
      this.#taken.set(offset, need);
      this.#freeBytes -= need;
      return offset;
    }
    return 0;
  }

  /** Takes a run, waiting in order until there is one. Gives: the caller must `give` it back. */
  async take(bytes: number): Promise<number> {
    const offset = this.#waiters.length === 0 ? this.tryTake(bytes) : 0;
    if (offset !== 0) return offset;
    return await new Promise<number>((resolve) => this.#waiters.push({ bytes, resolve }));
  }

  /** Gives a run back by its offset. */
  give(offset: number): void {
    const bytes = this.#taken.get(offset);
    assert(bytes !== undefined, "the run was taken from this pool");
    this.#taken.delete(offset);
    this.#freeBytes += bytes;
    let i = 0;
    while (i < this.#runs.length && this.#runs[i]!.offset < offset) i++;
    this.#runs.splice(i, 0, { offset, bytes });
    this.#mergeAt(i);
    if (i > 0) this.#mergeAt(i - 1);
    while (this.#waiters.length > 0) {
      const next = this.tryTake(this.#waiters[0]!.bytes);
      if (next === 0) break;
      this.#waiters.shift()!.resolve(next);
    }
  }

  #mergeAt(i: number): void {
    const run = this.#runs[i]!;
    const next = this.#runs[i + 1];
    if (next && run.offset + run.bytes === next.offset) {
      run.bytes += next.bytes;
      this.#runs.splice(i + 1, 1);
    }
  }
}
