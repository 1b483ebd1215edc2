// SPDX-License-Identifier: Apache-2.0
// What every implementation of KvFactory must do. The real store and the simulated one run it.

import type { Test } from "tap";
import { equalBytes } from "../../src/base/bytes.js";
import type { KvEntry, KvFactory, KvOptions, KvReader, KvStore } from "../../src/platform/kv.js";

export const KV_OPTIONS: KvOptions = {
  cacheBytes: 2 ** 20,
  writeBufferBytes: 2 ** 20,
  create: true,
};

export interface KvHarness {
  factory: KvFactory;
  /** A path in a folder that exists, never the same twice; nothing lies there. */
  path(): string;
  seed: number;
}

export const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "latin1"));
export const text = (value: Uint8Array | null): string | null =>
  value && Buffer.from(value).toString("latin1");

const ALL = { first: null, end: null, reverse: false, limit: 1000 };
const shown = (entries: KvEntry[]) => entries.map((e) => `${text(e.key)}=${text(e.value)}`);

async function put(store: KvStore, pairs: Record<string, string>, sync = false): Promise<void> {
  const batch = store.batch();
  for (const [key, value] of Object.entries(pairs)) batch.put(bytes(key), bytes(value));
  await store.write(batch, { sync });
}

/** Runs the contract as subtests of `t`. */
export async function kvContract(t: Test, harness: KvHarness): Promise<void> {
  const { factory } = harness;
  const fresh = () => factory.open(harness.path(), KV_OPTIONS);

  await t.test("keys are bytes in bytewise order, values any bytes, also empty ones", async (t) => {
    const store = await fresh();
    await put(store, {
      b: "2",
      "": "empty key",
      a: "",
      "\xff": "last",
      "a\0": "zero",
      "\x7f": "7f",
    });
    t.same(shown(await store.range(ALL)), [
      "=empty key",
      "a=",
      "a\0=zero",
      "b=2",
      "\x7f=7f",
      "\xff=last",
    ]);
    t.equal(text(await store.get(bytes("a"))), "");
    t.equal(await store.get(bytes("c")), null);
    t.same((await store.getMany(["b", "x", "", "b"].map(bytes))).map(text), [
      "2",
      null,
      "empty key",
      "2",
    ]);
    t.same(await store.getMany([]), []);
    await store.close();
  });

  await t.test("ranges obey first, end, direction and limit", async (t) => {
    const store = await fresh();
    await put(store, { a: "1", b: "2", c: "3", d: "4" });
    const range = async (
      first: string | null,
      end: string | null,
      reverse: boolean,
      limit: number,
    ) =>
      (
        await store.range({
          first: first === null ? null : bytes(first),
          end: end === null ? null : bytes(end),
          reverse,
          limit,
        })
      )
        .map((e) => text(e.key))
        .join("");
    t.equal(await range("b", "d", false, 10), "bc");
    t.equal(await range("b", "d", true, 10), "cb");
    t.equal(await range(null, "c", false, 10), "ab");
    t.equal(await range("bb", null, true, 10), "dc");
    t.equal(await range(null, null, false, 2), "ab");
    t.equal(await range(null, null, true, 3), "dcb");
    t.equal(await range("c", "c", false, 10), "");
    t.equal(await range("d", "a", false, 10), "");
    t.equal(await range("d", "a", true, 10), "");
    t.equal(await range(null, null, false, 0), "");
    await store.close();
  });

  await t.test("a batch is applied as a whole, its records in order", async (t) => {
    const store = await fresh();
    await put(store, { a: "old", b: "old", c: "old", d: "old" });
    const batch = store.batch();
    batch.put(bytes("a"), bytes("1"));
    batch.delete(bytes("a"));
    batch.put(bytes("a"), bytes("2"));
    batch.deleteRange(bytes("b"), bytes("d"));
    batch.put(bytes("c"), bytes("after"));
    batch.delete(bytes("never was"));
    batch.deleteRange(bytes("d"), bytes("a"));
    batch.deleteRange(bytes("d"), bytes("d"));
    t.equal(batch.count, 6, "an empty range is none");
    await store.write(batch, { sync: true });
    t.same(shown(await store.range(ALL)), ["a=2", "c=after", "d=old"]);
    batch.clear();
    t.equal(batch.count, 0);
    await store.write(batch, { sync: true });
    t.equal((await store.range(ALL)).length, 3);
    await store.close();
  });

  await t.test("a batch may be cleared and used again once it is given away", async (t) => {
    const store = await fresh();
    const batch = store.batch();
    batch.put(bytes("a"), bytes("1"));
    const first = store.write(batch, { sync: true });
    await first;
    batch.clear();
    batch.put(bytes("b"), new Uint8Array(300_000).fill(7));
    await store.write(batch, { sync: false });
    t.equal((await store.get(bytes("b")))?.byteLength, 300_000);
    t.equal(text(await store.get(bytes("a"))), "1");
    await store.close();
  });

  await t.test("writes are applied in the order of their calls, whatever their sync", async (t) => {
    const store = await fresh();
    const writes: Promise<void>[] = [];
    const order: number[] = [];
    for (let i = 0; i < 500; i++) {
      writes.push(
        put(store, { last: String(i), [`k${i % 7}`]: String(i) }, i % 3 === 0).then(
          () => void order.push(i),
        ),
      );
    }
    await Promise.all(writes);
    t.equal(text(await store.get(bytes("last"))), "499");
    t.equal(text(await store.get(bytes("k0"))), "497");
    t.same(
      order,
      [...order].sort((a, b) => a - b),
      "and acknowledged in that order",
    );
    await store.close();
  });

  await t.test("a snapshot keeps showing its moment", async (t) => {
    const store = await fresh();
    await put(store, { a: "1", b: "1" });
    const snapshot = store.snapshot();
    const batch = store.batch();
    batch.put(bytes("a"), bytes("2"));
    batch.delete(bytes("b"));
    batch.put(bytes("c"), bytes("2"));
    await store.write(batch, { sync: false });
    t.same(shown(await snapshot.range(ALL)), ["a=1", "b=1"]);
    t.same((await snapshot.getMany(["a", "b", "c"].map(bytes))).map(text), ["1", "1", null]);
    t.equal(text(await store.get(bytes("a"))), "2");
    snapshot.release();
    snapshot.release();
    await t.rejects(snapshot.get(bytes("a")), { code: "OVS_CLOSED" });
    for (let i = 0; i < 20; i++) {
      const short = store.snapshot();
      const read = short.get(bytes("a"));
      short.release();
      t.equal(text(await read), "2", "what was asked before the release is answered");
    }
    await store.close();
  });

  await t.test("content survives closing; a checkpoint is a store of its own", async (t) => {
    const path = harness.path();
    let store = await factory.open(path, KV_OPTIONS);
    await put(store, { a: "1" });
    const copy = harness.path();
    await store.checkpoint(copy);
    await put(store, { a: "2" });
    const isThere = { code: "OVS_EXISTS" };
    await t.rejects(store.checkpoint(copy), isThere, "a folder that exists is left alone");
    await t.rejects(store.checkpoint(`${copy}-none/copy`), { code: "OVS_DISK_FAILED" });
    await t.rejects(store.checkpoint("copy"), { code: "OVS_INVALID" });
    await store.close();
    store = await factory.open(path, { ...KV_OPTIONS, create: false });
    const other = await factory.open(copy, { ...KV_OPTIONS, create: false });
    t.equal(text(await store.get(bytes("a"))), "2");
    t.equal(text(await other.get(bytes("a"))), "1");
    const stats = await store.stats();
    t.ok(stats.diskBytes >= 0 && stats.memoryBytes >= 0 && stats.keysEstimate >= 0);
    await store.close();
    await other.close();
  });

  await t.test("one store is open once; without create there must be one", async (t) => {
    const path = harness.path();
    await t.rejects(factory.open(path, { ...KV_OPTIONS, create: false }), {
      code: "OVS_NOT_FOUND",
    });
    const failed = { code: "OVS_DISK_FAILED" };
    await t.rejects(factory.open(`${path}-none/store`, KV_OPTIONS), failed, "nor its folder");
    await t.rejects(factory.open("store", KV_OPTIONS), { code: "OVS_INVALID" });
    const store = await factory.open(path, KV_OPTIONS);
    await t.rejects(factory.open(path, KV_OPTIONS), { code: "OVS_BUSY", message: /already open/ });
    await t.rejects(factory.open(path, KV_OPTIONS), { code: "OVS_BUSY" }, "asking does no harm");
    await store.close();
    await (await factory.open(path, KV_OPTIONS)).close();
  });

  await t.test("closing finishes what was called, and ends the rest", async (t) => {
    const path = harness.path();
    let store = await factory.open(path, KV_OPTIONS);
    const snapshot = store.snapshot();
    const writes = Array.from({ length: 50 }, (_, i) =>
      put(store, { [`k${i}`]: "x" }, i % 2 === 0),
    );
    const read = store.range({ ...ALL, limit: 500 });
    const closed = store.close();
    await t.rejects(put(store, { late: "x" }), { code: "OVS_CLOSED" });
    await t.rejects(store.get(bytes("a")), { code: "OVS_CLOSED" });
    await t.rejects(snapshot.get(bytes("a")), { code: "OVS_CLOSED" });
    t.throws(() => store.snapshot(), { code: "OVS_CLOSED" });
    await Promise.all([...writes, read, closed, store.close()]);
    snapshot.release();
    store = await factory.open(path, KV_OPTIONS);
    t.equal((await store.range(ALL)).length, 50);
    await store.close();
  });

  await t.test("a key or value beyond the bounds is refused, and no batch is harmed", async (t) => {
    const store = await fresh();
    const batch = store.batch();
    t.throws(() => batch.put(new Uint8Array(65_537), bytes("")), { code: "OVS_INVALID" });
    t.throws(() => batch.put(bytes(""), new Uint8Array(16 * 2 ** 20 + 1)), { code: "OVS_INVALID" });
    batch.put(new Uint8Array(65_536), new Uint8Array(2 ** 20));
    t.equal(batch.count, 1);
    await store.write(batch, { sync: true });
    t.equal((await store.get(new Uint8Array(65_536)))?.byteLength, 2 ** 20);
    await t.rejects(store.get(new Uint8Array(65_537)), { code: "OVS_INVALID" });
    await store.close();
  });

  await t.test(`it does what a sorted map does (SEED=${harness.seed})`, async (t) => {
    await againstModel(t, harness);
  });
}

/** A small generator with a seed, for tests only. */
export function seeded(seed: number): (limit: number) => number {
  let state = seed >>> 0 || 1;
  return (limit) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % limit;
  };
}

type Model = Map<string, string>;

async function againstModel(t: Test, harness: KvHarness): Promise<void> {
  const below = seeded(harness.seed);
  const path = harness.path();
  let store = await harness.factory.open(path, { ...KV_OPTIONS, writeBufferBytes: 2 ** 16 });
  const model: Model = new Map();
  const key = () => "ab\0\xff".charAt(below(4)).repeat(below(3)) + String(below(60));
  for (let round = 0; round < 300; round++) {
    const batch = store.batch();
    for (let i = below(12); i >= 0; i--) change(batch, model, below, key);
    await store.write(batch, { sync: below(10) === 0 });
    const snapshot = below(4) === 0 ? store.snapshot() : null;
    const wrong = await differs(snapshot ?? store, model, below, key);
    snapshot?.release();
    t.equal(wrong, null, `round ${round}`);
    if (wrong) break;
    if (below(50) === 0) {
      await store.close();
      store = await harness.factory.open(path, { ...KV_OPTIONS, writeBufferBytes: 2 ** 16 });
    }
  }
  await store.close();
}

function change(
  batch: ReturnType<KvStore["batch"]>,
  model: Model,
  below: (limit: number) => number,
  key: () => string,
): void {
  const kind = below(10);
  const name = key();
  if (kind < 6) {
    const value = String(below(1e6)).repeat(below(300));
    batch.put(bytes(name), bytes(value));
    model.set(name, value);
  } else if (kind < 9) {
    batch.delete(bytes(name));
    model.delete(name);
  } else {
    const [first, end] = [name, key()].sort() as [string, string];
    batch.deleteRange(bytes(first), bytes(end));
    for (const known of [...model.keys()]) if (known >= first && known < end) model.delete(known);
  }
}

async function differs(
  reader: KvReader,
  model: Model,
  below: (limit: number) => number,
  key: () => string,
): Promise<string | null> {
  const names = Array.from({ length: 1 + below(5) }, key);
  const values = await reader.getMany(names.map(bytes));
  for (const [i, name] of names.entries()) {
    const expected = model.get(name) ?? null;
    if (text(values[i]!) !== expected) return `getMany ${JSON.stringify(name)}`;
    if (text(await reader.get(bytes(name))) !== expected) return `get ${JSON.stringify(name)}`;
  }
  const first = below(3) === 0 ? null : key();
  const end = below(3) === 0 ? null : key();
  const reverse = below(2) === 0;
  const limit = 1 + below(100);
  const found = await reader.range({
    first: first === null ? null : bytes(first),
    end: end === null ? null : bytes(end),
    reverse,
    limit,
  });
  let wanted = [...model.keys()]
    .filter((name) => (first === null || name >= first) && (end === null || name < end))
    .sort();
  if (reverse) wanted.reverse();
  wanted = wanted.slice(0, limit);
  const same =
    found.length === wanted.length &&
    found.every(
      (e, i) => text(e.key) === wanted[i] && equalBytes(e.value, bytes(model.get(wanted[i]!)!)),
    );
  if (same) return null;
  const got = found.map((e) => text(e.key));
  return `range ${JSON.stringify({ first, end, reverse, limit, got, wanted })}`;
}
