// SPDX-License-Identifier: Apache-2.0
// The embedded ordered key-value store (RocksDB in the real world). Keys and values are byte
// strings, keys are ordered bytewise. A batch is atomic; with `sync` it survives power loss,
// without it only the death of the process. Buffers that are passed in are borrowed until the
// promise settles; buffers that come out belong to the caller.

import type { StorageError } from "../base/errors.js";

export interface KvBatch {
  /** Adds a key or replaces its value. Copies both. */
  put(key: Uint8Array, value: Uint8Array): void;
  /** Deletes a key; fine when it is not there. Copies it. */
  delete(key: Uint8Array): void;
  /** Deletes keys in [first, end); none when `end` is not after `first`. */
  deleteRange(first: Uint8Array, end: Uint8Array): void;
  /** Changes in the batch; a range counts as one. */
  readonly count: number;
  /** Bytes of the packed batch, its header included. */
  readonly bytes: number;
  /** Empties the batch, for its next use. */
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
  /** The value of a key; null when it is not there. */
  get(key: Uint8Array): Promise<Uint8Array | null>;
  /** The values of many keys in their order; null for those that are not there. */
  getMany(keys: ReadonlyArray<Uint8Array>): Promise<Array<Uint8Array | null>>;
  /** Up to `limit` entries in order; fewer than `limit` means the range is at its end. */
  range(range: KvRange): Promise<KvEntry[]>;
}

export interface KvSnapshot extends KvReader {
  /** Ends the snapshot: reads of it after this are OVS_CLOSED. Idempotent. */
  release(): void;
}

export interface KvStore extends KvReader {
  /** Damage that a read or a write has met; the store must not be trusted any more. */
  readonly damage: StorageError | null;
  /**
   * The failed write after which it takes no more; null while it does. Reads go on. It can be
   * opened anew by another process, when this one has ended: what was answered is there.
   */
  readonly failure: StorageError | null;
  /** A new, empty batch for `write`. */
  batch(): KvBatch;
  /** Applies the batch atomically. Writes are applied in the order of the calls. */
  write(batch: KvBatch, options: { sync: boolean }): Promise<void>;
  /** The store as it is now, for reads of one moment. Release it: it holds old versions. */
  snapshot(): KvSnapshot;
  /** A consistent copy (hard links) in a new folder. */
  checkpoint(path: string): Promise<void>;
  /** What the store occupies now, and about how many keys it has. */
  stats(): Promise<{ diskBytes: number; memoryBytes: number; keysEstimate: number }>;
  /** Waits for what is in flight, ends the snapshots, closes. Idempotent. */
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
