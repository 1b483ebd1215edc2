// SPDX-License-Identifier: Apache-2.0
// The store of one disk on a real folder: atomic applies, verified reads, restarts, full disks,
// wrong folders, damage, and random operations against a model.

import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import t from "tap";
import { inspectAsdFile, isAsdFile } from "../../src/asd/inspect.js";
import { AsdStore, ReadJob, type StoreOptions } from "../../src/asd/store.js";
import { crc32c } from "../../src/base/crc32c.js";
import { StorageError } from "../../src/base/errors.js";
import { MIB } from "../../src/base/units.js";
import { AsdPartStatus } from "../../src/wire/generated/asd.js";
import {
  CLUSTER,
  fill,
  makeWorld,
  PAGE,
  pagesPut,
  randomOf,
  readParts,
  seed,
  smallPut,
  storeOptions,
  temporary,
} from "./fixture.js";

const world = makeWorld(3840); // Every opening cuts a region; only what is used is resident.
const memory = world.arena.region(64 * MIB, "test");
const folder = temporary();
let serial = 0;

t.teardown(async () => {
  await world.stop();
  folder.remove();
});

const freshPath = () => `${folder.path}/${++serial}`;
const open = (path: string, changes: Partial<StoreOptions> = {}) =>
  AsdStore.open(world, storeOptions(path, changes));
const none = { asserts: [], puts: [], deletes: [] };

function expected(content: number, pages: number): Uint8Array {
  fill(world, memory + 32 * MIB, pages * PAGE, content);
  return world.arena.slice(memory + 32 * MIB, pages * PAGE).slice();
}

t.test("what was applied is read back, whole, in part and after a restart", async (t) => {
  const path = freshPath();
  let store = await open(path);
  const put = pagesPut(world, "a", { at: memory, pages: 300, content: 1 });
  await store.apply({ ...none, puts: [put, smallPut("s", Uint8Array.of(1, 2, 3))] });
  for (let round = 0; round < 2; round++) {
    const { job, bytes } = await readParts(world, store, [
      ["a", 0, 300],
      ["s", 0, 1],
      ["a", 17, 2],
    ]);
    const whole = expected(1, 300);
    t.same(Array.from(job.statuses.subarray(0, 3)), [0, 0, 0]);
    t.ok(Buffer.compare(bytes.subarray(0, 300 * PAGE), whole) === 0, "the pages are right");
    t.same(Array.from(bytes.subarray(300 * PAGE, 300 * PAGE + 5)), [1, 2, 3, 0, 0]);
    t.ok(Buffer.compare(bytes.subarray(301 * PAGE), whole.subarray(17 * PAGE, 19 * PAGE)) === 0);
    t.equal(job.crcs[301], put.crcs[17], "with the CRCs of the writer");
    t.equal(job.crcs[300], crc32c(bytes, 300 * PAGE, 301 * PAGE), "also of a small value");
    t.same(await store.getSmall(["s", "missing"]), [Uint8Array.of(1, 2, 3), null]);
    t.same(await store.exists(["a", "b", "s"]), [true, false, true]);
    t.equal(store.usedPages, 300);
    t.equal(store.stats().keys, 2);
    await store.close();
    store = await open(path);
  }
  await store.close();
});

t.test("an apply is done as a whole or not at all", async (t) => {
  const store = await open(freshPath());
  await store.apply({ ...none, puts: [smallPut("mark", Uint8Array.of(7))] });
  const put = () => pagesPut(world, "x", { at: memory, pages: 3, content: 2 });
  const refused = [
    { asserts: [{ kind: "absent", key: "mark", value: null }] },
    { asserts: [{ kind: "present", key: "nothing", value: null }] },
    { asserts: [{ kind: "equals", key: "mark", value: Uint8Array.of(8) }] },
    { asserts: [{ kind: "equals", key: "nothing", value: Uint8Array.of(8) }] },
  ] as const;
  for (const { asserts } of refused) {
    await t.rejects(store.apply({ asserts, puts: [put()], deletes: ["mark"] }), {
      code: "OVS_CONFLICT",
    });
  }
  t.same(await store.exists(["x", "mark"]), [false, true]);
  t.equal(store.usedPages, 0, "the pages of a refused apply are free");
  await store.apply({
    asserts: [
      { kind: "absent", key: "x", value: null },
      { kind: "present", key: "mark", value: null },
      { kind: "equals", key: "mark", value: Uint8Array.of(7) },
    ],
    puts: [put()],
    deletes: ["mark", "never there"],
  });
  t.same(await store.exists(["x", "mark"]), [true, false]);
  t.equal(store.stats().keys, 1);
  const [first, second] = await Promise.allSettled(
    [1, 2].map(() =>
      store.apply({
        asserts: [{ kind: "absent", key: "once", value: null }],
        puts: [smallPut("once", Uint8Array.of(1))],
        deletes: [],
      }),
    ),
  );
  t.equal(first!.status, "fulfilled");
  t.equal(second!.status, "rejected", "also within one group");
  await store.close();
});

t.test("replaced and deleted values give their pages back", async (t) => {
  const path = freshPath();
  const store = await open(path);
  for (let round = 0; round < 40; round++) {
    await store.apply({
      ...none,
      puts: [pagesPut(world, "k", { at: memory, pages: 100 + round, content: round })],
    });
  }
  t.equal(store.usedPages, 139);
  await store.apply({ ...none, puts: [smallPut("k", new Uint8Array(4096))] });
  t.equal(store.usedPages, 0);
  await store.apply({ ...none, deletes: ["k"] });
  t.equal(store.stats().keys, 0);
  t.equal(store.stats().indexBytes, 0);
  await store.close();
});

t.test("a page that does not match its checksum is not taken", async (t) => {
  const store = await open(freshPath());
  const put = pagesPut(world, "a", { at: memory, pages: 200, content: 1 });
  put.crcs[150]! ^= 1;
  await t.rejects(store.apply({ ...none, puts: [put] }), {
    code: "OVS_CORRUPT",
    message: /page 150 of a/,
  });
  const small = smallPut("b", Uint8Array.of(1));
  small.crcs[0]! ^= 1;
  await t.rejects(store.apply({ ...none, puts: [small] }), { code: "OVS_CORRUPT" });
  t.equal(store.usedPages, 0);
  await store.close();
});

t.test("a malformed apply is refused in words", async (t) => {
  const store = await open(freshPath());
  const good = () => pagesPut(world, "a", { at: memory, pages: 2, content: 1 });
  const bad = [
    { ...none, puts: [good(), good()] },
    { ...none, puts: [{ ...good(), key: "" }] },
    { ...none, puts: [{ ...good(), key: "x".repeat(256) }] },
    { ...none, puts: [{ ...good(), length: PAGE }] },
    { ...none, puts: [{ ...good(), length: 0 }] },
    { ...none, puts: [{ ...good(), pieces: Uint32Array.of(memory, PAGE) }] },
    { ...none, puts: [{ ...smallPut("a", Uint8Array.of(1)), length: 2 }] },
    { ...none, deletes: [""] },
  ];
  for (const request of bad) await t.rejects(store.apply(request), { code: "OVS_INVALID" });
  t.equal(store.usedPages, 0);
  await store.close();
});

t.test("parts that cannot be read say why, and the others are right", async (t) => {
  const store = await open(freshPath());
  await store.apply({
    ...none,
    puts: [pagesPut(world, "a", { at: memory, pages: 3, content: 9 })],
  });
  const { job, bytes } = await readParts(world, store, [
    ["a", 2, 1],
    ["b", 0, 1],
    ["a", 2, 2],
    ["a", 0, 3],
  ]);
  const { ok, missing, outside } = AsdPartStatus;
  t.same(Array.from(job.statuses.subarray(0, 4)), [ok, missing, outside, ok]);
  t.ok(Buffer.compare(bytes.subarray(4 * PAGE), expected(9, 3)) === 0);
  t.ok(
    bytes.subarray(PAGE, 4 * PAGE).every((byte) => byte === 0),
    "a failed part is zeroes",
  );
  t.throws(() => new ReadJob().add("a", 0, 0), { code: "OVS_INVALID" });
  t.throws(() => new ReadJob().add("a", 0, 4097), { code: "OVS_INVALID" });
  await store.close();
});

t.test("ranges list keys in bytewise order", async (t) => {
  const store = await open(freshPath());
  const keys = ["a", "a\x00", "a\xff", "b", "b\x01", "c"];
  await store.apply({
    ...none,
    puts: keys.map((key) => smallPut(key, new Uint8Array(key.length))),
  });
  const list = async (first: string | null, end: string | null, limit = 100, reverse = false) =>
    (await store.range(first, end, { limit, reverse })).keys.map((key) =>
      Buffer.from(key).toString("latin1"),
    );
  t.same(await list(null, null), keys);
  t.same(await list("a\x00", "b"), ["a\x00", "a\xff"]);
  t.same(await list(null, null, 2, true), ["c", "b\x01"]);
  const some = await store.range(null, null, { limit: 4, reverse: false });
  t.same([some.more, some.lengths], [true, [1, 2, 2, 1]]);
  await store.close();
});

t.test("a full disk refuses values, and takes deletes", async (t) => {
  const store = await open(freshPath(), { capacityBytes: 48 * MIB });
  let count = 0;
  for (;;) {
    const put = pagesPut(world, `k${count}`, { at: memory, pages: 256, content: count });
    try {
      await store.apply({ ...none, puts: [put] });
    } catch (error) {
      t.match(error, { code: "OVS_FULL" });
      break;
    }
    if (++count > 40) throw new Error("it is never full");
  }
  t.ok(count >= 28, `${count} MiB fit 32`);
  t.ok(store.isNearlyFull || store.stats().full);
  for (let i = 0; i < 3000; i++) {
    const small = Array.from({ length: 16 }, (_, j) =>
      smallPut(`s${i}.${j}`, new Uint8Array(4000)),
    );
    try {
      await store.apply({ ...none, puts: small });
    } catch (error) {
      t.match(error, { code: "OVS_FULL" }, "small values count too");
      break;
    }
    if (i === 2999) t.fail("small values fill it without end");
  }
  await store.apply({ ...none, deletes: ["k0", "k1"] });
  await store.apply({
    ...none,
    puts: [pagesPut(world, "again", { at: memory, pages: 256, content: 5 })],
  });
  const { job } = await readParts(world, store, [
    ["again", 0, 256],
    [`k${count - 1}`, 0, 256],
  ]);
  t.same(Array.from(job.statuses.subarray(0, 2)), [0, 0]);
  await store.close();
});

t.test("a fragmented disk still takes long values", async (t) => {
  const store = await open(freshPath(), { capacityBytes: 48 * MIB });
  const keys = Array.from({ length: 460 }, (_, i) => `k${i}`);
  for (const key of keys)
    await store.apply({
      ...none,
      puts: [pagesPut(world, key, { at: memory, pages: 16, content: 1 })],
    });
  await store.apply({ ...none, deletes: keys.filter((_, i) => i % 2 === 0) });
  await store.apply({
    ...none,
    puts: [pagesPut(world, "long", { at: memory, pages: 2000, content: 77 })],
  });
  const { bytes } = await readParts(world, store, [["long", 0, 2000]]);
  t.ok(Buffer.compare(bytes, expected(77, 2000)) === 0);
  const { bytes: middle } = await readParts(world, store, [["long", 1001, 500]]);
  t.ok(Buffer.compare(middle, expected(77, 2000).subarray(1001 * PAGE, 1501 * PAGE)) === 0);
  await store.close();
});

t.test("a folder of another cluster, disk, version or kind is refused", async (t) => {
  const path = freshPath();
  const store = await open(path);
  await t.rejects(open(path), { code: "OVS_BUSY" }, "one process a folder");
  await store.close();
  const place = storeOptions(path).place;
  const other = "00000000-0000-4000-8000-0000000000ff";
  await t.rejects(open(path, { place: { ...place, clusterUuid: other } }), {
    code: "OVS_WRONG_IDENTITY",
    message: new RegExp(`cluster ${CLUSTER}, not to ${other}`),
  });
  await t.rejects(open(path, { place: { ...place, diskUuid: other } }), {
    code: "OVS_WRONG_IDENTITY",
  });
  const again = await open(path, { place: { ...place, diskUuid: null }, format: false });
  await again.close();
  const identity = readFileSync(`${path}/identity`);
  for (let at = 0; at < identity.length; at++) {
    const damaged = Buffer.from(identity);
    damaged[at]! ^= 16;
    writeFileSync(`${path}/identity`, damaged);
    await t.rejects(open(path), { code: /OVS_(CORRUPT|WRONG_VERSION)/ });
  }
  rmSync(`${path}/identity`);
  await t.rejects(open(path), { code: "OVS_CORRUPT" }, "nor formatted over");
  await t.rejects(open(freshPath(), { format: false }), { code: "OVS_INVALID" });
  const foreign = `${folder.path}/foreign`;
  mkdirSync(foreign);
  writeFileSync(`${foreign}/letter.txt`, "dear");
  await t.rejects(open(foreign), { code: "OVS_INVALID", message: /letter.txt/ });
  await t.rejects(open(freshPath(), { capacityBytes: MIB }), { code: "OVS_INVALID" });
});

t.test("a folder whose formatting was killed is formatted again", async (t) => {
  const path = `${folder.path}/half`;
  mkdirSync(path);
  for (const name of ["identity.7-1.tmp", "identity.1234-2.tmp"]) {
    writeFileSync(`${path}/${name}`, "half");
  }
  await t.rejects(open(path, { format: false }), { code: "OVS_INVALID" });
  const store = await open(path);
  await store.close();
  t.same(readdirSync(path).sort(), ["extents", "identity", "index", "lock"]);
  writeFileSync(`${path}/identity.7-1.tmp`, "half");
  rmSync(`${path}/identity`);
  await t.rejects(open(path), { code: "OVS_CORRUPT" }, "a disk that has data is not formatted");
});

t.test(
  "an extent file that a crash left empty is made again; a missing one is named",
  async (t) => {
    const path = freshPath();
    let store = await open(path, { capacityBytes: 640 * MIB });
    await store.apply({
      ...none,
      puts: [pagesPut(world, "a", { at: memory, pages: 8, content: 1 })],
    });
    await store.close();
    writeFileSync(`${path}/extents/0001`, "");
    store = await open(path, { capacityBytes: 640 * MIB });
    t.notOk(existsSync(`${path}/extents/0001`));
    const { job } = await readParts(world, store, [["a", 0, 8]]);
    t.equal(job.statuses[0], 0);
    await store.close();
    renameSync(`${path}/index`, `${path}/elsewhere`);
    await t.rejects(open(path), { code: "OVS_CORRUPT", message: /index .* is gone/ });
    renameSync(`${path}/elsewhere`, `${path}/index`);
    writeFileSync(`${path}/extents/0002`, Buffer.alloc(PAGE));
    await t.rejects(open(path), { code: "OVS_CORRUPT", message: /0001 is missing/ });
  },
);

/** Flips one byte of a file. */
function flip(path: string, at: number): void {
  const file = openSync(path, "r+");
  const byte = Buffer.alloc(1);
  readSync(file, byte, 0, 1, at);
  byte[0]! ^= 0x40;
  writeSync(file, byte, 0, 1, at);
  closeSync(file);
}

t.test("a flipped byte in an extent is found by reads and by scrub, and only there", async (t) => {
  const path = freshPath();
  const store = await open(path);
  const puts = ["a", "b", "c"].map((key, i) =>
    pagesPut(world, key, { at: memory + i * MIB, pages: 100, content: i }),
  );
  for (const put of puts) await store.apply({ ...none, puts: [put] });
  await store.apply({ ...none, puts: [smallPut("small", Uint8Array.of(1))] });
  t.same(await store.scrub(null, 1_000_000), { bad: [], next: null, keys: 4, pages: 301 });
  flip(`${path}/extents/0000`, 150 * PAGE + 5);
  const { job, bytes } = await readParts(world, store, [
    ["a", 0, 100],
    ["b", 0, 50],
    ["b", 49, 3],
    ["b", 51, 1],
  ]);
  const { ok, corrupt } = AsdPartStatus;
  t.same(Array.from(job.statuses.subarray(0, 4)), [ok, ok, corrupt, ok]);
  t.ok(
    bytes.subarray(150 * PAGE, 153 * PAGE).every((byte) => byte === 0),
    "nothing of it is shown",
  );
  t.equal(store.stats().corruptPages, 1);
  const first = await store.scrub(null, 1);
  t.same([first.keys, first.bad.length], [1, 0]);
  const rest = await store.scrub(Buffer.from(first.next!).toString("latin1"), 1_000_000);
  t.same(rest.bad.map(String), ["b"]);
  t.equal(rest.next, null);
  await store.apply({
    ...none,
    puts: [pagesPut(world, "b", { at: memory, pages: 100, content: 1 })],
  });
  t.same((await store.scrub(null, 1_000_000)).bad, [], "written again it is whole");
  await store.close();
});

t.test(`a flipped byte in any index file: reads are refused or right (seed ${seed})`, async (t) => {
  const random = randomOf(seed);
  const path = freshPath();
  let store = await open(path);
  const keys = Array.from({ length: 60 }, (_, i) => `k${i}`);
  for (const [i, key] of keys.entries()) {
    await store.apply({
      ...none,
      puts: [
        pagesPut(world, key, { at: memory, pages: 1 + (i % 7), content: i }),
        smallPut(`s${i}`, Buffer.from(key)),
      ],
    });
  }
  await store.close();
  const outcomes = { refused: 0, damaged: 0, missing: 0, right: 0 };
  for (let round = 0; round < 40; round++) {
    const names = readdirSync(`${path}/index`).filter(
      (name) => statSync(`${path}/index/${name}`).size > 0,
    );
    const file = `${path}/index/${names[random(names.length)]!}`;
    const before = readFileSync(file);
    flip(file, random(before.length));
    try {
      store = await open(path);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      outcomes.refused++;
      writeFileSync(file, before);
      continue;
    }
    for (const [i, key] of keys.entries()) {
      const pages = 1 + (i % 7);
      const { job, bytes } = await readParts(world, store, [[key, 0, pages]]);
      const status = job.statuses[0]!;
      if (status === AsdPartStatus.ok) {
        outcomes.right++;
        if (Buffer.compare(bytes, expected(i, pages)) !== 0) t.fail("garbage was served");
      } else if (status === AsdPartStatus.missing) outcomes.missing++;
      else outcomes.damaged++;
    }
    await store.close();
    // RocksDB may have moved things: put the folder back together from the keys that are there.
    if (existsSync(file)) {
      const now = readFileSync(file);
      if (now.length === before.length) writeFileSync(file, before);
    }
    store = await open(path).catch(() => null as never);
    if (store === null) break;
    for (const [i, key] of keys.entries()) {
      await store.apply({
        ...none,
        puts: [pagesPut(world, key, { at: memory, pages: 1 + (i % 7), content: i })],
      });
    }
    await store.close();
  }
  t.comment(JSON.stringify(outcomes));
  t.pass("nothing wrong was served");
});

t.test(`random operations agree with a model over restarts (seed ${seed})`, async (t) => {
  const random = randomOf(seed + 1);
  const path = freshPath();
  let store = await open(path, { capacityBytes: 64 * MIB, cacheBytes: 16 * 1024 });
  const model = new Map<string, { pages: number; content: number; small: boolean }>();
  const keyOf = () => `key-${random(50)}`;
  let content = 0;
  const check = async () => {
    for (const [key, { pages, content: number, small }] of model) {
      const first = small ? 0 : random(pages);
      const count = small ? 1 : 1 + random(pages - first);
      const { job, bytes } = await readParts(world, store, [[key, first, count]]);
      if (job.statuses[0] !== AsdPartStatus.ok) t.fail(`${key} has status ${job.statuses[0]}`);
      const right = small
        ? Buffer.alloc(PAGE).fill(String(number), 0, String(number).length)
        : expected(number, pages);
      const want = small ? right : right.subarray(first * PAGE, (first + count) * PAGE);
      if (Buffer.compare(bytes, want) !== 0) t.fail(`${key} has the wrong content`);
    }
    const used = [...model.values()].reduce(
      (sum, { pages, small }) => sum + (small ? 0 : pages),
      0,
    );
    t.equal(store.usedPages, used, "no page leaks");
    t.equal(store.stats().keys, model.size);
  };
  for (let round = 0; round < 60; round++) {
    const applies = Array.from({ length: 1 + random(12) }, async (_, lane) => {
      // Lanes have keys of their own: the order of concurrent applies is not defined.
      const key = `${lane}-${keyOf()}`;
      const isDelete = random(3) === 0;
      const small = random(3) === 0;
      const number = ++content;
      const pages = 1 + random(40);
      const at = memory + lane * MIB;
      if (isDelete) {
        await store.apply({ ...none, deletes: [key] });
        model.delete(key);
      } else if (small) {
        await store.apply({ ...none, puts: [smallPut(key, Buffer.from(String(number)))] });
        model.set(key, { pages, content: number, small });
      } else {
        await store.apply({
          ...none,
          puts: [pagesPut(world, key, { at, pages, content: number })],
        });
        model.set(key, { pages, content: number, small });
      }
    });
    await Promise.all(applies);
    if (random(8) === 0) {
      await store.close();
      store = await open(path, { capacityBytes: 64 * MIB, cacheBytes: 16 * 1024 });
    }
    if (round % 6 === 0) await check();
  }
  await check();
  await store.apply({ ...none, deletes: [...model.keys()] });
  t.equal(store.usedPages, 0);
  t.equal(store.stats().indexBytes, 0);
  await store.close();
});

t.test("an extent file is explained in words", async (t) => {
  const path = freshPath();
  const store = await open(path);
  for (const key of ["a", "\xff"]) {
    await store.apply({
      ...none,
      puts: [pagesPut(world, key, { at: memory, pages: 3, content: 1 })],
    });
  }
  await store.close();
  flip(`${path}/extents/0000`, 4 * PAGE);
  const lines: string[] = [];
  t.ok(isAsdFile(`${path}/extents/0000`) && !isAsdFile(`${path}/index/000004.log`));
  await inspectAsdFile(world, `${path}/extents/0000`, (line) => lines.push(line));
  t.match(lines.join("\n"), /disk .*d15c of cluster/);
  t.same(lines.slice(-3), [
    "2 runs with 6 pages, 24K together",
    "pages 0-2: a from page 0: ok",
    "pages 3-5: ff from page 0: 1 of its pages are damaged",
  ]);
  await t.rejects(
    inspectAsdFile(world, `${path}/lock`, () => {}),
    { code: "OVS_INVALID" },
  );
});

t.test("a closed store refuses, and closing twice is fine", async (t) => {
  const store = await open(freshPath());
  const last = store.apply({ ...none, puts: [smallPut("a", Uint8Array.of(1))] });
  await store.close();
  await store.close();
  await last;
  await t.rejects(store.apply(none), { code: "OVS_CLOSED" });
  await t.rejects(store.exists(["a"]), { code: "OVS_CLOSED" });
});
