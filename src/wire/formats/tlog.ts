// SPDX-License-Identifier: Apache-2.0
// TLogs: what a batch brought. The chain of TLogs, without gaps, is the truth about a vDisk's map
// (P-A9); each is one object of the backend.

import * as f from "../schema.js";

const TlogData = f.struct({
  name: "TlogData",
  purpose: "Clusters that lie one after the other in a SCO.",
  fields: {
    scoId: f.u64("the SCO"),
    scoIndex: f.u32("index in the SCO of the first cluster"),
    baseCluster: f.u64("cluster of the vDisk that the offsets count from"),
    offsets: f.list("u32", "u32", 16384, "cluster of the vDisk minus baseCluster, of each"),
    crcs: f.list("u32", "u32", 16384, "CRC-32C of each"),
  },
});

const TlogZero = f.struct({
  name: "TlogZero",
  purpose: "Clusters that read zeroes, whatever a parent has (P-A7).",
  fields: { cluster: f.u64("first cluster"), count: f.u64("clusters") },
});

const TlogResize = f.struct({
  name: "TlogResize",
  purpose: "The vDisk has a new size.",
  fields: { sizeBytes: f.u64("bytes from here on") },
});

const TlogSnapshot = f.struct({
  name: "TlogSnapshot",
  purpose: "A snapshot of everything before this entry (P-F1).",
  fields: {
    snapshotNumber: f.u64("number, unique in the family"),
    createdMs: f.u64("wall clock, for people"),
    name: f.text("u8", 63, "its name"),
  },
});

const TlogRelocation = f.struct({
  name: "TlogRelocation",
  purpose:
    "Clusters moved to another SCO; applies only where the old location still stands (P-F2).",
  fields: {
    fromScoId: f.u64("the SCO that they are read from up to here"),
    toScoId: f.u64("the SCO that they are in from here on"),
    toScoIndex: f.u32("index there of the first cluster; the others follow"),
    baseCluster: f.u64("cluster of the vDisk that the offsets count from"),
    offsets: f.list("u32", "u32", 16384, "cluster of the vDisk minus baseCluster, of each"),
    fromIndexes: f.list("u32", "u32", 16384, "index in the old SCO of each"),
    crcs: f.list("u32", "u32", 16384, "CRC-32C of each"),
  },
});

const TlogEntry = f.union({
  name: "TlogEntry",
  purpose: "One change of the map.",
  cases: {
    data: { tag: 1, struct: TlogData },
    zero: { tag: 2, struct: TlogZero },
    resize: { tag: 3, struct: TlogResize },
    snapshot: { tag: 4, struct: TlogSnapshot },
    relocation: { tag: 5, struct: TlogRelocation },
  },
});

const Tlog = f.format({
  name: "Tlog",
  purpose: "All changes of the map by one batch, in order.",
  magic: "OVTL",
  version: 1,
  lies: "disk",
  body: "inside",
  fields: {
    magic: f.magic(),
    version: f.version(),
    reserved0: f.reserved(2),
    clusterUuid: f.uuid("cluster of machines"),
    vdiskUuid: f.uuid("the vDisk"),
    ownerEpoch: f.u64("owner epoch of the writer"),
    number: f.u64("number of this TLog in the chain, from 1"),
    firstSequence: f.u64("first journal record of the batch"),
    lastSequence: f.u64("last journal record of the batch"),
    lastEpoch: f.u64("owner epoch of that record"),
    sizeBytes: f.u64("size of the vDisk after the batch"),
    createdMs: f.u64("wall clock, for people"),
    keyId: f.u64("0: not sealed"),
    reserved1: f.reserved(16),
    length: f.length(),
    bodyCrc: f.bodyCrc(),
    headerCrc: f.headerCrc(),
    entries: f.list("u32", TlogEntry, 4194304, "the changes, in order"),
  },
});

export default f.area({
  name: "tlog",
  purpose: "TLogs: the changes of a vDisk's map that a batch brought.",
  constants: {},
  codes: [],
  parts: [TlogData, TlogZero, TlogResize, TlogSnapshot, TlogRelocation, TlogEntry, Tlog],
});
