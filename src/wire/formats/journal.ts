// SPDX-License-Identifier: Apache-2.0
// The journal of a vDisk: segments of records, and what a DTL member keeps of it.
//
//   | segment header, 4 KiB | record | record | …
//   record: | header | ranges | CRCs | zero up to 4 KiB | payload: whole clusters |
//           '--- header area, a multiple of 4 KiB; body CRC covers -'
//
// The hot path writes header and tables straight into the arena through the offset constants.

import * as f from "../schema.js";

const JournalKind = f.codes("JournalKind", {
  batch: { value: 1, doc: "ranges that are written or zeroed" },
  snapshot: { value: 2, doc: "a snapshot marker: closes the batch (P-F1)" },
  resize: { value: 3, doc: "the vDisk has a new size" },
  stop: { value: 4, doc: "a clean stop: everything before it is committed and flushed" },
});

const JournalRangeKind = f.codes("JournalRangeKind", {
  data: { value: 1, doc: "clusters whose new content lies in the payload" },
  zero: { value: 2, doc: "clusters that read zeroes from now on (P-A7)" },
});

const JournalSegmentHeader = f.format({
  name: "JournalSegmentHeader",
  purpose: "First 4 KiB of a journal segment; a start of service always opens a new one (P-A3).",
  magic: "OVJS",
  version: 1,
  lies: "disk",
  body: "inside",
  fields: {
    magic: f.magic(),
    version: f.version(),
    reserved0: f.reserved(2),
    clusterUuid: f.uuid("cluster of machines that this belongs to"),
    vdiskUuid: f.uuid("the vDisk"),
    ownerEpoch: f.u64("owner epoch of the service that opened the segment (P-A4)"),
    segmentNumber: f.u64("grows by one with each segment of an epoch, from 1"),
    bootId: f.bytes(16, "the host's boot id (P-A8)"),
    routerUuid: f.uuid("the router"),
    incarnation: f.u64("incarnation of the router (P-C1)"),
    firstSequence: f.u64(
      "sequence of the first record in this segment; older epochs end before it",
    ),
    previousHash: f.bytes(8, "hash of the record before the first one; zero at an epoch's first"),
    sizeBytes: f.u64("size of the vDisk when the segment was opened"),
    segmentBytes: f.u64("allocated size of this file"),
    createdMs: f.u64("wall clock, for people"),
    appliedCount: f.u32("request ids repeated here; their place is reserved (P-D2)"),
    reserved1: f.reservedTo(4088),
    length: f.length("4096"),
    headerCrc: f.headerCrc(),
  },
});

const JournalRecord = f.format({
  name: "JournalRecord",
  purpose: "One batch of requests: appended by one write, committed in order (P-A2, P-A3).",
  magic: "OVJR",
  version: 1,
  lies: "disk",
  body: "outside",
  fields: {
    magic: f.magic(),
    version: f.version(),
    kind: f.code(JournalKind, "what the record does"),
    flags: f.u8("1: FUA was asked for"),
    clusterUuid: f.uuid("cluster of machines"),
    vdiskUuid: f.uuid("the vDisk"),
    ownerEpoch: f.u64("owner epoch (P-A4)"),
    sequence: f.u64("number of this record; one more than that of the record before"),
    previousHash: f.bytes(8, "header CRC and body CRC of the record before this one"),
    complete: f.u64("all records up to this sequence were committed when this one was written"),
    flushed: f.u64("all records up to this sequence were flushed when this one was written"),
    keyId: f.u64("key that the payload is sealed with; 0: not sealed"),
    value: f.u64("snapshot: its number; resize: the new size in bytes; else 0"),
    rangeCount: f.u32("entries of the ranges table, which begins at byte 160"),
    clusterCount: f.u32("clusters of payload = CRCs in the CRC table, right after the ranges"),
    headerAreaBytes: f.u32("bytes up to the payload; a multiple of 4 KiB"),
    reserved0: f.reservedTo(148),
    length: f.length("bytes of header area and payload"),
    bodyCrc: f.bodyCrc("CRC-32C of the header area after this header"),
    headerCrc: f.headerCrc(),
  },
});

const JournalRange = f.struct({
  name: "JournalRange",
  purpose:
    "Consecutive clusters that a request writes or zeroes, and the request's identity (P-D2).",
  fields: {
    kind: f.code(JournalRangeKind, "what happens to them"),
    reserved0: f.reserved(3),
    attachment: f.u32("attachment that the request came by; 0: none"),
    cluster: f.u64("first cluster of the vDisk"),
    count: f.u64("clusters; those of data ranges lie in the payload in this order"),
    requestId: f.u64big("the client's id of the request"),
  },
});

export default f.area({
  name: "journal",
  purpose: "Journal segments and records of a vDisk.",
  constants: {
    JOURNAL_HEADER_AREA_BYTES: {
      value: 4096,
      doc: "header area of a record; this version has no other",
    },
  },
  codes: [JournalKind, JournalRangeKind],
  parts: [JournalSegmentHeader, JournalRecord, JournalRange],
});
