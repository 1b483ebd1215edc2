// SPDX-License-Identifier: Apache-2.0
// What simulated NBD clients and servers say to each other: frames over simulated sockets that
// carry what the protocol's messages do. Bytes and their parsing are the real engine's matter.
//
//   client                                server
//     Hello: name ────────────────────────►
//     ◄──────────────── Agreed: size, flags, or Refused: why
//     List ───────────────────────────────►
//     ◄─────────────────────── Exports: JSON
//     Request: type, flags, offset, … ────►
//     ◄──────────── Reply: errno, bytes read

import { SimFrame } from "./netframe.js";

export const NbdFrame = {
  Hello: 16,
  Agreed: 17,
  Refused: 18,
  List: 19,
  Exports: 20,
  Request: 21,
  Reply: 22,
} as const;
export type NbdFrame = (typeof NbdFrame)[keyof typeof NbdFrame];

const NO_BYTES = new Uint8Array(0);

/** Fields of a frame; those that are not said are 0 or empty. */
export interface NbdFields {
  operation?: number;
  status?: number;
  requestId?: number;
  /** Both are the frame's from now on. */
  meta?: Uint8Array;
  body?: Uint8Array;
  /** Payload in the sender's memory. */
  pieces?: Uint32Array;
  token?: number;
}

/** A frame to push into a socket. */
export function nbdFrame(kind: NbdFrame, fields: NbdFields): SimFrame {
  const { operation = 0, status = 0, requestId = 0, token = 0, body = NO_BYTES } = fields;
  const header = { kind, operation, status, requestId, priority: 0, timeoutMs: 0 };
  const pieces = fields.pieces ?? null;
  const payload = pieces === null ? null : { list: pieces, count: pieces.length / 2 };
  const frame = new SimFrame(header, fields.meta ?? null, payload, token);
  if (body.byteLength > 0) {
    frame.body = body;
    frame.payloadBytes = body.byteLength;
  }
  return frame;
}

/** Offset and length of a request as its meta. */
export function packRange(offset: number, length: number): Uint8Array {
  return new Uint8Array(Float64Array.of(offset, length).buffer);
}

/** What `packRange` has packed. */
export function unpackRange(meta: Uint8Array): { offset: number; length: number } {
  const view = new DataView(meta.buffer, meta.byteOffset, meta.byteLength);
  return { offset: view.getFloat64(0, true), length: view.getFloat64(8, true) };
}
