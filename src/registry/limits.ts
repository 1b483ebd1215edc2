// SPDX-License-Identifier: Apache-2.0
// The limits of P-C7, checked by every implementation of Registry before anything else happens, so
// that what works on one machine works on etcd. All refusals are OVS_INVALID in words.

import { StorageError } from "../base/errors.js";
import {
  type Operation,
  REGISTRY_COMPARES_MAX,
  REGISTRY_KEY_BYTES_MAX,
  REGISTRY_LEASE_TTL_MIN_S,
  REGISTRY_OPERATIONS_MAX,
  REGISTRY_RANGE_MAX,
  REGISTRY_TRANSACTION_BYTES_MAX,
  REGISTRY_VALUE_BYTES_MAX,
  type Transaction,
} from "./registry.js";

/** A day: whoever holds a lease is alive, and renews it. */
export const LEASE_TTL_MAX_S = 86_400;
/** What an item of a transaction costs beside its key and value. */
const ITEM_BYTES = 32;
const LONE_SURROGATE = /\p{Surrogate}/u;

function refuse(message: string): never {
  throw new StorageError("OVS_INVALID", message);
}

/** Bytes of a key or prefix as UTF-8; throws when it is no key. */
function keyBytes(key: string, what: string): number {
  if (LONE_SURROGATE.test(key)) refuse(`${what} is no well-formed text`);
  const bytes = Buffer.byteLength(key);
  if (bytes > REGISTRY_KEY_BYTES_MAX) {
    refuse(`${what} of ${bytes} bytes exceeds ${REGISTRY_KEY_BYTES_MAX}`);
  }
  return bytes;
}

/** Throws unless `key` is a key: 1 to 512 bytes of UTF-8. */
export function checkKey(key: string): number {
  const bytes = keyBytes(key, "a key");
  if (bytes === 0) refuse("a key is not empty");
  return bytes;
}

/** Throws unless `prefix` can begin a key; the empty one begins all. */
export function checkPrefix(prefix: string): number {
  return keyBytes(prefix, "a prefix");
}

/** Refuses a range outside the contract's limits (P-C7) with OVS_INVALID. */
export function checkRange(prefix: string, options: { after?: string; limit: number }): void {
  checkPrefix(prefix);
  const { after, limit } = options;
  if (after !== undefined) checkPrefix(after);
  if (!Number.isSafeInteger(limit) || limit < 1 || limit > REGISTRY_RANGE_MAX) {
    refuse(`a range asks for 1 to ${REGISTRY_RANGE_MAX} keys, not ${limit}`);
  }
}

function valueBytes(value: Uint8Array): number {
  if (value.byteLength > REGISTRY_VALUE_BYTES_MAX) {
    refuse(`a value of ${value.byteLength} bytes exceeds ${REGISTRY_VALUE_BYTES_MAX}`);
  }
  return value.byteLength;
}

function checkOperation(operation: Operation): number {
  if (operation.kind === "deletePrefix") return checkPrefix(operation.prefix);
  const bytes = checkKey(operation.key);
  if (operation.kind !== "put") return bytes;
  if (operation.lease !== undefined) checkLease(operation.lease);
  return bytes + valueBytes(operation.value);
}

/** One branch must not put a key twice, nor put a key that it also deletes (as etcd). */
function checkDuplicates(branch: readonly Operation[]): void {
  const puts = new Set<string>();
  for (const operation of branch) {
    if (operation.kind !== "put") continue;
    if (puts.has(operation.key)) refuse(`a transaction puts the key "${operation.key}" twice`);
    puts.add(operation.key);
  }
  for (const operation of branch) {
    if (operation.kind === "delete" && puts.has(operation.key)) {
      refuse(`a transaction puts and deletes the key "${operation.key}"`);
    }
    if (operation.kind !== "deletePrefix") continue;
    for (const key of puts) {
      if (key.startsWith(operation.prefix)) refuse(`a transaction puts and deletes "${key}"`);
    }
  }
}

/** Throws unless the transaction obeys all limits; returns its size in bytes. */
export function checkTransaction(transaction: Transaction): number {
  const { compares, success, failure } = transaction;
  if (compares.length > REGISTRY_COMPARES_MAX) {
    refuse(`${compares.length} compares in a transaction exceed ${REGISTRY_COMPARES_MAX}`);
  }
  let bytes = 0;
  for (const compare of compares) {
    bytes += ITEM_BYTES + checkKey(compare.key);
    if (compare.target === "value") bytes += valueBytes(compare.value);
    else if (!Number.isSafeInteger(compare.number) || compare.number < 0) {
      refuse(`${compare.number} is no number to compare with`);
    }
  }
  for (const branch of [success, failure]) {
    if (branch.length > REGISTRY_OPERATIONS_MAX) {
      refuse(`${branch.length} operations in a transaction exceed ${REGISTRY_OPERATIONS_MAX}`);
    }
    for (const operation of branch) bytes += ITEM_BYTES + checkOperation(operation);
    checkDuplicates(branch);
  }
  if (bytes > REGISTRY_TRANSACTION_BYTES_MAX) {
    refuse(`a transaction of ${bytes} bytes exceeds ${REGISTRY_TRANSACTION_BYTES_MAX}`);
  }
  return bytes;
}

/** Refuses a lease's time outside the contract's limits (P-C7) with OVS_INVALID. */
export function checkTtl(ttlSeconds: number): void {
  const right = Number.isSafeInteger(ttlSeconds) && ttlSeconds >= REGISTRY_LEASE_TTL_MIN_S;
  if (right && ttlSeconds <= LEASE_TTL_MAX_S) return;
  refuse(
    `a lease lives ${REGISTRY_LEASE_TTL_MIN_S} to ${LEASE_TTL_MAX_S} whole seconds, not ${ttlSeconds}`,
  );
}

/** The number of a lease; throws unless `lease` is one ("0": none). */
export function checkLease(lease: string): bigint {
  if (!/^(0|[1-9]\d{0,18})$/.test(lease)) refuse(`"${lease}" is no lease`);
  const number = BigInt(lease);
  if (number >= 1n << 63n) refuse(`"${lease}" is no lease`);
  return number;
}

/** Refuses what is no revision with OVS_INVALID. */
export function checkRevision(revision: number): void {
  if (!Number.isSafeInteger(revision) || revision < 1) refuse(`${revision} is no revision`);
}
