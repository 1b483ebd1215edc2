// SPDX-License-Identifier: Apache-2.0
// What the registry knows of the cluster, its routers and its vDisks.

import {
  area,
  bodyCrc,
  code,
  codes,
  format,
  headerCrc,
  length,
  magic,
  reservedTo,
  text,
  u64,
  uuid,
  version,
} from "../schema.js";

const ownerState = codes("OwnerState", {
  recovering: { value: 1, doc: "a router opens the vDisk: recovers its journal, reads its map" },
  serving: { value: 2, doc: "it serves I/O" },
  released: { value: 3, doc: "it was closed in order; nobody serves it" },
  deleting: { value: 4, doc: "its deletion was begun: it is never served again" },
});

const ownerContent = codes("OwnerContent", {
  dirty: {
    value: 1,
    doc: "the owner's journal may hold acknowledged writes that are nowhere else",
  },
  clean: { value: 2, doc: "everything acknowledged is in the backend: no journal is needed" },
});

export default area({
  name: "vdisk",
  purpose: "Records of the registry about the cluster, routers and vDisks.",
  constants: {},
  codes: [ownerState, ownerContent],
  parts: [
    format({
      name: "ClusterRecord",
      purpose: "Key `/cluster`: whose registry this is.",
      magic: "OVCL",
      version: 1,
      lies: "disk",
      body: "inside",
      fields: {
        magic: magic(),
        version: version(),
        length: length(),
        cluster: uuid("the cluster"),
        reserved: reservedTo(56),
        headerCrc: headerCrc(),
      },
    }),
    format({
      name: "VdiskRecord",
      purpose: "Key `/vdisk/<id>/record`: a vDisk as its users know it.",
      magic: "OVVD",
      version: 1,
      lies: "disk",
      body: "inside",
      fields: {
        magic: magic(),
        version: version(),
        length: length(),
        bodyCrc: bodyCrc(),
        vdisk: uuid("the vDisk"),
        sizeBytes: u64("size as the client sees it"),
        scoBytes: u64("size of its SCOs"),
        createdMs: u64("wall clock at creation, milliseconds since 1970"),
        reserved: reservedTo(92),
        headerCrc: headerCrc(),
        name: text("u8", 63, "name, which is also the NBD export's"),
        namespace: text("u8", 64, "namespace of its family in the backend"),
      },
    }),
    format({
      name: "VdiskOwner",
      purpose: "Key `/vdisk/<id>/owner`: who serves a vDisk. Changes only by compare (P-A4, P-C1).",
      magic: "OVOW",
      version: 1,
      lies: "disk",
      body: "inside",
      fields: {
        magic: magic(),
        version: version(),
        length: length(),
        bodyCrc: bodyCrc(),
        epoch: u64("owner epoch: the fencing token"),
        incarnation: uuid("the life of the router that claimed it"),
        state: code(ownerState, "how far it is"),
        content: code(ownerContent, "where the newest bytes are"),
        reserved: reservedTo(60),
        headerCrc: headerCrc(),
        router: text("u8", 63, "the router's id"),
      },
    }),
    format({
      name: "RouterAlive",
      purpose: "Key `/router/<id>/alive`, on the router's lease: absent means dead (P-C1).",
      magic: "OVRA",
      version: 1,
      lies: "disk",
      body: "inside",
      fields: {
        magic: magic(),
        version: version(),
        length: length(),
        bodyCrc: bodyCrc(),
        incarnation: uuid("this life of the router"),
        reserved: reservedTo(44),
        headerCrc: headerCrc(),
        address: text("u16", 255, "where its control service listens"),
      },
    }),
  ],
});
