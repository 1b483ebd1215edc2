// SPDX-License-Identifier: Apache-2.0
// The simulator is tested: bugs are planted and must be found (tools/sim/bugs.mjs). Here all of
// them are planted, and a few that show soon are looked for; `npm run simbugs` looks for all.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import t from "tap";
import { watchLogs } from "../../src/sim/alarms.js";
import { SimCluster } from "../../src/sim/cluster.js";
import { planOf } from "../../src/sim/run.js";
import { Scene } from "../../src/sim/scene.js";

t.setTimeout(600_000);

const ROOT = new URL("../../../", import.meta.url);
/** They show in the first seeds, each by another checker. */
const QUICK = [
  "a write is acknowledged before it is in the journal",
  "FUA is not heeded",
  "the journal is trimmed before its records are in the backend",
];
const SEEDS = 30;
const BUGS_MIN = 20;

interface Bug {
  name: string;
  rule: string;
  file: string;
  find: string;
  replace: string;
}

interface SoundProduct {
  stop(): void;
}

interface Found {
  seed: number;
  seeds: number;
  as: string;
}

interface HuntOptions {
  folder: string;
  sound: SoundProduct;
  first: number;
  seeds: number;
}

const { BUGS } = await tool<{ BUGS: Bug[] }>("bugs");
const { placesOf, compilePlanted, copyProduct } = await tool<{
  placesOf(bug: Bug): number;
  compilePlanted(bug: Bug): string;
  copyProduct(folder: string): void;
}>("plant");
const { hunt, Runner } = await tool<{
  hunt(bug: Bug, options: HuntOptions): Promise<Found | null>;
  Runner: new (folder: string) => SoundProduct;
}>("hunt");

const { staleFound } = await tool<{ staleFound(): string[] }>("found");

async function tool<T>(name: string): Promise<T> {
  return (await import(new URL(`tools/sim/${name}.mjs`, ROOT).href)) as T;
}

t.test("each planted bug has its place in the sources, once, and compiles", (t) => {
  t.ok(BUGS.length >= BUGS_MIN, `${BUGS.length} bugs`);
  t.equal(new Set(BUGS.map(({ name }) => name)).size, BUGS.length, "each has a name of its own");
  for (const bug of BUGS) {
    t.equal(placesOf(bug), 1, `"${bug.name}": its place in ${bug.file}`);
    t.not(bug.find, bug.replace, bug.name);
  }
  for (const bug of BUGS) t.doesNotThrow(() => compilePlanted(bug), bug.name);
  t.throws(() => compilePlanted({ ...BUGS[0]!, find: "no such line" }), /not there once/);
  t.throws(() => compilePlanted({ ...BUGS[0]!, replace: "= ;" }), /does not compile/);
  t.end();
});

t.test("every planted bug was found when all were looked for, and the page says so", (t) => {
  t.same(staleFound(), [], "npm run simbugs -- --missing --write");
  t.end();
});

t.test("planted bugs are found, and none where there is none", async (t) => {
  const cache = new URL(".cache/", ROOT).pathname;
  mkdirSync(cache, { recursive: true });
  const folder = mkdtempSync(`${cache}bugs-test-`);
  const sound = new Runner(new URL("dist", ROOT).pathname);
  t.teardown(() => {
    sound.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  copyProduct(folder);
  for (const name of QUICK) {
    const bug = BUGS.find((each) => each.name === name)!;
    const found = await hunt(bug, { folder, sound, first: 1, seeds: SEEDS });
    t.ok(found, `${name}: ${found?.seeds ?? "not in so many"} seeds, ${found?.as}`);
  }
  const none = { ...BUGS[0]!, name: "none", replace: BUGS[0]!.find };
  t.equal(await hunt(none, { folder, sound, first: 1, seeds: 1 }), null);
});

t.test("damage that a daemon logs is a failure where no disk has lied", (t) => {
  const scene = new Scene(1, false);
  const cluster = new SimCluster(scene, planOf(1).cluster);
  const alarms: string[] = [];
  watchLogs(cluster, (words) => alarms.push(words));
  const log = (node: string, message: string, fields = {}) =>
    scene.trace.onLog({ node, level: "warn", message, fields });
  log("asd-0#1", "the disk is served");
  log("router#1", "the vDisk is halted", { kind: "fenced", reason: "a newer owner" });
  t.same(alarms, []);
  log("asd-0#1", "a page is not what was written", { key: "k" });
  log("router#2/1", "the vDisk is halted", { kind: "corrupt", reason: "cluster 1" });
  t.same(alarms, [
    "asd-0#1: a page is not what was written",
    "router#2/1: the vDisk is halted: cluster 1",
  ]);
  const { faults, mount } = cluster.diskHosts[0]!.storage.deviceOf("/asd0");
  faults.rates(mount, { "lost write": 1 });
  t.ok(faults.strikes("lost write", `${mount}/extents`));
  log("asd-0#1", "a page is not what was written", { key: "k" });
  log("asd-1#1", "a page is not what was written", { key: "k" });
  t.same(alarms.slice(2), ["asd-1#1: a page is not what was written"]);
  scene.memory.release();
  t.end();
});
