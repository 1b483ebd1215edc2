// SPDX-License-Identifier: Apache-2.0
// An ordered map of byte strings in chunks, of which a view costs a pointer per chunk: chunks that
// a view shows are copied before they change.
//
//   map:   [chunk a…d][chunk e…k][chunk l…z]      view: the same chunks, until the map changes one

import { assert } from "../base/assert.js";

const CHUNK_KEYS_MAX = 128;

export interface Entry {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
}

interface Chunk {
  /** Number of the view before which it was made; an older one is shown by a view. */
  readonly age: number;
  readonly entries: Entry[];
}

/** Order of byte strings, as memcmp has it. */
export function compareKeys(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const difference = a[i]! - b[i]!;
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

export class SortedMap {
  #chunks: Chunk[];
  #age = 0;
  #count: number;
  #bytes: number;

  constructor(from: SortedMap | null = null) {
    this.#chunks = from === null ? [] : from.#chunks.slice();
    this.#count = from?.count ?? 0;
    this.#bytes = from?.bytes ?? 0;
    // Whatever the other made until now belongs to both.
    this.#age = from === null ? 0 : from.#age;
  }

  /** Entries. */
  get count(): number {
    return this.#count;
  }

  /** Bytes of all keys and values. */
  get bytes(): number {
    return this.#bytes;
  }

  /** A map with the same entries; both may change on. */
  view(): SortedMap {
    this.#age++;
    return new SortedMap(this);
  }

  /** Null when there is none. The value is the map's own: not to be changed. */
  get(key: Uint8Array): Uint8Array | null {
    const chunk = this.#chunks[this.#chunkOf(key)];
    if (chunk === undefined) return null;
    const at = firstFrom(chunk.entries, key);
    const entry = chunk.entries[at];
    return entry !== undefined && compareKeys(entry.key, key) === 0 ? entry.value : null;
  }

  /** Takes key and value: nobody changes them any more. */
  set(key: Uint8Array, value: Uint8Array): void {
    if (this.#chunks.length === 0) this.#chunks.push({ age: this.#age, entries: [] });
    const index = this.#chunkOf(key);
    const { entries } = this.#own(index);
    const at = firstFrom(entries, key);
    const isThere = at < entries.length && compareKeys(entries[at]!.key, key) === 0;
    this.#forget(entries.splice(at, isThere ? 1 : 0, { key, value }));
    this.#count++;
    this.#bytes += key.length + value.length;
    if (entries.length <= CHUNK_KEYS_MAX) return;
    // Keys that come in order fill their chunks.
    const isLast = index === this.#chunks.length - 1 && at === entries.length - 1;
    const half = entries.splice(isLast ? entries.length - 1 : entries.length >> 1);
    this.#chunks.splice(index + 1, 0, { age: this.#age, entries: half });
  }

  /** Borrows. A key that is not there is no error. */
  delete(key: Uint8Array): void {
    const index = this.#chunkOf(key);
    const chunk = this.#chunks[index];
    if (chunk === undefined) return;
    const at = firstFrom(chunk.entries, key);
    if (at === chunk.entries.length || compareKeys(chunk.entries[at]!.key, key) !== 0) return;
    const { entries } = this.#own(index);
    this.#forget(entries.splice(at, 1));
    if (entries.length === 0) this.#chunks.splice(index, 1);
  }

  /** Deletes keys in [first, end). */
  deleteRange(first: Uint8Array, end: Uint8Array): void {
    if (compareKeys(first, end) >= 0) return;
    let index = this.#chunkOf(first);
    while (index < this.#chunks.length) {
      const { entries } = this.#chunks[index]!;
      const { length } = entries;
      const from = firstFrom(entries, first);
      const to = firstFrom(entries, end);
      if (to - from === length) {
        this.#forget(entries);
        this.#chunks.splice(index, 1);
        continue;
      }
      if (from < to) this.#forget(this.#own(index).entries.splice(from, to - from));
      if (to < length) break;
      index++;
    }
  }

  #forget(entries: readonly Entry[]): void {
    this.#count -= entries.length;
    for (const { key, value } of entries) this.#bytes -= key.length + value.length;
  }

  /** Up to `limit` entries of [first, end) in order; null: from or to the end. */
  range(
    first: Uint8Array | null,
    end: Uint8Array | null,
    reverse: boolean,
    limit: number,
  ): Entry[] {
    const found: Entry[] = [];
    if (this.#chunks.length === 0) return found;
    if (reverse) this.#rangeBack(first, end, limit, found);
    else this.#rangeOn(first, end, limit, found);
    return found;
  }

  #rangeOn(first: Uint8Array | null, end: Uint8Array | null, limit: number, found: Entry[]): void {
    let index = first === null ? 0 : this.#chunkOf(first);
    let at = first === null ? 0 : firstFrom(this.#chunks[index]!.entries, first);
    for (; index < this.#chunks.length; index++, at = 0) {
      const { entries } = this.#chunks[index]!;
      for (; at < entries.length; at++) {
        const entry = entries[at]!;
        if (found.length >= limit || (end !== null && compareKeys(entry.key, end) >= 0)) return;
        found.push(entry);
      }
    }
  }

  #rangeBack(
    first: Uint8Array | null,
    end: Uint8Array | null,
    limit: number,
    found: Entry[],
  ): void {
    let index = end === null ? this.#chunks.length - 1 : this.#chunkOf(end);
    let at = end === null ? Infinity : firstFrom(this.#chunks[index]!.entries, end);
    for (; index >= 0; index--, at = Infinity) {
      const { entries } = this.#chunks[index]!;
      for (let i = Math.min(at, entries.length) - 1; i >= 0; i--) {
        const entry = entries[i]!;
        if (found.length >= limit || (first !== null && compareKeys(entry.key, first) < 0)) return;
        found.push(entry);
      }
    }
  }

  /** The last chunk whose first key is not behind the key; the first one when there is none. */
  #chunkOf(key: Uint8Array): number {
    const chunks = this.#chunks;
    let low = 0;
    let high = chunks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compareKeys(chunks[middle]!.entries[0]?.key ?? key, key) <= 0) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }

  /** The chunk, copied when a view shows it. */
  #own(index: number): Chunk {
    const chunk = this.#chunks[index];
    assert(chunk !== undefined, "the chunk is there");
    if (chunk.age === this.#age) return chunk;
    const own = { age: this.#age, entries: chunk.entries.slice() };
    this.#chunks[index] = own;
    return own;
  }
}

/** Place of the first entry that is not before the key. */
function firstFrom(entries: readonly Entry[], key: Uint8Array): number {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareKeys(entries[middle]!.key, key) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
