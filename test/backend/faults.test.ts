// SPDX-License-Identifier: Apache-2.0
// Uploads and reads against OSDs that are slow, silent, full, damaged or lossy. The OSDs are in
// memory; everything else is real.
import t from "tap";
import { collectGarbage, collectOrphans } from "../../src/backend/gc.js";
import { Maintenance } from "../../src/backend/maintenance.js";
import { createNamespace, markDeleting } from "../../src/backend/namespaces.js";
import type { OsdPool } from "../../src/backend/osdpool.js";
import { parsePolicy } from "../../src/backend/policy.js";
import { setOsdState } from "../../src/backend/records.js";
import { repairObject } from "../../src/backend/repair.js";
import { verify } from "../../src/backend/verify.js";
import { widthOf } from "../../src/backend/width.js";
import { toHex } from "../../src/base/bytes.js";
import { KIB, MIB } from "../../src/base/units.js";
import { decodeManifest } from "../../src/wire/generated/manifest.js";
import { OsdState } from "../../src/wire/generated/osd.js";
import type { FakeOsd } from "./fakeosd.js";
import { Lab, SEED } from "./lab.js";

t.setTimeout(200_000);

t.test(`any m fragments may be down, missing, damaged or silent (SEED=${SEED})`, async (t) => {
  for (const [policy, osds] of [
    ["2,1,3,9", 3],
    ["3,2,5,9", 5],
    ["4,2,6,9", 6],
  ] as const) {
    const lab = await Lab.start(t, { osds, policies: [policy] });
    const bytes = 300 * KIB;
    await lab.put("o", bytes);
    t.ok(await lab.isRight("o", 0, bytes), `${policy} whole`);
    const { m } = parsePolicy(policy);
    for (let lost = 1; lost < 2 ** osds; lost++) {
      const hit = lab.places("o").filter((_, f) => lost & (1 << f));
      if (hit.length > m) continue;
      const undo = hit.map((osd, i) => strike(osd, (lost + i) % 3));
      // The first time all of it is read: the fragment that is lost then is needed.
      const offset = lost === 1 ? 0 : lab.below(bytes / 4096) * 4096;
      const rest = bytes - offset;
      const count = lost === 1 ? rest : 4096 * (1 + lab.below(rest / 4096));
      if (!(await lab.isRight("o", offset, count))) t.fail(`${policy} without ${lost.toString(2)}`);
      for (const mend of undo) mend();
    }
    t.ok(lab.core.counters.decodedPieces > 0);
    for (const osd of lab.places("o").slice(0, m + 1)) osd.does.up = false;
    await t.rejects(lab.isRight("o", 0, bytes), { code: "OVS_UNAVAILABLE" });
    for (const osd of lab.places("o")) osd.does.up = true;
    for (const osd of lab.places("o").slice(0, m + 1)) strike(osd, 2);
    await t.rejects(lab.isRight("o", 0, bytes), { code: "OVS_CORRUPT" });
  }
});

t.test("a fragment on an OSD that is away is not waited for until that is lost", async (t) => {
  const lab = await Lab.start(t, { osds: 7 });
  await lab.put("o", 300 * KIB);
  t.ok(await lab.isRight("o", 0, 300 * KIB));
  const away = lab.places("o")[2]!.id;
  const widthAfter = async (awayMs: number, osds = 7) => {
    const { registry, pool } = lab.core;
    const members = pool.writable(true).filter(({ id }) => id !== away || awayMs === 0);
    const seen: OsdPool = Object.create(pool, {
      isUp: { value: (id: number) => id !== away || awayMs === 0 },
      downMs: { value: (id: number) => (id === away ? awayMs : 0) },
      writable: { value: () => members.slice(0, osds - (awayMs === 0 ? 0 : 1)) },
    });
    return await widthOf({ registry, pool: seen }, "ns", "default", 600_000);
  };
  t.match(await widthAfter(0), { full: true, spareMin: 2, narrow: 0, repairable: 0 });
  const soon = await widthAfter(1000);
  t.match(soon, { full: false, spareMin: 1, repairable: 1 }, "it may be back in a moment");
  const gone = await widthAfter(60_000);
  t.match(gone, { full: false, spareMin: 1, narrow: 1, repairable: 0 }, "nothing mends it now");
  t.match(await widthAfter(700_000), { full: false, repairable: 1 }, "repair is at it");
  t.match(
    await widthAfter(60_000, 6),
    { full: true, spareMin: 1 },
    "without a spare: all there is",
  );
});

/** 0 down, 1 the fragment is gone, 2 it is damaged. Returns what undoes it. */
function strike(osd: FakeOsd, how: number): () => void {
  if (how === 0) {
    osd.does.up = false;
    return () => {
      osd.does.up = true;
    };
  }
  const [key] = osd.keys("f");
  if (how === 2) {
    osd.corrupt.add(key!);
    return () => osd.corrupt.delete(key!);
  }
  const value = osd.values.get(key!)!;
  osd.values.delete(key!);
  return () => osd.values.set(key!, value);
}

t.test("an OSD that stalls delays reads a little, and soon not at all", async (t) => {
  const lab = await Lab.start(t);
  await lab.put("o", 4 * MIB);
  await lab.isRight("o", 0, 4 * MIB);
  const stalled = lab.places("o")[1]!;
  stalled.does.readDelayMs = 100_000;
  const times: number[] = [];
  for (let i = 0; i < 60; i++) {
    const begunMs = lab.world.clock.nowMs();
    if (!(await lab.isRight("o", 64 * KIB, 4096))) t.fail("wrong bytes");
    times.push(lab.world.clock.nowMs() - begunMs);
  }
  times.sort((a, b) => a - b);
  t.ok(times[50]! < 20, `most reads do not wait: ${times[50]} ms`);
  t.ok(times[59]! < 1000, `none waits for long: ${times[59]} ms`);
  stalled.does.readDelayMs = 0;
  const before = stalled.reads;
  for (let i = 0; i < 400 && stalled.reads < before + 5; i++) {
    await lab.world.clock.sleep(20);
    await lab.isRight("o", 64 * KIB, 4096);
  }
  t.ok(stalled.reads >= before + 5, "it is asked again when it has recovered");
});

t.test("all OSDs slow at once are waited for, not multiplied", async (t) => {
  const lab = await Lab.start(t);
  await lab.put("o", 1 * MIB);
  for (const osd of lab.all) osd.does.readDelayMs = 150;
  for (let i = 0; i < 10; i++) t.ok(await lab.isRight("o", (i % 4) * 64 * KIB, 4096));
  const reads = lab.all.reduce((sum, osd) => sum + osd.reads, 0);
  t.ok(reads < 200, `${reads} reads of OSDs for 10 reads`);
});

t.test("a failing OSD is replaced by another while an object is uploaded", async (t) => {
  const lab = await Lab.start(t, { osds: 8 });
  lab.osds.get(1)!.does.up = true;
  for (const id of [1, 2]) lab.osds.get(id)!.does.losesAnswers = true;
  const result = await lab.put("o", 500 * KIB);
  t.equal(result.fragments, 6);
  t.ok(await lab.isRight("o", 0, 500 * KIB));
  t.notOk(lab.places("o").some((osd) => osd.id <= 2));
  for (const id of [1, 2]) lab.osds.get(id)!.does.losesAnswers = false;
  await lab.late.flush();
  t.equal(lab.keys("f"), 6, "what the lossy ones stored is gone");
  t.equal(lab.keys("m"), 0, "so are the marks");
});

t.test("slow OSDs do not delay a commit; their fragments are entered when they come", async (t) => {
  const lab = await Lab.start(t);
  lab.osds.get(3)!.does.applyDelayMs = 600;
  const begunMs = lab.world.clock.nowMs();
  const { result, finished } = await lab.upload("o", 1 * MIB);
  t.equal(result.fragments, 5);
  t.ok(lab.world.clock.nowMs() - begunMs < 500, "committed before the slow one");
  t.equal((await lab.registry.range("/width/ns/", { limit: 9 })).entries.length, 1, "on the list");
  t.equal(await lab.width(), 1);
  await finished;
  t.equal(await lab.width(), 2);
  t.equal((await lab.registry.range("/width/ns/", { limit: 9 })).entries.length, 0, "off the list");
  t.equal(lab.counters.lateFragments, 1);
  lab.osds.get(3)!.does.applyDelayMs = 5000;
  const late = await lab.upload("p", 1 * MIB);
  await late.finished;
  t.equal(
    (await lab.registry.range("/width/ns/", { limit: 9 })).entries.length,
    1,
    "left to repair",
  );
  lab.osds.get(3)!.does.applyDelayMs = 0;
  t.same(await repairObject(lab.repairs, "ns", "p", new Map()), {
    repaired: 1,
    lacking: 0,
    raced: false,
  });
  t.equal(await lab.width(), 2);
});

t.test("a commit does not count fragments on OSDs that are gone meanwhile", async (t) => {
  const lab = await Lab.start(t);
  for (const id of [1, 2, 3]) lab.osds.get(id)!.does.applyDelayMs = 500;
  const uploading = lab.upload("o", 1 * MIB);
  const isRefused = t.rejects(uploading, { code: "OVS_UNAVAILABLE" }, "4 of 5 are left");
  while (lab.keys("f") < 3) await lab.world.clock.sleep(5);
  for (const id of [4, 5]) await setOsdState(lab.home.registry, id, OsdState.gone);
  await lab.core.topology.refresh();
  await isRefused;
});

t.test("more OSDs of an object than it can lose are drained at once", async (t) => {
  const lab = await Lab.start(t, { osds: 10 });
  await lab.put("o", 500 * KIB);
  await lab.isRight("o", 0, 4096);
  const some = lab.places("o").slice(0, 4);
  for (const { id } of some) await setOsdState(lab.home.registry, id, OsdState.draining);
  await lab.core.topology.refresh();
  const result = await repairObject(lab.repairs, "ns", "o", new Map());
  t.match(result, { repaired: 4, lacking: 0 });
  await lab.core.manifests.refresh("ns", ["o"]);
  t.notOk(lab.places("o").some(({ id }) => some.some((other) => other.id === id)));
  t.ok(await lab.isRight("o", 0, 500 * KIB));
});

t.test(
  "what leaves a draining disk is read there, also where nothing else could make it",
  async (t) => {
    const lab = await Lab.start(t, { osds: 6, policies: ["2,2,4,9"] });
    await lab.put("o", 48 * KIB);
    await lab.isRight("o", 0, 4096);
    const [leaving, , ...bad] = lab.places("o");
    const reads = lab.all.map((osd) => osd.reads);
    await setOsdState(lab.home.registry, leaving!.id, OsdState.draining);
    await lab.core.topology.refresh();
    // One is known to be damaged, one is not: only with the leaving one there are two to read.
    for (const osd of bad) osd.corrupt.add(osd.keys("f")[0]!);
    const { fragments } = decodeManifest((await lab.registry.get("/ns/ns/o/o"))!.value);
    const known = new Map([[2, fragments[2]!.version]]);
    t.match(await repairObject(lab.repairs, "ns", "o", known), { repaired: 2, lacking: 0 });
    await lab.core.manifests.refresh("ns", ["o"]);
    t.notOk(lab.places("o").includes(leaving!));
    t.ok(await lab.isRight("o", 0, 48 * KIB));
    t.ok(leaving!.reads > reads[lab.all.indexOf(leaving!)]!, "it was read there");
  },
);

t.test("repair that is done in part leaves no two fragments on one OSD", async (t) => {
  const lab = await Lab.start(t, { osds: 6, policies: ["4,2,6,9"] });
  const names = Array.from({ length: 10 }, (_, i) => `o${i}`);
  for (const name of names) await lab.put(name, 48 * KIB);
  // Two are damaged on disks that live, and one of these takes nothing.
  lab.osds.get(2)!.does.losesAnswers = true;
  const osdsOf = async (name: string) => {
    const entry = await lab.registry.get(`/ns/ns/o/${name}`);
    return decodeManifest(entry!.value).fragments;
  };
  const repairs = names.map(async (name) => {
    const bad = (await osdsOf(name))
      .map(({ osd, version }, f) => ({ osd, version, f }))
      .filter(({ osd }) => osd <= 2)
      .map(({ version, f }) => [f, version] as const);
    t.equal(bad.length, 2);
    return await repairObject(lab.repairs, "ns", name, new Map(bad));
  });
  const results = await Promise.allSettled(repairs);
  for (const { status } of results) t.equal(status, "rejected", "one has no place");
  for (const name of names) {
    t.equal(new Set((await osdsOf(name)).map(({ osd }) => osd)).size, 6);
  }
});

t.test("repair does not use the name that a failed write of the upload has used", async (t) => {
  const lab = await Lab.start(t);
  lab.osds.get(3)!.does.losesAnswers = true;
  const { result, finished } = await lab.upload("o", 1 * MIB);
  t.equal(result.fragments, 5);
  await finished;
  lab.osds.get(3)!.does.losesAnswers = false;
  const { repaired } = await repairObject(lab.repairs, "ns", "o", new Map());
  t.equal(repaired, 1);
  await lab.late.flush();
  t.equal(lab.keys("f"), 6, "the upload's late clean-up takes nothing that the manifest names");
  t.equal(await lab.width(), 2);
});

t.test("too few OSDs, full ones and a damaged payload are refused without a trace", async (t) => {
  const lab = await Lab.start(t);
  await t.rejects(lab.upload("o", 9000, { crcs: new Uint32Array(3) }), { code: "OVS_CORRUPT" });
  await t.rejects(lab.upload("o", 9000, { crcs: new Uint32Array(2) }), { code: "OVS_INVALID" });
  await t.rejects(lab.upload("O", 9000), { code: "OVS_INVALID" });
  await t.rejects(lab.upload("o", 9000, { namespace: "none" }), { code: "OVS_NOT_FOUND" });
  for (const id of [1, 2]) lab.osds.get(id)!.does.full = true;
  await t.rejects(lab.upload("o", 9000), { code: "OVS_FULL" });
  for (const osd of lab.all) osd.does.full = false;
  for (const id of [1, 2]) lab.osds.get(id)!.does.up = false;
  await t.rejects(lab.upload("o", 9000), { code: "OVS_UNAVAILABLE" });
  for (const osd of lab.all) osd.does.up = true;
  for (const id of [1, 2]) lab.osds.get(id)!.does.losesAnswers = true;
  await t.rejects(lab.upload("o", 9000), { code: "OVS_UNAVAILABLE" });
  for (const osd of lab.all) osd.does.losesAnswers = false;
  await lab.late.flush();
  t.same([lab.keys("f"), lab.keys("r"), lab.keys("m")], [0, 0, 0]);
  t.equal((await lab.put("o", 9000)).fragments, 6);
});

t.test("a fallback policy is used when the best cannot be satisfied", async (t) => {
  const lab = await Lab.start(t, { osds: 6, policies: ["4,2,6,6", "2,1,2,6"] });
  lab.osds.get(1)!.does.up = false;
  const { storedBytes, fragments } = await lab.put("o", 64 * KIB);
  t.same([fragments, storedBytes], [3, 96 * KIB]);
  t.ok(await lab.isRight("o", 0, 64 * KIB));
});

t.test("no domain gets more than x fragments, and repair keeps to it", async (t) => {
  const lab = await Lab.start(t, { osds: 9, perNode: 3, policies: ["4,2,6,2"] });
  await lab.put("o", 64 * KIB);
  await lab.isRight("o", 0, 4096);
  const nodes = () => lab.places("o").map(({ id }) => Math.floor((id - 1) / 3));
  for (const node of [0, 1, 2]) t.equal(nodes().filter((n) => n === node).length, 2);
  const lost = lab.places("o")[0]!.id;
  await setOsdState(lab.home.registry, lost, OsdState.gone);
  await lab.core.topology.refresh();
  t.match(await repairObject(lab.repairs, "ns", "o", new Map()), { repaired: 1, lacking: 0 });
  await lab.core.manifests.refresh("ns", ["o"]);
  for (const node of [0, 1, 2]) t.equal(nodes().filter((n) => n === node).length, 2);
  t.notOk(lab.places("o").some(({ id }) => id === lost));
});

t.test("marks of epochs that are over are collected, others are left alone", async (t) => {
  const lab = await Lab.start(t);
  // Uploads that die before their commit: the registry swallows it.
  lab.registry.strike("/ns/ns/o/", ...new Array<"drop">(1000).fill("drop"));
  const dead = lab.upload("dead", 100 * KIB).catch(() => null);
  while (lab.registry.hit < 1) await lab.world.clock.sleep(5);
  t.equal(lab.keys("m"), 6);
  t.match(await collectGarbage(lab.core, "ns"), { fragments: 0 }, "its epoch is the next one");
  t.equal(lab.keys("f"), 6);
  t.match(await collectGarbage(lab.core, "ns"), { fragments: 6, skipped: 0 });
  t.same([lab.keys("f"), lab.keys("r"), lab.keys("m")], [0, 0, 0]);
  lab.registry.calm();
  t.equal(await dead, null, "its commit comes too late and is refused");
  const { finished } = await lab.upload("o", 100 * KIB);
  await finished;
  await collectGarbage(lab.core, "ns");
  await collectGarbage(lab.core, "ns");
  t.ok(await lab.isRight("o", 0, 100 * KIB), "what is committed stays");
  t.match(await verify(lab.repairs, { namespaces: null, repair: false, leaks: true }), {
    objects: 1,
    leaked: 0,
    missing: 0,
  });
});

t.test("marks of a namespace that is no more are collected", async (t) => {
  const lab = await Lab.start(t);
  await lab.put("o", 100 * KIB);
  lab.registry.strike("/ns/ns/o/", ...new Array<"drop">(1000).fill("drop"));
  const dead = lab.upload("dead", 100 * KIB).catch(() => null);
  while (lab.registry.hit < 1) await lab.world.clock.sleep(5);
  await markDeleting(lab.home.registry, "ns", 1);
  lab.registry.calm();
  await dead;
  const maintenance = new Maintenance(lab.repairs, {
    id: "m",
    tickMs: 50,
    gcIntervalMs: 1000,
    parallel: 2,
  });
  await maintenance.runNow();
  await maintenance.runNow();
  await collectOrphans(lab.core);
  await lab.late.flush();
  t.same([lab.keys("f"), lab.keys("r"), lab.keys("m")], [0, 0, 0]);
  t.equal((await lab.home.registry.range("/ns/ns/", { limit: 9 })).entries.length, 0);
  await createNamespace(lab.home.registry, lab.world, "ns", { ownerEpoch: 1, preset: "default" });
  await maintenance.stop();
});

t.test("two repairs of one object at once do no harm", async (t) => {
  const lab = await Lab.start(t, { osds: 8 });
  await lab.put("o", 300 * KIB);
  await lab.isRight("o", 0, 4096);
  for (const osd of lab.places("o").slice(0, 2)) {
    await setOsdState(lab.home.registry, osd.id, OsdState.gone);
  }
  await lab.core.topology.refresh();
  const both = await Promise.all([1, 2].map(() => repairObject(lab.repairs, "ns", "o", new Map())));
  t.equal(both.filter(({ raced }) => raced).length, 1);
  await lab.late.flush();
  for (let i = 0; i < 3; i++) await collectGarbage(lab.core, "ns");
  lab.core.manifests.clear();
  t.ok(await lab.isRight("o", 0, 300 * KIB));
  t.equal(await lab.width(), 2);
  const living = lab.all.filter((osd) => lab.core.pool.get(osd.id) !== null);
  const count = (letter: string) => living.reduce((sum, osd) => sum + osd.keys(letter).length, 0);
  t.same([count("f"), count("r"), count("m")], [6, 6, 0]);
});

t.test("two repairs that choose the same OSD write two names", async (t) => {
  const lab = await Lab.start(t, { osds: 7 });
  await lab.put("o", 300 * KIB);
  await lab.isRight("o", 0, 4096);
  const [lost] = lab.places("o");
  await setOsdState(lab.home.registry, lost!.id, OsdState.gone);
  await lab.core.topology.refresh();
  const both = await Promise.all([1, 2].map(() => repairObject(lab.repairs, "ns", "o", new Map())));
  t.equal(both.filter(({ raced }) => raced).length, 1);
  await lab.late.flush();
  const living = lab.all.filter((osd) => lab.core.pool.get(osd.id) !== null);
  const fragments = () => living.reduce((sum, osd) => sum + osd.keys("f").length, 0);
  t.equal(fragments(), 7, "the loser's can be collected without harm to the winner's");
  for (let i = 0; i < 3; i++) await collectGarbage(lab.core, "ns");
  t.equal(fragments(), 6);
  t.equal(await lab.width(), 2);
});

t.test("an object that is deleted or repaired while it is verified is not lost", async (t) => {
  const lab = await Lab.start(t);
  for (const name of ["o", "p"]) await lab.put(name, 100 * KIB);
  const registry = lab.home.registry;
  const keysOf = (place: FakeOsd, objectId: Uint8Array) =>
    place.keys("f").filter((key) => key.includes(toHex(objectId)));
  const before = async (name: string) => {
    t.ok(await lab.isRight(name, 0, 4096), `${name} can be read`);
    const { value } = (await registry.get(`/ns/ns/o/${name}`))!;
    return { ...decodeManifest(value), places: lab.places(name) };
  };
  let turn = 0;
  /** Called before the fragments of an object are read. */
  const take = async () => {
    turn++;
    if (turn === 1) {
      const { objectId, places } = await before("o");
      const deleted = { kind: "delete", key: "/ns/ns/o/o" } as const;
      await registry.transact({ compares: [], success: [deleted], failure: [] });
      for (const place of places) {
        for (const key of keysOf(place, objectId)) place.values.delete(key);
      }
    } else if (turn === 2) {
      const { objectId, places, fragments } = await before("p");
      const old = keysOf(places[0]!, objectId);
      await repairObject(lab.repairs, "ns", "p", new Map([[0, fragments[0]!.version]]));
      for (const key of old) places[0]!.values.delete(key);
    }
  };
  const host = Object.create(lab.repairs, { rate: { value: { take } } });
  const report = await verify(host, { namespaces: null, repair: false, leaks: false });
  t.match(report, { objects: 1, missing: 0, corrupt: 0, unreadable: 0, lacking: 0, spareMin: 2 });
  t.equal(turn, 3, "one object is looked at again");
});

t.test("readers tell of damage, and maintenance finds and mends it", async (t) => {
  const lab = await Lab.start(t);
  await lab.put("o", 300 * KIB);
  await lab.isRight("o", 0, 4096);
  const bad = lab.places("o")[2]!;
  bad.corrupt.add(bad.keys("f")[0]!);
  t.ok(await lab.isRight("o", 0, 300 * KIB));
  t.same([...new Set(lab.damage)], ["o/2"]);
  await lab.home.registry.transact({
    compares: [],
    success: [{ kind: "put", key: "/width/ns/o", value: new Uint8Array(0) }],
    failure: [],
  });
  const maintenance = new Maintenance(lab.repairs, {
    id: "m",
    tickMs: 50,
    gcIntervalMs: 1e9,
    parallel: 2,
  });
  await maintenance.runNow();
  t.match(maintenance.status, { repairedFragments: 1, failedRepairs: 0 });
  await maintenance.runNow();
  t.equal((await lab.registry.range("/width/", { limit: 9 })).entries.length, 0);
  await maintenance.runNow();
  t.equal(lab.keys("f"), 6, "the damaged one is gone");
  t.match(await verify(lab.repairs, { namespaces: null, repair: false, leaks: true }), {
    corrupt: 0,
    spareMin: 2,
    leaked: 0,
  });
  await maintenance.stop();
});

t.test("an object of a lost disk that cannot be mended at once is tried again soon", async (t) => {
  const lab = await Lab.start(t, { osds: 7 });
  await lab.put("o", 300 * KIB);
  await lab.isRight("o", 0, 4096);
  const lost = lab.places("o")[1]!;
  const others = lab.all.filter((osd) => osd !== lost);
  for (const osd of others) osd.does.full = true;
  await setOsdState(lab.home.registry, lost.id, OsdState.draining);
  await lab.core.topology.refresh();
  const options = { id: "m", tickMs: 20, gcIntervalMs: 1e9, parallel: 2 };
  const maintenance = new Maintenance(lab.repairs, options);
  t.teardown(() => maintenance.stop());
  // None of them says that it is full: repair tries, and fails.
  for (const osd of others) Object.defineProperty(osd, "full", { value: false });
  maintenance.start();
  while (maintenance.status.failedRepairs === 0) await lab.world.clock.sleep(5);
  for (const osd of others) osd.does.full = false;
  const untilMs = lab.world.clock.nowMs() + 30_000; // Half of the time to the next look at all.
  while (maintenance.status.repairedFragments === 0 && lab.world.clock.nowMs() < untilMs) {
    await lab.world.clock.sleep(20);
  }
  t.match(maintenance.status, { repairedFragments: 1 });
});

t.test("a long list of objects that cannot be mended now hides none that can", async (t) => {
  const lab = await Lab.start(t);
  await lab.put("z", 300 * KIB);
  t.ok(await lab.isRight("z", 0, 4096));
  const [down, bad] = lab.places("z") as [FakeOsd, FakeOsd];
  bad.corrupt.add(bad.keys("f")[0]!);
  down.does.up = false;
  await lab.put("a", 4 * KIB);
  const narrow = await lab.registry.get("/ns/ns/o/a");
  const value = new Uint8Array(0);
  const others = Array.from({ length: 2600 }, (_, i) => `b${String(i).padStart(4, "0")}`);
  for (let i = 0; i < others.length; i += 50) {
    const success = others.slice(i, i + 50).flatMap((name) => [
      { kind: "put" as const, key: `/ns/ns/o/${name}`, value: narrow!.value },
      { kind: "put" as const, key: `/width/ns/${name}`, value },
    ]);
    await lab.registry.transact({ compares: [], success, failure: [] });
  }
  const success = [{ kind: "put" as const, key: "/width/ns/z", value }];
  await lab.registry.transact({ compares: [], success, failure: [] });
  const options = { id: "m", tickMs: 50, gcIntervalMs: 1e9, parallel: 2 };
  const maintenance = new Maintenance(lab.repairs, options);
  await maintenance.runNow();
  await maintenance.runNow();
  t.ok(maintenance.status.repairedFragments > 0, "the damaged one was mended");
  t.equal(maintenance.status.waitingObjects, others.length + 2, "all that wait are counted");
  await maintenance.stop();
});
