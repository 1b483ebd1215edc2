// SPDX-License-Identifier: Apache-2.0
// The map of a vDisk and what else describes its objects: values of the key-value store, the
// trailer of a SCO, and checkpoints of the map (P-A9, P-F4).
//
//   SCO object:  | cluster 0 | cluster 1 | … | trailer, zero up to 4 KiB |
//
// The map is a radix tree of fan-out 256. A leaf page has 256 entries of 16 bytes: SCO id (u64),
// cluster index in the SCO (u32), CRC-32C (u32); SCO id 0: absent, 1: zero, else a location. Nodes
// above the leaves hold one bit per child: everything absent below it is zero.
//
//   key of a page:  | 0x10 | tree id, 16 | level, 1 | page index, 5 | birth, 4 | delta, 1 |
//   key of a SCO:   | 0x20 | tree id, 16 | SCO id, 8 |
//   key of a mark:  | 0x30 | tree id, 16 |                   (numbers in keys are big-endian)

import * as f from "../schema.js";

const MapMark = f.format({
  name: "MapMark",
  purpose:
    "What a map contains: the content of the checkpoint and the TLogs up to this one (P-A9).",
  magic: "OVMM",
  version: 1,
  lies: "disk",
  body: "inside",
  fields: {
    magic: f.magic(),
    version: f.version(),
    reserved0: f.reserved(2),
    clusterUuid: f.uuid("cluster of machines"),
    vdiskUuid: f.uuid("the vDisk"),
    tlogNumber: f.u64("last TLog in the map; 0: none"),
    tlogEpoch: f.u64("owner epoch of the writer of that TLog"),
    sequence: f.u64("last journal record in the map"),
    sequenceEpoch: f.u64("owner epoch of that record"),
    sizeBytes: f.u64("size of the vDisk"),
    checkpointNumber: f.u64("TLog number of the last checkpoint; 0: none"),
    scoIdLast: f.u64("highest SCO id in the TLogs so far"),
    reserved1: f.reserved(32),
    length: f.length(),
    headerCrc: f.headerCrc(),
  },
});

const ScoTrailer = f.format({
  name: "ScoTrailer",
  purpose: "Behind the clusters of a SCO: whose they are. Reclaim and inspection read it.",
  magic: "OVSC",
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
    scoId: f.u64("the SCO"),
    baseCluster: f.u64("cluster of the vDisk that the offsets count from"),
    keyId: f.u64("0: not sealed"),
    reserved1: f.reserved(32),
    length: f.length(),
    bodyCrc: f.bodyCrc(),
    headerCrc: f.headerCrc(),
    offsets: f.list("u32", "u32", 16384, "cluster of the vDisk minus baseCluster, of each cluster"),
  },
});

const CheckpointSco = f.struct({
  name: "CheckpointSco",
  purpose: "A SCO that the map knows.",
  fields: {
    scoId: f.u64("the SCO"),
    total: f.u32("clusters in it"),
  },
});

const CheckpointPage = f.struct({
  name: "CheckpointPage",
  purpose: "One page of the map: a leaf in its sparse form, or the bits of a node.",
  fields: {
    level: f.u8("0: leaf"),
    index: f.u64("number of the page in its level"),
    content: f.blob("u16", 8192, "as the value of the key-value store"),
  },
});

const Checkpoint = f.format({
  name: "Checkpoint",
  purpose: "One object of a checkpoint: pages of the map in order, and the SCOs that it knows.",
  magic: "OVCP",
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
    tlogNumber: f.u64("last TLog in the checkpoint"),
    tlogEpoch: f.u64("owner epoch of the writer of that TLog"),
    sequence: f.u64("last journal record in the checkpoint"),
    sequenceEpoch: f.u64("owner epoch of that record"),
    sizeBytes: f.u64("size of the vDisk"),
    scoIdLast: f.u64("highest SCO id in the TLogs so far"),
    part: f.u32("number of this object, from 0"),
    isLast: f.u32("1: no part follows"),
    reserved1: f.reserved(32),
    length: f.length(),
    bodyCrc: f.bodyCrc(),
    headerCrc: f.headerCrc(),
    scos: f.list("u32", CheckpointSco, 4194304, "SCOs"),
    pages: f.list("u32", CheckpointPage, 4194304, "pages"),
  },
});

export default f.area({
  name: "map",
  purpose: "The map of a vDisk, trailers of SCOs, checkpoints.",
  constants: {},
  codes: [],
  parts: [MapMark, ScoTrailer, CheckpointSco, CheckpointPage, Checkpoint],
});
