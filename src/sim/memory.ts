// SPDX-License-Identifier: Apache-2.0
// Big memory of simulations, used again by those that follow: an arena of many megabytes for each
// life is more than the garbage collector bears. What a simulation takes it gives back at its end,
// all at once: until then a dead process' memory stays as it was. Whoever runs several simulations
// one after the other owns the pool, and hands it to each.

import { assert } from "../base/assert.js";
import { KIB, MIB } from "../base/units.js";

/** What is kept for those that follow, in bytes: a seed with many restarts takes 3 GiB. */
const KEPT_BYTES = 3072 * MIB;
const SLAB_BYTES = MIB;
const BLOCK_BYTES = 64 * KIB;
const ZEROES = Buffer.alloc(BLOCK_BYTES);

/** What simulations have left for those that follow. */
export class MemoryPool {
  /** Arenas are zeroed before they are used again. */
  readonly clears: boolean;
  readonly #keptBytesMax: number;
  readonly #kept = new Map<number, ArrayBuffer[]>();
  #keptBytes = 0;

  /**
   * Without `clears` arenas have what the last user left, as memory has that a process gave back
   * and got again: nobody may depend on it, and it takes a third of the time of a short run.
   * `keptBytes`: the most that is kept; twice the default finds nearly all that seeds ask for.
   */
  constructor({ clears = true, keptBytes = KEPT_BYTES } = {}) {
    this.clears = clears;
    this.#keptBytesMax = keptBytes;
  }

  /** Gives memory of exactly so many bytes, of any content; undefined when there is none. */
  take(bytes: number): ArrayBuffer | undefined {
    const buffer = this.#kept.get(bytes)?.pop();
    if (buffer !== undefined) this.#keptBytes -= bytes;
    return buffer;
  }

  /** Takes it; what would be too much is left to the collector. */
  give(buffer: ArrayBuffer): void {
    const bytes = buffer.byteLength;
    if (this.#keptBytes + bytes > this.#keptBytesMax) return;
    const list = this.#kept.get(bytes);
    if (list === undefined) this.#kept.set(bytes, [buffer]);
    else list.push(buffer);
    this.#keptBytes += bytes;
  }
}

/** The memory of one simulation. */
export class Memory {
  readonly #pool: MemoryPool;
  #taken: ArrayBuffer[] = [];

  constructor(pool = new MemoryPool()) {
    this.#pool = pool;
  }

  /** Memory of so many bytes, zeroed unless the pool does not do that. */
  arena(bytes: number): ArrayBuffer {
    const old = this.#old(bytes);
    if (old === undefined) return this.#fresh(bytes);
    if (this.#pool.clears) clear(old);
    return old;
  }

  /** A megabyte of any content. */
  slab(): ArrayBuffer {
    return this.#old(SLAB_BYTES) ?? this.#fresh(SLAB_BYTES);
  }

  /** Gives everything back: nobody uses it any more. */
  release(): void {
    for (const buffer of this.#taken) this.#pool.give(buffer);
    this.#taken = [];
  }

  #old(bytes: number): ArrayBuffer | undefined {
    assert(bytes > 0, "memory has a size");
    const buffer = this.#pool.take(bytes);
    if (buffer !== undefined) this.#taken.push(buffer);
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
