// SPDX-License-Identifier: Apache-2.0
// Frames between daemons. The addon `transport` writes and checks them; JavaScript never does.
//
//   | header, 64 bytes | meta, ≤ 64 KiB | payload, ≤ 66 MiB |
//
// Lengths are checked before memory is taken, the header's CRC before its lengths are believed.

import * as f from "../schema.js";

const FrameKind = f.codes("FrameKind", {
  request: { value: 0, doc: "waits for a response with the same request id" },
  response: { value: 1, doc: "answers a request" },
  oneWay: { value: 2, doc: "waits for nothing" },
});

const FramePriority = f.codes("FramePriority", {
  normal: { value: 0, doc: "somebody waits for it" },
  background: { value: 1, doc: "yields to the others" },
});

const FrameHeader = f.format({
  name: "FrameHeader",
  purpose: "Header of a frame between daemons; meta and payload follow it.",
  magic: "OVFR",
  version: 1,
  lies: "wire",
  body: "outside",
  fields: {
    magic: f.magic(),
    version: f.version(),
    kind: f.code(FrameKind, "what the frame is"),
    priority: f.code(FramePriority, "how urgent the request is"),
    operation: f.u16("operation of the service; 0xff00 and above belong to rpc"),
    status: f.u16("responses: 0 success, else the number of the error; requests: 0"),
    reserved0: f.reserved(4),
    requestId: f.u64("pairs request and response; unique per connection and direction"),
    timeoutMs: f.u32("milliseconds that the sender still waits; 0: no limit"),
    metaBytes: f.u32("bytes of meta, at most 64 KiB"),
    payloadBytes: f.u32("bytes of payload, at most 66 MiB"),
    metaCrc: f.u32("CRC-32C of meta"),
    reserved1: f.reservedTo(52),
    length: f.length("64 + bytes of meta + bytes of payload"),
    bodyCrc: f.bodyCrc("CRC-32C of the payload"),
    headerCrc: f.headerCrc(),
  },
});

export default f.area({
  name: "frame",
  purpose: "Frames between daemons.",
  constants: {
    FRAME_META_BYTES_MAX: { value: 64 * 1024, doc: "longest meta" },
    FRAME_PAYLOAD_BYTES_MAX: {
      value: 66 * 1024 * 1024,
      doc: "longest payload: an object of 64 MiB, its checksums and what is committed with it",
    },
  },
  codes: [FrameKind, FramePriority],
  parts: [FrameHeader],
});
