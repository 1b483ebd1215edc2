// SPDX-License-Identifier: Apache-2.0
// The real network: connections as objects over the addon `transport`, which reads, checks and
// writes frames. What is staged in a turn leaves at its end, in one call of the addon; what has
// come in a wake-up is handed out in one turn.

import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { constants } from "node:os";
import { assert } from "../../base/assert.js";
import { messageOf, StorageError } from "../../base/errors.js";
import { MIB } from "../../base/units.js";
import {
  describeErrno,
  describeFault,
  EventKind,
  FAULT_PEER_CLOSED,
  TransportSession,
} from "../../native/transport.js";
import { formatTcp, parseAddress } from "../address.js";
import type { Arena } from "../arena.js";
import type { Log } from "../log.js";
import type {
  Address,
  Connection,
  ConnectionHandler,
  Frame,
  Listener,
  Network,
  ReceivedFrame,
  Segments,
} from "../network.js";
import { FlushStage, type Turn } from "../turn.js";

export interface NetworkOptions {
  arena: Arena;
  turn: Turn;
  log: Log;
  /** Bytes of the arena for payloads that nobody expects; a longer one ends its connection. */
  receivePoolBytes: number;
}

/** Bytes that one connection may have queued: more is a sender that does not heed back-pressure. */
export const QUEUED_BYTES_MAX = 512 * MIB;

const HEADER_BYTES = 64;
const CONNECT_RETRY_MS = 5;
const NO_BYTES = new Uint8Array(0);

/** Opens the network of a thread. */
export function openNetwork(options: NetworkOptions): Network {
  return new NodeNetwork(options);
}

type Accept = (connection: Connection) => ConnectionHandler;

interface Attempt {
  connection: NodeConnection;
  resolve: (connection: Connection) => void;
  reject: (error: StorageError) => void;
}

class NodeNetwork implements Network {
  readonly #turn: Turn;
  readonly #log: Log;
  readonly #session: TransportSession;
  readonly #detach: () => void;
  readonly #connections = new Map<number, NodeConnection>();
  readonly #listeners = new Map<number, NodeListener>();
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

  constructor(options: NetworkOptions) {
    this.#turn = options.turn;
    this.#log = options.log;
    const bytes = options.receivePoolBytes;
    const offset = options.arena.region(bytes, "the network's receive pool");
    this.#session = new TransportSession(options.arena.buffer, { offset, bytes }, (count) =>
      this.#onEvents(count),
    );
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
    const ip = await resolveHost(parsed.host);
    this.#assertRuns();
    const id = this.#listening(address, this.#session.listenTcp(ip, parsed.port));
    const real = formatTcp(parsed.host, this.#session.listenerPort(id));
    return this.#addListener(id, real, accept);
  }

  #listening(address: Address, id: number): number {
    if (id >= 0) return id;
    if (id === -constants.errno.EADDRINUSE) {
      throw new StorageError("OVS_BUSY", `another process listens on ${address}`);
    }
    throw new StorageError("OVS_UNAVAILABLE", `cannot listen on ${address}: ${describeErrno(-id)}`);
  }

  #addListener(id: number, address: Address, accept: Accept): Listener {
    const listener = new NodeListener(id, address, accept, () => {
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
    const endMs = performance.now() + timeoutMs;
    const ip = parsed.kind === "tcp" ? await resolveHost(parsed.host) : "";
    let id = 0;
    for (;;) {
      this.#assertRuns();
      id =
        parsed.kind === "tcp"
          ? this.#session.connectTcp(ip, parsed.port)
          : this.#session.connectUnix(parsed.path);
      // A unix listener whose queue is full: nothing tells when there is room again.
      if (id !== -constants.errno.EAGAIN || performance.now() >= endMs) break;
      await new Promise((resolve) => setTimeout(resolve, CONNECT_RETRY_MS));
    }
    if (id < 0) throw unreachable(address, describeErrno(-id));
    const connection = new NodeConnection(this, this.#session, id, address);
    connection.handler = handler;
    this.#connections.set(id, connection);
    const leftMs = Math.max(0, endMs - performance.now());
    return await new Promise<Connection>((resolve, reject) => {
      const timer = setTimeout(() => connection.close(`no answer in ${timeoutMs} ms`), leftMs);
      const attempt = {
        connection,
        resolve: (made: Connection) => {
          clearTimeout(timer);
          resolve(made);
        },
        reject: (error: StorageError) => {
          clearTimeout(timer);
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
  #refused(connection: NodeConnection, error: unknown): void {
    if (!(error instanceof StorageError)) throw error;
    this.#log.warn("connection ended", { peer: connection.peer, reason: messageOf(error) });
    connection.close(messageOf(error));
  }

  #onAccepted(id: number, listenerId: number): void {
    const listener = this.#listeners.get(listenerId);
    const peer = this.#session.peer(id) || (listener?.address ?? "");
    const connection = new NodeConnection(this, this.#session, id, peer);
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
    setImmediate(() => attempt.connection.reading(true));
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

/** The numeric address of a host. OVS_UNAVAILABLE when its name is not known. */
async function resolveHost(host: string): Promise<string> {
  if (isIP(host) !== 0) return host;
  try {
    return (await lookup(host)).address;
  } catch (error) {
    throw new StorageError("OVS_UNAVAILABLE", `no address for ${host}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

class NodeListener implements Listener {
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

class NodeConnection implements Connection {
  readonly id: number;
  readonly peer: Address;
  open = true;
  handler: ConnectionHandler | null = null;
  readonly #network: NodeNetwork;
  readonly #session: TransportSession;
  #reason: string | null = null;
  #stagedBytes = 0;
  #stagedAt = 0;

  constructor(network: NodeNetwork, session: TransportSession, id: number, peer: Address) {
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
      if (onSent !== null) setImmediate(onSent);
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
