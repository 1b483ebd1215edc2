// SPDX-License-Identifier: Apache-2.0
// The protocol of the registry service: operation codes, and the way between the objects of
// registry.ts and the messages of wire/formats/registry.ts. A message that fits travels in a
// frame's meta; a larger one is the frame's payload.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { MIB } from "../base/units.js";
import type { Arena, ArenaPool } from "../platform/arena.js";
import type { Segments } from "../platform/network.js";
import { oneSegment } from "../platform/segments.js";
import {
  CompareIs,
  CompareTarget,
  EventKind,
  OperationKind,
  type RegistryChange,
  type RegistryCompare,
  type RegistryItem,
  type RegistryOperation,
  type RegistryTransacted,
  type RegistryTransaction,
} from "../wire/generated/registry.js";
import { NO_BYTES } from "./layout.js";
import type {
  Compare,
  Operation,
  RegistryEntry,
  Transaction,
  TransactionResult,
  WatchEvent,
} from "./registry.js";

export const REGISTRY_ROLE = "registry";

export const RegistryOp = {
  get: 16,
  range: 17,
  transact: 18,
  watch: 19,
  leaseGrant: 20,
  leaseKeepAlive: 21,
  leaseRevoke: 22,
  status: 23,
  /** One-way, to the client. */
  events: 24,
  /** One-way, both ways. */
  watchEnd: 25,
} as const;

/** Larger messages go as payload: below the limit of meta, so that both stay small. */
export const META_MESSAGE_BYTES_MAX = 32 * 1024;
/** Largest message: a range of 4 MiB, or the values of 100 gets. */
export const MESSAGE_BYTES_MAX = 8 * MIB;

const SIGNS = ["=", "<", ">", "!="] as const;
const IS_OF = {
  "=": CompareIs.equal,
  "<": CompareIs.less,
  ">": CompareIs.greater,
  "!=": CompareIs.different,
} as const;
const SIGN_OF: Readonly<Record<CompareIs, (typeof SIGNS)[number]>> = {
  [CompareIs.equal]: "=",
  [CompareIs.less]: "<",
  [CompareIs.greater]: ">",
  [CompareIs.different]: "!=",
};
const NUMBER_TARGETS = {
  [CompareTarget.version]: "version",
  [CompareTarget.createRevision]: "createRevision",
  [CompareTarget.modRevision]: "modRevision",
} as const;

function wireCompare(compare: Compare): RegistryCompare {
  const { key, target } = compare;
  const is = IS_OF[compare.is];
  if (compare.target === "value") {
    return { key, target: CompareTarget.value, is, number: 0, value: compare.value };
  }
  return { key, target: CompareTarget[target], is, number: compare.number, value: NO_BYTES };
}

function compareOf({ key, target, is, number, value }: RegistryCompare): Compare {
  if (target === CompareTarget.value) return { key, target: "value", is: SIGN_OF[is], value };
  return { key, target: NUMBER_TARGETS[target], is: SIGN_OF[is], number };
}

function wireOperation(operation: Operation): RegistryOperation {
  const kind = OperationKind[operation.kind];
  const key = operation.kind === "deletePrefix" ? operation.prefix : operation.key;
  const value = operation.kind === "put" ? operation.value : NO_BYTES;
  const lease = operation.kind === "put" ? BigInt(operation.lease ?? "0") : 0n;
  return { kind, lease, key, value };
}

function operationOf({ kind, key, value, lease }: RegistryOperation): Operation {
  switch (kind) {
    case OperationKind.put:
      return lease === 0n
        ? { kind: "put", key, value }
        : { kind: "put", key, value, lease: String(lease) };
    case OperationKind.delete:
      return { kind: "delete", key };
    case OperationKind.deletePrefix:
      return { kind: "deletePrefix", prefix: key };
    case OperationKind.get:
      return { kind: "get", key };
  }
}

/** The transaction was checked against the limits before. */
export function wireTransaction(transaction: Transaction): RegistryTransaction {
  return {
    compares: transaction.compares.map(wireCompare),
    success: transaction.success.map(wireOperation),
    failure: transaction.failure.map(wireOperation),
  };
}

/** The contract's transaction from the message. */
export function transactionOf(message: RegistryTransaction): Transaction {
  return {
    compares: message.compares.map(compareOf),
    success: message.success.map(operationOf),
    failure: message.failure.map(operationOf),
  };
}

/** An entry as it is sent. */
export function wireItem(entry: RegistryEntry): RegistryItem {
  return { ...entry, lease: BigInt(entry.lease) };
}

/** A received item as the contract's entry. */
export function entryOfItem(item: RegistryItem): RegistryEntry {
  return { ...item, lease: String(item.lease) };
}

/** A transaction's result as it is sent: found entries with their operation's index. */
export function wireResult(result: TransactionResult): RegistryTransacted {
  const found: RegistryTransacted["found"] = [];
  for (const [index, entry] of result.entries.entries()) {
    if (entry) found.push({ index, item: wireItem(entry) });
  }
  return {
    succeeded: result.succeeded ? 1 : 0,
    revision: result.revision,
    operations: result.entries.length,
    found,
  };
}

/** The contract's result from the message. OVS_PROTOCOL when an index is out of range. */
export function resultOf(message: RegistryTransacted): TransactionResult {
  const entries = new Array<RegistryEntry | null>(message.operations).fill(null);
  for (const { index, item } of message.found) {
    if (index >= entries.length) {
      throw new StorageError("OVS_PROTOCOL", `an entry of operation ${index}, which there is not`);
    }
    entries[index] = entryOfItem(item);
  }
  return { succeeded: message.succeeded === 1, revision: message.revision, entries };
}

/** A watch's event as it is sent. */
export function wireEvent({ kind, entry }: WatchEvent): RegistryChange {
  return { kind: EventKind[kind], item: wireItem(entry) };
}

/** A received change as the contract's event. */
export function eventOf({ kind, item }: RegistryChange): WatchEvent {
  return { kind: kind === EventKind.put ? "put" : "delete", entry: entryOfItem(item) };
}

/** A message ready to be sent: in meta, or in a run of the pool that `give` takes back. */
export interface Packed {
  meta: Uint8Array | null;
  payload: Segments | null;
  /** Gives the run back once the kernel has the message; null: there is none. */
  give: (() => void) | null;
}

function inPool(arena: Arena, pool: ArenaPool, offset: number, message: Uint8Array): Packed {
  arena.bytes.set(message, offset);
  return {
    meta: null,
    payload: oneSegment(offset, message.byteLength),
    give: () => pool.give(offset),
  };
}

/** Waits for room in the pool where the message is large. */
export async function pack(arena: Arena, pool: ArenaPool, message: Uint8Array): Promise<Packed> {
  const packed = packNow(arena, pool, message);
  if (packed) return packed;
  return inPool(arena, pool, await pool.take(message.byteLength), message);
}

/** null: there is no room in the pool now. */
export function packNow(arena: Arena, pool: ArenaPool, message: Uint8Array): Packed | null {
  assert(message.byteLength <= MESSAGE_BYTES_MAX, "a message is within its limit");
  if (message.byteLength <= META_MESSAGE_BYTES_MAX) {
    return { meta: message, payload: null, give: null };
  }
  const offset = pool.waiting > 0 ? 0 : pool.tryTake(message.byteLength);
  return offset === 0 ? null : inPool(arena, pool, offset, message);
}

/** The message of a frame: a view, to be decoded at once. */
export function unpack(
  arena: Arena,
  frame: { meta: Uint8Array; payload: number; payloadBytes: number },
): Uint8Array {
  return frame.payload === 0 ? frame.meta : arena.slice(frame.payload, frame.payloadBytes);
}
