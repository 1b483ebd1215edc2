// SPDX-License-Identifier: Apache-2.0
// One connection of a simulated NBD server in its transmission phase: the rules of
// native/nbd/core/session.h over frames instead of bytes.
//
//   Open ──too few slots──► (waits) ──► Open ──disconnect, end, drain──► Draining ──► closed
//     └───────────── socket fails, destroyed ──► Ended ──► closed

import { describeErrno } from "../native/transport.js";
import { NbdErrno } from "../nbd/errno.js";
import { RequestFlag, RequestKind } from "../nbd/target.js";
import { ReplyMode } from "../platform/nbd.js";
import { type NbdRequest, type NbdSlots, NONE, partsOf, type SlotUser } from "./nbdslots.js";
import { NbdFrame, nbdFrame, unpackRange } from "./nbdwire.js";
import { type SimFrame, scatter } from "./netframe.js";
import { offer, push } from "./netoffer.js";
import { Ending, type SimSocket, SocketState } from "./netsocket.js";

const EPIPE = 32;

/** What requests are checked against. */
export interface NbdTargetState {
  sizeBytes: number;
  readOnly: boolean;
  alive: boolean;
}

/** What a session asks of its server. */
export interface SessionHost {
  readonly slots: NbdSlots;
  readonly memory: Uint8Array;
  readonly totals: { requests: number; errors: number; bytesIn: number; bytesOut: number };
  /** Undefined for one that was removed. */
  target(id: number): NbdTargetState | undefined;
  /** Something changed: it is served before the wake-up ends. */
  mark(session: NbdSession): void;
  /** It goes on reading in the next wake-up. */
  again(session: NbdSession): void;
}

const State = { Open: 0, Draining: 1, Ended: 2 } as const;
type State = (typeof State)[keyof typeof State];

export class NbdSession implements SlotUser {
  readonly connection: number;
  readonly target: number;
  readonly socket: SimSocket;
  need = 0;
  /** Why it ended, for the log. */
  reason = "";
  isMarked = false;
  /** Changes when the other side moves. */
  progress = 0;
  seenProgress = 0;
  stillMs = 0;
  readonly #host: SessionHost;
  readonly #mode: ReplyMode;
  readonly #allocation: boolean;
  #state: State = State.Open;
  #inFlight = 0;
  #request: NbdRequest | null = null;
  #waiting = false;
  /** First slot of the write that is arriving, and the part that is being filled. */
  #first = NONE;
  #part = NONE;
  #filled = 0;
  /** Its payload is thrown away. */
  #discards = false;
  readonly #sent: number[] = [];

  constructor(
    host: SessionHost,
    socket: SimSocket,
    options: { connection: number; target: number; mode: ReplyMode; allocation: boolean },
  ) {
    this.#host = host;
    this.socket = socket;
    this.connection = options.connection;
    this.target = options.target;
    this.#mode = options.mode;
    this.#allocation = options.allocation;
  }

  /** There is something to read: bytes, or that none will come. */
  get hasInput(): boolean {
    const { socket } = this;
    if (!this.wantsInput) return false;
    return socket.unread > 0 || socket.error !== 0 || socket.peer.arrivedEnding !== Ending.None;
  }

  /** Nothing is left to do: the socket may be closed. */
  get finished(): boolean {
    if (this.#state === State.Ended) return true;
    return this.#state === State.Draining && this.#inFlight === 0;
  }

  /** It reads: it is not about to end, and waits for no slots. */
  get wantsInput(): boolean {
    return this.#state === State.Open && !this.#waiting;
  }

  /** The other side keeps slots busy: by a payload that does not come or replies not taken. */
  get holdsSlotsIdle(): boolean {
    return this.#first !== NONE || this.socket.taken < this.socket.pushed;
  }

  // Input.

  /** Reads what has come, at most so many requests; answers how many were whole. */
  receive(requestsMax: number): number {
    const sender = this.socket.peer;
    const before = sender.read;
    let whole = 0;
    while (this.wantsInput && whole < requestsMax) {
      const frame = sender.frames.toRead;
      if (frame === undefined || sender.arrived <= frame.start) break;
      if (!this.#readFrame(frame)) break;
      whole++;
    }
    if (sender.read > before) {
      this.#host.totals.bytesIn += sender.read - before;
      this.progress++;
      sender.onRead();
    }
    if (this.wantsInput && whole < requestsMax) this.#findEnd();
    return whole;
  }

  /** True when a request came whole. */
  #readFrame(frame: SimFrame): boolean {
    const sender = this.socket.peer;
    const headEnd = frame.start + frame.headBytes;
    if (!frame.placed) {
      sender.read = Math.max(sender.read, Math.min(sender.arrived, headEnd));
      if (sender.arrived < headEnd) return false;
      frame.placed = true;
      this.#onHeader(frame);
    }
    if (!this.wantsInput) return false;
    const to = Math.min(sender.arrived, frame.end);
    sender.read = to;
    this.#onPayload(frame, to - headEnd);
    if (to < frame.end) return false;
    sender.frames.wasRead();
    const { net } = this.socket.host;
    net.pass(frame, sender, "deliver", "before");
    net.bodies.give(frame.body);
    frame.body = new Uint8Array(0);
    return true;
  }

  #onHeader(frame: SimFrame): void {
    if (frame.operation === RequestKind.Disconnect) {
      this.drain("");
      return;
    }
    const { offset, length } = unpackRange(frame.meta);
    const request: NbdRequest = {
      type: frame.operation,
      flags: frame.status,
      cookie: frame.requestId,
      offset,
      bytes: length,
      error: 0,
    };
    request.error = this.#judge(request);
    this.#request = request;
    this.need = this.#moves(request) && request.error === 0 ? partsOf(offset, length) : 1;
    if (this.#host.slots.admit(this)) this.#begin();
    else this.#waiting = true;
  }

  resume(): void {
    this.#waiting = false;
    const request = this.#request!;
    // While it waited the target may have shrunk or gone.
    if (request.error === 0) request.error = this.#judge(request);
    this.#begin();
    this.#host.again(this);
  }

  #moves({ type, bytes }: NbdRequest): boolean {
    return (type === RequestKind.Read || type === RequestKind.Write) && bytes > 0;
  }

  /** The errno that a request deserves before anybody has looked at its payload. */
  #judge(request: NbdRequest): number {
    const target = this.#host.target(this.target);
    const { type, offset, bytes, flags } = request;
    if (!target?.alive) return NbdErrno.Eshutdown;
    if ((flags & ~this.#allowedFlags(type)) !== 0 || type > RequestKind.BlockStatus) {
      return NbdErrno.Einval;
    }
    const zeroes = type === RequestKind.WriteZeroes;
    const writes = type === RequestKind.Write || type === RequestKind.Trim || zeroes;
    if (writes && target.readOnly) return NbdErrno.Eperm;
    if (type === RequestKind.Flush) return offset === 0 && bytes === 0 ? 0 : NbdErrno.Einval;
    const isStatus = type === RequestKind.BlockStatus;
    if (isStatus && (!this.#allocation || bytes === 0)) return NbdErrno.Einval;
    if (offset > target.sizeBytes || bytes > target.sizeBytes - offset) {
      return type === RequestKind.Write || zeroes ? NbdErrno.Enospc : NbdErrno.Einval;
    }
    const moves = type === RequestKind.Read || type === RequestKind.Write;
    if (moves && bytes > this.#host.slots.requestBytesMax) {
      return (flags & RequestFlag.Df) !== 0 ? NbdErrno.Eoverflow : NbdErrno.Einval;
    }
    return 0;
  }

  #allowedFlags(type: number): number {
    const { Fua, Df, PayloadLen, NoHole, FastZero, ReqOne } = RequestFlag;
    if (type === RequestKind.Read && this.#mode !== ReplyMode.Simple) return Fua | Df;
    if (type === RequestKind.Write && this.#mode === ReplyMode.Extended) return Fua | PayloadLen;
    if (type === RequestKind.WriteZeroes) return Fua | NoHole | FastZero;
    if (type === RequestKind.BlockStatus) return Fua | ReqOne;
    return Fua;
  }

  /** Takes the request's slots, which are there. */
  #begin(): void {
    const { slots, totals } = this.#host;
    const request = this.#request!;
    totals.requests++;
    this.#inFlight++;
    if (request.error === 0 && this.#moves(request)) {
      const first = slots.takeParts(this, request);
      if (request.type === RequestKind.Write) {
        this.#first = first;
        this.#part = first;
        this.#filled = 0;
        return;
      }
      for (let part = first; part !== NONE; part = slots.slot(part).next) slots.makeReady(part);
      return;
    }
    const index = slots.takeOne(this, request);
    if (request.type === RequestKind.Write && request.bytes > 0) {
      this.#first = index;
      this.#discards = true;
    } else if (request.error !== 0 || (request.bytes === 0 && request.type !== RequestKind.Flush)) {
      slots.answer(index, request.error);
    } else {
      slots.publish(index);
      slots.makeReady(index);
    }
  }

  /** The payload of the frame has come up to `to`. */
  #onPayload(frame: SimFrame, to: number): void {
    const from = frame.copied;
    if (this.#first === NONE || to <= from) return;
    const { slots, memory } = this.#host;
    frame.copied = to;
    if (this.#discards) {
      if (to < frame.payloadBytes) return;
      const first = this.#first;
      this.#first = NONE;
      this.#discards = false;
      slots.answer(first, this.#request!.error);
      return;
    }
    if (frame.into.length === 0) frame.into = slots.pieces(this.#first);
    scatter(frame.body, frame.into, { from, to }, memory);
    for (let bytes = to - from; bytes > 0; ) {
      const part = slots.slot(this.#part);
      const take = Math.min(bytes, part.bytes - this.#filled);
      this.#filled += take;
      bytes -= take;
      if (this.#filled < part.bytes) break;
      const done = this.#part;
      this.#part = part.next;
      this.#filled = 0;
      slots.checksum(done);
      slots.makeReady(done);
    }
    if (this.#part === NONE) this.#first = NONE;
  }

  /** All that came is read: is there an end? */
  #findEnd(): void {
    const sender = this.socket.peer;
    const frame = sender.frames.toRead;
    const isAll = sender.read >= sender.arrived;
    if (!isAll && frame !== undefined) return;
    if (this.socket.error !== 0) this.end(describeErrno(this.socket.error));
    else if (sender.arrivedEnding !== Ending.None) {
      this.drain("closed by the client without a disconnect request");
    }
  }

  // Output.

  requestDone(first: number): void {
    const { slots, totals } = this.#host;
    const slot = slots.slot(first);
    const request = slot.request!;
    const isRead = request.type === RequestKind.Read && slot.error === 0 && request.bytes > 0;
    if (!isRead) slots.releaseParts(first, { rest: true });
    if (slot.error !== 0) totals.errors++;
    const isStatus = request.type === RequestKind.BlockStatus && slot.error === 0;
    const pieces = isRead ? slots.pieces(first) : null;
    push(
      this.socket,
      nbdFrame(NbdFrame.Reply, {
        operation: request.type,
        status: slot.error,
        requestId: request.cookie,
        token: first + 1,
        ...(pieces === null ? {} : { pieces }),
        ...(isStatus ? { body: this.#extents(first, request, slot.extents) } : {}),
      }),
    );
    this.#host.mark(this);
  }

  /** The target's extents, 12 bytes each, neighbours joined and cut to the request. */
  #extents(first: number, request: NbdRequest, count: number): Uint8Array {
    const { slots, memory } = this.#host;
    const words = new Uint32Array(memory.buffer, slots.memoryOf(first), 3 * count);
    const most = (request.flags & RequestFlag.ReqOne) !== 0 ? 1 : count + 1;
    const joined: Array<{ bytes: number; flags: number }> = [];
    let left = request.bytes;
    for (let i = 0; i < count && left > 0; i++) {
      const bytes = Math.min(left, words[3 * i]! + words[3 * i + 1]! * 2 ** 32);
      const flags = words[3 * i + 2]!;
      left -= bytes;
      const last = joined.at(-1);
      if (last !== undefined && last.flags === flags) last.bytes += bytes;
      else if (joined.length === most) break;
      else joined.push({ bytes, flags });
    }
    if (joined.length === 0) joined.push({ bytes: request.bytes, flags: 0 });
    const list = joined.flatMap(({ bytes, flags }) => [bytes, Math.floor(bytes / 2 ** 32), flags]);
    return new Uint8Array(Uint32Array.from(list).buffer);
  }

  /** Sends what is complete. */
  send(): void {
    const { socket } = this;
    if (this.#state === State.Ended || socket.pushed === socket.taken) return;
    const isGone = socket.isUnix && socket.peer.state === SocketState.Closed;
    if (socket.error !== 0 || isGone) {
      this.end(describeErrno(socket.error === 0 ? EPIPE : socket.error));
      return;
    }
    const before = socket.taken;
    offer(socket, this.#host.memory, this.#sent, () => -1);
    if (socket.taken === before) return;
    this.#host.totals.bytesOut += socket.taken - before;
    this.progress++;
    for (const token of this.#sent) {
      this.#host.slots.releaseParts(token - 1, { rest: false });
      this.#inFlight--;
    }
    this.#sent.length = 0;
  }

  // Ends.

  /** No more requests are read; those in flight are answered. */
  drain(reason: string): void {
    if (this.#state !== State.Open) return;
    if (this.reason === "") this.reason = reason;
    // What has not come whole is never answered; the target may carry out what it has of it.
    if (this.#first !== NONE) {
      this.#host.slots.abandon(this.#first);
      this.#inFlight--;
      this.#first = NONE;
    }
    if (this.#waiting) this.#host.slots.stopWaiting(this);
    this.#waiting = false;
    this.#state = State.Draining;
    this.#host.mark(this);
  }

  /** Ends at once. */
  end(reason: string): void {
    if (this.#state === State.Ended) return;
    if (reason !== "") this.reason = reason;
    this.#state = State.Ended;
    this.#waiting = false;
    this.#first = NONE;
    this.#inFlight = 0;
    this.socket.frames.drop([]);
    this.socket.pushed = this.socket.taken;
    this.#host.slots.forget(this);
    this.#host.mark(this);
  }
}
