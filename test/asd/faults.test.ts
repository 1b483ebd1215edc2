// SPDX-License-Identifier: Apache-2.0
// The store on a disk that fails: nothing is acknowledged that is not durable, a failed sync is
// never retried, and what was never acknowledged takes no room.

import { closeSync, openSync, rmSync, writeSync } from "node:fs";
import t from "tap";
import { AsdStore, type StoreOptions } from "../../src/asd/store.js";
import { assert } from "../../src/base/assert.js";
import { StorageError } from "../../src/base/errors.js";
import { MIB } from "../../src/base/units.js";
import type { Disk } from "../../src/platform/disk.js";
import type { KvBatch, KvStore } from "../../src/platform/kv.js";
import type { World } from "../../src/platform/world.js";
import { AsdPartStatus } from "../../src/wire/generated/asd.js";
import { mountSmall } from "../platform/smallfs.js";
import { makeWorld, pagesPut, readParts, smallPut, storeOptions, temporary } from "./fixture.js";

const real = makeWorld(512);
const memory = real.arena.region(16 * MIB, "test");
const folder = temporary();
const none = { asserts: [], puts: [], deletes: [] };
let serial = 0;

t.teardown(async () => {
  await real.stop();
  folder.remove();
});

interface Faults {
  write: boolean;
  sync: boolean;
  index: boolean;
  space: number | null;
  /** Holds index writes until it is settled. */
  gate: Promise<void> | null;
}

const broken = () => Promise.reject(new StorageError("OVS_DISK_FAILED", "EIO"));

/** `target` with some methods replaced; the others work on the target itself. */
function over<T extends object>(target: T, methods: Partial<T>): T {
  return new Proxy(target, {
    get(_, name) {
      const own = methods[name as keyof T];
      if (own !== undefined) return own;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

function faultyWorld(): { world: World; faults: Faults } {
  const faults: Faults = { write: false, sync: false, index: false, space: null, gate: null };
  const files = over(real.disk.files, {
    space: async (path) => {
      const space = await real.disk.files.space(path);
      return faults.space === null ? space : { ...space, freeBytes: faults.space };
    },
  });
  const disk: Disk = over<Disk>(real.disk, {
    files,
    writeAsync: (...args) => (faults.write ? broken() : real.disk.writeAsync(...args)),
    syncAsync: (file) => (faults.sync ? broken() : real.disk.syncAsync(file)),
  });
  const kv = {
    open: async (...args: Parameters<World["kv"]["open"]>): Promise<KvStore> => {
      const store = await real.kv.open(...args);
      return over(store, {
        write: async (batch: KvBatch, options: { sync: boolean }) => {
          await faults.gate;
          await (faults.index ? broken() : store.write(batch, options));
        },
      });
    },
  };
  const { clock, random, turn, arena, network, codec, nbd, log, bootId } = real;
  const same = { clock, random, turn, arena, network, codec, nbd, log, bootId };
  return { world: { ...same, disk, kv }, faults };
}

async function openFaulty(changes: Partial<StoreOptions> = {}) {
  const path = `${folder.path}/${++serial}`;
  const { world, faults } = faultyWorld();
  const fatal: unknown[] = [];
  const onFatal = (error: unknown) => fatal.push(error);
  const store = await AsdStore.open(world, storeOptions(path, { onFatal, ...changes }));
  return { path, store, faults, fatal };
}

const put = (key: string) => pagesPut(real, key, { at: memory, pages: 8, content: 3 });

t.test(
  "a failed fdatasync gives the disk up, and nothing of the group is acknowledged",
  async (t) => {
    const { path, store, faults, fatal } = await openFaulty();
    await store.apply({ ...none, puts: [put("before")] });
    faults.sync = true;
    const results = await Promise.allSettled(
      [1, 2, 3].map((i) => store.apply({ ...none, puts: [put(`k${i}`)] })),
    );
    t.ok(results.every((one) => one.status === "rejected"));
    faults.sync = false;
    await t.rejects(store.apply({ ...none, puts: [put("later")] }), { code: "OVS_DISK_FAILED" });
    await t.rejects(store.apply({ ...none, deletes: ["before"] }), { code: "OVS_DISK_FAILED" });
    t.equal(fatal.length, 1, "the process is told once");
    t.match(store.stats().failed, /given up/);
    await store.close();
    const again = await AsdStore.open(real, storeOptions(path));
    t.same(await again.exists(["before", "k1", "k2", "k3", "later"]), [
      true,
      false,
      false,
      false,
      false,
    ]);
    t.equal(again.usedPages, 8, "what failed takes no room");
    await again.close();
  },
);

t.test("a failed write of the index gives the disk up", async (t) => {
  const { store, faults, fatal } = await openFaulty();
  faults.index = true;
  await t.rejects(store.apply({ ...none, puts: [smallPut("a", Uint8Array.of(1))] }), {
    code: "OVS_DISK_FAILED",
  });
  t.equal(fatal.length, 1);
  await store.close();
});

t.test("a failed write fails its apply only, and its pages are not used again", async (t) => {
  const { store, faults, fatal } = await openFaulty();
  await store.apply({ ...none, puts: [put("a")] });
  faults.write = true;
  await t.rejects(store.apply({ ...none, puts: [put("b")] }), { code: "OVS_DISK_FAILED" });
  faults.write = false;
  t.equal(store.usedPages, 16);
  await store.apply({ ...none, puts: [put("c")] });
  t.same(await store.exists(["a", "b", "c"]), [true, false, true]);
  t.equal(fatal.length, 0);
  await store.close();
});

t.test("with a full file system puts are refused, deletes and reads go on", async (t) => {
  const { store, faults } = await openFaulty();
  await store.apply({ ...none, puts: [put("a")] });
  faults.space = MIB;
  await real.clock.sleep(1001);
  await t.rejects(store.apply({ ...none, puts: [put("b")] }), {
    code: "OVS_FULL",
    message: /file system/,
  });
  t.equal(store.stats().full, true);
  const { job } = await readParts(real, store, [["a", 0, 8]]);
  t.equal(job.statuses[0], AsdPartStatus.ok);
  await store.apply({ ...none, deletes: ["a"] });
  t.equal(store.usedPages, 0);
  faults.space = null;
  await real.clock.sleep(1001);
  await store.lookForRoom();
  t.equal(store.stats().full, false, "who only asks learns that there is room again");
  await store.close();
});

t.test("without room for an extent file the disk is full from the start", async (t) => {
  const { store, faults } = await openFaulty({ capacityBytes: 128 * MIB });
  faults.space = 63 * MIB;
  await t.rejects(store.apply({ ...none, puts: [put("a")] }), { code: "OVS_FULL" });
  await store.apply({ ...none, puts: [smallPut("s", Uint8Array.of(1))] });
  await store.close();
});

t.test("pages that a read still holds are not given out, whatever is deleted", async (t) => {
  const { store } = await openFaulty({ cacheBytes: 64 * 1024 });
  for (let round = 0; round < 30; round++) {
    await store.apply({
      ...none,
      puts: [pagesPut(real, "k", { at: memory, pages: 16, content: round })],
    });
    const reads = Array.from({ length: 8 }, () => readParts(real, store, [["k", 0, 16]]));
    const remove = store.apply({ ...none, deletes: ["k"] });
    const other = store.apply({
      ...none,
      puts: [pagesPut(real, `x${round}`, { at: memory + MIB, pages: 16, content: 1000 + round })],
    });
    for (const { job } of await Promise.all(reads)) {
      // Either the value or nothing; never what was written over it.
      const fine: number[] = [AsdPartStatus.ok, AsdPartStatus.missing];
      t.ok(fine.includes(job.statuses[0]!), `status ${job.statuses[0]}`);
    }
    await Promise.all([remove, other]);
  }
  t.equal(store.stats().corruptPages, 0);
  await store.close();
});

t.test("an apply is seen by nobody before it is durable", async (t) => {
  const { store, faults } = await openFaulty();
  let open = () => {};
  faults.gate = new Promise((resolve) => (open = resolve));
  const apply = store.apply({ ...none, puts: [put("a")] });
  await real.clock.sleep(50);
  const before = await readParts(real, store, [["a", 0, 8]]);
  t.equal(before.job.statuses[0], AsdPartStatus.missing);
  open();
  await apply;
  const after = await readParts(real, store, [["a", 0, 8]]);
  t.equal(after.job.statuses[0], AsdPartStatus.ok);
  await store.close();
});

const mounted = mountSmall(folder.path, 200 * MIB);
const skip = mounted === null ? "no right to mount" : false;

t.test("on a full file system puts are refused and deletes work", { skip }, async (t) => {
  assert(mounted !== null, "the file system is mounted");
  t.teardown(mounted.unmount);
  const path = `${mounted.path}/disk`;
  const options = storeOptions(path, { capacityBytes: 1024 * MIB });
  let store = await AsdStore.open(real, options);
  let count = 0;
  let refused: unknown = null;
  while (refused === null && count < 400) {
    const values = [pagesPut(real, `k${count}`, { at: memory, pages: 128, content: count })];
    refused = await store.apply({ ...none, puts: values }).then(
      () => null,
      (error) => error as unknown,
    );
    if (refused === null) count++;
  }
  t.match(refused, { code: "OVS_FULL" });
  t.ok(count > 150, `${count} values of 512 KiB lie on it`);
  // Another tenant takes the rest.
  const other = openSync(`${mounted.path}/other`, "w");
  try {
    for (;;) writeSync(other, Buffer.alloc(MIB));
  } catch {
    closeSync(other);
  }
  await real.clock.sleep(1001);
  const small = store.apply({ ...none, puts: [smallPut("s", Uint8Array.of(1))] });
  await t.rejects(small, { code: "OVS_FULL" });
  rmSync(`${mounted.path}/other`);
  for (let i = 0; i < count; i += 2) await store.apply({ ...none, deletes: [`k${i}`] });
  await real.clock.sleep(1001);
  await store.apply({
    ...none,
    puts: [pagesPut(real, "again", { at: memory, pages: 128, content: 9 })],
  });
  await store.close();
  store = await AsdStore.open(real, options);
  t.equal(store.usedPages, 128 * (1 + Math.floor(count / 2)));
  t.same((await store.scrub(null, 10_000_000)).bad, []);
  await store.close();
});
