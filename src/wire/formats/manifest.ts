// SPDX-License-Identifier: Apache-2.0
// The manifest of an object: where its fragments are and how they were made. A value of the
// namespace's shard of the registry.

import * as f from "../schema.js";

const Compression = f.codes("Compression", {
  none: { value: 0, doc: "bytes as they are" },
  lz4: { value: 1, doc: "each cell by LZ4" },
  zstd: { value: 2, doc: "each cell by Zstandard" },
});

const Policy = f.struct({
  name: "Policy",
  purpose: "How an object is spread.",
  fields: {
    k: f.u8("data fragments"),
    m: f.u8("parity fragments"),
    c: f.u8("fragments that must be durable before the commit"),
    x: f.u8("most fragments in one failure domain"),
  },
});

const FragmentPlace = f.struct({
  name: "FragmentPlace",
  purpose: "Where one fragment is.",
  fields: {
    osd: f.u32("id of the OSD in the registry; zero: the fragment is missing"),
    version: f.u32("version of the fragment: part of its name, raised by repair (P-C6)"),
  },
});

const Manifest = f.format({
  name: "Manifest",
  purpose: "Everything that a reader, repair or garbage collection needs of an object.",
  magic: "OVMF",
  version: 1,
  lies: "disk",
  body: "inside",
  fields: {
    magic: f.magic(),
    version: f.version(),
    compression: f.code(Compression, "of the cells (P-E1)"),
    reserved0: f.reserved(1),
    objectId: f.bytes(16, "random; names the fragments; used for one content only (P-E2)"),
    uploadId: f.bytes(16, "random; tells two uploads of one name apart"),
    gcEpoch: f.u64("upload epoch g read before the upload (P-C6)"),
    ownerEpoch: f.u64("owner epoch of the writer (P-C5)"),
    policy: f.one(Policy, "policy as written"),
    presetVersion: f.u32("version of the preset that chose it"),
    cellBytes: f.u32("bytes of one cell"),
    cellTableBytes: f.u32(
      "bytes of the cell table at the beginning of each data fragment; 0: none",
    ),
    keyId: f.u64("namespace key that the object's key is derived from; 0: not sealed (P-E2)"),
    rawBytes: f.u64("bytes of the object"),
    storedBytes: f.u64("bytes of all its fragments"),
    unitBytes: f.u32("stripe unit: unit i of a stripe belongs to data fragment i"),
    stripes: f.u32("stripes of one chunk"),
    reserved1: f.reserved(24),
    length: f.length(),
    bodyCrc: f.bodyCrc(),
    headerCrc: f.headerCrc(),
    fragments: f.list("u16", FragmentPlace, 4096, "k + m for each chunk, in order"),
    inline: f.blob("u16", 4096, "the object itself when it is small and has no fragments (P-E3)"),
  },
});

const FailureDomain = f.codes("FailureDomain", {
  disk: { value: 1, doc: "one OSD" },
  node: { value: 2, doc: "the OSDs of one server" },
  rack: { value: 3, doc: "the servers of one rack" },
  site: { value: 4, doc: "the racks of one data centre" },
});

const Preset = f.format({
  name: "Preset",
  purpose: "How the objects of a namespace are stored; `/preset/<name>` in the registry.",
  magic: "OVPR",
  version: 1,
  lies: "disk",
  body: "inside",
  fields: {
    magic: f.magic(),
    version: f.version(),
    domain: f.code(FailureDomain, "level of the failure domain that x of a policy speaks of"),
    compression: f.code(Compression, "of the cells (P-E1)"),
    presetVersion: f.u32("grows with every change"),
    cellBytes: f.u32("bytes of one cell"),
    keyId: f.u64("namespace key; 0: not sealed (P-E2)"),
    reserved0: f.reserved(16),
    length: f.length(),
    bodyCrc: f.bodyCrc(),
    headerCrc: f.headerCrc(),
    policies: f.list(
      "u8",
      Policy,
      8,
      "from best to worst; the first that can be satisfied is used",
    ),
  },
});

export default f.area({
  name: "manifest",
  purpose: "Manifests of objects, and the presets that they are made by.",
  constants: {},
  codes: [Compression, FailureDomain],
  parts: [Policy, FragmentPlace, Manifest, Preset],
});
