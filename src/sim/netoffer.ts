// SPDX-License-Identifier: Apache-2.0
// A process offers its kernel what it has pushed: the kernel takes as much as it has room for, and
// copies it out of the memory of the process.

import { gather, type SimFrame } from "./netframe.js";
import type { SimSocket } from "./netsocket.js";

/**
 * Takes what fits and has it sent. Adds the tokens of frames that were taken whole to `sent`.
 * `crcOf` checks the payload of a frame that had to wait.
 */
export function offer(
  socket: SimSocket,
  memory: Uint8Array,
  sent: number[],
  crcOf: (body: Uint8Array) => number,
): void {
  let room = socket.room();
  for (let frame = socket.frames.toTake; frame !== undefined && room > 0; ) {
    const bytes = Math.min(room, frame.end - socket.taken);
    take(socket, frame, bytes, memory);
    room -= bytes;
    if (socket.taken < frame.end) break;
    if (frame.crc >= 0) {
      frame.damaged = crcOf(frame.body.subarray(0, frame.payloadBytes)) !== frame.crc;
    }
    socket.frames.wasTaken();
    if (frame.token !== 0) sent.push(frame.token);
    frame = socket.frames.toTake;
  }
  socket.waitsForRoom = socket.taken < socket.pushed;
  if (socket.taken > socket.departed) socket.host.transmit(socket);
}

/** The kernel takes so many more bytes of a frame. */
function take(socket: SimSocket, frame: SimFrame, bytes: number, memory: Uint8Array): void {
  const head = frame.start + frame.headBytes;
  const from = Math.max(0, socket.taken - head);
  socket.taken += bytes;
  const to = Math.max(0, socket.taken - head);
  if (to <= from || frame.pieces.length === 0) return;
  if (from === 0) frame.body = socket.host.net.bodies.take(frame.payloadBytes);
  gather(memory, frame.pieces, { from, to }, frame.body);
}

/** Puts a frame at the end of the stream; it leaves with the next offer. */
export function push(socket: SimSocket, frame: SimFrame): void {
  frame.start = socket.pushed;
  socket.pushed += frame.bytes;
  frame.end = socket.pushed;
  socket.frames.push(frame);
}
