// SPDX-License-Identifier: Apache-2.0
// What the backend keeps in the registry and beside fragments, besides manifests and presets.

import * as f from "../schema.js";

const NamespaceState = f.codes("NamespaceState", {
  active: { value: 1, doc: "takes commits" },
  deleting: { value: 2, doc: "takes none; its objects are being removed" },
});

const NamespaceRecord = f.format({
  name: "NamespaceRecord",
  purpose: "A namespace; `/ns/<name>/info` in its shard.",
  magic: "OVNS",
  version: 1,
  lies: "disk",
  body: "inside",
  fields: {
    magic: f.magic(),
    version: f.version(),
    state: f.code(NamespaceState, "what may be done with it"),
    reserved0: f.reserved(1),
    id: f.bytes(
      8,
      "random; in the keys of garbage marks: another namespace of that name has another",
    ),
    createdMs: f.u64("wall clock, for people"),
    reserved1: f.reserved(16),
    length: f.length(),
    bodyCrc: f.bodyCrc(),
    headerCrc: f.headerCrc(),
    preset: f.text("u8", 63, "name of the preset of new objects"),
  },
});

const Recovery = f.format({
  name: "Recovery",
  purpose:
    "Beside every fragment: what is needed to find its object again when the registry is lost.",
  magic: "OVRI",
  version: 1,
  lies: "disk",
  body: "inside",
  fields: {
    magic: f.magic(),
    version: f.version(),
    chunk: f.u16("chunk that the fragment belongs to"),
    fragment: f.u8("its index: below k data, else parity"),
    reserved0: f.reserved(3),
    fragmentVersion: f.u32("its version"),
    namespaceId: f.bytes(8, "of the namespace"),
    reserved1: f.reserved(16),
    length: f.length(),
    bodyCrc: f.bodyCrc(),
    headerCrc: f.headerCrc(),
    namespace: f.text("u8", 63, "name of the namespace"),
    name: f.text("u8", 128, "name of the object"),
    manifest: f.blob("u16", 3072, "the manifest as it was when this fragment was written"),
  },
});

export default f.area({
  name: "backend",
  purpose: "Namespaces and recovery records of the backend.",
  constants: {},
  codes: [NamespaceState],
  parts: [NamespaceRecord, Recovery],
});
