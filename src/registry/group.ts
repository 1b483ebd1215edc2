// SPDX-License-Identifier: Apache-2.0
// A group of transactions that are carried out one after the other in memory and become one write.
// First `load` reads every key that any of them names; then each runs against the overlay, in which
// it sees what those before it did. Nothing is visible to readers until the batch is durable.

import { assert } from "../base/assert.js";
import { compareBytes } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import type { KvBatch, KvStore } from "../platform/kv.js";
import type { RegistryRecord } from "../wire/generated/registry.js";
import {
  attachedKey,
  currentKey,
  currentRange,
  entryOf,
  keyOfCurrent,
  leaseKey,
  NO_BYTES,
  packRecord,
  readRecord,
} from "./layout.js";
import { LEASE_KEYS_MAX, type Lease, type LeaseTable } from "./leases.js";
import {
  type Compare,
  type Operation,
  REGISTRY_RANGE_MAX,
  type Transaction,
  type TransactionResult,
  type WatchEvent,
} from "./registry.js";

export interface Published {
  revision: number;
  events: WatchEvent[];
}

export class Group {
  readonly batch: KvBatch;
  readonly published: Published[] = [];
  revision: number;
  readonly #store: KvStore;
  readonly #leases: LeaseTable;
  /** Every key that was loaded or changed; null: there is none. */
  readonly #overlay = new Map<string, RegistryRecord | null>();
  readonly #missing = new Set<string>();
  readonly #prefixes = new Set<string>();
  /** Prefixes of more keys than one transaction may delete; not all of theirs were loaded. */
  readonly #tooMany = new Set<string>();
  #events: WatchEvent[] = [];

  constructor(store: KvStore, leases: LeaseTable, revision: number) {
    this.#store = store;
    this.#leases = leases;
    this.batch = store.batch();
    this.revision = revision;
  }

  /** Notes what the transaction may look at. */
  needs(transaction: Transaction): void {
    for (const compare of transaction.compares) this.#missing.add(compare.key);
    for (const branch of [transaction.success, transaction.failure]) {
      for (const operation of branch) {
        if (operation.kind === "deletePrefix") this.#prefixes.add(operation.prefix);
        else this.#missing.add(operation.key);
      }
    }
  }

  /** Reads from the store what the transactions that were added look at; before `transact`. */
  async load(): Promise<void> {
    const keys = [...this.#missing];
    const values = await this.#store.getMany(keys.map(currentKey));
    for (const [i, key] of keys.entries()) {
      const value = values[i];
      this.#overlay.set(key, value ? readRecord(value) : null);
    }
    for (const prefix of this.#prefixes) {
      // One more than may be deleted, so that too many are noticed.
      const limit = REGISTRY_RANGE_MAX + 1;
      const range = { ...currentRange(prefix, undefined), reverse: false, limit };
      const page = await this.#store.range(range);
      if (page.length === limit) this.#tooMany.add(prefix);
      for (const { key, value } of page) this.#overlay.set(keyOfCurrent(key), readRecord(value));
    }
  }

  /** Carries one transaction out. A StorageError means that it changed nothing. */
  transact(transaction: Transaction, full: boolean): TransactionResult {
    const succeeded = transaction.compares.every((compare) => this.#holds(compare));
    const branch = succeeded ? transaction.success : transaction.failure;
    this.#check(branch, full);
    const next = this.revision + 1;
    const entries = branch.map((operation) => {
      if (operation.kind === "get") {
        const record = this.#record(operation.key);
        return record && entryOf(operation.key, record);
      }
      if (operation.kind === "put") this.#put(operation, next);
      else if (operation.kind === "delete") this.#delete(operation.key, next);
      else for (const key of this.#keysOf(operation.prefix)) this.#delete(key, next);
      return null;
    });
    this.#end(next);
    return { succeeded, revision: this.revision, entries };
  }

  /** Ends a lease with its keys. */
  revoke(lease: Lease): void {
    const next = this.revision + 1;
    const keys = [...lease.keys].sort(compareKeys);
    for (const key of keys) {
      this.batch.delete(currentKey(key));
      this.batch.delete(attachedKey(lease.id, key));
      this.#overlay.set(key, null);
      this.#events.push(deleted(key, next));
    }
    this.#leases.remove(lease.id);
    this.batch.delete(leaseKey(lease.id));
    this.#end(next);
  }

  #end(next: number): void {
    if (this.#events.length === 0) return;
    this.revision = next;
    this.published.push({ revision: next, events: this.#events });
    this.#events = [];
  }

  #record(key: string): RegistryRecord | null {
    const record = this.#overlay.get(key);
    assert(record !== undefined, "every key that is looked at was loaded");
    return record;
  }

  #holds(compare: Compare): boolean {
    const record = this.#record(compare.key);
    let order: number;
    if (compare.target === "value") {
      if (!record) return false;
      order = compareBytes(record.value, compare.value);
    } else {
      order = (record?.[compare.target] ?? 0) - compare.number;
    }
    if (compare.is === "=") return order === 0;
    if (compare.is === "!=") return order !== 0;
    return compare.is === "<" ? order < 0 : order > 0;
  }

  /** All that can be refused is refused before the first change. */
  #check(branch: readonly Operation[], full: boolean): void {
    let changes = 0;
    const added = new Map<bigint, number>();
    for (const operation of branch) {
      if (operation.kind === "deletePrefix") {
        const { prefix } = operation;
        changes += this.#tooMany.has(prefix) ? Infinity : this.#keysOf(prefix).length;
      } else if (operation.kind !== "get") changes++;
      if (operation.kind !== "put") continue;
      if (full) throw new StorageError("OVS_FULL", "the registry has no room: delete keys first");
      const id = BigInt(operation.lease ?? "0");
      if (id === 0n) continue;
      const lease = this.#leases.living(id);
      added.set(id, (added.get(id) ?? 0) + 1);
      if (lease.keys.size + added.get(id)! > LEASE_KEYS_MAX) {
        throw new StorageError("OVS_INVALID", `a lease has at most ${LEASE_KEYS_MAX} keys`);
      }
    }
    if (changes <= REGISTRY_RANGE_MAX) return;
    const text = `a transaction changes at most ${REGISTRY_RANGE_MAX} keys: delete in parts`;
    throw new StorageError("OVS_INVALID", text);
  }

  #put(operation: Extract<Operation, { kind: "put" }>, revision: number): void {
    const { key } = operation;
    const before = this.#record(key);
    const record: RegistryRecord = {
      createRevision: before?.createRevision ?? revision,
      modRevision: revision,
      version: (before?.version ?? 0) + 1,
      lease: BigInt(operation.lease ?? "0"),
      value: operation.value.slice(),
    };
    if (before && before.lease !== record.lease) this.#detach(before.lease, key);
    if (record.lease !== 0n && before?.lease !== record.lease) {
      this.#leases.attach(record.lease, key);
      this.batch.put(attachedKey(record.lease, key), NO_BYTES);
    }
    this.batch.put(currentKey(key), packRecord(record));
    this.#overlay.set(key, record);
    this.#events.push({ kind: "put", entry: entryOf(key, record) });
  }

  #delete(key: string, revision: number): void {
    const before = this.#record(key);
    if (!before) return;
    this.#detach(before.lease, key);
    this.batch.delete(currentKey(key));
    this.#overlay.set(key, null);
    this.#events.push(deleted(key, revision));
  }

  #detach(lease: bigint, key: string): void {
    if (lease === 0n) return;
    this.#leases.detach(lease, key);
    this.batch.delete(attachedKey(lease, key));
  }

  /** Keys with the prefix that exist now, in order. */
  #keysOf(prefix: string): string[] {
    const keys: string[] = [];
    for (const [key, record] of this.#overlay) if (record && key.startsWith(prefix)) keys.push(key);
    return keys.sort(compareKeys);
  }
}

function compareKeys(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

function deleted(key: string, revision: number): WatchEvent {
  return {
    kind: "delete",
    entry: {
      key,
      value: NO_BYTES,
      createRevision: 0,
      modRevision: revision,
      version: 0,
      lease: "0",
    },
  };
}
