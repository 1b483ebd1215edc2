// SPDX-License-Identifier: Apache-2.0
// The TypeScript face of the addon `transport` (native/transport/binding.cc, same names and order):
// the sockets of a thread behind one shared block of memory.
//
//   events[] and metas[]  what has come, written by the addon before it calls onEvents
//   log[]                 what was decided, written here, obeyed in order by `apply` once a turn
//   done[]                tokens of frames that the kernel has taken, the answer of `apply`
//   queued[]              bytes that the kernel has not taken, per slot of a connection

import { getSystemErrorMap } from "node:util";
import { assert } from "../base/assert.js";
import {
  type Frame,
  META_BYTES_MAX,
  PAYLOAD_BYTES_MAX,
  type Segments,
} from "../platform/network.js";
import { SEGMENTS_MAX } from "../platform/segments.js";
import type { Transport } from "../platform/transport.js";
import { loadAddon } from "./load.js";

const LogKind = { Send: 1, Expect: 2, Release: 3, Reading: 4 } as const;
const SEND_WORDS = 10;
const EXPECT_WORDS = 5;

/** Why the addon ended a connection: the order of `Fault` in native/transport/core/frame.h. */
const FAULTS = [
  "closed by this side",
  "closed by the other side",
  "closed by the other side in the middle of a frame",
  "", // The system's error says it.
  "what came is not a frame (bad magic)",
  "a frame of a version that is not spoken here",
  "a damaged frame header (bad checksum)",
  "a frame header with reserved bytes that are not zero",
  "a frame header with a kind, priority or request id out of range",
  "a frame header with impossible lengths",
  "damaged meta (bad checksum)",
  "a damaged payload (bad checksum)",
  "a payload longer than what was expected",
  "a payload longer than the receive pool",
] as const;
export const FAULT_PEER_CLOSED = 1;

interface Layout {
  sharedBytes: number;
  eventsAt: number;
  eventWords: number;
  logAt: number;
  logWords: number;
  doneAt: number;
  doneMax: number;
  queuedAt: number;
  connectionsMax: number;
  metasAt: number;
}

type Session = object;

interface Addon {
  readonly layout: Layout;
  open(
    arena: ArrayBuffer,
    poolOffset: number,
    poolBytes: number,
    shared: ArrayBuffer,
    onEvents: (count: number) => void,
  ): Session;
  listenUnix(session: Session, path: string): number;
  listenTcp(session: Session, ip: string, port: number): number;
  listenerPort(session: Session, listener: number): number;
  closeListener(session: Session, listener: number): void;
  connectUnix(session: Session, path: string): number;
  connectTcp(session: Session, ip: string, port: number): number;
  peer(session: Session, connection: number): string;
  apply(session: Session, words: number, flush: boolean): number;
  forget(session: Session, connection: number, requestId: number): boolean;
  close(session: Session, connection: number): void;
  poolFreeBytes(session: Session): number;
  stop(session: Session): void;
}

/** Words for the end of a connection. */
export function describeFault(fault: number, errno: number): string {
  return errno === 0 ? (FAULTS[fault] ?? `fault ${fault}`) : describeErrno(errno);
}

/** It is a new map at each call. */
const ERRORS: ReadonlyMap<number, [name: string, words: string]> = getSystemErrorMap();

/** Words for an errno (positive). */
export function describeErrno(errno: number): string {
  const entry = ERRORS.get(-errno);
  return entry ? `${entry[1]} (${entry[0]})` : `error ${errno}`;
}

/** The sockets of one thread. Open until `stop`. */
export class TransportSession implements Transport {
  readonly events: Uint32Array;
  readonly eventWords: number;
  readonly metas: Uint8Array;
  readonly done: Uint32Array;
  readonly doneMax: number;
  /** Grows with every `apply`: what was staged before is then counted in `queued`. */
  applied = 0;
  readonly #addon: Addon;
  readonly #session: Session;
  readonly #arenaBytes: number;
  readonly #queued: Float64Array;
  readonly #slots: number;
  readonly #log: Uint32Array;
  readonly #logBytes: Uint8Array;
  #words = 0;

  /** `pool`: the part of the arena for payloads that nobody expects. */
  constructor(
    arena: ArrayBuffer,
    pool: { offset: number; bytes: number },
    onEvents: (count: number) => void,
  ) {
    this.#addon = loadAddon<Addon>("transport");
    const layout = this.#addon.layout;
    const shared = new ArrayBuffer(layout.sharedBytes);
    this.#arenaBytes = arena.byteLength;
    this.#slots = layout.connectionsMax;
    this.eventWords = layout.eventWords;
    this.doneMax = layout.doneMax;
    this.events = new Uint32Array(shared, layout.eventsAt, (layout.logAt - layout.eventsAt) / 4);
    this.#log = new Uint32Array(shared, layout.logAt, layout.logWords);
    this.#logBytes = new Uint8Array(shared, layout.logAt, 4 * layout.logWords);
    this.done = new Uint32Array(shared, layout.doneAt, layout.doneMax);
    this.#queued = new Float64Array(shared, layout.queuedAt, layout.connectionsMax);
    this.metas = new Uint8Array(shared, layout.metasAt);
    assert(SEND_WORDS + 2 * SEGMENTS_MAX + META_BYTES_MAX / 4 <= layout.logWords, "a frame fits");
    this.#session = this.#addon.open(arena, pool.offset, pool.bytes, shared, onEvents);
  }

  /** Id of a listener, or -errno. */
  listenUnix(path: string): number {
    return this.#addon.listenUnix(this.#session, path);
  }

  /** Id of a listener, or -errno; port 0 takes any free one. */
  listenTcp(ip: string, port: number): number {
    return this.#addon.listenTcp(this.#session, ip, port);
  }

  /** The real port of a listener on TCP. */
  listenerPort(listener: number): number {
    return this.#addon.listenerPort(this.#session, listener);
  }

  /** Accepts no more, and removes the socket's file if it is still ours. Idempotent. */
  closeListener(listener: number): void {
    this.#addon.closeListener(this.#session, listener);
  }

  /** Id of a connection that is being made, or -errno. */
  connectUnix(path: string): number {
    return this.#addon.connectUnix(this.#session, path);
  }

  /** Id of a connection that is being made, or -errno. */
  connectTcp(ip: string, port: number): number {
    return this.#addon.connectTcp(this.#session, ip, port);
  }

  /** Address of the other side of a TCP connection; "" for others. */
  peer(connection: number): string {
    return this.#addon.peer(this.#session, connection);
  }

  /** Bytes of a connection that the kernel has not taken, without those staged since `apply`. */
  queuedBytes(connection: number): number {
    return this.#queued[connection % this.#slots]!;
  }

  /** True when something was staged that `apply` has not handed over. */
  get hasStaged(): boolean {
    return this.#words > 0;
  }

  /** Words of the log that an entry may have in the worst case: with less room, `apply` first. */
  hasRoomFor(segments: number, metaBytes: number): boolean {
    const need = SEND_WORDS + 2 * segments + (metaBytes >>> 2) + 1;
    return this.#words + need <= this.#log.length;
  }

  /** Stages a frame; copies meta and list. Returns its bytes on the wire, without the header. */
  stageSend(
    connection: number,
    frame: Frame,
    meta: Uint8Array | null,
    payload: Segments | null,
    token: number,
  ): number {
    const log = this.#log;
    const at = this.#words;
    const metaBytes = meta === null ? 0 : meta.byteLength;
    assert(metaBytes <= META_BYTES_MAX, "meta has its limit");
    assert(frame.requestId >= 0 && frame.requestId < 2 ** 53, "request ids are exact numbers");
    log[at] = LogKind.Send;
    log[at + 1] = connection;
    log[at + 2] = frame.kind | (frame.priority << 8);
    log[at + 3] = frame.operation | (frame.status << 16);
    log[at + 4] = frame.requestId;
    log[at + 5] = frame.requestId / 4_294_967_296;
    log[at + 6] = frame.timeoutMs;
    log[at + 7] = metaBytes;
    log[at + 8] = payload === null ? 0 : payload.count;
    log[at + 9] = token;
    this.#words = at + SEND_WORDS;
    const payloadBytes = payload === null ? 0 : this.#stageSegments(payload);
    assert(payloadBytes <= PAYLOAD_BYTES_MAX, "a payload has its limit");
    if (meta !== null) {
      this.#logBytes.set(meta, 4 * this.#words);
      this.#words += (metaBytes + 3) >>> 2;
    }
    return metaBytes + payloadBytes;
  }

  /**
   * Stages where the payload of the answer to `requestId` goes. Copies the list; borrows the memory
   * until the answer, `forget` or the connection's end.
   */
  stageExpect(connection: number, requestId: number, into: Segments): void {
    const log = this.#log;
    const at = this.#words;
    assert(into.count > 0, "a payload is expected somewhere");
    log[at] = LogKind.Expect;
    log[at + 1] = connection;
    log[at + 2] = requestId;
    log[at + 3] = requestId / 4_294_967_296;
    log[at + 4] = into.count;
    this.#words = at + EXPECT_WORDS;
    this.#stageSegments(into);
  }

  /** Stages the return of a received payload to the pool. */
  stageRelease(payload: number): void {
    const at = this.#words;
    this.#log[at] = LogKind.Release;
    this.#log[at + 1] = payload;
    this.#words = at + 2;
  }

  /** Stages that the socket is read, or is not any more. */
  stageReading(connection: number, on: boolean): void {
    const at = this.#words;
    this.#log[at] = LogKind.Reading;
    this.#log[at + 1] = connection;
    this.#log[at + 2] = on ? 1 : 0;
    this.#words = at + 3;
  }

  #stageSegments(segments: Segments): number {
    const { list, count } = segments;
    const log = this.#log;
    let at = this.#words;
    let bytes = 0;
    assert(count <= SEGMENTS_MAX, "a list of segments has its limit");
    for (let i = 0; i < 2 * count; i += 2) {
      const length = list[i + 1]!;
      assert(length > 0 && list[i]! + length <= this.#arenaBytes, "a segment lies in the arena");
      log[at++] = list[i]!;
      log[at++] = length;
      bytes += length;
    }
    this.#words = at;
    return bytes;
  }

  /** Hands over what is staged; with `flush` sends it. Returns the number of tokens in `done`. */
  apply(flush: boolean): number {
    const words = this.#words;
    this.#words = 0;
    this.applied++;
    return this.#addon.apply(this.#session, words, flush);
  }

  /** True when the payload of the response is arriving now; else it is not expected any more. */
  forget(connection: number, requestId: number): boolean {
    return this.#addon.forget(this.#session, connection, requestId);
  }

  /** Closes at once: lent memory is free on return. Sent and Closed events follow. */
  close(connection: number): void {
    this.#addon.close(this.#session, connection);
  }

  /** Bytes of the pool that no received payload holds. */
  get poolFreeBytes(): number {
    return this.#addon.poolFreeBytes(this.#session);
  }

  /** Ends everything without further events; nothing may be called after it. */
  stop(): void {
    this.#addon.stop(this.#session);
  }
}
