// SPDX-License-Identifier: Apache-2.0
// The face of the addon `kv`: names and order as in native/kv/binding.cc. Stores and snapshots are
// numbers; `done` runs once, later, never inside the call. Bytes that go in are copied before the
// call returns; an ArrayBuffer that comes out belongs to the caller.

import { type ErrorCode, StorageError } from "../base/errors.js";
import { loadAddon } from "./load.js";

/** `code` as in core/kv.h, 0 for success; `message` in words where there is something to say. */
export type KvDone = (code: number, message: string | null, answer: ArrayBuffer | null) => void;

export interface KvAddon {
  /** Number of the store, to be used once `done` reported success. */
  open(
    path: string,
    cacheBytes: number,
    writeBufferBytes: number,
    create: boolean,
    done: KvDone,
  ): number;
  /**
   * One atomic write of the first `count` batches, in their order. One write of a store at a time.
   * Returns what is wrong with a batch (then nothing happens and `done` never runs), else null.
   */
  write(
    store: number,
    batches: readonly Uint8Array[],
    count: number,
    sync: boolean,
    done: KvDone,
  ): string | null;
  /** `snapshot` 0: the present. null: no such key; undefined: `done` brings the answer. */
  get(
    store: number,
    snapshot: number,
    key: Uint8Array,
    done: KvDone,
  ): ArrayBuffer | null | undefined;
  /**
   * `keys`: count × {u32 bytes, key}. Answer: count × u32 bytes (2^32 − 1: missing), then the
   * values.
   */
  getMany(
    store: number,
    snapshot: number,
    keys: Uint8Array,
    count: number,
    done: KvDone,
  ): ArrayBuffer | undefined;
  /** Answer: {u32 key bytes, u32 value bytes, key, value} for each entry. */
  range(
    store: number,
    snapshot: number,
    first: Uint8Array | null,
    end: Uint8Array | null,
    reverse: boolean,
    limit: number,
    done: KvDone,
  ): ArrayBuffer | undefined;
  /** Number of a new snapshot, never 0: that one is the present. */
  snapshot(store: number): number;
  /** Ends a snapshot; reads of it that are in flight still end well. */
  release(store: number, snapshot: number): void;
  /** Makes a consistent copy by hard links in the folder `path`, which must not exist. */
  checkpoint(store: number, path: string, done: KvDone): undefined;
  /** Answer: three doubles: bytes on disk, bytes in memory, estimated keys. */
  stats(store: number, done: KvDone): undefined;
  /** When nothing of the store is in flight. The number is not to be used again. */
  close(store: number, done: KvDone): void;
}

export const KV_OK = 0;
export const KV_NOT_FOUND = 1;
export const KV_MISSING = 2 ** 32 - 1;

const CODES: readonly ErrorCode[] = [
  "OVS_INVALID",
  "OVS_NOT_FOUND",
  "OVS_BUSY",
  "OVS_CORRUPT",
  "OVS_DISK_FAILED",
  "OVS_INVALID",
  "OVS_DISK_FAILED",
  "OVS_FULL",
];

/** The error that a `done` with a code other than 0 reports. */
export function kvError(code: number, message: string | null): StorageError {
  return new StorageError(
    CODES[code] ?? "OVS_DISK_FAILED",
    message ?? `key-value store: code ${code}`,
  );
}

/** The addon's functions, in the order of binding.cc. OVS_UNSUPPORTED when it is not built. */
export function loadKv(): KvAddon {
  return loadAddon<KvAddon>("kv");
}
