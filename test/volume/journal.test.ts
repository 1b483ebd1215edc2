// SPDX-License-Identifier: Apache-2.0
// What the journals' files take: the bound holds through any number of starts, and a vDisk that was
// opened destages also where there is no room for a segment.

import { readdirSync, statSync } from "node:fs";
import t from "tap";
import { formatUuid } from "../../src/base/bytes.js";
import { StorageError } from "../../src/base/errors.js";
import { CLUSTER_BYTES, MIB } from "../../src/base/units.js";
import { countJournals } from "../../src/volume/remove.js";
import { Client } from "./client.js";
import { findRecords, wipeRecord } from "./damage.js";
import { Host, until, VDISK_ID } from "./fixture.js";

t.setTimeout(280_000);

const BUDGET = 4 * MIB;
/** What a vDisk may take beyond the budget: two segments, and the markers of two starts. */
const BEYOND = 2 * MIB + 2 * CLUSTER_BYTES;
const away = new StorageError("OVS_UNAVAILABLE", "too few ASDs");
const full = new StorageError("OVS_FULL", "no space left on device");
const cluster = (value: number): Uint8Array => new Uint8Array(CLUSTER_BYTES).fill(value);

function makeHost(t: { teardown(work: () => void): void }): Host {
  const host = new Host({
    thread: { journalBytes: BUDGET },
    config: { journalBytes: BUDGET, segmentBytes: MIB, scoBytes: 256 * 1024 },
  });
  t.teardown(() => host.destroy());
  return host;
}

/** Bytes of the segments in the folder of all journals. */
function fileBytes(host: Host): number {
  let bytes = 0;
  for (const vdisk of readdirSync(`${host.dir}/journal`)) {
    for (const name of readdirSync(`${host.dir}/journal/${vdisk}`)) {
      if (!name.endsWith(".seg")) continue;
      // It may be removed meanwhile.
      const stat = statSync(`${host.dir}/journal/${vdisk}/${name}`, { throwIfNoEntry: false });
      bytes += stat?.size ?? 0;
    }
  }
  return bytes;
}

/** Ends when the write is done, or waits for room. True: it is done. */
async function writeOrWait(host: Host, at: number, value: number): Promise<boolean> {
  let isDone = false;
  host.client.write(at * CLUSTER_BYTES, cluster(value)).then(
    () => {
      isDone = true;
    },
    () => undefined,
  );
  const isFull = () => host.volume.status().waiting?.includes("the journal is full") === true;
  await until(() => isDone || isFull(), "the write is done, or the journal is full");
  return isDone;
}

t.test("a router that dies again and again, with a write each time, keeps its bound", async (t) => {
  const host = makeHost(t);
  host.store.beforePut = () => Promise.reject(away);
  const written: number[] = [];
  for (let life = 0; life < 12; life++) {
    await host.start();
    if (await writeOrWait(host, life, life + 1)) written.push(life);
    t.ok(fileBytes(host) <= BUDGET + BEYOND, `${fileBytes(host)} bytes in life ${life}`);
    for (const life of written) {
      t.equal((await host.client.read(life * CLUSTER_BYTES, 1))[0], life + 1);
    }
    await host.crash();
  }
  t.ok(written.length >= 4, `the journal took ${written.length} writes`);
  t.ok(written.length < 12, "and then they waited");
  await host.start();
  const waiting = host.client.write(60 * CLUSTER_BYTES, cluster(99));
  host.store.beforePut = null;
  await waiting;
  written.push(60);
  await host.volume.sync(10_000);
  await until(() => fileBytes(host) <= 2 * MIB, "what is destaged is freed");
  await host.crash();
  host.rebooted = true;
  await host.start();
  for (const at of written) {
    t.equal((await host.client.read(at * CLUSTER_BYTES, 1))[0], at === 60 ? 99 : at + 1);
  }
  await host.stop();
});

t.test("a start without room says by a marker what it found", async (t) => {
  const host = makeHost(t);
  host.store.beforePut = () => Promise.reject(away);
  let sequence = 0;
  for (let life = 0; life < 8; life++) {
    await host.start();
    if (await writeOrWait(host, life, 1)) sequence++;
    await host.crash();
  }
  const names = readdirSync(host.journalFolder).filter((name) => name.endsWith(".seg"));
  const sizes = names.sort().map((name) => statSync(`${host.journalFolder}/${name}`).size);
  t.equal(sizes.pop(), CLUSTER_BYTES, "the marker of the last life");
  t.ok(
    sizes.every((bytes) => bytes === MIB),
    "those of older ones are gone",
  );
  await host.start();
  t.equal(host.volume.writer.sequence, sequence);
  await host.stop();
});

t.test("a vDisk with a full journal stops in order", async (t) => {
  const host = makeHost(t);
  host.store.beforePut = () => Promise.reject(away);
  for (let life = 0; life < 8; life++) {
    await host.start();
    if (!(await writeOrWait(host, life, 1))) break;
    await host.stop();
  }
  await host.crash();
  await host.start();
  await host.stop();
  t.equal(host.volume.state, "stopped");
});

t.test("with a full disk a vDisk is opened, and destages what it has", async (t) => {
  const host = makeHost(t);
  host.store.beforePut = () => Promise.reject(away);
  for (let life = 0; life < 2; life++) {
    await host.start();
    await host.client.write(life * CLUSTER_BYTES, cluster(life + 1));
    await host.crash();
  }
  await host.startThread();
  const { allocateAsync } = host.disk;
  host.disk.allocateAsync = () => Promise.reject(full);
  host.store.beforePut = null;
  await host.open();
  await host.volume.sync(10_000);
  await until(() => fileBytes(host) <= MIB, "all but one segment are freed");
  const writing = host.client.write(7 * CLUSTER_BYTES, cluster(3));
  await until(() => /no space left/.test(host.volume.status().waiting ?? ""), "a write waits");
  t.equal((await host.client.read(0, 1))[0], 1);
  host.disk.allocateAsync = allocateAsync;
  await writing;
  await host.crash();
  await host.start();
  for (const [at, value] of [
    [0, 1],
    [1, 2],
    [7, 3],
  ] as const) {
    t.equal((await host.client.read(at * CLUSTER_BYTES, 1))[0], value);
  }
  await host.stop();
});

t.test("a start that dies before it has a segment does not lose the journal", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, cluster(1));
  await host.volume.destager.waitFor(0, 1);
  host.volume.closeBatch();
  await host.volume.destager.waitFor(host.volume.writer.committed, 10_000);
  t.ok(host.wasDirty, "the registry is not told yet that all is destaged");
  await host.crash();
  for (let life = 0; life < 2; life++) {
    await host.startThread();
    host.disk.allocateAsync = () => Promise.reject(new StorageError("OVS_DISK_FAILED", "dead"));
    await t.rejects(host.open(), { code: "OVS_DISK_FAILED" }, "not that it is lost");
    await host.stopThread();
  }
  await host.start();
  t.equal((await host.client.read(0, 1))[0], 1);
  await host.stop();
});

t.test("what is left of a journal that was cut behind the map says where it ended", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, cluster(1));
  await host.client.write(CLUSTER_BYTES, cluster(2));
  await host.volume.sync(10_000);
  host.store.beforePut = () => Promise.reject(away);
  // Into the next segment; the power fails, and the first of them is gone.
  for (let i = 2; i < 12; i++) await host.client.write(i * 128 * 1024, new Uint8Array(128 * 1024));
  t.ok(host.volume.journal.segments.length > 1);
  await host.crash();
  wipeRecord(findRecords(host.journalFolder).find(({ sequence }) => sequence === 3)!, 0);
  host.rebooted = true;
  for (let life = 0; life < 2; life++) {
    await host.startThread();
    host.disk.allocateAsync = () => Promise.reject(new StorageError("OVS_DISK_FAILED", "dead"));
    await t.rejects(host.open(), { code: "OVS_DISK_FAILED" }, "not that records are missing");
    await host.stopThread();
  }
  host.store.beforePut = null;
  await host.start();
  t.equal((await host.client.read(CLUSTER_BYTES, 1))[0], 2);
  t.equal((await host.client.read(4 * 128 * 1024, 1))[0], 0);
  await host.stop();
});

t.test("what vDisks hold that are not open counts for all others", async (t) => {
  const host = makeHost(t);
  host.store.beforePut = () => Promise.reject(away);
  await host.startThread();
  const others = [64, 65].map((id) => {
    return { vdiskId: new Uint8Array(16).fill(id), namespace: `ns-${id}`, name: `vd${id}` };
  });
  const fill = async (change = {}): Promise<void> => {
    await host.open(change);
    const { world, requests, volume } = host;
    const client = new Client(world, requests, volume);
    const block = new Uint8Array(MIB / 8);
    for (let i = 0; i < 64 && volume.requestsWaiting === 0; i++) {
      const writing = client.write(i * block.byteLength, block).catch(() => undefined);
      const isFull = () => volume.status().waiting?.includes("the journal is full") === true;
      let isDone = false;
      void writing.then(() => {
        isDone = true;
      });
      await until(() => isDone || isFull(), "written, or full");
      if (!isDone) break;
    }
  };
  await fill();
  const first = host.volume;
  t.ok(fileBytes(host) <= BUDGET + BEYOND);
  await host.crash();
  t.equal(first.state, "stopped");
  for (let life = 0; life < 3; life++) {
    // The vDisk that fills the budget is not opened first, or not at all.
    await host.startThread();
    await countJournals(host.thread, host.dir);
    const change = { ...others[life % 2], isNew: life < 2, wasDirty: life >= 2 };
    await fill(change);
    await host.crash();
    t.ok(fileBytes(host) <= BUDGET + 3 * BEYOND, `${fileBytes(host)} bytes in life ${life}`);
  }
  await host.startThread();
  await countJournals(host.thread, host.dir);
  const held = host.thread.budget.usedBytes;
  t.equal(held, fileBytes(host), "every file is counted");
  await host.open({ isNew: false, wasDirty: true });
  const names = readdirSync(`${host.dir}/journal`);
  t.ok(names.includes(formatUuid(VDISK_ID)));
  host.store.beforePut = null;
  await host.volume.sync(10_000);
  await host.stop();
});
