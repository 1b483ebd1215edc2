// SPDX-License-Identifier: Apache-2.0
// The embedded registry: the contract, and what belongs to it alone: restarts, room, damage.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import type { KvStore } from "../../src/platform/kv.js";
import { NodeKv } from "../../src/platform/node/kv.js";
import { type EmbeddedOptions, EmbeddedRegistry } from "../../src/registry/embedded.js";
import { QuietLog, realClock, until } from "../platform/fixture.js";
import { KV_OPTIONS } from "../platform/kv.contract.js";
import { always, bytes, put, Recorder, registryContract } from "./registry.contract.js";

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
const root = mkdtempSync(join(tmpdir(), "ovs-registry-"));
t.teardown(() => rmSync(root, { recursive: true, force: true }));
const log = new QuietLog();
const random = {
  below: (limit: number) => Math.floor(Math.random() * limit),
  bytes: (count: number) => crypto.getRandomValues(new Uint8Array(count)),
};
const world = { clock: realClock, random, log };
const kv = new NodeKv();

async function open(
  name: string,
  options: EmbeddedOptions = {},
): Promise<{ store: KvStore; registry: EmbeddedRegistry; close: () => Promise<void> }> {
  const store = await kv.open(join(root, name), KV_OPTIONS);
  const registry = await EmbeddedRegistry.open(world, store, options);
  const close = async () => {
    await registry.close();
    await store.close();
  };
  return { store, registry, close };
}

t.test("the contract", async (t) => {
  const past = { revisionsMax: 400, bytesMax: 2 ** 24 };
  const { registry, close } = await open("contract", { past });
  const compact = async () => {
    for (let i = 0; i <= past.revisionsMax; i++)
      await registry.transact(always(put("compact", "x")));
  };
  await registryContract(t, () => ({ registry, compact, seed }));
  await close();
});

t.test("a restart keeps keys and revisions, and gives leases their full time again", async (t) => {
  let { registry, close } = await open("restart");
  const { lease } = await registry.leaseGrant(2);
  const { revision } = await registry.transact(always(put("a", "1"), put("alive", "1", lease)));
  const recorder = new Recorder();
  await registry.watch("", 1, recorder);
  await close();
  await until(() => recorder.ended !== null, "watches end");
  await t.rejects(registry.get("a"), { code: "OVS_CLOSED" });
  await t.rejects(registry.transact(always(put("a", "2"))), { code: "OVS_CLOSED" });
  ({ registry, close } = await open("restart"));
  t.equal(registry.revision, revision);
  t.match(await registry.get("a"), { modRevision: revision, version: 1 });
  t.equal((await registry.get("alive"))?.lease, lease);
  const compacted = new Recorder();
  await registry.watch("", revision, compacted);
  await until(() => compacted.ended !== null, "the past is compacted");
  const after = new Recorder();
  await registry.watch("alive", revision + 1, after);
  t.equal((await registry.leaseKeepAlive(lease)).ttlSeconds, 2);
  await until(() => after.calls.length === 1, "the lease expires", 10_000);
  t.same(after.calls[0]?.events, ["-alive"]);
  await close();
  ({ registry, close } = await open("restart"));
  await t.rejects(registry.leaseKeepAlive(lease), { code: "OVS_NOT_FOUND" });
  t.equal(await registry.get("alive"), null);
  await close();
});

t.test("transactions of one caller are carried out in the order of the calls", async (t) => {
  const { registry, close } = await open("order");
  const calls = Array.from({ length: 40 }, (_, i) =>
    registry.transact({
      compares: [{ key: "a", target: "version", is: "=", number: i }],
      success: [put("a", String(i))],
      failure: [],
    }),
  );
  t.ok((await Promise.all(calls)).every((result) => result.succeeded));
  await close();
});

t.test("closing finishes what was asked", async (t) => {
  const { registry, close } = await open("closing");
  const writes = Array.from({ length: 100 }, (_, i) => registry.transact(always(put(`${i}`, "x"))));
  await close();
  t.equal((await Promise.all(writes)).length, 100);
});

t.test("without room puts are refused and deletes are not", async (t) => {
  let freeBytes = 100;
  const room = { freeBytes: async () => freeBytes, freeBytesMin: 1000 };
  const { registry, close } = await open("full", { room });
  await t.rejects(registry.transact(always(put("a", "1"))), { code: "OVS_FULL" });
  await t.rejects(registry.leaseGrant(10), { code: "OVS_FULL" });
  t.equal((await registry.transact(always({ kind: "delete", key: "a" }))).succeeded, true);
  freeBytes = 10_000;
  await until(() => log.lines.some((line) => line.includes("is full")), "it is said");
  const done = async () => {
    try {
      await registry.transact(always(put("a", "1")));
      return true;
    } catch {
      return false;
    }
  };
  for (let i = 0; !(await done()); i++) {
    t.ok(i < 1000, "room again");
    await realClock.sleep(10);
  }
  await close();
});

t.test("too many keys are not deleted at once", async (t) => {
  const { registry, close } = await open("many");
  const writes: Promise<unknown>[] = [];
  for (let i = 0; i < 10_100; i += 100) {
    const puts = Array.from({ length: 100 }, (_, j) =>
      put(`m/${String(i + j).padStart(6, "0")}`, ""),
    );
    writes.push(registry.transact(always(...puts)));
  }
  await Promise.all(writes);
  const some = Array.from({ length: 100 }, (_, i) => ({
    kind: "delete" as const,
    key: `m/${String(i).padStart(6, "0")}`,
  }));
  const results = await Promise.allSettled([
    registry.transact(always({ kind: "deletePrefix", prefix: "m/" })),
    registry.transact(always(...some)),
    registry.transact(always({ kind: "deletePrefix", prefix: "m/" })),
  ]);
  t.same(
    results.map((result) => result.status),
    ["rejected", "fulfilled", "rejected"],
  );
  await registry.transact(always({ kind: "deletePrefix", prefix: "m/" }));
  t.same((await registry.range("", { limit: 10 })).entries, []);
  await close();
});

t.test("a store that fails ends the registry, in words", async (t) => {
  let fatal: Error | null = null;
  const { store, registry, close } = await open("fatal", { onFatal: (error) => (fatal = error) });
  await registry.transact(always(put("a", "1")));
  const recorder = new Recorder();
  await registry.watch("", 2, recorder);
  await store.close();
  await t.rejects(registry.transact(always(put("a", "2"))), { code: "OVS_UNAVAILABLE" });
  await t.rejects(registry.transact(always(put("a", "3"))), { code: "OVS_UNAVAILABLE" });
  await t.rejects(registry.get("a"), { code: "OVS_UNAVAILABLE" });
  t.ok(fatal);
  t.ok(recorder.ended);
  await close();
});

t.test("a store of something else is refused", async (t) => {
  const store = await kv.open(join(root, "foreign"), KV_OPTIONS);
  const batch = store.batch();
  batch.put(bytes("r"), bytes("what is this"));
  await store.write(batch, { sync: true });
  await t.rejects(EmbeddedRegistry.open(world, store), { code: "OVS_CORRUPT" });
  await store.close();
});
