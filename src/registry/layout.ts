// SPDX-License-Identifier: Apache-2.0
// How an embedded registry lies in its key-value store. The first byte says what a key is:
//
//   "a" lease (8, big-endian) key   ─► nothing           the key dies with the lease
//   "c" key                         ─► RegistryRecord    its present value
//   "l" lease (8, big-endian)       ─► RegistryLease
//   "r"                             ─► RegistryState     in the same batch as each change

import { assert } from "../base/assert.js";
import {
  bytesRegistryRecord,
  type RegistryRecord,
  readRegistryLease,
  readRegistryRecord,
  readRegistryState,
  writeRegistryRecord,
} from "../wire/generated/registry.js";
import { Reader, Writer } from "../wire/runtime.js";
import type { RegistryEntry } from "./registry.js";

const ATTACHED = 0x61;
const CURRENT = 0x63;
const LEASE = 0x6c;
const STATE = 0x72;

export const STATE_KEY = Uint8Array.of(STATE);
export const ALL_LEASES = { first: Uint8Array.of(LEASE), end: Uint8Array.of(LEASE + 1) };
export const ALL_ATTACHED = { first: Uint8Array.of(ATTACHED), end: Uint8Array.of(ATTACHED + 1) };
export const NO_BYTES = new Uint8Array(0);

/** Where the newest record of `key` is stored. */
export function currentKey(key: string): Uint8Array {
  const target = Buffer.alloc(1 + Buffer.byteLength(key));
  target[0] = CURRENT;
  target.write(key, 1);
  return target;
}

/** The registry's key in a `currentKey`. */
export function keyOfCurrent(stored: Uint8Array): string {
  assert(stored[0] === CURRENT, "the key is a current one");
  return Buffer.from(stored.buffer, stored.byteOffset + 1, stored.byteLength - 1).toString("utf8");
}

/** The range of all keys that begin with `prefix` and lie behind `after`. */
export function currentRange(
  prefix: string,
  after: string | undefined,
): { first: Uint8Array; end: Uint8Array } {
  let first: Uint8Array = currentKey(prefix);
  const end = Uint8Array.from(first);
  // The last byte is the tag or UTF-8: never 255.
  end[end.byteLength - 1]! += 1;
  if (after !== undefined) {
    const behind = Buffer.concat([currentKey(after), Uint8Array.of(0)]);
    if (Buffer.compare(behind, first) > 0) first = behind;
  }
  return { first, end };
}

/** Where a lease is stored. */
export function leaseKey(lease: bigint): Uint8Array {
  const target = new Uint8Array(9);
  target[0] = LEASE;
  new DataView(target.buffer).setBigUint64(1, lease);
  return target;
}

/** Where it is stored that `key` hangs on `lease`. */
export function attachedKey(lease: bigint, key: string): Uint8Array {
  const target = Buffer.alloc(9 + Buffer.byteLength(key));
  target[0] = ATTACHED;
  target.writeBigUInt64BE(lease, 1);
  target.write(key, 9);
  return target;
}

/** The lease that a stored lease or attached key names. */
export function leaseOf(stored: Uint8Array): bigint {
  assert(stored.byteLength >= 9, "the key names a lease");
  return new DataView(stored.buffer, stored.byteOffset).getBigUint64(1);
}

/** The key that a stored attached key names. */
export function keyOfAttached(stored: Uint8Array): string {
  assert(stored[0] === ATTACHED && stored.byteLength > 9, "the key is an attached one");
  return Buffer.from(stored.buffer, stored.byteOffset + 9, stored.byteLength - 9).toString("utf8");
}

/** A record as it is stored. */
export function packRecord(record: RegistryRecord): Uint8Array {
  const target = new Uint8Array(bytesRegistryRecord(record));
  writeRegistryRecord(new Writer(target, 0), record);
  return target;
}

function readAll<T>(bytes: Uint8Array, what: string, read: (reader: Reader) => T): T {
  const reader = new Reader(bytes, 0, bytes.byteLength, what, "OVS_CORRUPT");
  const value = read(reader);
  if (reader.at !== reader.end) reader.fail("has bytes behind its end");
  return value;
}

/** A stored record; OVS_CORRUPT when it is none, as the two below. */
export const readRecord = (bytes: Uint8Array): RegistryRecord =>
  readAll(bytes, "a registry record", readRegistryRecord);

/** The registry's state as it is stored. */
export const readState = (bytes: Uint8Array): { revision: number } =>
  readAll(bytes, "the registry's state", readRegistryState);

/** A lease as it is stored. */
export const readLease = (bytes: Uint8Array): { ttlSeconds: number } =>
  readAll(bytes, "a registry lease", readRegistryLease);

/** A stored record as the contract's entry. */
export function entryOf(key: string, record: RegistryRecord): RegistryEntry {
  const { createRevision, modRevision, version, lease, value } = record;
  return { key, value, createRevision, modRevision, version, lease: String(lease) };
}
