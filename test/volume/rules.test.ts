// SPDX-License-Identifier: Apache-2.0
// The rules of docs/durability.md, each by the scenario that happens without it.

import { closeSync, existsSync, openSync, readdirSync, rmSync, writeSync } from "node:fs";
import t from "tap";
import { hasCode, StorageError } from "../../src/base/errors.js";
import { CLUSTER_BYTES, KIB, MIB, TIB } from "../../src/base/units.js";
import { RequestFlag } from "../../src/nbd/target.js";
import { findRecords, flipBit, overwrite, wipeRecord } from "./damage.js";
import { Host, NAMESPACE, Seeded, until } from "./fixture.js";

t.setTimeout(280_000);

const cluster = (value: number): Uint8Array => new Uint8Array(CLUSTER_BYTES).fill(value);
const settled = (done: Promise<unknown>): { is: boolean; error: unknown } => {
  const state = { is: false, error: null as unknown };
  done.then(
    () => {
      state.is = true;
    },
    (error: unknown) => {
      state.is = true;
      state.error = error;
    },
  );
  return state;
};

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise<void>((resolve) => void setImmediate(resolve));
}

function makeHost(t: { teardown(work: () => void): void }, options = {}): Host {
  const host = new Host(options);
  t.teardown(() => host.destroy());
  return host;
}

t.test(
  "A1: what was flushed survives although a later write replaced it before destage",
  async (t) => {
    const host = makeHost(t);
    await host.start();
    await host.client.write(0, cluster(1));
    await host.client.flush();
    const { flushed } = host.volume.writer;
    host.volume.closeBatch();
    await host.client.write(0, cluster(2));
    await host.volume.destager.waitFor(flushed, 10_000);
    await host.crash();
    for (const record of findRecords(host.journalFolder)) {
      if (record.sequence > flushed) wipeRecord(record, 0);
    }
    host.rebooted = true;
    await host.start();
    t.equal((await host.client.read(0, 1))[0], 1, "neither nothing nor the lost write");
    await host.stop();
  },
);

t.test(
  "A2: a record is neither acknowledged nor read before all earlier ones are written",
  async (t) => {
    const host = makeHost(t);
    await host.start();
    let isFirst = true;
    host.disk.judge = (kind) => {
      if (kind !== "writeGather" || !isFirst) return "pass";
      isFirst = false;
      return "hold";
    };
    const first = settled(host.client.write(0, cluster(1)));
    await until(() => host.disk.held === 1, "the first record is held");
    const second = settled(host.client.write(CLUSTER_BYTES, cluster(2)));
    await turns(200);
    t.notOk(second.is, "not acknowledged");
    t.equal((await host.client.read(CLUSTER_BYTES, 1))[0], 0, "not readable");
    host.disk.release();
    await until(() => first.is && second.is, "both are acknowledged");
    t.equal((await host.client.read(CLUSTER_BYTES, 1))[0], 2);
    await host.stop();
  },
);

t.test("A2: a failed journal write halts the vDisk, and is not retried or skipped", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, cluster(1));
  host.disk.judge = (kind) => (kind === "writeGather" ? "fail" : "pass");
  await t.rejects(host.client.write(0, cluster(2)), { code: "OVS_UNAVAILABLE" });
  host.disk.judge = null;
  t.equal(host.volume.status().state, "halted");
  t.match(host.volume.status().reason, /failed/);
  await t.rejects(host.client.write(0, cluster(3)));
  await t.rejects(host.client.flush());
  await t.rejects(host.client.read(0, 1));
  await host.stop();
  await host.start();
  t.equal((await host.client.read(0, 1))[0], 1, "the acknowledged write is there");
  await host.stop();
});

t.test("A2: a failed fdatasync halts the vDisk", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, cluster(1));
  host.disk.judge = (kind) => (kind === "sync" ? "fail" : "pass");
  await t.rejects(host.client.flush(), { code: "OVS_UNAVAILABLE" });
  host.disk.judge = null;
  t.equal(host.volume.status().state, "halted");
  await t.rejects(host.client.flush());
  await host.stop();
});

t.test(
  "A3: one flipped bit anywhere in the journal is refused or cuts only the tail",
  async (t) => {
    const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
    const random = new Seeded(seed);
    const host = makeHost(t);
    await host.start();
    for (let i = 0; i < 12; i++) await host.client.write(i * CLUSTER_BYTES, cluster(i + 1));
    await host.client.flush();
    await host.crash();
    const records = findRecords(host.journalFolder);
    const all = records.filter((record) => record.sequence <= 12);
    t.equal(all.length, 12);
    const highest = Math.max(...records.map((record) => record.complete));
    const path = all[0]!.path;
    for (let n = 0; n < 40; n++) {
      const record = all[random.below(12)]!;
      const within =
        random.below(2) === 0 ? random.below(250) : CLUSTER_BYTES + random.below(CLUSTER_BYTES);
      const at = n === 0 ? 20 : record.block * CLUSTER_BYTES + within;
      const bit = random.below(8);
      flipBit(path, at, bit);
      const what = `bit ${bit} of byte ${at} (record ${record.sequence}, SEED=${seed})`;
      const refused = await host.start().then(
        () => null,
        (error: unknown) => error,
      );
      if (refused !== null) {
        t.ok(hasCode(refused, "OVS_CORRUPT"), `${what}: refused`);
        t.ok(n === 0 || record.sequence <= highest, `${what}: only what was surely acknowledged`);
      } else {
        const content = await host.client.read(0, 12 * CLUSTER_BYTES);
        const wrong = all.filter(
          ({ sequence }) => content[(sequence - 1) * CLUSTER_BYTES] !== sequence,
        );
        t.ok(
          wrong.every(({ sequence }) => sequence > highest),
          `${what}: cut above ${highest}`,
        );
        await host.crash();
        // The next flip meets the journal as it was: what this start added goes.
        for (const name of readdirSync(host.journalFolder)) {
          if (!path.endsWith(name)) rmSync(`${host.journalFolder}/${name}`);
        }
      }
      if (existsSync(path)) flipBit(path, at, bit);
    }
  },
);

t.test(
  "A3: acknowledged records that are gone in the middle are refused, unless accepted",
  async (t) => {
    const host = makeHost(t);
    await host.start();
    for (let i = 0; i < 10; i++) await host.client.write(i * CLUSTER_BYTES, cluster(i + 1));
    await host.crash();
    const records = findRecords(host.journalFolder);
    wipeRecord(records.find(({ sequence }) => sequence === 4)!, 0);
    await t.rejects(host.start(), { code: "OVS_CORRUPT", message: /record 4/ });
    await host.start({ acceptLoss: true });
    const content = await host.client.read(0, 10 * CLUSTER_BYTES);
    t.same(
      Array.from({ length: 10 }, (_, i) => content[i * CLUSTER_BYTES]),
      [1, 2, 3, 0, 0, 0, 0, 0, 0, 0],
    );
    await host.client.write(0, cluster(77));
    await host.crash();
    await host.start();
    t.equal((await host.client.read(0, 1))[0], 77, "the next start goes on from there");
    await host.stop();
  },
);

t.test("A3, A8: after a reboot what was not flushed may be gone in any order", async (t) => {
  const host = makeHost(t);
  await host.start();
  for (let i = 0; i < 5; i++) await host.client.write(i * CLUSTER_BYTES, cluster(i + 1));
  await host.client.flush();
  for (let i = 5; i < 10; i++) await host.client.write(i * CLUSTER_BYTES, cluster(i + 1));
  await host.crash();
  const records = findRecords(host.journalFolder);
  wipeRecord(records.find(({ sequence }) => sequence === 7)!, 1);
  await t.rejects(host.start(), { code: "OVS_CORRUPT" }, "not on the same boot");
  host.rebooted = true;
  await host.start();
  const content = await host.client.read(0, 10 * CLUSTER_BYTES);
  t.same(
    Array.from({ length: 10 }, (_, i) => content[i * CLUSTER_BYTES]),
    [1, 2, 3, 4, 5, 6, 0, 0, 0, 0],
  );
  await host.crash();
  wipeRecord(records.find(({ sequence }) => sequence === 3)!, 1);
  host.rebooted = true;
  await t.rejects(host.start(), { code: "OVS_CORRUPT" }, "but never what was flushed");
});

t.test("A3: a recycled segment's old records are no continuation", async (t) => {
  const host = makeHost(t, {
    config: { journalBytes: 4 * MIB, segmentBytes: MIB, batchBytes: MIB / 2 },
  });
  await host.start();
  const block = new Uint8Array(128 * KIB);
  for (let i = 0; i < 60; i++) {
    block.fill(i + 1);
    await host.client.write((i % 8) * 128 * KIB, block);
  }
  await host.crash();
  await host.start();
  for (let i = 52; i < 60; i++) {
    const content = await host.client.read((i % 8) * 128 * KIB, 128 * KIB);
    t.ok(
      content.every((byte) => byte === i + 1),
      `write ${i}`,
    );
  }
  await host.stop();
});

t.test("A4: every start takes a new epoch and a new segment", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, cluster(1));
  await host.crash();
  await host.start();
  await host.client.write(0, cluster(2));
  await host.crash();
  const records = findRecords(host.journalFolder);
  t.same(
    records.map(({ epoch, sequence }) => [epoch, sequence]),
    [
      [1, 1],
      [2, 2],
    ],
  );
  t.not(records[0]!.path, records[1]!.path);
  host.epoch = 1;
  await t.rejects(host.start(), { code: "OVS_FENCED" }, "an epoch is not used twice");
});

t.test("A5: a segment is kept while a read holds it", async (t) => {
  const host = makeHost(t, {
    config: { journalBytes: 4 * MIB, segmentBytes: MIB, batchBytes: 64 * MIB },
  });
  await host.start();
  const block = new Uint8Array(128 * KIB).fill(5);
  for (let i = 0; i < 8; i++) await host.client.write(i * 128 * KIB, block);
  const oldest = host.volume.journal.segments[0]!;
  host.disk.judge = (kind) => (kind === "read" ? "hold" : "pass");
  const reading = host.client.read(0, 4096);
  await until(() => host.disk.held === 1, "the read is held");
  await host.volume.sync(10_000);
  host.volume.freeSegments();
  t.equal(host.volume.journal.segments[0], oldest, "destaged, but read");
  host.disk.release();
  t.equal((await reading)[0], 5);
  host.volume.freeSegments();
  await until(() => host.volume.journal.segments[0] !== oldest, "it is freed");
  await host.stop();
});

t.test("A3: a segment goes when the header of the next one survives a loss of power", async (t) => {
  const host = makeHost(t, {
    config: { journalBytes: 8 * MIB, segmentBytes: MIB, batchBytes: 64 * MIB },
  });
  await host.start();
  const block = new Uint8Array(128 * KIB).fill(5);
  for (let i = 0; i < 12; i++) await host.client.write(i * 128 * KIB, block);
  const oldest = host.volume.journal.segments[0]!;
  t.notOk(host.volume.journal.segments[1]!.headerDurable, "nothing was flushed yet");
  host.disk.judge = (kind) => (kind === "sync" ? "hold" : "pass");
  const synced = host.volume.sync(10_000);
  await until(() => host.volume.map.mark.sequence === 12, "all is destaged");
  await until(() => host.disk.held > 0, "the header is being synced");
  t.equal(host.volume.journal.segments[0], oldest, "destaged, but not replaced");
  host.disk.release();
  await synced;
  await until(() => host.volume.journal.segments[0] !== oldest, "it is freed");
  t.ok(host.volume.journal.segments[0]!.headerDurable);
  await host.client.write(0, block);
  await host.stop();
});

t.test(
  "A3: the last segment goes at a start when the header of a new one is durable",
  async (t) => {
    const host = makeHost(t, { config: { journalBytes: 8 * MIB, segmentBytes: MIB } });
    await host.start();
    await host.client.write(0, new Uint8Array(128 * KIB).fill(5));
    await host.volume.sync(10_000);
    const { path } = host.volume.journal.open;
    await host.crash();
    // As after a loss of power at this very moment: all is in the backend, and nobody knows it yet.
    host.wasDirty = true;
    await host.startThread();
    const real = host.disk.syncAsync.bind(host.disk);
    const seen: boolean[] = [];
    host.disk.syncAsync = async (file) => {
      seen.push(existsSync(path));
      await real(file);
    };
    await host.open();
    t.ok(seen.length > 0 && seen.every(Boolean), `a header is there all the time: ${seen}`);
    t.equal((await host.client.read(0, 128 * KIB))[0], 5);
    await host.stop();
  },
);

t.test("A8: after a reboot a later segment may lack its header", async (t) => {
  const host = makeHost(t, {
    config: { journalBytes: 8 * MIB, segmentBytes: MIB, batchBytes: 64 * MIB },
  });
  await host.start();
  for (let i = 0; i < 12; i++) {
    await host.client.write(i * 128 * KIB, new Uint8Array(128 * KIB).fill(i + 1));
  }
  const next = host.volume.journal.segments[1]!;
  await host.crash();
  const file = openSync(next.path, "r+");
  writeSync(file, new Uint8Array(CLUSTER_BYTES), 0, CLUSTER_BYTES, 0);
  closeSync(file);
  await t.rejects(host.start(), { code: "OVS_CORRUPT" }, "not on the same boot");
  host.rebooted = true;
  await host.start();
  const content = await host.client.read(0, 12 * 128 * KIB);
  const firsts = Array.from({ length: 12 }, (_, i) => content[i * 128 * KIB]);
  const kept = firsts.findIndex((first) => first === 0);
  t.ok(kept >= 6, `${kept} writes of the first segment`);
  t.same(
    firsts,
    firsts.map((_, i) => (i < kept ? i + 1 : 0)),
    "a prefix",
  );
  await host.stop();
});

t.test("A5: an object that is gone is looked up again before it is an error", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, cluster(9));
  await host.volume.sync(10_000);
  host.thread.dropCaches();
  let fails = 2;
  host.store.beforeRead = async () => {
    if (fails-- > 0) throw new StorageError("OVS_NOT_FOUND", "moved");
  };
  t.equal((await host.client.read(0, 1))[0], 9);
  fails = 1000;
  host.thread.dropCaches();
  await t.rejects(host.client.read(0, 1), { code: "OVS_CORRUPT" });
  host.store.beforeRead = null;
  await host.stop();
});

t.test("A5: the wrong block is never served", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, cluster(1));
  await host.client.write(CLUSTER_BYTES, cluster(2));
  await host.volume.sync(10_000);
  const { objects } = host.store.space(NAMESPACE);
  const sco = objects.get(host.store.names(NAMESPACE, "sco/")[0]!)!;
  sco.copyWithin(0, CLUSTER_BYTES, 2 * CLUSTER_BYTES);
  host.thread.dropCaches();
  await t.rejects(host.client.read(0, 1), { code: "OVS_CORRUPT" });
  t.equal((await host.client.read(CLUSTER_BYTES, 1))[0], 2, "others are not harmed");
  await host.stop();
});

t.test("A5: two vDisks whose SCOs have the same ids do not meet in the read caches", async (t) => {
  const diskCache = { path: "", bytes: 4 * MIB };
  const host = makeHost(t, { thread: { memoryCacheBytes: 64 * CLUSTER_BYTES, diskCache } });
  diskCache.path = `${host.dir}/read-cache`;
  await host.start({ epoch: 1 });
  const [first, firstClient] = [host.volume, host.client];
  const other = { vdiskId: new Uint8Array(16).fill(8), name: "vd1", namespace: "ns-vd1" };
  const second = await host.open({ ...other, epoch: 1, isNew: true });
  const clients = [firstClient, host.client];
  for (const [i, client] of clients.entries()) {
    for (let at = 0; at < 100; at++) await client.write(at * CLUSTER_BYTES, cluster(1 + i));
  }
  for (const volume of [first, second]) await volume.sync(10_000);
  for (let round = 0; round < 3; round++) {
    for (const [i, client] of clients.entries()) {
      for (let at = 0; at < 100; at++) {
        t.equal((await client.read(at * CLUSTER_BYTES, CLUSTER_BYTES))[0], 1 + i);
      }
    }
  }
  const counts = [first, second].map((volume) => volume.counts.corruptions);
  t.same(counts, [0, 0], "and no checksum was wrong");
  await first.stop();
  await host.stop();
});

t.test("A6: two writes of 512 bytes into one cluster both survive", async (t) => {
  const host = makeHost(t);
  await host.start();
  for (let round = 0; round < 20; round++) {
    const writes = [];
    for (let i = 0; i < 8; i++) {
      writes.push(host.client.write(i * 512, new Uint8Array(512).fill(round * 8 + i)));
    }
    await Promise.all(writes);
    const content = await host.client.read(0, CLUSTER_BYTES);
    for (let i = 0; i < 8; i++) t.equal(content[i * 512 + 100], (round * 8 + i) & 255);
  }
  await host.stop();
});

t.test("A6: a partial write waits while its old content cannot be read", async (t) => {
  const host = makeHost(t, { thread: { readPatienceMs: 60_000 } });
  await host.start();
  await host.client.write(0, cluster(1));
  await host.volume.sync(10_000);
  host.thread.dropCaches();
  host.store.down = new StorageError("OVS_UNAVAILABLE", "the backend is down");
  const partial = settled(host.client.write(100, new Uint8Array(10).fill(2)));
  await until(() => host.volume.readsWaiting > 0, "the read of the old content waits");
  t.match(host.volume.status().waiting, /backend/);
  await host.client.write(CLUSTER_BYTES, cluster(3));
  t.notOk(partial.is, "whole clusters do not wait");
  host.store.down = null;
  await until(() => partial.is, "the partial write ends");
  const content = await host.client.read(0, CLUSTER_BYTES);
  t.same([content[99], content[100], content[109], content[110]], [1, 2, 2, 1]);
  await host.stop();
});

t.test("A7: trims and zeroes hold after a crash, after destage, and after a rebuild", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, new Uint8Array(4 * MIB).fill(1));
  await host.volume.sync(10_000);
  await host.client.trim(CLUSTER_BYTES + 100, MIB);
  await host.client.zero(2 * MIB, 2 * MIB, RequestFlag.Fua | RequestFlag.NoHole);
  const check = async (what: string): Promise<void> => {
    const content = await host.client.read(0, 4 * MIB);
    t.equal(content[CLUSTER_BYTES + 99], 1, what);
    t.equal(content.subarray(CLUSTER_BYTES + 100, CLUSTER_BYTES + 100 + MIB).indexOf(1), -1, what);
    t.equal(content[CLUSTER_BYTES + 100 + MIB], 1, what);
    t.equal(content.subarray(2 * MIB).indexOf(1), -1, what);
  };
  await check("at once");
  await host.crash();
  await host.start();
  await check("after a crash");
  await host.volume.sync(10_000);
  host.thread.dropCaches();
  await check("from the map");
  t.ok(host.volume.status().allocatedBytes < MIB + 4 * CLUSTER_BYTES, "and the space is free");
  await host.stop();
  host.putMapBack(null);
  await host.start();
  await check("after a rebuild");
  await host.stop();
});

t.test("A7: a TRIM of 16 TiB takes no time, and block status sees it", async (t) => {
  const host = makeHost(t, { config: { sizeBytes: 16 * TIB } });
  await host.start();
  await host.client.write(5 * TIB, new Uint8Array(MIB).fill(7));
  await host.volume.sync(10_000);
  t.same(await host.client.status(5 * TIB - MIB, 4 * MIB), [
    [MIB, 3],
    [MIB, 0],
    [2 * MIB, 3],
  ]);
  const [extent] = await host.client.status(0, 16 * TIB);
  t.equal(extent![1], 3);
  const begin = performance.now();
  await host.client.trim(0, 16 * TIB);
  await host.volume.sync(10_000);
  t.ok(performance.now() - begin < 5000, "fast");
  t.equal((await host.client.read(5 * TIB, 1))[0], 0);
  t.equal(host.volume.status().allocatedBytes, 0);
  await until(() => host.store.names(NAMESPACE, "sco/").length === 0, "the SCO is deleted");
  await host.client.write(9 * TIB, cluster(3));
  t.equal((await host.client.read(9 * TIB, 1))[0], 3);
  await host.stop();
});

t.test("A9: TLogs are a chain; another's TLog halts the vDisk", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, cluster(1));
  await host.volume.sync(10_000);
  const key = host.store.space(NAMESPACE).keys.get(`/ns/${NAMESPACE}/tlog`)!;
  key.value = new TextEncoder().encode("00000000000009");
  await host.client.write(0, cluster(2));
  await t.rejects(host.volume.sync(10_000));
  t.equal(host.volume.status().state, "halted");
  await host.stop();
});

t.test("C5: a fenced owner halts, and its late destage changes nothing", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, cluster(1));
  await host.volume.sync(10_000);
  await host.client.write(0, cluster(2));
  await host.store.raiseFence(NAMESPACE, 50);
  const before = host.store.names(NAMESPACE, "");
  await t.rejects(host.volume.sync(10_000));
  t.equal(host.volume.status().state, "halted");
  t.match(host.volume.status().reason, /newer owner/);
  t.same(host.store.names(NAMESPACE, ""), before);
  await t.rejects(host.client.read(0, 1), { code: "OVS_FENCED" });
  await host.stop();
});

t.test("D3: FLUSH and FUA wait for a sync that began after what they cover", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, cluster(1));
  host.disk.judge = (kind) => (kind === "sync" ? "hold" : "pass");
  const first = settled(host.client.flush());
  await until(() => host.disk.held === 1, "the first sync is held");
  await host.client.write(CLUSTER_BYTES, cluster(2));
  const second = settled(host.client.flush());
  const fua = settled(host.client.write(0, cluster(3), RequestFlag.Fua));
  await turns(100);
  t.notOk(first.is || second.is || fua.is);
  t.equal(host.disk.held, 1, "one round at a time");
  host.disk.release();
  await until(() => first.is && second.is && fua.is, "all are answered");
  t.equal(host.volume.writer.flushed, host.volume.writer.committed);
  await host.stop();
});

t.test("a damaged block cannot be read from the journal either", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, cluster(1));
  const [record] = findRecords(host.journalFolder);
  overwrite(record!.path, (record!.block + 1) * CLUSTER_BYTES + 5, new Uint8Array([0]));
  await t.rejects(host.client.read(0, 1), { code: "OVS_CORRUPT" });
  await host.crash();
});
