// SPDX-License-Identifier: Apache-2.0
// The simulated key-value store behind the contract, and what only a simulated one can be put
// through: ends of processes and of the power at every instant, and damage.

import t from "tap";
import { hasCode } from "../../src/base/errors.js";
import type { KvStore } from "../../src/platform/kv.js";
import { FaultKind } from "../../src/sim/faults.js";
import { bytes, KV_OPTIONS, kvContract, text } from "../platform/kv.contract.js";
import { Host } from "./host.js";

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
const SEEDS = 150;
const ALL = { first: null, end: null, reverse: false, limit: 1e6 };
const OLD = { ...KV_OPTIONS, create: false };
const PATH = "/disk0/store";

t.test(`the contract (SEED=${seed})`, async (t) => {
  const host = new Host(seed);
  const { kv } = host.start();
  let names = 0;
  const path = () => `/disk0/store-${++names}`;
  await host.during(async () => {
    await kvContract(t, { factory: kv, path, seed });
  });
});

const keyOf = (i: number) => bytes(`key ${String(i).padStart(6, "0")}`);

async function put(store: KvStore, i: number, sync: boolean): Promise<void> {
  const batch = store.batch();
  batch.put(keyOf(i), bytes(`value ${i}`));
  batch.put(bytes("last"), bytes(String(i)));
  await store.write(batch, { sync });
}

/** A host where a process writes numbers into a store for a while, several at once. */
async function written(seed: number): Promise<{
  host: Host;
  told: { begun: number; acknowledged: number; synced: number };
}> {
  const host = new Host(seed);
  const { kv, disk } = host.start();
  const dice = host.dice.fork("writer");
  const told = { begun: 0, acknowledged: 0, synced: 0 };
  const write = async (store: KvStore) => {
    for (;;) {
      const i = ++told.begun;
      const sync = dice.chance(0.1);
      await put(store, i, sync);
      told.acknowledged = Math.max(told.acknowledged, i);
      if (sync) told.synced = Math.max(told.synced, i);
    }
  };
  const work = async () => {
    const store = await kv.open(PATH, KV_OPTIONS);
    await disk.files.syncFolder("/disk0");
    await put(store, ++told.begun, true);
    told.synced = 1;
    await Promise.all(Array.from({ length: 6 }, async () => await write(store)));
  };
  work().catch((error) => t.fail(String(error)));
  await host.timeline.run(() => told.synced > 0);
  await host.timeline.pass(dice.share() * 20);
  return { host, told };
}

/** Opens the store in a new process: the last number in it; all before it must be there. */
async function lastOf(host: Host): Promise<number> {
  return await host.during(async () => {
    const store = await host.start().kv.open(PATH, OLD);
    const last = Number(text(await store.get(bytes("last"))));
    const entries = await store.range(ALL);
    await store.close();
    const isPrefix = entries
      .slice(0, -1)
      .every(
        ({ key, value }, i) => text(key) === text(keyOf(i + 1)) && text(value) === `value ${i + 1}`,
      );
    return isPrefix && entries.length === last + 1 ? last : -1;
  });
}

t.test(`a killed process leaves what was acknowledged, and a prefix (SEED=${seed})`, async (t) => {
  const seen = { done: 0, undone: 0 };
  for (let i = 0; i < SEEDS; i++) {
    const { host, told } = await written(seed + i);
    for (const life of host.lives) life.end();
    const last = await lastOf(host);
    const isRight = last >= told.acknowledged && last <= told.begun;
    if (!isRight) t.fail(`${last} of ${JSON.stringify(told)}, SEED=${seed + i}`);
    seen[last > told.acknowledged ? "done" : "undone"]++;
  }
  t.ok(seen.done > 10 && seen.undone > 10, JSON.stringify(seen));
});

t.test(`a power loss leaves what was synced, and a prefix (SEED=${seed})`, async (t) => {
  const seen = { lost: 0, kept: 0 };
  for (let i = 0; i < SEEDS; i++) {
    const { host, told } = await written(seed + i);
    host.losePower();
    const last = await lastOf(host);
    const isRight = last >= told.synced && last <= told.begun;
    if (!isRight) t.fail(`${last} of ${JSON.stringify(told)}, SEED=${seed + i}`);
    seen[last < told.acknowledged ? "lost" : "kept"]++;
  }
  t.ok(seen.lost > 10 && seen.kept > 10, JSON.stringify(seen));
});

t.test("the caller chooses how many batches survive a power loss", async (t) => {
  const { host, told } = await written(seed);
  for (const life of host.lives) life.end();
  const before = await (async () => {
    const [{ count } = { count: 0 }] = host.device.unsynced().batches;
    return count;
  })();
  const asked: number[] = [];
  const chooser = {
    sector: () => 0,
    sizes: () => 0,
    names: () => 0,
    batches: (_path: string, count: number) => asked.push(count) * 0 + Math.min(1, count),
  };
  host.losePower(chooser);
  t.same(asked, before > 0 ? [before] : []);
  t.ok((await lastOf(host)) >= told.synced);
});

t.test("the same seed gives the same run", async (t) => {
  const digestOf = async () => {
    const { host, told } = await written(seed);
    host.losePower();
    return `${await lastOf(host)} ${host.timeline.digest} ${JSON.stringify(told)}`;
  };
  t.equal(await digestOf(), await digestOf());
});

t.test("a store belongs to one process until that ends; it moves with its folder", async (t) => {
  const host = new Host(seed);
  const [one, two] = [host.start(), host.start()];
  await host.during(async () => {
    const store = await one.kv.open(PATH, KV_OPTIONS);
    await put(store, 1, false);
    const message = `${PATH} is already open in the process with pid 101`;
    await t.rejects(two.kv.open(PATH, OLD), { code: "OVS_BUSY", message });
    one.life.end();
    t.ok((await two.disk.files.stat(`${PATH}/CURRENT`)) !== null);
    await two.disk.files.rename(PATH, `${PATH}.damaged`);
    await t.rejects(two.kv.open(PATH, OLD), { code: "OVS_NOT_FOUND" });
    const moved = await two.kv.open(`${PATH}.damaged`, OLD);
    t.equal(text(await moved.get(keyOf(1))), "value 1");
    await moved.close();
    t.ok(host.device.usedBytes > 0);
    await two.disk.files.remove(`${PATH}.damaged`);
    t.equal(host.device.usedBytes, 0);
    const failed = { code: "OVS_DISK_FAILED" };
    await t.rejects(two.kv.open(`${PATH}/no/parent`, KV_OPTIONS), failed);
    await t.rejects(two.kv.open("relative", KV_OPTIONS), { code: "OVS_INVALID" });
  });
});

t.test(`damage is met when it is opened or read, never served (SEED=${seed})`, async (t) => {
  const seen = { open: 0, read: 0 };
  for (let i = 0; i < 40; i++) {
    const host = new Host(seed + i);
    await host.during(async () => {
      const { kv } = host.start();
      t.notOk(host.device.faults.corruptStore("/disk0"), "there is none");
      const store = await kv.open(PATH, KV_OPTIONS);
      for (let j = 1; j <= 100; j++) await put(store, j, false);
      await store.close();
      t.ok(host.device.faults.corruptStore("/disk0"));
      try {
        const damaged = await kv.open(PATH, OLD);
        t.equal(damaged.damage, null, "not yet");
        await t.rejects(damaged.range(ALL), { code: "OVS_CORRUPT" });
        t.equal(damaged.damage?.code, "OVS_CORRUPT");
        let bad = 0;
        for (let j = 1; j <= 100; j++) {
          const got = await damaged.get(keyOf(j)).catch(() => null);
          if (got === null) bad++;
          else t.equal(text(got), `value ${j}`);
        }
        t.ok(bad <= 16, `${bad} keys are damaged`);
        seen.read++;
        await damaged.close();
      } catch (error) {
        t.ok(hasCode(error, "OVS_CORRUPT"), String(error));
        seen.open++;
      }
    });
    t.same(host.faults, [FaultKind.CorruptStore]);
  }
  t.ok(seen.open > 0 && seen.read > 0, JSON.stringify(seen));
});

t.test("a dead or full device fails what waits; a failed write is the last", async (t) => {
  const host = new Host(seed);
  const { faults } = host.device;
  await host.during(async () => {
    const { kv } = host.start();
    const store = await kv.open(PATH, KV_OPTIONS);
    await put(store, 1, true);
    faults.capacity(host.device.usedBytes);
    t.equal(store.failure, null);
    await t.rejects(put(store, 2, false), { code: "OVS_FULL" });
    t.match(store.failure, { code: "OVS_FULL" });
    faults.capacity(2 ** 30);
    await t.rejects(put(store, 3, false), { code: "OVS_FULL", message: /takes no more writes/ });
    await store.close();
    const again = await kv.open(PATH, OLD);
    t.equal(again.failure, null);
    t.equal(text(await again.get(bytes("last"))), "1");
    faults.next(FaultKind.SyncError, PATH);
    const refused = { code: "OVS_DISK_FAILED" };
    await t.rejects(put(again, 4, true), refused);
    t.equal(text(await again.get(bytes("last"))), "4", "written, and perhaps not durable");
    faults.dead(true);
    await t.rejects(again.get(bytes("last")), refused);
    await t.rejects(kv.open("/disk0/other", KV_OPTIONS), refused);
    await again.close();
  });
});

t.test("tens of thousands of keys cost little", async (t) => {
  const host = new Host(seed);
  const start = performance.now();
  await host.during(async () => {
    const { kv } = host.start();
    const store = await kv.open(PATH, KV_OPTIONS);
    const dice = host.dice.fork("keys");
    for (let round = 0; round < 200; round++) {
      const batch = store.batch();
      for (let i = 0; i < 200; i++) batch.put(keyOf(dice.below(1e6)), bytes("some value"));
      await store.write(batch, { sync: round % 5 === 0 });
      const snapshot = store.snapshot();
      const found = await snapshot.range({ ...ALL, first: keyOf(dice.below(1e6)), limit: 20 });
      t.ok(found.length <= 20);
      snapshot.release();
    }
    t.ok((await store.stats()).keysEstimate > 35_000);
    await store.close();
  });
  t.comment(`${(performance.now() - start).toFixed(0)} ms`);
});
