// SPDX-License-Identifier: Apache-2.0
// The sockets of one thread of a simulated process: what the addon `transport` is in the real
// world, with its order of events. A wake-up is an event of the life: a frozen one does not read,
// and what comes for it stays in the kernel, as far as that has room.

import { assert } from "../base/assert.js";
import { KIB } from "../base/units.js";
import type { Codec } from "../platform/codec.js";
import type { Frame, Segments } from "../platform/network.js";
import { SEGMENTS_MAX } from "../platform/segments.js";
import { EventKind, type Transport } from "../platform/transport.js";
import type { Life } from "./life.js";
import { HEADER_BYTES, SimFrame } from "./netframe.js";
import type { Listening, NetHost } from "./nethost.js";
import { EVENT_WORDS, Inbox, Outcome, type TransportMemory } from "./netinbox.js";
import { offer, push } from "./netoffer.js";
import { ECONNRESET, Ending, type SimSocket, type SocketOwner, SocketState } from "./netsocket.js";
import type { SimNet } from "./network.js";

const DONE_MAX = 1024;
/** Bytes of one connection after which a wake-up goes on to the next. */
const READ_BYTES = 64 * KIB;
const STAGED_MAX = 8192;
const WAKE_MS = 0.002;
const WAKE_JITTER_MS = 0.01;

const EPIPE = 32;

/** The order of FAULTS in src/native/transport.ts. */
const Fault = {
  None: 0,
  PeerClosed: 1,
  PeerTruncated: 2,
  System: 3,
  PayloadCrc: 11,
  LongerThanExpected: 12,
  LongerThanPool: 13,
} as const;
type Fault = (typeof Fault)[keyof typeof Fault];

/** An entry of the log: a frame of a connection. */
interface Staged {
  readonly connection: number;
  readonly frame: SimFrame;
}

export class SimTransport implements Transport, SocketOwner {
  readonly events: Uint32Array;
  readonly eventWords = EVENT_WORDS;
  readonly metas: Uint8Array;
  readonly done = new Uint32Array(DONE_MAX);
  readonly doneMax = DONE_MAX;
  applied = 0;
  readonly #net: SimNet;
  readonly #host: NetHost;
  readonly #life: Life;
  readonly #arena: Uint8Array;
  readonly #codec: Pick<Codec, "crc32c" | "crc32cOf">;
  readonly #onEvents: (count: number) => void;
  readonly #inbox: Inbox;
  readonly #sockets = new Map<number, SimSocket>();
  readonly #listeners: Array<Listening | null> = [];
  readonly #onKnock = () => {
    this.#knocks = true;
    this.#signal();
  };
  readonly #crcOfBody = (body: Uint8Array) => this.#codec.crc32cOf(body, 0);
  readonly #wakeWork = () => this.#wake();
  #log: Staged[] = [];
  /** Sockets with something to send at the turn's end. */
  #staged: SimSocket[] = [];
  /** Sockets to look at in the next wake-up, and listeners with somebody in their queue. */
  #ready: SimSocket[] = [];
  #starved: SimSocket[] = [];
  /** Tokens and ends that were not told yet. */
  #sent: number[] = [];
  #ended: Array<{ id: number; fault: Fault; errno: number }> = [];
  #knocks = false;
  #signalled = false;
  #sendsLater = false;
  #stopped = false;
  #nextId = 1;

  constructor(
    host: NetHost,
    life: Life,
    memory: TransportMemory,
    codec: Pick<Codec, "crc32c" | "crc32cOf">,
    onEvents: (count: number) => void,
  ) {
    this.#net = host.net;
    this.#host = host;
    this.#life = life;
    this.#arena = memory.arena;
    this.#codec = codec;
    this.#onEvents = onEvents;
    this.#inbox = new Inbox(host.net, memory);
    this.events = this.#inbox.events;
    this.metas = this.#inbox.metas;
    life.atEnd(() => this.#end());
  }

  get lifeName(): string {
    return this.#life.name;
  }

  // Listeners.

  listenUnix(path: string): number {
    if (this.#stopped) return this.#nobody();
    return this.#addListener(this.#host.listenUnix(path, this.#onKnock));
  }

  listenTcp(ip: string, port: number): number {
    if (this.#stopped) return this.#nobody();
    return this.#addListener(this.#host.listenTcp(ip, port, this.#onKnock));
  }

  /** The process has ended in the middle of a turn: what it asks for after that does not happen. */
  #nobody(): number {
    return this.#listeners.push(null) - 1;
  }

  #addListener(listening: Listening | number): number {
    if (typeof listening === "number") return listening;
    return this.#listeners.push(listening) - 1;
  }

  listenerPort(listener: number): number {
    return this.#listeners[listener]?.port ?? 0;
  }

  closeListener(id: number): void {
    const listening = this.#listeners[id];
    if (!listening) return;
    this.#listeners[id] = null;
    this.#host.unlisten(listening, { killed: this.#life.state === "dead" });
  }

  // Connections.

  connectUnix(path: string): number {
    const socket = this.#net.connectUnix(this.#host, path);
    return typeof socket === "number" ? socket : this.#connecting(socket);
  }

  connectTcp(ip: string, port: number): number {
    return this.#connecting(this.#net.connectTcp(this.#host, ip, port));
  }

  #connecting(socket: SimSocket): number {
    socket.paused = true;
    this.#add(socket);
    if (socket.peer !== socket) this.ready(socket);
    return socket.id;
  }

  #add(socket: SimSocket): void {
    socket.id = this.#nextId++;
    socket.owner = this;
    this.#sockets.set(socket.id, socket);
    this.#host.sockets.add(socket);
  }

  peer(connection: number): string {
    return this.#sockets.get(connection)?.peerAddress ?? "";
  }

  queuedBytes(connection: number): number {
    const socket = this.#sockets.get(connection);
    return socket === undefined || socket.deaf ? 0 : socket.pushed - socket.taken;
  }

  // Staging.

  get hasStaged(): boolean {
    return this.#log.length > 0;
  }

  hasRoomFor(_segments: number, _metaBytes: number): boolean {
    return this.#log.length < STAGED_MAX;
  }

  stageSend(
    connection: number,
    frame: Frame,
    meta: Uint8Array | null,
    payload: Segments | null,
    token: number,
  ): number {
    assert(frame.requestId >= 0 && frame.requestId < 2 ** 53, "request ids are exact numbers");
    const copy = meta === null ? null : this.#net.metas.copyOf(meta);
    const staged = new SimFrame(frame, copy, payload, token);
    this.#checkPieces(staged.pieces);
    this.#log.push({ connection, frame: staged });
    return staged.bytes - HEADER_BYTES;
  }

  stageExpect(connection: number, requestId: number, into: Segments): void {
    assert(into.count > 0, "a payload is expected somewhere");
    const socket = this.#sockets.get(connection);
    if (socket === undefined) return;
    const pieces = into.list.slice(0, 2 * into.count);
    this.#checkPieces(pieces);
    this.#inbox.expect(socket, requestId, pieces);
  }

  #checkPieces(pieces: Uint32Array): void {
    assert(pieces.length <= 2 * SEGMENTS_MAX, "a list of segments has its limit");
    for (let i = 0; i < pieces.length; i += 2) {
      const isInside = pieces[i + 1]! > 0 && pieces[i]! + pieces[i + 1]! <= this.#arena.byteLength;
      assert(isInside, "a segment lies in the arena");
    }
  }

  stageRelease(payload: number): void {
    this.#inbox.release(payload);
    for (const socket of this.#starved) {
      socket.starved = false;
      this.ready(socket);
    }
    this.#starved.length = 0;
  }

  stageReading(connection: number, on: boolean): void {
    const socket = this.#sockets.get(connection);
    if (socket === undefined) return;
    socket.paused = !on;
    this.ready(socket);
  }

  // Sending.

  apply(flush: boolean): number {
    this.applied++;
    const log = this.#log;
    if (log.length > 0) {
      this.#log = [];
      for (const { connection, frame } of log) this.#push(connection, frame);
    }
    if (flush && this.#staged.length > 0) this.#sendStaged();
    const count = Math.min(this.#sent.length, DONE_MAX);
    for (let i = 0; i < count; i++) this.done[i] = this.#sent[i]!;
    if (count > 0) this.#sent.splice(0, count);
    return count;
  }

  /** May be ended or frozen between two connections; the rest follows when it goes on. */
  #sendStaged(): void {
    const staged = this.#staged;
    this.#staged = [];
    for (const [i, socket] of staged.entries()) {
      this.#life.step("send");
      if (this.#life.state === "frozen") {
        this.#staged = staged.slice(i);
        this.#sendLater();
        return;
      }
      socket.staged = false;
      if (socket.state !== SocketState.Closed) this.#sendNow(socket);
    }
  }

  #sendLater(): void {
    if (this.#sendsLater) return;
    this.#sendsLater = true;
    this.#life.hold(() => {
      this.#sendsLater = false;
      this.#sendStaged();
      this.#signal();
    });
  }

  #push(connection: number, frame: SimFrame): void {
    const socket = this.#sockets.get(connection);
    if (socket === undefined || socket.deaf) {
      if (frame.token !== 0) this.#sent.push(frame.token);
      return;
    }
    push(socket, frame);
    // What waits is lent meanwhile: a change of it is found when the kernel takes it.
    if (socket.room() < socket.pushed - socket.taken) frame.crc = this.#crcOf(frame.pieces);
    if (socket.staged) return;
    socket.staged = true;
    this.#staged.push(socket);
  }

  #crcOf(pieces: Uint32Array): number {
    let crc = 0;
    for (let i = 0; i < pieces.length; i += 2) {
      crc = this.#codec.crc32c(pieces[i]!, pieces[i + 1]!, crc);
    }
    return crc;
  }

  #sendNow(socket: SimSocket): void {
    if (socket.state === SocketState.Connecting) return;
    const { error } = socket;
    const isGone = socket.isUnix && socket.peer.state === SocketState.Closed;
    if (socket.cut || isGone || error === ECONNRESET || error === EPIPE) {
      socket.deaf = true;
      socket.waitsForRoom = false;
      socket.frames.drop(this.#sent);
      socket.pushed = socket.taken;
      this.ready(socket);
      return;
    }
    if (error !== 0) {
      this.#shut(socket, Fault.System, error);
      return;
    }
    offer(socket, this.#arena, this.#sent, this.#crcOfBody);
  }

  // Ending.

  forget(connection: number, requestId: number): boolean {
    const socket = this.#sockets.get(connection);
    if (socket === undefined) return false;
    return this.#inbox.forget(socket, requestId);
  }

  close(connection: number): void {
    const socket = this.#sockets.get(connection);
    if (socket !== undefined) this.#shut(socket, Fault.None, 0);
  }

  #shut(socket: SimSocket, fault: Fault, errno: number): void {
    this.#sockets.delete(socket.id);
    const torn = this.#inbox.leave(socket);
    if (torn !== 0) this.stageRelease(torn);
    socket.frames.drop(this.#sent);
    socket.pushed = socket.taken;
    socket.close();
    this.#ended.push({ id: socket.id, fault, errno });
    this.#signal();
  }

  stop(): void {
    this.#stopped = true;
    this.#end();
  }

  /** The kernel closes what the process has left open. */
  #end(): void {
    this.#stopped = true;
    for (let i = 0; i < this.#listeners.length; i++) this.closeListener(i);
    for (const socket of this.#sockets.values()) {
      socket.frames.drop(this.#sent);
      socket.pushed = socket.taken;
      socket.close();
    }
    this.#sockets.clear();
  }

  // Waking: what has come.

  ready(socket: SimSocket): void {
    if (socket.isReady) return;
    socket.isReady = true;
    this.#ready.push(socket);
    this.#signal();
  }

  #signal(): void {
    if (this.#signalled || this.#stopped) return;
    this.#signalled = true;
    this.#life.after(WAKE_MS + WAKE_JITTER_MS * this.#net.dice.share(), this.#wakeWork);
  }

  #wake(): void {
    this.#signalled = false;
    if (this.#stopped) return;
    const inbox = this.#inbox;
    inbox.begin();
    this.#emitEnded();
    const ready = this.#ready;
    this.#ready = [];
    if (this.#knocks) this.#accept();
    for (const socket of ready) {
      socket.isReady = false;
      if (socket.owner !== this) continue;
      if (this.#life.state === "alive") this.#look(socket);
      else this.ready(socket);
    }
    if (this.#life.state === "frozen") {
      // What was read is handled when the process goes on; nothing more is read before.
      this.#signalled = true;
      this.#life.hold(() => this.#handle());
    } else if (this.#life.state === "alive") {
      this.#handle();
    }
  }

  #handle(): void {
    const inbox = this.#inbox;
    this.#signalled = false;
    this.#emitEnded();
    if (this.#ready.length + this.#sent.length + this.#ended.length > 0) this.#signal();
    if (inbox.count > 0) this.#onEvents(inbox.count);
    inbox.end();
  }

  #emitEnded(): void {
    let told = 0;
    while (told < this.#sent.length && !this.#inbox.isFull) {
      this.#inbox.add(EventKind.Sent, this.#sent[told++]!);
    }
    if (told > 0) this.#sent.splice(0, told);
    if (this.#sent.length > 0) return;
    told = 0;
    while (told < this.#ended.length && !this.#inbox.isFull) {
      const { id, fault, errno } = this.#ended[told++]!;
      const at = this.#inbox.add(EventKind.Closed, id);
      this.events[at + 2] = fault;
      this.events[at + 3] = errno;
    }
    if (told > 0) this.#ended.splice(0, told);
  }

  #accept(): void {
    this.#knocks = false;
    for (const [id, listener] of this.#listeners.entries()) {
      while (listener !== null && listener.queue.length > 0) {
        if (this.#inbox.isFull) {
          this.#knocks = true;
          this.#signal();
          return;
        }
        const socket = listener.queue.shift()!;
        socket.state = SocketState.Open;
        socket.listening = null;
        this.#add(socket);
        this.events[this.#inbox.add(EventKind.Accepted, socket.id) + 2] = id;
        this.ready(socket);
      }
    }
  }

  /** What epoll would report of a socket. */
  #look(socket: SimSocket): void {
    if (socket.state === SocketState.Connecting) {
      if (this.#inbox.isFull) this.ready(socket);
      else this.#finishConnect(socket);
      return;
    }
    if (socket.waitsForRoom && !socket.staged) this.#sendNow(socket);
    this.#emitEnded();
    if (socket.state === SocketState.Closed) return;
    if (socket.reads) {
      this.#receive(socket);
      return;
    }
    const isHungUp = socket.isUnix && socket.peer.state === SocketState.Closed;
    // Nobody is there any more to answer to.
    if (socket.error !== 0 || socket.cut || isHungUp) this.#shut(socket, Fault.PeerClosed, 0);
  }

  #finishConnect(socket: SimSocket): void {
    if (socket.error !== 0) {
      this.#shut(socket, Fault.System, socket.error);
      return;
    }
    if (socket.peer === socket) return;
    socket.state = SocketState.Open;
    this.#inbox.add(EventKind.Connected, socket.id);
    if (socket.pushed > socket.taken) this.#sendNow(socket);
    this.ready(socket);
  }

  #receive(socket: SimSocket): void {
    const sender = socket.peer;
    const begin = sender.read;
    let delivered = 0;
    while (socket.reads) {
      const frame = sender.frames.toRead;
      if (frame === undefined || sender.arrived <= frame.start) break;
      const isFull =
        this.#life.state !== "alive" ||
        !this.#inbox.hasRoomFor(frame) ||
        (delivered > 0 && sender.read - begin >= READ_BYTES);
      if (isFull) {
        this.ready(socket);
        break;
      }
      const outcome = this.#inbox.read(socket, frame);
      if (outcome !== Outcome.Delivered) {
        this.#stopReading(socket, outcome);
        break;
      }
      if (this.#life.state !== "alive") break;
      delivered++;
    }
    if (sender.read > begin) sender.onRead();
    if (socket.reads && !socket.isReady) this.#findEnd(socket);
  }

  #stopReading(socket: SimSocket, outcome: Outcome): void {
    if (outcome === Outcome.NoRoom) {
      socket.starved = true;
      this.#starved.push(socket);
    } else if (outcome === Outcome.Stopped) {
      this.ready(socket);
    } else if (outcome === Outcome.Damaged) {
      this.#shut(socket, Fault.PayloadCrc, 0);
    } else if (outcome === Outcome.TooLong) {
      this.#shut(socket, Fault.LongerThanExpected, 0);
    } else if (outcome === Outcome.NeverFits) {
      this.#shut(socket, Fault.LongerThanPool, 0);
    }
  }

  /** All that came is read: has the stream ended? */
  #findEnd(socket: SimSocket): void {
    const sender = socket.peer;
    if (socket.cut || socket.error !== 0) {
      this.#shut(socket, Fault.System, socket.cut ? ECONNRESET : socket.error);
    } else if (sender.arrivedEnding !== Ending.None) {
      const frame = sender.frames.toRead;
      const isTorn = frame !== undefined && sender.arrived > frame.start;
      this.#shut(socket, isTorn ? Fault.PeerTruncated : Fault.PeerClosed, 0);
    }
  }
}
