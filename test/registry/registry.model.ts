// SPDX-License-Identifier: Apache-2.0
// A sorted map that does what a registry must, and random transactions that compare the two.

import type { Test } from "tap";
import type {
  Compare,
  Operation,
  Registry,
  RegistryEntry,
  Transaction,
  WatchEvent,
} from "../../src/registry/registry.js";

export const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text));
export const text = (value: Uint8Array): string => Buffer.from(value).toString();

export const put = (key: string, value: string, lease?: string): Operation =>
  lease === undefined
    ? { kind: "put", key, value: bytes(value) }
    : { kind: "put", key, value: bytes(value), lease };

interface Known {
  value: string;
  createRevision: number;
  modRevision: number;
  version: number;
  lease: string;
}

/** What a watch of the prefix has to tell, a list for each revision. */
type Told = string[][];

/**
 * Random transactions on keys with the prefix `p`, on both; some keys hang on leases, which are
 * revoked now and then. A watch sees all of it.
 */
export async function againstModel(
  t: Test,
  r: Registry,
  p: string,
  below: (limit: number) => number,
): Promise<void> {
  const model = new Map<string, Known>();
  const leases = [(await r.leaseGrant(600)).lease, (await r.leaseGrant(600)).lease];
  const expected: Told = [];
  const told: Told = [];
  const { revision } = await r.range(p, { limit: 1 });
  const watch = await r.watch(p, revision + 1, {
    onEvents: (events) => void told.push(events.map(eventOf)),
    onEnd: (reason) => void t.fail(reason),
  });
  const key = () => p + "ab/é".charAt(below(4)).repeat(1 + below(2)) + below(6);
  for (let round = 0; round < 250; round++) {
    if (below(25) === 0) {
      const ended = leases.shift()!;
      await r.leaseRevoke(ended);
      leases.push((await r.leaseGrant(600)).lease);
      tell(
        expected,
        dropAll(model, (_name, { lease }) => lease === ended),
      );
    }
    const transaction = randomTransaction({ below, key, p, model, leases });
    const result = await r.transact(transaction);
    const events: string[] = [];
    t.same(
      { succeeded: result.succeeded, entries: result.entries.map(known) },
      modelled(model, transaction, result.revision, events),
      `round ${round}`,
    );
    tell(expected, events);
    if (round % 10 !== 0) continue;
    const range = await r.range(p, { limit: 1000 });
    const names = [...model.keys()].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    t.same(
      range.entries.map((e) => e.key),
      names,
      `keys after round ${round}`,
    );
    t.same(
      range.entries.map(known),
      names.map((name) => model.get(name)),
    );
  }
  await r.transact({ compares: [], success: [put(`${p}end`, "end")], failure: [] });
  tell(expected, [`${p}end=end`]);
  for (let i = 0; i < 5000 && told.length < expected.length; i++) await r.get(p);
  t.same(told, expected, "a watch has told each change, in order, a revision at a time");
  watch.cancel();
  for (const lease of leases) await r.leaseRevoke(lease);
}

function eventOf({ kind, entry }: WatchEvent): string {
  return kind === "put" ? `${entry.key}=${text(entry.value)}` : `-${entry.key}`;
}

function tell(told: Told, events: string[]): void {
  if (events.length > 0) told.push(events);
}

/** Deletes all keys that `isMeant`, in the order of their bytes; the events of that. */
function dropAll(
  model: Map<string, Known>,
  isMeant: (name: string, known: Known) => boolean,
): string[] {
  const names = [...model].filter(([name, known]) => isMeant(name, known)).map(([name]) => name);
  names.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  for (const name of names) model.delete(name);
  return names.map((name) => `-${name}`);
}

function known(entry: RegistryEntry | null): Known | null {
  if (!entry) return null;
  const { createRevision, modRevision, version, lease } = entry;
  return { value: text(entry.value), createRevision, modRevision, version, lease };
}

function randomTransaction(from: {
  below: (limit: number) => number;
  key: () => string;
  p: string;
  model: Map<string, Known>;
  leases: string[];
}): Transaction {
  const { below, key, p, model, leases } = from;
  const compare = (): Compare => {
    const name = key();
    const is = (["=", "<", ">", "!="] as const)[below(4)]!;
    const target = (["version", "modRevision", "createRevision", "value"] as const)[below(4)]!;
    const now = model.get(name);
    if (target === "value") {
      const value = below(2) === 0 ? (now?.value ?? "") : String(below(100));
      return { key: name, target, is, value: bytes(value) };
    }
    return { key: name, target, is, number: Math.max(0, (now?.[target] ?? 0) + below(3) - 1) };
  };
  const branch = (): Operation[] => {
    const operations: Operation[] = [];
    const puts = new Set<string>();
    for (let i = below(6); i > 0; i--) {
      const name = key();
      const kind = below(8);
      const lease = leases[below(6)];
      if (kind < 4 && !puts.has(name)) operations.push(put(name, String(below(100)), lease));
      else if (kind < 6) operations.push({ kind: "get", key: name });
      else if (puts.size === 0 && kind === 6) operations.push({ kind: "delete", key: name });
      if (kind < 4) puts.add(name);
    }
    const deletes = new Set(operations.map((o) => (o.kind === "delete" ? o.key : "")));
    const kept = operations.filter((o) => o.kind !== "put" || !deletes.has(o.key));
    if (below(8) > 0) return kept;
    const prefix = `${p}${"ab"[below(2)]!}`;
    const others = kept.filter((o) => o.kind !== "put" || !o.key.startsWith(prefix));
    others.splice(below(others.length + 1), 0, { kind: "deletePrefix", prefix });
    return others;
  };
  return {
    compares: Array.from({ length: below(3) }, compare),
    success: branch(),
    failure: branch(),
  };
}

function modelled(
  model: Map<string, Known>,
  transaction: Transaction,
  revision: number,
  events: string[],
): { succeeded: boolean; entries: Array<Known | null> } {
  const succeeded = transaction.compares.every((compare) => {
    const now = model.get(compare.key);
    if (compare.target === "value" && !now) return false;
    const order =
      compare.target === "value"
        ? Buffer.compare(bytes(now!.value), compare.value)
        : (now?.[compare.target] ?? 0) - compare.number;
    return { "=": order === 0, "<": order < 0, ">": order > 0, "!=": order !== 0 }[compare.is];
  });
  const entries = (succeeded ? transaction.success : transaction.failure).map((operation) => {
    if (operation.kind === "get") return model.get(operation.key) ?? null;
    if (operation.kind === "put") {
      const before = model.get(operation.key);
      model.set(operation.key, {
        value: text(operation.value),
        createRevision: before?.createRevision ?? revision,
        modRevision: revision,
        version: (before?.version ?? 0) + 1,
        lease: operation.lease ?? "0",
      });
      events.push(`${operation.key}=${text(operation.value)}`);
    } else if (operation.kind === "delete") {
      events.push(...dropAll(model, (name) => name === operation.key));
    } else {
      events.push(...dropAll(model, (name) => name.startsWith(operation.prefix)));
    }
    return null;
  });
  return { succeeded, entries };
}
