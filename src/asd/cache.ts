// SPDX-License-Identifier: Apache-2.0
// Index entries in memory, bounded by bytes: where a value lies and the CRCs of its pages, so that
// a hot read asks the index nothing. Second chance: the oldest goes unless it was used since.

import { assert } from "../base/assert.js";
import type { Runs } from "./allocator.js";

/** A value as the index describes it. Never changed once made; shared by the reads in flight. */
export class Entry {
  readonly length: number;
  readonly pages: number;
  /** Empty: the value is `inline`. */
  readonly runs: Runs;
  /** CRC-32C of each page. */
  readonly crcs: Uint32Array;
  readonly inline: Uint8Array | null;
  /** Used since the cache last looked. */
  used = false;

  constructor(length: number, runs: Runs, crcs: Uint32Array, inline: Uint8Array | null) {
    this.length = length;
    this.runs = runs;
    this.crcs = crcs;
    this.inline = inline;
    this.pages = crcs.length;
  }

  /** What it costs in memory, about. */
  get bytes(): number {
    return 256 + this.runs.byteLength + this.crcs.byteLength + (this.inline?.byteLength ?? 0);
  }
}

/** Keys are latin1 texts: one character a byte. */
export class EntryCache {
  readonly #entries = new Map<string, Entry>();
  readonly #bytesMax: number;
  #bytes = 0;
  hits = 0;
  misses = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** What the entries and their keys cost in memory, about. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Entries in the cache. */
  get count(): number {
    return this.#entries.size;
  }

  /** Finds an entry, counts the hit or miss, and keeps what was found longer. */
  get(key: string): Entry | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) this.misses++;
    else {
      this.hits++;
      entry.used = true;
    }
    return entry;
  }

  /**
   * Adds or replaces an entry; others go when it is full. One above a quarter of the cache is not
   * kept.
   */
  put(key: string, entry: Entry): void {
    this.delete(key);
    if (entry.bytes > this.#bytesMax / 4) return; // It would drive out all others.
    this.#entries.set(key, entry);
    this.#bytes += entry.bytes + key.length;
    this.#evict();
  }

  /** Forgets a key; fine when it is not there. */
  delete(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#bytes -= entry.bytes + key.length;
    assert(this.#bytes >= 0, "the cache counts its bytes");
  }

  /** Forgets all entries; hits and misses go on. */
  clear(): void {
    this.#entries.clear();
    this.#bytes = 0;
  }

  #evict(): void {
    // At most one round of second chances: then everything was seen unused.
    for (const [key, entry] of this.#entries) {
      if (this.#bytes <= this.#bytesMax) return;
      if (entry.used) {
        entry.used = false;
        this.#entries.delete(key);
        this.#entries.set(key, entry);
      } else this.delete(key);
    }
  }
}
