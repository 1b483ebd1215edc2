// SPDX-License-Identifier: Apache-2.0
// The registry: the consistent key-value store that everything that must be agreed on lies in.
// The subset of etcd v3 that we use, with its limits enforced by every implementation (P-C7).

export const REGISTRY_COMPARES_MAX = 100;
export const REGISTRY_OPERATIONS_MAX = 100;
export const REGISTRY_TRANSACTION_BYTES_MAX = 1024 * 1024;
export const REGISTRY_VALUE_BYTES_MAX = 64 * 1024;
export const REGISTRY_KEY_BYTES_MAX = 512;
export const REGISTRY_LEASE_TTL_MIN_S = 2;
/** Most keys that one range asks for, and that one transaction deletes. */
export const REGISTRY_RANGE_MAX = 10_000;

/**
 * A key with its value. Revisions are whole numbers that grow with every transaction that writes.
 */
export interface RegistryEntry {
  key: string;
  value: Uint8Array;
  createRevision: number;
  modRevision: number;
  /** 1 after creation, +1 for each change. */
  version: number;
  /** Lease that the key dies with; "0" for none. */
  lease: string;
}

/**
 * A compare of one key, the key's side on the left. A missing key has version, createRevision and
 * modRevision 0; it has no value: a compare of its value never holds, `!=` included (as etcd).
 */
export type Compare =
  | {
      key: string;
      target: "version" | "createRevision" | "modRevision";
      is: "=" | "<" | ">" | "!=";
      number: number;
    }
  | { key: string; target: "value"; is: "=" | "<" | ">" | "!="; value: Uint8Array };

export type Operation =
  | { kind: "put"; key: string; value: Uint8Array; lease?: string }
  | { kind: "delete"; key: string }
  | { kind: "deletePrefix"; prefix: string }
  | { kind: "get"; key: string };

export interface Transaction {
  compares: Compare[];
  success: Operation[];
  failure: Operation[];
}

export interface TransactionResult {
  succeeded: boolean;
  revision: number;
  /** One per operation of the branch that ran: the entry for `get`, null else. */
  entries: Array<RegistryEntry | null>;
}

export interface RangeResult {
  entries: RegistryEntry[];
  /** More keys lie behind the last one. */
  more: boolean;
  revision: number;
}

export interface WatchEvent {
  kind: "put" | "delete";
  entry: RegistryEntry;
}

export interface WatchHandler {
  /** Events in order of revision; those of one transaction come in one call. */
  onEvents(events: WatchEvent[], revision: number): void;
  /** The revision asked for is compacted, or the connection is lost: read again and watch anew. */
  onEnd(reason: string): void;
}

export interface Watch {
  /** No more calls of the handler, onEnd neither. Idempotent. */
  cancel(): void;
}

export interface Registry {
  /** Linearizable read. */
  get(key: string): Promise<RegistryEntry | null>;
  /**
   * Keys with a prefix, in order, from `after` (exclusive) on; at most `limit`, less if they are
   * large: look at `more`.
   */
  range(prefix: string, options: { after?: string; limit: number }): Promise<RangeResult>;
  /**
   * All compares hold → success, else failure. A rejection with OVS_TIMEOUT or OVS_UNAVAILABLE, or
   * OVS_CLOSED by a close of ours, means: it may have been applied (P-B1; see settle.ts). Limits
   * are refused with OVS_INVALID, full with OVS_FULL, too much waiting with OVS_BUSY, a put with a
   * lease that is gone with OVS_NOT_FOUND: nothing was applied. Gets see what operations before
   * them did. Calls that overlap are carried out in any order.
   */
  transact(transaction: Transaction): Promise<TransactionResult>;
  /**
   * Events of keys with the prefix from `fromRevision` (≥ 1, may be in the future) on. The first
   * ones may come before the promise settles.
   */
  watch(prefix: string, fromRevision: number, handler: WatchHandler): Promise<Watch>;
  /**
   * A new lease of `ttlSeconds` (whole, ≥ 2: else OVS_INVALID); the answer's time counts. It ends
   * when it is not renewed, and its keys with it.
   */
  leaseGrant(ttlSeconds: number): Promise<{ lease: string; ttlSeconds: number }>;
  /** Rejects with OVS_NOT_FOUND when the lease is gone. */
  leaseKeepAlive(lease: string): Promise<{ ttlSeconds: number }>;
  /** Ends the lease and deletes its keys in one revision; OVS_NOT_FOUND when it is gone. */
  leaseRevoke(lease: string): Promise<void>;
  /** Ends all watches; calls that are in flight may end with OVS_CLOSED. Idempotent. */
  close(): Promise<void>;
}

/**
 * Numbers in keys and values that are compared: fixed width, so that bytewise order is their order.
 */
export function fixedNumber(value: number): string {
  return value.toString(16).padStart(14, "0");
}
