// SPDX-License-Identifier: Apache-2.0
// Bytes of our files change while nobody looks. Whatever file it is, a read gives the right bytes
// or is refused; never garbage. What was met is counted in `ovs status`, fragments are repaired.
// SEED says which bytes.

import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { findRecords, flipBit } from "../volume/damage.js";
import { Cluster, killHard, must, until } from "./cluster.js";
import { backendOf, whole } from "./disks.js";
import { Dice } from "./load.js";
import { NbdClient } from "./nbdclient.js";

t.setTimeout(1_200_000);

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const FLIPS = process.env.OVS_LONG === "1" ? 200 : 25;
const MIB = 1024 * 1024;
const OPTIONS = [
  ...["--asd-size", "512M", "--vdisk", "vd0:128M", "--journal-size", "128M", "--sco-size", "4M"],
  ...["--cache-size", "16M", "--read-cache-size", "64M"],
];

interface VdiskRow {
  id: string;
  state: string;
  reason: string;
  corruptions: number;
}

async function infoOf(cluster: Cluster): Promise<VdiskRow> {
  return await cluster.json<VdiskRow>("vdisk", "info", "vd0");
}

async function corruptionsOf(cluster: Cluster): Promise<number> {
  const asds = await cluster.json<Array<{ corruptions: number }>>("asd", "list");
  const { corruptFragments } = await backendOf(cluster);
  const info = await infoOf(cluster);
  return asds.reduce((sum, asd) => sum + asd.corruptions, corruptFragments + info.corruptions);
}

/** 96 MiB of random bytes in a vDisk of 128 MiB, as a file too. */
async function fill(cluster: Cluster): Promise<string> {
  const image = join(cluster.dir, "in.img");
  await must("dd", ["if=/dev/urandom", `of=${image}`, "bs=1M", "count=96", "status=none"]);
  await must("nbdcopy", ["--flush", image, cluster.uri()]);
  await must("truncate", ["-s", "128M", image]);
  return image;
}

/** Reads everything; the bytes are right, or the read is refused. Resolves with which. */
async function rightOrRefused(cluster: Cluster, image: string): Promise<"right" | "refused"> {
  const wanted = await readFile(image);
  const client = await NbdClient.open(`${cluster.data}/run/nbd.sock`, "vd0").catch(() => null);
  if (!client) return "refused";
  let refusals = 0;
  for (let at = 0; at < wanted.length; at += MIB) {
    const got = await client.read(at, MIB).catch(() => null);
    if (got === null) refusals++;
    else if (!got.equals(wanted.subarray(at, at + MIB))) throw new Error(`garbage at ${at}`);
  }
  await client.close().catch(() => undefined);
  return refusals === 0 ? "right" : "refused";
}

/** Offsets of a file that hold something. */
async function someOffsets(path: string, count: number, dice: Dice): Promise<number[]> {
  const bytes = await readFile(path);
  const offsets: number[] = [];
  for (let tries = 0; offsets.length < count && tries < 1_000_000; tries++) {
    const at = dice.below(bytes.length);
    if (bytes[at] !== 0) offsets.push(at);
  }
  return offsets;
}

async function filesBelow(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((e) => join(e.parentPath, e.name));
}

t.test(
  `flipped bytes in fragments are met, answered, counted, repaired (SEED=${SEED})`,
  async (t) => {
    const dice = new Dice(SEED);
    const cluster = await Cluster.make();
    t.teardown(() => cluster.destroy());
    await cluster.up(...OPTIONS);
    const image = await fill(cluster);
    t.equal((await cluster.ovs("vdisk", "sync", "vd0")).code, 0);
    for (const disk of [2, 5]) {
      for (const path of await filesBelow(join(cluster.data, "asd", String(disk), "extents"))) {
        for (const at of await someOffsets(path, FLIPS, dice)) flipBit(path, at, dice.below(8));
      }
    }
    t.equal((await cluster.ovs("cache", "drop")).code, 0);
    t.equal(await rightOrRefused(cluster, image), "right", "every read is right all the same");
    t.ok((await corruptionsOf(cluster)) > 0, "what was met is counted in status");

    const report = await cluster.json<Record<string, number>>("backend", "verify");
    t.equal(report.unreadable, 0, "no object is lost");
    t.ok(
      (report.repaired ?? 0) > 0 || (await backendOf(cluster)).repairedFragments > 0,
      "repaired",
    );
    await until("verify ends clean", async () => {
      const again = await cluster.json<{ clean: boolean }>("backend", "verify");
      return again.clean;
    });
    t.equal((await cluster.ovs("cache", "drop")).code, 0);
    t.equal(await rightOrRefused(cluster, image), "right", "and again after the repair");

    const cache = (await filesBelow(join(cluster.data, "router"))).filter((path) =>
      path.endsWith("/read-cache"),
    );
    t.equal(cache.length, 1, "there is a read cache on the disk");
    for (const path of cache) {
      for (const at of await someOffsets(path, FLIPS * 4, dice)) flipBit(path, at, dice.below(8));
    }
    t.equal(await rightOrRefused(cluster, image), "right", "a damaged read cache gives no garbage");
    await cluster.down();
  },
);

t.test(`a flipped byte in the journal is refused or harmless (SEED=${SEED})`, async (t) => {
  const dice = new Dice(SEED + 1);
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up(...OPTIONS);
  const image = await fill(cluster);
  t.equal((await cluster.ovs("vdisk", "sync", "vd0")).code, 0);
  const client = await NbdClient.open(`${cluster.data}/run/nbd.sock`, "vd0");
  const block = Buffer.alloc(4096, 0x3c);
  const { id } = await infoOf(cluster);
  for (let i = 0; i < 64; i++) await client.write(i * 8192, block, i % 8 === 7);
  client.destroy();
  const router = (await cluster.processes()).find((row) => row.id === "router");
  await cluster.killSupervisor();
  if (router) {
    try {
      killHard(router.pid);
    } catch {
      // Its parent's end has ended it.
    }
  }
  const journal = join(cluster.data, "router", "shard-0", "journal", id);
  const records = findRecords(journal).slice(-64);
  t.equal(records.length, 64, "the last writes are in the journal");
  const victim = records[dice.below(32)]!;
  // A byte of the payload of a record that later records say is complete: acknowledged, so it must
  // not be dropped in silence.
  flipBit(victim.path, (victim.block + 1) * 4096 + dice.below(4096), dice.below(8));
  const wanted = await readFile(image);
  for (let i = 0; i < 64; i++) block.copy(wanted, i * 8192);
  await writeFile(image, wanted);

  await cluster.up();
  const info = await infoOf(cluster);
  const outcome = await rightOrRefused(cluster, image);
  t.comment(`${info.state} ${info.reason}; reads are ${outcome}`);
  if (outcome === "refused") {
    t.ok((await infoOf(cluster)).corruptions > 0, "and status counts it");
    t.equal((await cluster.ovs("status")).code, 3);
  }
  await cluster.down();
});

for (const target of ["map", "registry", "asd index"] as const) {
  for (const kind of ["log", "sst"] as const) {
    t.test(`a flipped byte in the ${target}'s ${kind} is met or harmless (SEED=${SEED})`, (t) =>
      flipStore(t, target, kind, new Dice(SEED + 7 * target.length)),
    );
  }
}

/** Folder of the RocksDB files of a store. */
async function storeFolder(cluster: Cluster, target: string): Promise<string> {
  if (target === "map") return join(cluster.data, "router", "shard-0", "map");
  if (target === "registry") return join(cluster.data, "registry");
  const disk = join(cluster.data, "asd", "3");
  for (const name of await readdir(disk)) {
    const files = await readdir(join(disk, name)).catch(() => [] as string[]);
    if (files.includes("CURRENT")) return join(disk, name);
  }
  throw new Error("an ASD has no index");
}

async function flipStore(t: Test, target: string, kind: string, dice: Dice): Promise<void> {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up(...OPTIONS);
  const image = await fill(cluster);
  t.equal((await cluster.ovs("vdisk", "sync", "vd0")).code, 0);
  await cluster.down();
  if (kind === "sst") {
    // What is in the log goes into tables when a store is opened.
    await cluster.up();
    await cluster.down();
  }
  const folder = await storeFolder(cluster, target);
  const names = (await filesBelow(folder)).filter((path) => path.endsWith(`.${kind}`));
  const sizes = await Promise.all(names.map(async (path) => (await stat(path)).size));
  const path = names[sizes.indexOf(Math.max(...sizes))]!;
  for (const at of await someOffsets(path, 3, dice)) flipBit(path, at, dice.below(8));

  cluster.start();
  const refusal = await cluster.ready().then(
    () => "",
    (error: unknown) => String(error),
  );
  if (target === "registry" && (kind === "log" || refusal !== "")) {
    t.match(refusal, /registry in .* is damaged|the log of the store|Corruption/, "it is refused");
    t.equal(await cluster.exited(), 1);
    return;
  }
  t.equal(refusal, "", "the cluster serves");
  const outcome = await rightOrRefused(cluster, image);
  const status = await cluster.ovs("status");
  if (target === "map" && kind === "sst" && outcome === "refused") {
    // The router begins anew meanwhile, and has no answer.
    const stateOf = () => infoOf(cluster).then(({ state }) => state);
    await until("it serves", async () => (await stateOf().catch(() => "")) === "serving");
    t.equal(await rightOrRefused(cluster, image), "right", "the map was rebuilt");
  } else if (target === "registry" && outcome === "refused") {
    // What the damaged block says is refused, with the reason; what others say goes on.
    t.equal(status.code, 3, "the status is degraded");
    t.match(status.stdout, /not served|Corruption/, `and says why: ${status.stdout}`);
    await cluster.down();
    return;
  } else t.equal(outcome, "right");
  if (target === "map" && (kind === "log" || outcome === "refused")) {
    const logs = await filesBelow(join(cluster.data, "log"));
    const texts = await Promise.all(logs.map((path) => readFile(path, "utf8")));
    t.match(texts.join(), /rebuilding from the backend/, "and said");
  }
  if (target === "asd index" && (kind === "log" || status.code !== 0)) {
    t.equal(status.code, 3, "the status is degraded");
    const replaced = await cluster.ovs("asd", "replace", "asd-3");
    t.equal(replaced.code, 0, replaced.stdout + replaced.stderr);
    await whole(cluster);
    t.equal(await rightOrRefused(cluster, image), "right");
  }
  t.equal((await cluster.ovs("status")).code, 0, "all is well in the end");
  await cluster.down();
}
