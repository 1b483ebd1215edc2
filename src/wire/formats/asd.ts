// SPDX-License-Identifier: Apache-2.0
// What an ASD keeps on its disk, and the messages of its protocol.

import * as f from "../schema.js";

const DiskIdentity = f.format({
  name: "DiskIdentity",
  purpose: "File `identity` in an ASD's folder: which disk of which cluster this is.",
  magic: "OVID",
  version: 1,
  lies: "disk",
  body: "inside",
  fields: {
    magic: f.magic(),
    version: f.version(),
    folderVersion: f.u16("version of the folder's layout"),
    clusterUuid: f.uuid("cluster of machines"),
    diskUuid: f.uuid("this disk, made when it was formatted"),
    createdMs: f.u64("wall clock, for people"),
    reserved0: f.reserved(16),
    length: f.length(),
    bodyCrc: f.bodyCrc(),
    headerCrc: f.headerCrc(),
    site: f.text("u8", 63, "failure domain: data centre"),
    rack: f.text("u8", 63, "failure domain: rack"),
    node: f.text("u8", 63, "failure domain: server"),
  },
});

const KEY_BYTES_MAX = 255;
const INLINE_BYTES_MAX = 4096;
const VALUE_PAGES_MAX = 8192;

const AsdRun = f.struct({
  name: "AsdRun",
  purpose: "Consecutive 4 KiB pages of an extent file.",
  fields: {
    file: f.u32("number of the extent file"),
    page: f.u32("first page in it"),
    pages: f.u32("pages"),
  },
});

const AsdEntry = f.message({
  name: "AsdEntry",
  purpose:
    "Index value under `v` + key: where a value is. No runs: it lies in the index, under `d` + key.",
  fields: {
    entryVersion: f.u8("1"),
    flags: f.u8("zero"),
    length: f.u32("bytes of the value; its last page is padded with zeroes"),
    dataCrc: f.u32(
      "CRC-32C of the record under `d` + key: the CRCs of the pages, or the value itself",
    ),
    runs: f.list("u16", AsdRun, 1024, "its pages, in order"),
    entryCrc: f.u32("CRC-32C of the key and of all before this field"),
  },
});

const AsdAbsent = f.struct({
  name: "AsdAbsent",
  purpose: "The key must not exist.",
  fields: { key: f.blob("u8", KEY_BYTES_MAX, "the key") },
});

const AsdPresent = f.struct({
  name: "AsdPresent",
  purpose: "The key must exist.",
  fields: { key: f.blob("u8", KEY_BYTES_MAX, "the key") },
});

const AsdEquals = f.struct({
  name: "AsdEquals",
  purpose: "The key must exist with exactly this small value.",
  fields: {
    key: f.blob("u8", KEY_BYTES_MAX, "the key"),
    value: f.blob("u16", INLINE_BYTES_MAX, "the value"),
  },
});

const AsdAssert = f.union({
  name: "AsdAssert",
  purpose: "What must hold for an apply to be carried out.",
  cases: {
    absent: { tag: 1, struct: AsdAbsent },
    present: { tag: 2, struct: AsdPresent },
    equals: { tag: 3, struct: AsdEquals },
  },
});

const AsdSmallPut = f.struct({
  name: "AsdSmallPut",
  purpose: "Stores a small value in the index.",
  fields: {
    key: f.blob("u8", KEY_BYTES_MAX, "the key"),
    value: f.blob("u16", INLINE_BYTES_MAX, "the value"),
    crc: f.u32("CRC-32C of the value padded with zeroes to 4 KiB"),
  },
});

const AsdPagesPut = f.struct({
  name: "AsdPagesPut",
  purpose:
    "Stores a value in the extents; its pages follow in the frame's payload, in order of the puts.",
  fields: {
    key: f.blob("u8", KEY_BYTES_MAX, "the key"),
    length: f.u32("bytes; the last page is padded with zeroes"),
    crcs: f.list("u16", "u32", VALUE_PAGES_MAX, "CRC-32C of each page"),
  },
});

const AsdPut = f.union({
  name: "AsdPut",
  purpose: "Stores a value, replacing what the key had.",
  cases: {
    small: { tag: 1, struct: AsdSmallPut },
    pages: { tag: 2, struct: AsdPagesPut },
  },
});

const AsdKey = f.struct({
  name: "AsdKey",
  purpose: "A key.",
  fields: { key: f.blob("u8", KEY_BYTES_MAX, "the key") },
});

const AsdApply = f.message({
  name: "AsdApply",
  purpose: "Request `apply`: all asserts hold, and all puts and deletes are done, or nothing is.",
  fields: {
    asserts: f.list("u16", AsdAssert, 1024, "what must hold"),
    puts: f.list("u16", AsdPut, 1024, "what is stored; a key once only"),
    deletes: f.list("u16", AsdKey, 4096, "what is deleted; missing keys are fine"),
  },
});

const AsdPart = f.struct({
  name: "AsdPart",
  purpose: "Consecutive pages of one value.",
  fields: {
    key: f.blob("u8", KEY_BYTES_MAX, "the key"),
    page: f.u32("first page"),
    pages: f.u32("pages; all must lie in the value"),
  },
});

const AsdMultiGet = f.message({
  name: "AsdMultiGet",
  purpose:
    "Request `multiGet`. The payload of the answer has the pages of all parts in order; those of failed parts are zero.",
  fields: { parts: f.list("u16", AsdPart, 1024, "what is read") },
});

const AsdPartStatus = f.codes("AsdPartStatus", {
  ok: { value: 0, doc: "read and verified" },
  missing: { value: 1, doc: "there is no such key" },
  corrupt: { value: 2, doc: "a page is not what was written" },
  failed: { value: 3, doc: "the disk could not read it" },
  outside: { value: 4, doc: "the pages do not all lie in the value" },
});

const AsdMultiGetReply = f.message({
  name: "AsdMultiGetReply",
  purpose: "Answer to `multiGet`.",
  fields: {
    flags: f.u8("1: nearly full, 2: slow"),
    statuses: f.blob("u16", 1024, "an AsdPartStatus for each part"),
    crcs: f.list(
      "u16",
      "u32",
      4096,
      "CRC-32C of each page of the payload, as stored by the writer",
    ),
  },
});

export default f.area({
  name: "asd",
  purpose: "The folder of an ASD and its protocol.",
  constants: {
    ASD_FOLDER_VERSION: { value: 1, doc: "version of the folder's layout" },
    ASD_PAGE_BYTES: { value: 4096, doc: "unit of extents and checksums" },
    ASD_EXTENT_BYTES: { value: 268435456, doc: "size that extent files grow by" },
    ASD_KEY_BYTES_MAX: { value: KEY_BYTES_MAX, doc: "longest key" },
    ASD_INLINE_BYTES_MAX: {
      value: INLINE_BYTES_MAX,
      doc: "longest value that may lie in the index",
    },
    ASD_VALUE_PAGES_MAX: { value: VALUE_PAGES_MAX, doc: "pages of the longest value (32 MiB)" },
    ASD_RUNS_MAX: { value: 1024, doc: "runs that a value may be cut into" },
    ASD_PARTS_MAX: { value: 1024, doc: "parts of one multiGet" },
    ASD_READ_PAGES_MAX: { value: 4096, doc: "pages of one multiGet (16 MiB)" },
  },
  codes: [AsdPartStatus],
  parts: [
    DiskIdentity,
    AsdRun,
    AsdEntry,
    AsdAbsent,
    AsdPresent,
    AsdEquals,
    AsdAssert,
    AsdSmallPut,
    AsdPagesPut,
    AsdPut,
    AsdKey,
    AsdApply,
    AsdPart,
    AsdMultiGet,
    AsdMultiGetReply,
  ],
});
