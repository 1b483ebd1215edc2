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

export default f.area({
  name: "asd",
  purpose: "The folder of an ASD and its protocol.",
  constants: { ASD_FOLDER_VERSION: { value: 1, doc: "version of the folder's layout" } },
  codes: [],
  parts: [DiskIdentity],
});
