// SPDX-License-Identifier: Apache-2.0
// A vDisk and its backend: rebuilding, lost journals, checkpoints, reclaim, back-pressure, resize.

import { cpSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import t from "tap";
import { hasCode, messageOf, StorageError } from "../../src/base/errors.js";
import { CLUSTER_BYTES, KIB, MIB } from "../../src/base/units.js";
import { RequestFlag } from "../../src/nbd/target.js";
import { DELTA_BASE, pageKey } from "../../src/volume/page.js";
import { Client } from "./client.js";
import { Host, NAMESPACE, Seeded, until, VDISK_ID } from "./fixture.js";

t.setTimeout(280_000);
const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);

function makeHost(t: { teardown(work: () => void): void }, options = {}): Host {
  const host = new Host(options);
  t.teardown(() => host.destroy());
  return host;
}

/** Random clusters over a span, several times over, against a model. */
async function scribble(
  host: Host,
  random: Seeded,
  model: Uint8Array,
  writes: number,
): Promise<void> {
  for (let i = 0; i < writes; i += 16) {
    const waiting: Array<Promise<void>> = [];
    for (let j = 0; j < 16; j++) {
      const at = random.below(model.byteLength / CLUSTER_BYTES) * CLUSTER_BYTES;
      const bytes = new Uint8Array(CLUSTER_BYTES).fill(random.below(256));
      model.set(bytes, at);
      waiting.push(host.client.write(at, bytes));
      if (random.below(8) === 0) await Promise.all(waiting.splice(0, waiting.length));
    }
    await Promise.all(waiting);
  }
}

async function isSame(host: Host, model: Uint8Array): Promise<boolean> {
  return Buffer.compare(await host.client.read(0, model.byteLength), model) === 0;
}

t.test(`a vDisk is rebuilt from the backend alone, bit-identical (seed ${seed})`, async (t) => {
  const host = makeHost(t, { config: { scoBytes: 256 * KIB } });
  const random = new Seeded(seed);
  const model = new Uint8Array(6 * MIB);
  await host.start();
  for (let round = 0; round < 6; round++) {
    await scribble(host, random, model, 200);
    const at = random.below(5 * MIB);
    await host.client.zero(at, 300_000);
    model.fill(0, at, at + 300_000);
    if (round === 3) {
      await host.volume.sync(10_000);
      host.volume.destager.maintenance.checkpointer.begin();
      await host.volume.destager.maintenance.checkpointer.wait();
      t.equal(host.volume.status().backend.checkpointNumber, host.volume.map.mark.tlogNumber);
      t.same(host.store.names(NAMESPACE, "tlog/"), [], "older TLogs went");
    } else if (round !== 1) host.volume.closeBatch();
  }
  await host.volume.sync(10_000);
  t.notOk(host.wasDirty, "the registry knows that the journal is not needed");
  await until(() => !host.volume.destager.running, "reclaim comes to an end");
  const before = host.volume.status().backend;
  await host.stop();
  rmSync(`${host.dir}/journal`, { recursive: true });
  host.putMapBack(null);
  await host.start();
  t.ok(await isSame(host, model), "bit-identical");
  const after = host.volume.status().backend;
  t.same(
    [after.liveClusters, after.tlogNumber],
    [before.liveClusters, before.tlogNumber],
    "and so are the counts",
  );
  // A SCO that died and was removed after the last TLog is there again, dead, until it is removed
  // once more.
  t.ok(after.scos >= before.scos, `${after.scos} SCOs of ${before.scos}`);
  const stored = host.store.names(NAMESPACE, "sco/").length;
  t.equal(stored, before.scos, "the backend has those that counted before, and no others");
  await scribble(host, random, model, 100);
  await host.volume.sync(10_000);
  await until(() => !host.volume.destager.running, "reclaim comes to an end");
  const { scos } = host.volume.status().backend;
  t.equal(scos, host.store.names(NAMESPACE, "sco/").length, "every SCO that is counted is there");
  await host.crash();
  await host.start();
  t.ok(await isSame(host, model), "and goes on");
  await host.stop();
});

t.test("a map that lost its latest changes is brought up by TLogs", async (t) => {
  const host = makeHost(t, { config: { scoBytes: 256 * KIB } });
  const random = new Seeded(seed + 1);
  const model = new Uint8Array(4 * MIB);
  await host.start();
  await scribble(host, random, model, 300);
  await host.volume.sync(10_000);
  const copy = `${host.dir}/copy`;
  await host.copyMap(copy);
  for (let i = 0; i < 3; i++) {
    await scribble(host, random, model, 100);
    await host.volume.sync(10_000);
  }
  const live = host.volume.status().backend.liveClusters;
  await host.crash();
  host.putMapBack(copy);
  await host.start();
  t.ok(await isSame(host, model));
  t.equal(host.volume.status().backend.liveClusters, live);
  await host.stop();
});

t.test("a map that is ahead of the chain, or behind its checkpoint, is rebuilt", async (t) => {
  const host = makeHost(t, { config: { scoBytes: 256 * KIB } });
  const random = new Seeded(seed + 2);
  const model = new Uint8Array(2 * MIB);
  await host.start();
  await scribble(host, random, model, 100);
  await host.volume.sync(10_000);
  const copy = `${host.dir}/copy`;
  await host.copyMap(copy);
  await scribble(host, random, model, 100);
  await host.volume.sync(10_000);
  const { checkpointer } = host.volume.destager.maintenance;
  await scribble(host, random, model, 100);
  await host.volume.sync(10_000);
  checkpointer.begin();
  await checkpointer.wait();
  await host.crash();
  host.putMapBack(copy);
  await host.start();
  t.ok(await isSame(host, model), "its TLogs are gone: from the checkpoint");
  await host.stop();
});

t.test("a journal that is lost with dirty data is refused, unless that is accepted", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, new Uint8Array(CLUSTER_BYTES).fill(1));
  await host.volume.sync(10_000);
  await host.client.write(0, new Uint8Array(CLUSTER_BYTES).fill(2));
  t.ok(host.wasDirty, "the registry knew before the acknowledgement");
  await host.crash();
  rmSync(`${host.dir}/journal`, { recursive: true });
  await t.rejects(host.start(), { code: "OVS_LOST", message: /accept-loss/ });
  await t.rejects(host.start(), { code: "OVS_LOST" }, "and again");
  await host.start({ acceptLoss: true });
  t.equal((await host.client.read(0, 1))[0], 1, "the last state in the backend");
  await host.stop();
});

t.test(
  "no write is acknowledged before the registry knows that the journal is needed",
  async (t) => {
    const host = makeHost(t);
    await host.start();
    host.marksFail = new StorageError("OVS_UNAVAILABLE", "no registry");
    let isDone = false;
    const write = host.client.write(0, new Uint8Array(CLUSTER_BYTES).fill(1)).then(() => {
      isDone = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 50));
    t.notOk(isDone);
    host.marksFail = null;
    await write;
    t.ok(host.wasDirty);
    await host.stop();
  },
);

t.test("a vDisk that could not be marked clean is marked when that can be done", async (t) => {
  const host = makeHost(t);
  await host.start();
  const write = () => host.client.write(0, new Uint8Array(CLUSTER_BYTES).fill(1));
  for (const isStopped of [false, true]) {
    await write();
    host.marksFail = new StorageError("OVS_FULL", "the registry has no room");
    await host.volume.sync(10_000);
    t.ok(host.wasDirty);
    host.marksFail = null;
    if (isStopped) await host.stop();
    else await until(() => !host.wasDirty, "it is marked by itself");
    t.notOk(host.wasDirty);
  }
});

t.test("a full journal is back-pressure, without an error", async (t) => {
  const host = makeHost(t, {
    config: { journalBytes: 4 * MIB, segmentBytes: MIB, scoBytes: 256 * KIB },
  });
  const random = new Seeded(seed + 3);
  const model = new Uint8Array(8 * MIB);
  await host.start();
  host.store.down = new StorageError("OVS_UNAVAILABLE", "the backend is down");
  let isDone = false;
  const writing = scribble(host, random, model, 2000).then(() => {
    isDone = true;
  });
  await until(() => host.volume.status().waiting?.includes("full") === true, "the journal is full");
  t.match(host.volume.status().waiting, /backend is down/);
  t.notOk(isDone);
  t.ok(host.volume.status().journal.usedBytes <= 4 * MIB);
  host.store.down = new StorageError("OVS_FULL", "the backend is full");
  await until(() => host.volume.status().waiting?.includes("is full)") === true, "and full");
  host.store.down = null;
  await writing;
  t.ok(await isSame(host, model));
  t.ok(host.volume.status().backend.retries > 0);
  await host.stop();
  await host.start();
  t.ok(await isSame(host, model));
  await host.stop();
});

t.test(`garbage is reclaimed while clusters are overwritten (seed ${seed})`, async (t) => {
  let free = 1;
  const host = makeHost(t, {
    thread: { backendFreeShare: () => free },
    config: { scoBytes: 128 * KIB, batchBytes: MIB },
  });
  const random = new Seeded(seed + 4);
  const model = new Uint8Array(4 * MIB);
  await host.start();
  await scribble(host, random, model, 1024);
  for (let round = 0; round < 12; round++) {
    await scribble(host, random, model, 256);
    await host.volume.sync(10_000);
    if (round === 6) free = 0.2;
  }
  const share = (): number => {
    const { liveClusters, scoClusters } = host.volume.status().backend;
    return liveClusters / scoClusters;
  };
  await until(() => share() > 0.75, "most of the clusters in SCOs are live");
  await until(() => !host.volume.destager.running, "reclaim comes to an end");
  const { backend, allocatedBytes } = host.volume.status();
  t.equal(backend.scos, host.store.names(NAMESPACE, "sco/").length, "empty SCOs are deleted");
  host.thread.dropCaches();
  t.ok(await isSame(host, model));
  await host.stop();
  host.putMapBack(null);
  await host.start();
  t.ok(await isSame(host, model), "also after a rebuild");
  t.equal(host.volume.status().allocatedBytes, allocatedBytes);
  await host.stop();
});

t.test("SCOs that a dead owner left without a TLog are removed", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, new Uint8Array(CLUSTER_BYTES).fill(1));
  host.store.beforePut = async (request) => {
    if (request.name.startsWith("tlog/")) throw new StorageError("OVS_UNAVAILABLE", "no");
  };
  host.volume.closeBatch();
  await until(() => host.volume.status().backend.retries > 0, "the TLog is refused");
  const [orphan] = host.store.names(NAMESPACE, "sco/");
  t.ok(orphan);
  await host.crash();
  host.store.beforePut = null;
  await host.start();
  t.equal((await host.client.read(0, 1))[0], 1);
  await host.volume.sync(10_000);
  const names = host.store.names(NAMESPACE, "sco/");
  t.equal(names.length, 1);
  t.not(names[0], orphan, "its name is not used again");
  await host.stop();
});

t.test("a vDisk grows online, and keeps its size", async (t) => {
  const host = makeHost(t);
  await host.start();
  await t.rejects(host.volume.resize(MIB), { code: "OVS_INVALID" });
  await t.rejects(host.volume.resize(64 * MIB + 1), { code: "OVS_INVALID" });
  await host.volume.resize(128 * MIB);
  t.equal(host.volume.sizeBytes, 128 * MIB);
  await host.client.write(127 * MIB, new Uint8Array(CLUSTER_BYTES).fill(1));
  await host.crash();
  await host.start();
  t.equal(host.volume.sizeBytes, 128 * MIB, "after a crash");
  t.equal((await host.client.read(127 * MIB, 1))[0], 1);
  await host.volume.sync(10_000);
  await host.stop();
  host.putMapBack(null);
  await host.start();
  t.equal(host.volume.sizeBytes, 128 * MIB, "after a rebuild");
  await host.stop();
});

t.test("block status joins map and journal, at any alignment", async (t) => {
  const host = makeHost(t);
  await host.start();
  t.same(await host.client.status(0, 64 * MIB), [[64 * MIB, 3]]);
  await host.client.write(MIB, new Uint8Array(MIB).fill(1));
  await host.volume.sync(10_000);
  await host.client.write(3 * MIB, new Uint8Array(MIB).fill(1));
  await host.client.trim(MIB, 512 * KIB);
  t.same((await host.client.status(0, 8 * MIB)).slice(0, 4), [
    [MIB + 512 * KIB, 3],
    [512 * KIB, 0],
    [MIB, 3],
    [MIB, 0],
  ]);
  t.same(await host.client.status(3 * MIB + 5, 10), [[10, 0]]);
  t.same(await host.client.status(MIB + 512 * KIB - 7, MIB, RequestFlag.ReqOne), [[7, 3]]);
  await host.stop();
});

t.test("reads come from the cache on disk when memory has lost them", async (t) => {
  const host = makeHost(t, { thread: { memoryCacheBytes: 256 * KIB } });
  host.options.thread = {
    ...host.options.thread,
    diskCache: { path: `${host.dir}/cache`, bytes: 16 * MIB },
  };
  const random = new Seeded(seed + 5);
  const model = new Uint8Array(4 * MIB);
  await host.start();
  await scribble(host, random, model, 1024);
  await host.volume.sync(10_000);
  t.ok(await isSame(host, model), "cold");
  await until(() => host.disk.inFlight === 0, "what was read is in the cache");
  const before = host.volume.status().reads;
  t.ok(await isSame(host, model), "warm");
  const after = host.volume.status().reads;
  t.ok(after.disk - before.disk > 400, `${after.disk - before.disk} from the disk`);
  t.ok(after.backend - before.backend < 100);
  for (let i = 0; i < 6; i++) t.ok(await isSame(host, model), "again");
  await host.stop();
});

t.test("several vDisks share a thread without mixing", async (t) => {
  const host = makeHost(t, { config: { journalBytes: 8 * MIB, scoBytes: 256 * KIB } });
  const clients: Client[] = [];
  const volumes = [await host.start()];
  for (let i = 1; i < 6; i++) {
    host.isNew = true;
    const vdiskId = new Uint8Array(16).fill(64 + i);
    const volume = await host.open({ vdiskId, namespace: `ns-${i}`, name: `vd${i}` });
    volumes.push(volume);
    clients.push(new Client(host.world, host.requests, volume));
  }
  const content = (i: number): Uint8Array => new Uint8Array(MIB).fill(i + 1);
  await Promise.all(clients.map((client, i) => client.write(i * 512, content(i))));
  await Promise.all(volumes.map((volume) => volume.sync(10_000)));
  host.thread.dropCaches();
  for (let i = 0; i < clients.length; i++) {
    t.equal(Buffer.compare(await clients[i]!.read(i * 512, MIB), content(i)), 0);
    t.equal((await clients[i]!.read(MIB + i * 512, 1))[0], 0);
  }
  for (const volume of volumes.slice(0, -1)) await volume.stop();
  await host.stop();
});

t.test("a damaged map page is never served: the vDisk halts and the map is rebuilt", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, new Uint8Array(8 * CLUSTER_BYTES).fill(6));
  await host.volume.sync(10_000);
  const key = pageKey(VDISK_ID, 0, 0, DELTA_BASE);
  const page = await host.kv.get(key);
  const damaged = page!.slice();
  damaged[20]! ^= 4;
  const batch = host.kv.batch();
  batch.put(key, damaged);
  await host.kv.write(batch, { sync: false });
  host.thread.dropCaches();
  host.thread.pages.forget(host.volume.owner, 0);
  await t.rejects(host.client.read(0, 1), { code: "OVS_CORRUPT" });
  t.equal(host.volume.status().state, "halted");
  t.match(host.volume.status().reason, /map/);
  await host.stop();
  await host.start();
  t.equal((await host.client.read(CLUSTER_BYTES * 7, 1))[0], 6);
  await host.stop();
});

t.test(
  `a journal cut at any length is recovered or refused, never garbage (${seed})`,
  async (t) => {
    const host = makeHost(t);
    const random = new Seeded(seed + 6);
    await host.start();
    for (let i = 0; i < 20; i++) {
      await host.client.write(i * CLUSTER_BYTES, new Uint8Array(CLUSTER_BYTES).fill(i + 1));
    }
    await host.client.flush();
    await host.crash();
    const [name] = readdirSync(host.journalFolder).filter((file) => file.endsWith(".seg"));
    const path = `${host.journalFolder}/${name}`;
    const whole = readFileSync(path);
    for (let n = 0; n < 12; n++) {
      const length = n === 0 ? 0 : n === 1 ? 4095 : random.below(45 * CLUSTER_BYTES);
      truncateSync(path, length);
      host.rebooted = n % 2 === 0;
      const refused = await host.start().then(
        () => null,
        (error: unknown) => error,
      );
      if (refused === null) {
        const content = await host.client.read(0, 20 * CLUSTER_BYTES);
        const values = Array.from({ length: 20 }, (_, i) => content[i * CLUSTER_BYTES]);
        const count = values.indexOf(0) < 0 ? 20 : values.indexOf(0);
        t.same(
          values,
          Array.from({ length: 20 }, (_, i) => (i < count ? i + 1 : 0)),
          `${length}`,
        );
        await host.crash();
      } else {
        const isRight = hasCode(refused, "OVS_CORRUPT") || hasCode(refused, "OVS_LOST");
        t.ok(isRight, `${length} bytes: ${messageOf(refused)}`);
      }
      t.equal(length < CLUSTER_BYTES, hasCode(refused, "OVS_LOST"), "without a header it is lost");
      for (const file of readdirSync(host.journalFolder)) rmSync(`${host.journalFolder}/${file}`);
      writeFileSync(path, whole);
    }
  },
);

t.test("segments from before the map's epoch are evidence, not replayed", async (t) => {
  const host = makeHost(t);
  await host.start();
  await host.client.write(0, new Uint8Array(CLUSTER_BYTES).fill(1));
  await host.client.write(0, new Uint8Array(CLUSTER_BYTES).fill(2));
  await host.crash();
  const kept = `${host.dir}/kept`;
  cpSync(host.journalFolder, kept, { recursive: true });
  // Another life, in which the second record never was.
  rmSync(host.journalFolder, { recursive: true });
  await host.start({ acceptLoss: true });
  await host.client.write(0, new Uint8Array(CLUSTER_BYTES).fill(3));
  await host.volume.sync(10_000);
  await host.stop();
  rmSync(host.journalFolder, { recursive: true });
  cpSync(kept, host.journalFolder, { recursive: true });
  await host.start();
  t.equal((await host.client.read(0, 1))[0], 3);
  t.ok(readdirSync(host.journalFolder).some((name) => name.endsWith(".evidence")));
  await host.stop();
});
