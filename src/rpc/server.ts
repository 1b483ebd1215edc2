// SPDX-License-Identifier: Apache-2.0
// A service: listens, greets, hands requests to handlers and their answers back. Nothing of a
// connection is heeded before its hello. At most `inFlightMax` requests of a connection are in
// work or have an answer that the kernel has not taken; beyond that its socket is not read, so a
// caller that asks faster than it listens slows down itself only.

import type { ZodType } from "zod";
import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { isLocal } from "../platform/address.js";
import type {
  Address,
  Connection,
  ConnectionHandler,
  Frame,
  Listener,
  ReceivedFrame,
  Segments,
} from "../platform/network.js";
import type { Timer, World } from "../platform/world.js";
import { decodeControl, encodeControl } from "./control.js";
import {
  answerHello,
  helloSchema,
  type Identity,
  OPERATION_HELLO,
  OPERATION_PING,
  OPERATION_RESERVED,
} from "./hello.js";
import { RpcRequest } from "./request.js";
import { encodeMessage, STATUS_OF, STATUS_OK } from "./status.js";
import { TurnClock } from "./turnclock.js";

export { RpcRequest } from "./request.js";

/** Heartbeat intervals without any frame after which a client counts as dead. */
const SILENCE_MAX = 4;
const PAUSED_PATIENCE = 6;
const POOL_MAX = 4096;

/**
 * Runs inside a turn; answers now or later through `request`. A thrown StorageError is the answer.
 */
export type FastHandler<S> = (request: RpcRequest<S>) => void;
/** Must have answered when its promise resolves; a rejection with a StorageError is the answer. */
export type Handler<S> = (request: RpcRequest<S>) => Promise<void>;

export interface RpcServerOptions<S> {
  self: Identity;
  /** Roles that are served; null: all. */
  roles?: readonly string[] | null;
  /** Makes the state object of a connection that was greeted; a thrown StorageError refuses it. */
  session: (peer: Identity, connection: RpcConnection<S>) => S;
  /** After a greeted connection has ended. */
  onSessionEnd?: (session: S, reason: string) => void;
  /** One-way frames of clients. Gives the payload: release it. */
  onNotice?: (
    session: S,
    operation: number,
    meta: Uint8Array,
    payload: number,
    payloadBytes: number,
  ) => void;
  inFlightMax?: number;
  connectionsMax?: number;
  heartbeatMs?: number;
}

interface Entry<S> {
  fast: FastHandler<S> | null;
  slow: Handler<S> | null;
}

/** One service and its connections; `S` is what a session of a caller is. */
export class RpcServer<S> {
  readonly inFlightMax: number;
  readonly #world: Pick<World, "clock" | "turn" | "network" | "log">;
  readonly #options: RpcServerOptions<S>;
  readonly #clock: TurnClock;
  readonly #handlers = new Map<number, Entry<S>>();
  readonly #connections = new Set<RpcConnection<S>>();
  readonly #listeners: Listener[] = [];
  readonly #pool: Array<RpcRequest<S>> = [];
  readonly #connectionsMax: number;
  readonly #heartbeatMs: number;
  #self: Identity;
  #timer: Timer | null = null;
  #inWork = 0;
  #stopping = false;
  #stopped: Array<() => void> = [];

  constructor(
    world: Pick<World, "clock" | "turn" | "network" | "log">,
    options: RpcServerOptions<S>,
  ) {
    this.#world = world;
    this.#options = options;
    this.#clock = new TurnClock(world.clock, world.turn);
    this.#self = options.self;
    this.inFlightMax = options.inFlightMax ?? 256;
    this.#connectionsMax = options.connectionsMax ?? 1024;
    this.#heartbeatMs = options.heartbeatMs ?? 10_000;
    assert(this.inFlightMax > 0 && this.#connectionsMax > 0, "limits are positive");
  }

  /** Open connections, greeted or not. */
  get connections(): number {
    return this.#connections.size;
  }

  /** Requests whose answer the kernel has not taken yet, of all connections. */
  get inWork(): number {
    return this.#inWork;
  }

  /** Who answers a hello. */
  get self(): Identity {
    return this.#self;
  }

  /** Changes who answers (a disk that has learnt its cluster); counts for later hellos. */
  identify(self: Identity): void {
    this.#self = self;
  }

  /** Answers an operation with async code; the request's meta is a copy. */
  handle(operation: number, handler: Handler<S>): void {
    this.#register(operation, { fast: null, slow: handler });
  }

  /** Answers an operation inside the turn, without a promise; for the hot path. */
  handleFast(operation: number, handler: FastHandler<S>): void {
    this.#register(operation, { fast: handler, slow: null });
  }

  /** Answers an operation whose request and answer are control messages. */
  handleControl<T>(
    operation: number,
    schema: ZodType<T>,
    handler: (message: T, session: S, request: RpcRequest<S>) => Promise<unknown>,
  ): void {
    this.handle(operation, async (request) => {
      const message = decodeControl(request.meta, schema);
      request.replyControl(await handler(message, request.session, request));
    });
  }

  #register(operation: number, entry: Entry<S>): void {
    assert(operation >= 0 && operation < OPERATION_RESERVED, "the operation is a service's");
    assert(!this.#handlers.has(operation), "an operation has one handler");
    this.#handlers.set(operation, entry);
  }

  /**
   * Listens too on `address`; returns it with the real port. OVS_UNSUPPORTED beyond this machine.
   */
  async listen(address: Address): Promise<Address> {
    if (!isLocal(address)) {
      throw new StorageError(
        "OVS_UNSUPPORTED",
        `${address} can be reached from other machines, and connections are not authenticated ` +
          "yet: listen on a unix socket or on 127.0.0.1",
      );
    }
    const listener = await this.#world.network.listen(address, (connection) =>
      this.#accept(connection),
    );
    this.#listeners.push(listener);
    this.#schedule();
    return listener.address;
  }

  /** Stops listening, lets requests in work end for up to `graceMs`, closes all connections. */
  async stop(graceMs = 2000): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#listeners.splice(0).map((listener) => listener.close()));
    for (const connection of this.#connections) connection.raw.reading(false);
    this.#timer?.cancel();
    this.#timer = this.#world.clock.after(graceMs, () => this.#closeAll());
    if (this.#inWork === 0) this.#closeAll();
    if (this.#connections.size > 0)
      await new Promise<void>((resolve) => this.#stopped.push(resolve));
    this.#timer.cancel();
  }

  // Called by connections and requests.

  /** As RequestHost.now. */
  now(): number {
    return this.#clock.nowMs();
  }

  /** Gives a received payload back to the arena. */
  release(payload: number): void {
    this.#world.network.release(payload);
  }

  /** Keeps a request object that nobody holds any more for the next request. */
  recycle(request: RpcRequest<S>): void {
    if (this.#pool.length < POOL_MAX) this.#pool.push(request);
  }

  /** Stages the reply of a request on its connection; borrows the payload, copies `meta`. */
  send(
    request: RpcRequest<S>,
    frame: Frame,
    meta: Uint8Array | null,
    payload: Segments | null,
  ): void {
    request.connection.raw.send(frame, meta, payload, request.sentByNetwork);
  }

  /** The kernel has an answer. The last one lets a `stop` that waits go on. */
  requestEnded(): void {
    this.#inWork--;
    assert(this.#inWork >= 0, "requests end once");
    if (this.#stopping && this.#inWork === 0) this.#closeAll();
  }

  /** Answers a hello and makes the session; a StorageError of either refuses the connection. */
  greet(
    connection: RpcConnection<S>,
    meta: Uint8Array,
  ): { welcome: Uint8Array; session: S; peer: Identity } {
    const hello = decodeControl(meta, helloSchema);
    const welcome = answerHello(hello, this.#self, this.#options.roles ?? null);
    const session = this.#options.session(hello.self, connection);
    return { welcome: encodeControl(welcome), session, peer: hello.self };
  }

  /** Hands a one-way frame over with its payload, which is released when nobody wants it. */
  notice(session: S, frame: ReceivedFrame): void {
    const onNotice = this.#options.onNotice;
    if (onNotice) onNotice(session, frame.operation, frame.meta, frame.payload, frame.payloadBytes);
    else if (frame.payload !== 0) this.release(frame.payload);
  }

  /** Hands a request to its handler. */
  dispatch(connection: RpcConnection<S>, frame: ReceivedFrame): void {
    const request = this.#pool.pop() ?? new RpcRequest<S>(this);
    request.begin(connection, frame);
    this.#inWork++;
    const entry = this.#handlers.get(frame.operation);
    if (entry?.fast) this.#runFast(request, entry.fast);
    else if (entry?.slow) void this.#runSlow(request, entry.slow);
    else {
      const text = `operation ${frame.operation} is not known to this ${this.#self.role}`;
      request.fail(new StorageError("OVS_UNSUPPORTED", text));
      request.handled();
    }
  }

  /** Forgets a connection that was closed, and tells the owner of its session. */
  ended(connection: RpcConnection<S>, reason: string): void {
    this.#connections.delete(connection);
    if (connection.greeted) this.#options.onSessionEnd?.(connection.session, reason);
    else this.#world.log.warn("connection refused", { peer: connection.raw.peer, reason });
    if (!this.#stopping || this.#connections.size > 0) return;
    for (const resolve of this.#stopped.splice(0)) resolve();
  }

  #runFast(request: RpcRequest<S>, handler: FastHandler<S>): void {
    try {
      handler(request);
    } catch (error) {
      if (!(error instanceof StorageError) || request.replied) throw error;
      request.fail(error);
    }
    request.handled();
  }

  /**
   * Anything but a StorageError is our own mistake: the rejection is not caught, the daemon dies.
   */
  async #runSlow(request: RpcRequest<S>, handler: Handler<S>): Promise<void> {
    request.meta = request.meta.slice();
    try {
      await handler(request);
      assert(request.replied, "a handler has answered when it ends");
    } catch (error) {
      if (!(error instanceof StorageError) || request.replied) throw error;
      request.fail(error);
    }
    request.handled();
  }

  #accept(raw: Connection): ConnectionHandler {
    const connection = new RpcConnection<S>(this, raw);
    this.#connections.add(connection);
    if (this.#stopping) connection.close("the service stops");
    else if (this.#connections.size > this.#connectionsMax) {
      connection.close(`more than ${this.#connectionsMax} connections`);
    }
    return connection;
  }

  #closeAll(): void {
    for (const connection of this.#connections) connection.close("the service stops");
  }

  #schedule(): void {
    if (this.#timer !== null || this.#stopping) return;
    this.#timer = this.#world.clock.after(this.#heartbeatMs, () => {
      this.#timer = null;
      for (const connection of this.#connections) connection.beat(SILENCE_MAX);
      this.#schedule();
    });
  }
}

/** A connection of a client, greeted or not yet. */
export class RpcConnection<S> implements ConnectionHandler {
  readonly raw: Connection;
  session!: S;
  peer: Identity = { role: "", id: "", cluster: null };
  greeted = false;
  readonly #server: RpcServer<S>;
  readonly #frame: Frame;
  #inFlight = 0;
  #paused = false;
  #progress = false;
  #heard = true;
  #silence = 0;

  readonly #pingSent = (): void => this.#leave();

  constructor(server: RpcServer<S>, raw: Connection) {
    this.#server = server;
    this.raw = raw;
    this.#frame = { kind: 1, operation: 0, status: 0, priority: 0, requestId: 0, timeoutMs: 0 };
  }

  /** False once it is closed; what is sent then is dropped. */
  get open(): boolean {
    return this.raw.open;
  }

  /** Bytes of answers and notices that the kernel has not taken: look here before pushing more. */
  get queuedBytes(): number {
    return this.raw.queuedBytes;
  }

  /** Pushes a one-way frame. Copies `meta`; borrows the payload until `onSent`. */
  notify(
    operation: number,
    meta: Uint8Array | null,
    payload: Segments | null,
    onSent: (() => void) | null,
  ): void {
    assert(operation >= 0 && operation < OPERATION_RESERVED, "the operation is a service's");
    this.#frame.kind = 2;
    this.#frame.operation = operation;
    this.#frame.status = 0;
    this.#frame.requestId = 0;
    this.raw.send(this.#frame, meta, payload, onSent);
  }

  /** Closes it at once; what is queued is dropped, lent payloads come back. */
  close(reason: string): void {
    this.raw.close(reason);
  }

  onFrame(_raw: Connection, frame: ReceivedFrame): void {
    this.#heard = true;
    if (frame.operation >= OPERATION_RESERVED) this.#onOwn(frame);
    else if (!this.greeted || frame.kind === 1) {
      if (frame.payload !== 0) this.#server.release(frame.payload);
      const what = this.greeted
        ? "a client does not send answers"
        : "no hello before the first request";
      throw new StorageError("OVS_PROTOCOL", what);
    } else if (frame.kind === 2) this.#server.notice(this.session, frame);
    else this.#onRequest(frame);
  }

  onClose(_raw: Connection, reason: string): void {
    this.#server.ended(this, reason);
  }

  /** A request's answer was taken by the kernel. */
  requestEnded(): void {
    this.#leave();
    this.#server.requestEnded();
  }

  #leave(): void {
    this.#inFlight--;
    this.#progress = true;
    assert(this.#inFlight >= 0, "requests end once");
    if (this.#paused && this.#inFlight < this.#server.inFlightMax) {
      this.#paused = false;
      this.raw.reading(true);
    }
  }

  /** Once per heartbeat interval: closes a connection that was silent for `silenceMax` of them. */
  beat(silenceMax: number): void {
    if (this.#heard || this.#progress) this.#silence = 0;
    else this.#silence++;
    this.#heard = false;
    this.#progress = false;
    // Whoever waits for us cannot be heard, since its socket is not read: more patience.
    const patience = this.#paused ? PAUSED_PATIENCE * silenceMax : silenceMax;
    if (this.#silence >= patience || (!this.greeted && this.#silence >= 2)) {
      this.raw.close("no sign of life from the other side");
    }
  }

  #enter(): void {
    this.#inFlight++;
    if (this.#inFlight >= this.#server.inFlightMax && !this.#paused) {
      this.#paused = true;
      this.raw.reading(false);
    }
  }

  #onRequest(frame: ReceivedFrame): void {
    this.#enter();
    this.#server.dispatch(this, frame);
  }

  #onOwn(frame: ReceivedFrame): void {
    if (frame.payload !== 0) this.#server.release(frame.payload);
    if (frame.kind !== 0) throw new StorageError("OVS_PROTOCOL", "hello and ping are requests");
    if (frame.operation === OPERATION_PING) {
      this.#enter();
      this.#answer(frame, STATUS_OK, null, this.#pingSent);
    } else if (frame.operation === OPERATION_HELLO && !this.greeted) this.#onHello(frame);
    else throw new StorageError("OVS_PROTOCOL", `operation ${frame.operation} is not known`);
  }

  #onHello(frame: ReceivedFrame): void {
    try {
      const { welcome, session, peer } = this.#server.greet(this, frame.meta);
      this.session = session;
      this.peer = peer;
      this.greeted = true;
      this.#answer(frame, STATUS_OK, welcome);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#answer(frame, STATUS_OF[error.code], encodeMessage(error.message), () => {
        this.raw.close(`refused: ${error.message}`);
      });
    }
  }

  #answer(
    frame: ReceivedFrame,
    status: number,
    meta: Uint8Array | null,
    onSent: (() => void) | null = null,
  ): void {
    this.#frame.kind = 1;
    this.#frame.operation = frame.operation;
    this.#frame.status = status;
    this.#frame.requestId = frame.requestId;
    this.raw.send(this.#frame, meta, null, onSent);
  }
}
