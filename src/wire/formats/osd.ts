// SPDX-License-Identifier: Apache-2.0
// What the registry knows of an OSD.

import * as f from "../schema.js";

const OsdState = f.codes("OsdState", {
  active: { value: 1, doc: "takes new fragments" },
  draining: { value: 2, doc: "takes none; its fragments move away" },
  gone: { value: 3, doc: "never asked again; its fragments are rebuilt elsewhere" },
});

const OsdRecord = f.format({
  name: "OsdRecord",
  purpose: "An OSD as the registry knows it.",
  magic: "OVOS",
  version: 1,
  lies: "disk",
  body: "inside",
  fields: {
    magic: f.magic(),
    version: f.version(),
    state: f.code(OsdState, "what may be done with it"),
    reserved0: f.reserved(1),
    clusterUuid: f.uuid("cluster of machines that it belongs to"),
    diskUuid: f.uuid("the disk; fixed when it was formatted"),
    protocolMin: f.u16("oldest protocol version that it speaks"),
    protocolMax: f.u16("newest protocol version that it speaks"),
    reserved1: f.reserved(4),
    capacityBytes: f.u64("bytes that it may fill"),
    reserved2: f.reserved(16),
    length: f.length(),
    bodyCrc: f.bodyCrc(),
    headerCrc: f.headerCrc(),
    site: f.text("u8", 63, "failure domain: data centre"),
    rack: f.text("u8", 63, "failure domain: rack"),
    node: f.text("u8", 63, "failure domain: server"),
    address: f.text("u16", 1024, "where it listens"),
  },
});

export default f.area({
  name: "osd",
  purpose: "OSD records.",
  constants: {},
  codes: [OsdState],
  parts: [OsdRecord],
});
