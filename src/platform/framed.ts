// SPDX-License-Identifier: Apache-2.0
// The network over any transport: connections as objects. The transport reads, checks and writes
// frames; what is staged in a turn leaves at its end, in one call, and what has come in a wake-up
// is handed out in one turn.

import { assert } from "../base/assert.js";
import { messageOf, StorageError } from "../base/errors.js";
import { MIB } from "../base/units.js";
import { describeErrno, describeFault, FAULT_PEER_CLOSED } from "../native/transport.js";
import { formatTcp, parseAddress } from "./address.js";
import type { Log } from "./log.js";
import type {
  Address,
  Connection,
  ConnectionHandler,
  Frame,
  Listener,
  Network,
  ReceivedFrame,
  Segments,
} from "./network.js";
import { EADDRINUSE, EAGAIN, EventKind, type Transport } from "./transport.js";
import { FlushStage, type Turn } from "./turn.js";
import type { Clock } from "./world.js";

export interface FramedOptions {
  clock: Clock;
  turn: Turn;
  log: Log;
  /** Opens the transport; `onEvents(count)` is called outside any turn. */
  transport(onEvents: (count: number) => void): Transport;
  /** The numeric address of a host. OVS_UNAVAILABLE when its name is not known. */
  resolve(host: string): Promise<string>;
}

/** Bytes that one connection may have queued: more is a sender that does not heed back-pressure. */
export const QUEUED_BYTES_MAX = 512 * MIB;

const HEADER_BYTES = 64;
const CONNECT_RETRY_MS = 5;
const NO_BYTES = new Uint8Array(0);

type Accept = (connection: Connection) => ConnectionHandler;

interface Attempt {
  connection: FramedConnection;
  resolve: (connection: Connection) => void;
  reject: (error: StorageError) => void;
}

/** The network of a thread. */
export class FramedNetwork implements Network {
  readonly #clock: Clock;
  readonly #turn: Turn;
  readonly #log: Log;
  readonly #resolve: (host: string) => Promise<string>;
  readonly #session: Transport;
  readonly #detach: () => void;
  readonly #connections = new Map<number, FramedConnection>();
  readonly #listeners = new Map<number, FramedListener>();
  readonly #attempts = new Map<number, Attempt>();
  readonly #frame: ReceivedFrame;
  /** Token t belongs to tokens[t]; 0 is nobody's. */
  readonly #tokens: Array<(() => void) | null> = [null];
  readonly #freeTokens: number[] = [];
  /** Tokens of frames that are sent, whose callbacks have not run yet. */
  readonly #told: number[] = [];
  #toldNext = 0;
  #toldCount = 0;
  #isHandedOver = false;
  #stopped = false;
  #stopping: Promise<void> | null = null;
  #onEmpty: (() => void) | null = null;

  constructor(options: FramedOptions) {
    this.#clock = options.clock;
    this.#turn = options.turn;
    this.#log = options.log;
    this.#resolve = options.resolve;
    this.#session = options.transport((count) => this.#onEvents(count));
    this.#detach = this.#turn.atEnd(FlushStage.Network, () => this.#flush());
    this.#frame = {
      kind: 0,
      operation: 0,
      status: 0,
      priority: 0,
      requestId: 0,
      timeoutMs: 0,
      meta: NO_BYTES,
      payload: 0,
      payloadBytes: 0,
    };
  }

  async listen(address: Address, accept: Accept): Promise<Listener> {
    this.#assertRuns();
    const parsed = parseAddress(address);
    if (parsed.kind === "unix") {
      const id = this.#listening(address, this.#session.listenUnix(parsed.path));
      return this.#addListener(id, address, accept);
    }
    const ip = await this.#resolve(parsed.host);
    this.#assertRuns();
    const id = this.#listening(address, this.#session.listenTcp(ip, parsed.port));
    const real = formatTcp(parsed.host, this.#session.listenerPort(id));
    return this.#addListener(id, real, accept);
  }

  #listening(address: Address, id: number): number {
    if (id >= 0) return id;
    if (id === -EADDRINUSE) {
      throw new StorageError("OVS_BUSY", `another process listens on ${address}`);
    }
    throw new StorageError("OVS_UNAVAILABLE", `cannot listen on ${address}: ${describeErrno(-id)}`);
  }

  #addListener(id: number, address: Address, accept: Accept): Listener {
    const listener = new FramedListener(id, address, accept, () => {
      this.#listeners.delete(id);
      if (!this.#stopped) this.#session.closeListener(id);
    });
    this.#listeners.set(id, listener);
    return listener;
  }

  async connect(
    address: Address,
    handler: ConnectionHandler,
    timeoutMs: number,
  ): Promise<Connection> {
    const parsed = parseAddress(address);
    const endMs = this.#clock.nowMs() + timeoutMs;
    const ip = parsed.kind === "tcp" ? await this.#resolve(parsed.host) : "";
    let id = 0;
    for (;;) {
      this.#assertRuns();
      id =
        parsed.kind === "tcp"
          ? this.#session.connectTcp(ip, parsed.port)
          : this.#session.connectUnix(parsed.path);
      // A unix listener whose queue is full: nothing tells when there is room again.
      if (id !== -EAGAIN || this.#clock.nowMs() >= endMs) break;
      await this.#clock.sleep(CONNECT_RETRY_MS);
    }
    if (id < 0) throw unreachable(address, describeErrno(-id));
    const connection = new FramedConnection(this, this.#session, id, address);
    connection.handler = handler;
    this.#connections.set(id, connection);
    const leftMs = Math.max(0, endMs - this.#clock.nowMs());
    return await new Promise<Connection>((resolve, reject) => {
      const timer = this.#clock.after(leftMs, () =>
        connection.close(`no answer in ${timeoutMs} ms`),
      );
      const attempt = {
        connection,
        resolve: (made: Connection) => {
          timer.cancel();
          resolve(made);
        },
        reject: (error: StorageError) => {
          timer.cancel();
          reject(error);
        },
      };
      this.#attempts.set(id, attempt);
    });
  }

  release(payload: number): void {
    if (this.#stopped) return;
    this.makeRoom(0, 0);
    this.#session.stageRelease(payload);
    this.#turn.request();
  }

  async stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    await this.#stopping;
  }

  async #stop(): Promise<void> {
    for (const listener of [...this.#listeners.values()]) void listener.close();
    for (const connection of this.#connections.values()) connection.close("the network stops");
    if (this.#connections.size > 0) {
      await new Promise<void>((resolve) => {
        this.#onEmpty = resolve;
      });
    }
    this.#collect(false);
    this.#tell();
    this.#stopped = true;
    this.#detach();
    this.#session.stop();
  }

  #assertRuns(): void {
    if (this.#stopping !== null) throw new StorageError("OVS_CLOSED", "the network is stopped");
  }

  // For connections.

  /** Hands the log over when an entry of that size would not fit. */
  makeRoom(segments: number, metaBytes: number): void {
    if (!this.#session.hasRoomFor(segments, metaBytes)) this.handOver();
  }

  /** Hands the log over in the middle of a turn; nothing is sent yet. */
  handOver(): void {
    this.#isHandedOver = true;
    this.#collect(false);
  }

  /** Runs `work` once the loop is free. */
  soon(work: () => void): void {
    this.#clock.immediate(work);
  }

  /** What was staged leaves with the next turn, which is asked for here. */
  requestTurn(): void {
    this.#turn.request();
  }

  /** A token for a callback that runs once the frame is sent. */
  tokenOf(onSent: (() => void) | null): number {
    if (onSent === null) return 0;
    const token = this.#freeTokens.pop() ?? this.#tokens.push(null) - 1;
    this.#tokens[token] = onSent;
    return token;
  }

  /** True from `stop` on: its memory may belong to others, nothing is handed over any more. */
  get stopped(): boolean {
    return this.#stopped;
  }

  // Turns.

  #flush(): void {
    if (this.#session.hasStaged || this.#isHandedOver) {
      this.#isHandedOver = false;
      this.#collect(true);
    }
    this.#tell();
  }

  #collect(flush: boolean): void {
    const { done, doneMax } = this.#session;
    for (let count = doneMax; count === doneMax; ) {
      count = this.#session.apply(flush);
      for (let i = 0; i < count; i++) this.#told[this.#toldCount++] = done[i]!;
    }
  }

  /** Runs the callbacks of sent frames; they may stage more, which leaves in the next round. */
  #tell(): void {
    while (this.#toldNext < this.#toldCount) this.#sent(this.#told[this.#toldNext++]!);
    this.#toldCount = 0;
    this.#toldNext = 0;
  }

  #sent(token: number): void {
    const onSent = this.#tokens[token];
    assert(onSent !== null && onSent !== undefined, "a token is told once");
    this.#tokens[token] = null;
    this.#freeTokens.push(token);
    onSent();
  }

  #onEvents(count: number): void {
    const { events, eventWords } = this.#session;
    this.#turn.begin();
    for (let i = 0, at = 0; i < count; i++, at += eventWords) {
      const kind = events[at]!;
      if (kind === EventKind.Frame) this.#onFrame(at);
      else if (kind === EventKind.Sent) this.#sent(events[at + 1]!);
      else if (kind === EventKind.Closed) {
        this.#onClosed(events[at + 1]!, events[at + 2]!, events[at + 3]!);
      } else if (kind === EventKind.Connected) this.#onConnected(events[at + 1]!);
      else this.#onAccepted(events[at + 1]!, events[at + 2]!);
    }
    this.#turn.end();
  }

  #onFrame(at: number): void {
    const { events, metas } = this.#session;
    const connection = this.#connections.get(events[at + 1]!);
    const payload = events[at + 9]!;
    if (connection === undefined || !connection.open) {
      if (payload !== 0) this.release(payload);
      return;
    }
    const frame = this.#frame;
    const metaBytes = events[at + 8]!;
    const metaAt = events[at + 7]!;
    frame.kind = events[at + 2]! & 0xff;
    frame.priority = events[at + 2]! >>> 8;
    frame.operation = events[at + 3]! & 0xffff;
    frame.status = events[at + 3]! >>> 16;
    frame.requestId = events[at + 4]! + events[at + 5]! * 4_294_967_296;
    frame.timeoutMs = events[at + 6]!;
    frame.meta = metaBytes === 0 ? NO_BYTES : metas.subarray(metaAt, metaAt + metaBytes);
    frame.payload = payload;
    frame.payloadBytes = events[at + 10]!;
    try {
      connection.handler!.onFrame(connection, frame);
    } catch (error) {
      this.#refused(connection, error);
    }
  }

  /** Anything but a StorageError is our own mistake and goes on to end the process. */
  #refused(connection: FramedConnection, error: unknown): void {
    if (!(error instanceof StorageError)) throw error;
    this.#log.warn("connection ended", { peer: connection.peer, reason: messageOf(error) });
    connection.close(messageOf(error));
  }

  #onAccepted(id: number, listenerId: number): void {
    const listener = this.#listeners.get(listenerId);
    const peer = this.#session.peer(id) || (listener?.address ?? "");
    const connection = new FramedConnection(this, this.#session, id, peer);
    this.#connections.set(id, connection);
    if (listener === undefined) {
      connection.close("nobody listens any more");
      return;
    }
    try {
      connection.handler = listener.accept(connection);
    } catch (error) {
      this.#refused(connection, error);
    }
  }

  #onConnected(id: number): void {
    const attempt = this.#attempts.get(id);
    assert(attempt !== undefined, "a connection that was asked for");
    if (!attempt.connection.open) return;
    this.#attempts.delete(id);
    attempt.resolve(attempt.connection);
    // Whoever waits for the promise goes first: frames come only after it knows its connection.
    this.#clock.immediate(() => attempt.connection.reading(true));
  }

  #onClosed(id: number, fault: number, errno: number): void {
    const connection = this.#connections.get(id);
    assert(connection !== undefined, "a connection ends once");
    // What was staged for it and not handed over yet is told first: onSent comes before onClose.
    this.handOver();
    this.#tell();
    this.#connections.delete(id);
    const reason = connection.ended(describeFault(fault, errno));
    const attempt = this.#attempts.get(id);
    if (attempt !== undefined) {
      this.#attempts.delete(id);
      attempt.reject(unreachable(connection.peer, reason));
    } else {
      if (fault > FAULT_PEER_CLOSED) {
        this.#log.warn("connection ended", { peer: connection.peer, reason });
      }
      connection.handler?.onClose(connection, reason);
    }
    if (this.#connections.size > 0 || this.#onEmpty === null) return;
    this.#onEmpty();
    this.#onEmpty = null;
  }
}

function unreachable(address: Address, why: string): StorageError {
  return new StorageError("OVS_UNAVAILABLE", `cannot connect to ${address}: ${why}`);
}

class FramedListener implements Listener {
  readonly address: Address;
  readonly accept: Accept;
  readonly id: number;
  #close: (() => void) | null;

  constructor(id: number, address: Address, accept: Accept, close: () => void) {
    this.id = id;
    this.address = address;
    this.accept = accept;
    this.#close = close;
  }

  async close(): Promise<void> {
    this.#close?.();
    this.#close = null;
  }
}

class FramedConnection implements Connection {
  readonly id: number;
  readonly peer: Address;
  open = true;
  handler: ConnectionHandler | null = null;
  readonly #network: FramedNetwork;
  readonly #session: Transport;
  #reason: string | null = null;
  #stagedBytes = 0;
  #stagedAt = 0;

  constructor(network: FramedNetwork, session: Transport, id: number, peer: Address) {
    this.#network = network;
    this.#session = session;
    this.id = id;
    this.peer = peer;
  }

  get queuedBytes(): number {
    if (!this.open) return 0;
    const staged = this.#stagedAt === this.#session.applied ? this.#stagedBytes : 0;
    return this.#session.queuedBytes(this.id) + staged;
  }

  send(
    frame: Frame,
    meta: Uint8Array | null,
    payload: Segments | null,
    onSent: (() => void) | null,
  ): void {
    if (!this.open && (onSent === null || this.#network.stopped)) {
      if (onSent !== null) this.#network.soon(onSent);
      return;
    }
    const segments = payload === null ? 0 : payload.count;
    this.#network.makeRoom(segments, meta === null ? 0 : meta.byteLength);
    const token = this.#network.tokenOf(onSent);
    const bytes = HEADER_BYTES + this.#session.stageSend(this.id, frame, meta, payload, token);
    if (this.#stagedAt !== this.#session.applied) {
      this.#stagedAt = this.#session.applied;
      this.#stagedBytes = 0;
    }
    this.#stagedBytes += bytes;
    this.#network.requestTurn();
    if (this.open && this.queuedBytes > QUEUED_BYTES_MAX) {
      this.close("the other side does not take what is sent to it");
    }
  }

  expect(requestId: number, into: Segments): void {
    if (!this.open) return;
    this.#network.makeRoom(into.count, 0);
    this.#session.stageExpect(this.id, requestId, into);
    this.#network.requestTurn();
  }

  tryForget(requestId: number): boolean {
    if (!this.open) return true;
    this.#network.handOver();
    return !this.#session.forget(this.id, requestId);
  }

  forget(requestId: number): void {
    if (this.tryForget(requestId)) return;
    this.close(`the answer to request ${requestId} was still arriving when its time was over`);
  }

  reading(on: boolean): void {
    if (!this.open) return;
    this.#network.makeRoom(0, 0);
    this.#session.stageReading(this.id, on);
    this.#network.requestTurn();
  }

  close(reason: string): void {
    if (!this.open) return;
    this.open = false;
    this.#reason = reason;
    this.#session.close(this.id);
  }

  /** The addon has ended it; returns why. */
  ended(reason: string): string {
    this.open = false;
    this.#reason ??= reason;
    return this.#reason;
  }
}
