// SPDX-License-Identifier: Apache-2.0
// The witness of a simulation: what breaks a rule of the registry's content is told, what keeps
// them is not.

import t from "tap";
import {
  fencePath,
  gcPath,
  numberValue,
  objectPath,
  trashPath,
  widthPath,
} from "../../src/backend/paths.js";
import { StorageError } from "../../src/base/errors.js";
import type { Registry, WatchEvent } from "../../src/registry/registry.js";
import { PrefixCheck } from "../../src/sim/prefix.js";
import { Timeline } from "../../src/sim/timeline.js";
import { Witness } from "../../src/sim/witness.js";
import { scoName, tlogName } from "../../src/volume/names.js";
import { Compression, type Manifest, packManifest } from "../../src/wire/generated/manifest.js";
import { bytesTlog, encodeTlog, type Tlog } from "../../src/wire/generated/tlog.js";

const NS = "space";
const NOTHING = new Uint8Array(0);

function some(places: Array<[osd: number, version: number]>, more: Partial<Manifest> = {}) {
  return {
    compression: Compression.none,
    objectId: new Uint8Array(16).fill(7),
    uploadId: new Uint8Array(16).fill(8),
    gcEpoch: 4,
    ownerEpoch: 2,
    policy: { k: 2, m: 1, c: 2, x: 1 },
    presetVersion: 1,
    cellBytes: 4096,
    cellTableBytes: 0,
    keyId: 0,
    rawBytes: 8192,
    storedBytes: 12_288,
    unitBytes: 4096,
    stripes: 1,
    fragments: places.map(([osd, version]) => ({ osd, version })),
    inline: NOTHING,
    ...more,
  };
}

const put = (key: string, value: Uint8Array, version = 1): WatchEvent => {
  const entry = { key, value, createRevision: 1, modRevision: 1, version, lease: "0" };
  return { kind: "put", entry };
};
const object = (manifest: Manifest, name = "sco/1", version = 1) =>
  put(objectPath(NS, name), packManifest(manifest), version);
/** The record of fragments that are named no more. */
const trash = (manifest: Manifest) =>
  put(trashPath(NS, manifest.objectId, "all"), packManifest(manifest));
const end = (name: string): WatchEvent => ({
  ...put(objectPath(NS, name), NOTHING),
  kind: "delete",
});
const fence = (epoch: number) => put(fencePath(NS), numberValue(epoch));
const gc = (epoch: number) => put(gcPath(NS), numberValue(epoch));
const WHOLE: Array<[number, number]> = [
  [1, 1],
  [2, 1],
  [3, 1],
];
const LACKING: Array<[number, number]> = [
  [1, 1],
  [0, 0],
  [3, 1],
];

/** What it says of transactions, one after the other. */
function saidOf(...transactions: WatchEvent[][]): string[] {
  const said: string[] = [];
  const witness = new Witness({
    registry: null as unknown as Registry,
    timeline: new Timeline(),
    onViolation: (words) => said.push(words),
  });
  const begun = [[fence(2)], [gc(4)]];
  let revision = 1;
  for (const events of [...begun, ...transactions]) witness.saw(events, ++revision);
  return said;
}

t.test("what keeps the rules is not told", (t) => {
  t.same(saidOf([object(some(WHOLE))]), []);
  t.same(saidOf([object(some(LACKING)), put(widthPath(NS, "sco/1"), NOTHING)]), []);
  const repaired = some([
    [1, 1],
    [2, 3],
    [4, 2],
  ]);
  const old = some([
    [0, 0],
    [2, 1],
    [3, 1],
  ]);
  t.same(saidOf([object(some(WHOLE))], [object(repaired, "sco/1", 2), trash(old)]), []);
  t.same(saidOf([object(some(WHOLE))], [end("sco/1"), trash(some(WHOLE))]), []);
  t.same(saidOf([fence(3)], [gc(9)], [object(some(WHOLE, { ownerEpoch: 3, gcEpoch: 10 }))]), []);
  const next = some(WHOLE, { objectId: new Uint8Array(16).fill(9) });
  t.same(saidOf([object(some(WHOLE), "tlog/1")], [object(next, "tlog/2")]), []);
  t.end();
});

t.test("what breaks a rule is told", (t) => {
  const one = (pattern: RegExp, ...transactions: WatchEvent[][]) => {
    const said = saidOf(...transactions);
    t.equal(said.length, 1, said.join("; "));
    t.match(said[0], pattern);
  };
  one(/fence is 3/, [fence(3)], [object(some(WHOLE))]);
  one(/fence is 2/, [object(some(WHOLE, { ownerEpoch: 3 }))]);
  one(/falls from 2 to 1/, [fence(1)]);
  one(/upload epoch 4, gc is 5/, [gc(5)], [object(some(WHOLE))]);
  one(/nobody is told/, [object(some(LACKING))]);
  one(/fragments of 2/, [
    object(some([...LACKING.slice(0, 2), [0, 0]])),
    put(widthPath(NS, "sco/1"), NOTHING),
  ]);
  one(
    /was on 2/,
    [object(some(WHOLE))],
    [object(some([WHOLE[0]!, [4, 1], WHOLE[2]!]), "sco/1", 2)],
  );
  const low: Array<[number, number]> = [
    [1, 1],
    [2, 5],
    [3, 1],
  ];
  one(/version 5 to 1/, [object(some(low))], [object(some(WHOLE), "sco/1", 2), trash(some(low))]);
  const moved = some([WHOLE[0]!, [4, 2], WHOLE[2]!]);
  one(/fragment \w+\/1\/1 is forgotten/, [object(some(WHOLE))], [object(moved, "sco/1", 2)]);
  one(/is forgotten/, [object(some(WHOLE))], [end("sco/1")]);
  one(
    /deleted is committed again/,
    [object(some(WHOLE))],
    [end("sco/1"), trash(some(WHOLE))],
    [object(some([WHOLE[0]!, [4, 2], [5, 2]]))],
  );
  one(/2 fragments on one OSD/, [object(some([WHOLE[0]!, [1, 1], WHOLE[2]!]))]);
  const other = some(WHOLE, { objectId: new Uint8Array(16).fill(9) });
  one(/TLog 3 .* after 1/, [object(some(WHOLE), "tlog/1")], [object(other, "tlog/3")]);
  t.end();
});

/** A TLog that brings these SCOs, one of them by moving clusters. */
function tlogWith([moved, ...fresh]: number[]): Uint8Array {
  const list = new Uint32Array([0]);
  const tlog: Tlog = {
    clusterUuid: new Uint8Array(16).fill(1),
    vdiskUuid: new Uint8Array(16).fill(2),
    ownerEpoch: 1,
    number: 1,
    firstSequence: 1,
    lastSequence: 1,
    lastEpoch: 1,
    sizeBytes: 4096,
    createdMs: 0,
    keyId: 0,
    entries: fresh.map((scoId) => {
      return { kind: "data", scoId, scoIndex: 0, baseCluster: 0, offsets: list, crcs: list };
    }),
  };
  const to = { toScoId: moved!, toScoIndex: 0, baseCluster: 0, offsets: list, crcs: list };
  const from = { fromScoId: 99, fromIndexes: list };
  tlog.entries.push({ kind: "relocation", ...from, ...to });
  const bytes = new Uint8Array(bytesTlog(tlog));
  encodeTlog(tlog, bytes, 0);
  return bytes;
}

t.test("a TLog comes after the SCOs that it names", async (t) => {
  const content = tlogWith([7, 8]);
  const check = async (skips: boolean, created: number, ...commits: Array<[string, number]>) => {
    const said: string[] = [];
    let away = 2;
    const timeline = new Timeline();
    const registry = {
      get: async () => (created === 0 ? null : { createRevision: created }),
    } as unknown as Registry;
    const prefix = new PrefixCheck({
      registry,
      timeline,
      read: async (_namespace, name) => {
        if (--away > 0) throw new StorageError("OVS_UNAVAILABLE", "not just now");
        if (name === tlogName(2)) throw new StorageError("OVS_NOT_FOUND", "it is gone");
        return content;
      },
      onViolation: (words) => said.push(words),
    });
    if (skips) prefix.skipped();
    for (const [name, revision] of commits) {
      prefix.committed({ namespace: NS, name, bytes: content.byteLength, revision });
    }
    await timeline.run(() => prefix.underWay === 0);
    return said;
  };
  const [a, b]: Array<[string, number]> = [
    [scoName(7), 3],
    [scoName(8), 4],
  ];
  const tlog: [string, number] = [tlogName(1), 5];
  t.same(await check(false, 0, a, b, tlog), []);
  t.same(await check(false, 0, [tlogName(2), 5]), [], "it went before it was read");
  t.match(await check(false, 0, a, tlog), [/names sco\/0*8, which is not there/]);
  t.match(await check(false, 0, a, tlog, [scoName(8), 6]), [/8, which came at revision 6/]);
  t.match(await check(false, 0, b, tlog), [/names sco\/0*7, which is not there/], "moved");
  t.same(await check(true, 4, a, tlog), [], "its commit was not told");
  t.same(await check(true, 0, a, tlog), [], "nor that it went");
  t.match(await check(true, 6, a, tlog), [/8, which came at revision 6/]);
});
