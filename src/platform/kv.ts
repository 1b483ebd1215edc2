// SPDX-License-Identifier: Apache-2.0
// The embedded ordered key-value store (RocksDB in the real world). Keys and values are byte
// strings, keys are ordered bytewise. A batch is atomic; with `sync` it survives power loss,
// without it only the death of the process. Buffers that are passed in are borrowed until the
// promise settles; buffers that come out belong to the caller.

import type { StorageError } from "../base/errors.js";

export interface KvBatch {
  put(key: Uint8Array, value: Uint8Array): void;
  delete(key: Uint8Array): void;
  /** Deletes keys in [first, end). */
  deleteRange(first: Uint8Array, end: Uint8Array): void;
  readonly count: number;
  readonly bytes: number;
  clear(): void;
}

export interface KvRange {
  /** First key, inclusive; null: from the beginning. */
  first: Uint8Array | null;
  /** End key, exclusive; null: to the end. */
  end: Uint8Array | null;
  reverse: boolean;
  /** Most entries in one answer. */
  limit: number;
}

export interface KvEntry {
  key: Uint8Array;
  value: Uint8Array;
}

export interface KvReader {
  get(key: Uint8Array): Promise<Uint8Array | null>;
  getMany(keys: ReadonlyArray<Uint8Array>): Promise<Array<Uint8Array | null>>;
  /** Up to `limit` entries in order; fewer than `limit` means the range is at its end. */
  range(range: KvRange): Promise<KvEntry[]>;
}

export interface KvSnapshot extends KvReader {
  release(): void;
}

export interface KvStore extends KvReader {
  /** Damage that a read or a write has met; the store must not be trusted any more. */
  readonly damage: StorageError | null;
  batch(): KvBatch;
  /** Applies the batch atomically. Writes are applied in the order of the calls. */
  write(batch: KvBatch, options: { sync: boolean }): Promise<void>;
  snapshot(): KvSnapshot;
  /** A consistent copy (hard links) in a new folder. */
  checkpoint(path: string): Promise<void>;
  stats(): Promise<{ diskBytes: number; memoryBytes: number; keysEstimate: number }>;
  close(): Promise<void>;
}

export interface KvOptions {
  /** Bytes for cached blocks. */
  cacheBytes: number;
  /** Bytes of one write buffer. */
  writeBufferBytes: number;
  create: boolean;
}

export interface KvFactory {
  /** Opens or creates a store in a folder; OVS_CORRUPT in words when it cannot be read. */
  open(path: string, options: KvOptions): Promise<KvStore>;
}
