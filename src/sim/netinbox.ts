// SPDX-License-Identifier: Apache-2.0
// What one wake-up of a simulated transport finds: events and metas in the shared arrays, payloads
// in the memory that was named for them or in the receive pool.

import { assert } from "../base/assert.js";
import { KIB } from "../base/units.js";
import { ArenaPool } from "../platform/arena.js";
import { EventKind } from "../platform/transport.js";
import { FrameKind } from "../wire/generated/frame.js";
import { type SimFrame, scatter } from "./netframe.js";
import type { SimSocket } from "./netsocket.js";
import type { SimNet } from "./network.js";

export const EVENT_WORDS = 12;
const EVENTS_MAX = 256;
const METAS_BYTES = 256 * KIB;
const NO_BYTES = new Uint8Array(0);

export interface TransportMemory {
  readonly arena: Uint8Array;
  /** The receive pool in it. */
  readonly offset: number;
  readonly bytes: number;
}

/** What became of a frame. */
export const Outcome = {
  Delivered: 0,
  /** More of it must come. */
  Partial: 1,
  /** The pool has no room now. */
  NoRoom: 2,
  /** A hook has stopped the process or its host before it. */
  Stopped: 3,
  Damaged: 4,
  TooLong: 5,
  NeverFits: 6,
} as const;
export type Outcome = (typeof Outcome)[keyof typeof Outcome];

/** The receiving half of a transport. */
export class Inbox {
  readonly events = new Uint32Array(EVENTS_MAX * EVENT_WORDS);
  readonly metas = new Uint8Array(METAS_BYTES);
  count = 0;
  readonly #net: SimNet;
  readonly #arena: Uint8Array;
  readonly #pool: ArenaPool;
  readonly #expected = new Map<SimSocket, Map<number, Uint32Array>>();
  #metasUsed = 0;
  #framesMax = EVENTS_MAX;
  #frames = 0;
  /** The frame that the hook is told of after it was handled. */
  #passing: { frame: SimFrame; sender: SimSocket } | null = null;

  constructor(net: SimNet, memory: TransportMemory) {
    this.#net = net;
    this.#arena = memory.arena;
    this.#pool = new ArenaPool(memory.offset, memory.bytes);
  }

  /** No event fits until the next wake-up. */
  get isFull(): boolean {
    return this.count === EVENTS_MAX;
  }

  /** A wake-up begins. */
  begin(): void {
    this.count = 0;
    this.#metasUsed = 0;
    this.#frames = 0;
    // With a hook each frame is a step of its own.
    this.#framesMax = this.#net.hook === null ? EVENTS_MAX : 1;
  }

  /** The events were handled. */
  end(): void {
    const passing = this.#passing;
    this.#passing = null;
    if (passing !== null) this.#net.pass(passing.frame, passing.sender, "deliver", "after");
  }

  /** An event; answers its place. */
  add(kind: number, subject: number): number {
    assert(this.count < EVENTS_MAX, "events have their limit");
    const at = EVENT_WORDS * this.count++;
    this.events[at] = kind;
    this.events[at + 1] = subject;
    return at;
  }

  /** False: the frame waits for the next wake-up. */
  hasRoomFor(frame: SimFrame): boolean {
    const hasMetas = this.#metasUsed + frame.meta.byteLength <= METAS_BYTES;
    return !this.isFull && this.#frames < this.#framesMax && hasMetas;
  }

  // Memory.

  /** The answer's payload goes there. Takes the list; borrows the memory, as `Transport` says. */
  expect(socket: SimSocket, requestId: number, pieces: Uint32Array): void {
    let table = this.#expected.get(socket);
    if (table === undefined) {
      table = new Map();
      this.#expected.set(socket, table);
    }
    table.set(requestId, pieces);
  }

  /** True when it is arriving now; else it is not expected any more. */
  forget(socket: SimSocket, requestId: number): boolean {
    const frame = socket.peer.frames.toRead;
    const isFilling =
      frame?.placed === true &&
      frame.pool === 0 &&
      frame.payloadBytes > 0 &&
      frame.kind === FrameKind.response &&
      frame.requestId === requestId;
    if (!isFilling) this.#expected.get(socket)?.delete(requestId);
    return isFilling;
  }

  /** Gives a payload (arena offset) back to the pool. */
  release(payload: number): void {
    this.#pool.give(payload);
  }

  /** A socket is closed; answers what it was filling of the pool, 0 for nothing. */
  leave(socket: SimSocket): number {
    this.#expected.delete(socket);
    if (socket.peer === socket) return 0;
    const frame = socket.peer.frames.toRead;
    return frame?.placed ? frame.pool : 0;
  }

  // Frames.

  /** Reads what has come of a frame, and delivers it when that is all. */
  read(socket: SimSocket, frame: SimFrame): Outcome {
    const sender = socket.peer;
    const headEnd = frame.start + frame.headBytes;
    if (!frame.placed) {
      sender.read = Math.max(sender.read, Math.min(sender.arrived, headEnd));
      if (sender.arrived < headEnd) return Outcome.Partial;
      const outcome = frame.payloadBytes > 0 ? this.#place(socket, frame) : Outcome.Delivered;
      if (outcome !== Outcome.Delivered) return outcome;
      frame.placed = true;
    }
    const to = Math.min(sender.arrived, frame.end);
    sender.read = to;
    if (to - headEnd > frame.copied) {
      const range = { from: frame.copied, to: to - headEnd };
      scatter(frame.body, frame.into, range, this.#arena);
      frame.copied = range.to;
    }
    if (to < frame.end) return Outcome.Partial;
    if (frame.damaged) return Outcome.Damaged;
    if (!this.#net.pass(frame, sender, "deliver", "before")) return Outcome.Stopped;
    if (socket.owner === null) return Outcome.Stopped;
    this.#deliver(socket, frame);
    return Outcome.Delivered;
  }

  /** Finds the place of a payload. */
  #place(socket: SimSocket, frame: SimFrame): Outcome {
    const table = frame.kind === FrameKind.response ? this.#expected.get(socket) : undefined;
    const into = table?.get(frame.requestId);
    if (into !== undefined) {
      let bytes = 0;
      for (let i = 1; i < into.length; i += 2) bytes += into[i]!;
      if (bytes < frame.payloadBytes) return Outcome.TooLong;
      table!.delete(frame.requestId);
      frame.into = into;
      return Outcome.Delivered;
    }
    if (frame.payloadBytes > this.#pool.bytes) return Outcome.NeverFits;
    frame.pool = this.#pool.tryTake(frame.payloadBytes);
    if (frame.pool === 0) return Outcome.NoRoom;
    frame.into = Uint32Array.of(frame.pool, frame.payloadBytes);
    return Outcome.Delivered;
  }

  #deliver(socket: SimSocket, frame: SimFrame): void {
    const { events } = this;
    if (frame.kind === FrameKind.response) this.#expected.get(socket)?.delete(frame.requestId);
    const at = this.add(EventKind.Frame, socket.id);
    const metaBytes = frame.meta.byteLength;
    events[at + 2] = frame.kind | (frame.priority << 8);
    events[at + 3] = frame.operation | (frame.status << 16);
    events[at + 4] = frame.requestId;
    events[at + 5] = frame.requestId / 4_294_967_296;
    events[at + 6] = frame.timeoutMs;
    events[at + 7] = this.#metasUsed;
    events[at + 8] = metaBytes;
    events[at + 9] = frame.pool;
    events[at + 10] = frame.payloadBytes;
    this.metas.set(frame.meta, this.#metasUsed);
    this.#metasUsed += metaBytes;
    this.#frames++;
    socket.peer.frames.wasRead();
    this.#net.bodies.give(frame.body);
    frame.body = NO_BYTES;
    if (this.#net.hook !== null) this.#passing = { frame, sender: socket.peer };
  }
}
