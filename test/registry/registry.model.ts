// SPDX-License-Identifier: Apache-2.0
// A sorted map that does what a registry must, and random transactions that compare the two.

import type { Test } from "tap";
import type {
  Compare,
  Operation,
  Registry,
  RegistryEntry,
  Transaction,
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
}

/** Random transactions on keys with the prefix `p`, on both. */
export async function againstModel(
  t: Test,
  r: Registry,
  p: string,
  below: (limit: number) => number,
): Promise<void> {
  const model = new Map<string, Known>();
  const key = () => p + "ab/é".charAt(below(4)).repeat(1 + below(2)) + below(6);
  for (let round = 0; round < 250; round++) {
    const transaction = randomTransaction(below, key, p, model);
    const result = await r.transact(transaction);
    const expected = modelled(model, transaction, result.revision);
    t.same(
      { succeeded: result.succeeded, entries: result.entries.map(known) },
      expected,
      `round ${round}`,
    );
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
}

function known(entry: RegistryEntry | null): Known | null {
  if (!entry) return null;
  const { createRevision, modRevision, version } = entry;
  return { value: text(entry.value), createRevision, modRevision, version };
}

function randomTransaction(
  below: (limit: number) => number,
  key: () => string,
  p: string,
  model: Map<string, Known>,
): Transaction {
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
      if (kind < 4 && !puts.has(name)) operations.push(put(name, String(below(100))));
      else if (kind < 6) operations.push({ kind: "get", key: name });
      else if (puts.size === 0 && kind === 6) operations.push({ kind: "delete", key: name });
      if (kind < 4) puts.add(name);
    }
    const deletes = new Set(operations.map((o) => (o.kind === "delete" ? o.key : "")));
    if (below(8) === 0) return [{ kind: "deletePrefix", prefix: `${p}a` }];
    return operations.filter((o) => o.kind !== "put" || !deletes.has(o.key));
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
      });
    } else if (operation.kind === "delete") model.delete(operation.key);
    else
      for (const name of [...model.keys()])
        if (name.startsWith(operation.prefix)) model.delete(name);
    return null;
  });
  return { succeeded, entries };
}
