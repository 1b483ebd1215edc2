// SPDX-License-Identifier: Apache-2.0
// Big memory of simulations, used again by those that follow in the same process: an arena of many
// megabytes for each life is more than the garbage collector bears. What a simulation takes it
// gives back at its end, all at once: until then a dead process' memory stays as it was.

import { assert } from "../base/assert.js";
import { KIB, MIB } from "../base/units.js";

/** What is kept for those that follow, in bytes. */
const KEPT_BYTES_MAX = 3072 * MIB;
const SLAB_BYTES = MIB;
const BLOCK_BYTES = 64 * KIB;
const ZEROES = Buffer.alloc(BLOCK_BYTES);

const kept = new Map<number, ArrayBuffer[]>();
let keptBytes = 0;

/** The memory of one simulation. */
export class Memory {
  #taken: ArrayBuffer[] = [];

  /** Zeroed memory of so many bytes. */
  arena(bytes: number): ArrayBuffer {
    const old = this.#old(bytes);
    if (old === undefined) return this.#fresh(bytes);
    clear(old);
    return old;
  }

  /** A megabyte of any content. */
  slab(): ArrayBuffer {
    return this.#old(SLAB_BYTES) ?? this.#fresh(SLAB_BYTES);
  }

  /** Gives everything back: nobody uses it any more. */
  release(): void {
    for (const buffer of this.#taken) {
      if (keptBytes + buffer.byteLength > KEPT_BYTES_MAX) continue;
      const list = kept.get(buffer.byteLength);
      if (list === undefined) kept.set(buffer.byteLength, [buffer]);
      else list.push(buffer);
      keptBytes += buffer.byteLength;
    }
    this.#taken = [];
  }

  #old(bytes: number): ArrayBuffer | undefined {
    assert(bytes > 0, "memory has a size");
    const buffer = kept.get(bytes)?.pop();
    if (buffer === undefined) return undefined;
    keptBytes -= bytes;
    this.#taken.push(buffer);
    return buffer;
  }

  #fresh(bytes: number): ArrayBuffer {
    const buffer = new ArrayBuffer(bytes);
    this.#taken.push(buffer);
    return buffer;
  }
}

/** Writes zeroes where there is anything else: most of an arena was never touched. */
function clear(buffer: ArrayBuffer): void {
  for (let at = 0; at < buffer.byteLength; at += BLOCK_BYTES) {
    const bytes = Math.min(BLOCK_BYTES, buffer.byteLength - at);
    const block = Buffer.from(buffer, at, bytes);
    if (block.compare(ZEROES, 0, bytes) !== 0) block.fill(0);
  }
}
