// SPDX-License-Identifier: Apache-2.0
// A batch of the key-value store, packed as RocksDB writes it into its log, so that it crosses into
// the addon as one buffer and is never taken apart there:
//
//   | sequence 8 (zero) | count 4 LE | tag 1 | varint bytes | key | varint bytes | value | tag …

import { assert } from "../base/assert.js";
import { compareBytes } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { MIB } from "../base/units.js";
import type { KvBatch } from "./kv.js";

export const KV_KEY_BYTES_MAX = 64 * 1024;
export const KV_VALUE_BYTES_MAX = 16 * MIB;
export const KV_BATCH_BYTES_MAX = 64 * MIB;
/** Batches of one store that wait to be written, and their bytes; one more is OVS_BUSY. */
export const WAITING_BATCHES_MAX = 65_536;
export const WAITING_BYTES_MAX = 256 * MIB;

const HEADER_BYTES = 12;
const VARINT_BYTES_MAX = 5;
const TAG_DELETE = 0x00;
const TAG_PUT = 0x01;
const TAG_DELETE_RANGE = 0x0f;
/** A cleared batch keeps a buffer up to this size for its next use. */
const KEPT_BYTES_MAX = MIB;

export class PackedBatch implements KvBatch {
  #buffer = new Uint8Array(512);
  #bytes = HEADER_BYTES;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** Bytes of the packed batch, its header included. */
  get bytes(): number {
    return this.#bytes;
  }

  put(key: Uint8Array, value: Uint8Array): void {
    checkKey(key);
    if (value.byteLength > KV_VALUE_BYTES_MAX) {
      throw new StorageError("OVS_INVALID", `a value of ${value.byteLength} bytes exceeds 16 MiB`);
    }
    this.#record(TAG_PUT, key, value);
  }

  delete(key: Uint8Array): void {
    checkKey(key);
    this.#record(TAG_DELETE, key, null);
  }

  deleteRange(first: Uint8Array, end: Uint8Array): void {
    checkKey(first);
    checkKey(end);
    // RocksDB fails such a write, and a store that failed a write takes no more.
    if (compareBytes(first, end) >= 0) return;
    this.#record(TAG_DELETE_RANGE, first, end);
  }

  clear(): void {
    if (this.#buffer.byteLength > KEPT_BYTES_MAX) this.#buffer = new Uint8Array(512);
    this.#bytes = HEADER_BYTES;
    this.#count = 0;
  }

  /** A copy that later changes of the batch do not touch. */
  packed(): Uint8Array {
    const packed = this.#buffer.slice(0, this.#bytes);
    new DataView(packed.buffer).setUint32(8, this.#count, true);
    return packed;
  }

  #record(tag: number, key: Uint8Array, value: Uint8Array | null): void {
    const room = 1 + 2 * VARINT_BYTES_MAX + key.byteLength + (value?.byteLength ?? 0);
    this.#reserve(room);
    this.#buffer[this.#bytes++] = tag;
    this.#slice(key);
    if (value) this.#slice(value);
    this.#count++;
    assert(this.#bytes <= this.#buffer.byteLength, "the record fits what was reserved");
  }

  #slice(bytes: Uint8Array): void {
    let rest = bytes.byteLength;
    while (rest >= 0x80) {
      this.#buffer[this.#bytes++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    this.#buffer[this.#bytes++] = rest;
    this.#buffer.set(bytes, this.#bytes);
    this.#bytes += bytes.byteLength;
  }

  #reserve(bytes: number): void {
    const need = this.#bytes + bytes;
    if (need > KV_BATCH_BYTES_MAX) {
      throw new StorageError("OVS_INVALID", "a batch exceeds 64 MiB: write it in parts");
    }
    if (need <= this.#buffer.byteLength) return;
    const grown = new Uint8Array(Math.max(need, this.#buffer.byteLength * 2));
    grown.set(this.#buffer.subarray(0, this.#bytes));
    this.#buffer = grown;
  }
}

/** What the records of a batch are applied to, in their order. */
export interface BatchTarget {
  /** Views of the batch: who keeps them needs the batch to stay as it is. */
  set(key: Uint8Array, value: Uint8Array): void;
  /** Borrows. A key that is not there is no error. */
  delete(key: Uint8Array): void;
  /** Borrows. Deletes keys in [first, end); none when `end` is not after `first`. */
  deleteRange(first: Uint8Array, end: Uint8Array): void;
}

/** Applies a packed batch. Its keys and values are given as views of it. */
export function applyBatch(packed: Uint8Array, target: BatchTarget): void {
  let at = HEADER_BYTES;
  const next = (): Uint8Array => {
    let bytes = 0;
    for (let shift = 0; ; shift += 7) {
      const part = packed[at++]!;
      bytes |= (part & 0x7f) << shift;
      if (part < 0x80) break;
    }
    at += bytes;
    return packed.subarray(at - bytes, at);
  };
  while (at < packed.byteLength) {
    const tag = packed[at++];
    const key = next();
    if (tag === TAG_PUT) target.set(key, next());
    else if (tag === TAG_DELETE) target.delete(key);
    else target.deleteRange(key, next());
  }
  assert(at === packed.byteLength, "a batch ends with its last record");
}

/** Throws OVS_INVALID for a key that the store does not take. */
export function checkKey(key: Uint8Array): void {
  if (key.byteLength <= KV_KEY_BYTES_MAX) return;
  throw new StorageError("OVS_INVALID", `a key of ${key.byteLength} bytes exceeds 64 KiB`);
}
