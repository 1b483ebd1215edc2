// SPDX-License-Identifier: Apache-2.0
// One connection to a service. It connects at the first call, says hello, and from then on keeps
// itself connected, with back-off, until it is closed. Every call has a deadline and ends exactly
// once: with an answer, an error of the other side, OVS_TIMEOUT, or OVS_UNAVAILABLE when the
// connection is lost (then it may or may not have been carried out, P-B1).
//
//   callWith ─► slot ─┬─ connected, room ──► Sent ──► answer │ connection lost │ deadline
//                     └─ else Waiting in line ──┘ (bounded by callsMax)
//
// Memory that is lent with a call is free when it ends. So a call whose time is over while its
// payload is half out, or while its answer is half in, ends the connection and settles after it.

import type { ZodType } from "zod";
import { assert } from "../base/assert.js";
import { type ErrorCode, messageOf, StorageError } from "../base/errors.js";
import { untilTickMs } from "../base/grid.js";
import type {
  Address,
  Connection,
  ConnectionHandler,
  Frame,
  ReceivedFrame,
  Segments,
} from "../platform/network.js";
import { copySegments } from "../platform/segments.js";
import type { Timer, World } from "../platform/world.js";
import { Alarm } from "./alarm.js";
import { type AnswerHandler, CallState, CallTable } from "./calls.js";
import { decodeControl, encodeControl } from "./control.js";
import { Greeting } from "./greeting.js";
import {
  checkIdentity,
  makeHello,
  OPERATION_HELLO,
  OPERATION_PING,
  OPERATION_RESERVED,
} from "./hello.js";
import type { Answer, CallOptions, RpcClientOptions } from "./options.js";
import { Promised } from "./promised.js";
import { encodeMessage, STATUS_OF } from "./status.js";
import { TurnClock } from "./turnclock.js";

export type { AnswerHandler } from "./calls.js";
export type { Answer, CallOptions, EarlyCall, RpcClientOptions } from "./options.js";

export const TIMEOUT_MS_MAX = 24 * 3600 * 1000;
/** Heartbeat intervals without any frame after which the other side counts as dead. */
const SILENCE_MAX = 3;
/** More time for an answer that is half in when its time is over. */
const ARRIVAL_GRACE_MS = 2000;

type ClientState = "idle" | "connecting" | "greeting" | "up" | "down" | "closed";

export class RpcClient implements ConnectionHandler {
  readonly address: Address;
  readonly #world: Pick<World, "clock" | "turn" | "network" | "random" | "log">;
  readonly #options: RpcClientOptions;
  readonly #clock: TurnClock;
  readonly #calls: CallTable;
  readonly #inFlightMax: number;
  readonly #heartbeatMs: number;
  readonly #frame: Frame;
  readonly #promised: Promised;
  readonly #greeting: Greeting;
  readonly #sent: Array<(() => void) | undefined> = [];
  #state: ClientState = "idle";
  #connection: Connection | null = null;
  #inFlight = 0;
  #failures = 0;
  #reason = "not connected yet";
  /** What calls fail with while there is no connection. */
  #downCode: ErrorCode = "OVS_UNAVAILABLE";
  #heard = false;
  #silence = 0;
  #heartbeatAtMs = 0;
  readonly #alarm: Alarm;
  #retry: Timer | null = null;
  #closing: Array<() => void> = [];
  #attempts = 0;

  constructor(
    world: Pick<World, "clock" | "turn" | "network" | "random" | "log">,
    options: RpcClientOptions,
  ) {
    this.address = options.address;
    this.#world = world;
    this.#options = options;
    this.#clock = new TurnClock(world.clock, world.turn);
    this.#alarm = new Alarm(world.clock, () => this.#onAlarm());
    this.#calls = new CallTable(options.callsMax ?? 1024);
    this.#inFlightMax = options.inFlightMax ?? 192;
    this.#heartbeatMs = options.heartbeatMs ?? 4000;
    this.#frame = { kind: 0, operation: 0, status: 0, priority: 0, requestId: 0, timeoutMs: 0 };
    this.#greeting = new Greeting(world.clock);
    this.#promised = new Promised(this.#calls.size, (payload) => world.network.release(payload));
    assert(this.#inFlightMax > 0 && this.#heartbeatMs > 0, "limits are positive");
  }

  /** True while calls go out at once. */
  get connected(): boolean {
    return this.#state === "up";
  }

  /** Calls that have not ended. */
  get pending(): number {
    return this.#calls.used;
  }

  /** Why there is no connection, for people. */
  get downReason(): string {
    return this.#state === "up" ? "" : this.#reason;
  }

  /** Begins to connect without a call. */
  start(): void {
    if (this.#state === "idle") void this.#connect();
  }

  /**
   * One request and its answer. Borrows `payload` and `into` until the promise settles; `meta` and
   * the lists may be used again at once. Rejects with the other side's StorageError, OVS_TIMEOUT,
   * OVS_UNAVAILABLE, OVS_BUSY (too many calls) or OVS_CLOSED.
   */
  call(
    operation: number,
    meta: Uint8Array | null,
    payload: Segments | null,
    into: Segments | null,
    options: CallOptions,
  ): Promise<Answer> {
    return new Promise<Answer>((resolve, reject) => {
      const token = this.#promised.add(resolve, reject);
      if (token < 0) {
        reject(new StorageError("OVS_BUSY", this.#fullMessage()));
        return;
      }
      const timeoutMs = options.timeoutMs;
      this.callWith(
        operation,
        meta,
        payload,
        into,
        timeoutMs,
        options.priority ?? 0,
        this.#promised,
        token,
      );
    });
  }

  /** `call` with control messages on both sides and no payloads. */
  async callControl<T>(
    operation: number,
    message: unknown,
    answer: ZodType<T>,
    options: CallOptions,
  ): Promise<T> {
    const { meta, payload } = await this.call(
      operation,
      encodeControl(message),
      null,
      null,
      options,
    );
    if (payload !== 0) this.#world.network.release(payload);
    return decodeControl(meta, answer);
  }

  /** The hot form of `call`: no promise; `handler.onAnswer(token, …)` tells the end, later. */
  callWith(
    operation: number,
    meta: Uint8Array | null,
    payload: Segments | null,
    into: Segments | null,
    timeoutMs: number,
    priority: number,
    handler: AnswerHandler,
    token: number,
  ): void {
    assert(operation >= 0 && operation < OPERATION_RESERVED, "the operation is a service's");
    assert(timeoutMs > 0 && timeoutMs <= TIMEOUT_MS_MAX, "every call has a deadline");
    const refusal = this.#refusal();
    const slot = refusal === null ? this.#calls.take() : -1;
    if (slot < 0) {
      this.#refuse(handler, token, refusal ?? "OVS_BUSY");
      return;
    }
    const calls = this.#calls;
    calls.operations[slot] = operation;
    calls.priorities[slot] = priority;
    calls.handlers[slot] = handler;
    calls.tokens[slot] = token;
    calls.deadlines[slot] = this.#clock.nowMs() + timeoutMs;
    this.#alarm.set(calls.deadlines[slot]!);
    if (this.#state === "up" && this.#inFlight < this.#inFlightMax && calls.waiting === 0) {
      this.#send(slot, meta, payload, into, timeoutMs);
      return;
    }
    calls.metas[slot] = meta === null ? null : meta.slice();
    calls.payloads[slot] = payload === null ? null : copySegments(payload);
    calls.intos[slot] = into === null ? null : copySegments(into);
    calls.wait(slot);
    if (this.#state === "idle") void this.#connect();
  }

  /**
   * A one-way frame; false when there is no connection now. `payload` is borrowed until `onSent`.
   */
  notify(
    operation: number,
    meta: Uint8Array | null,
    payload: Segments | null,
    onSent: (() => void) | null,
  ): boolean {
    assert(operation >= 0 && operation < OPERATION_RESERVED, "the operation is a service's");
    if (this.#state !== "up") return false;
    this.#header(2, operation, 0, 0, 0);
    this.#connection!.send(this.#frame, meta, payload, onSent);
    return true;
  }

  /** Ends the connection and all calls (OVS_CLOSED); resolves when no lent memory is in use. */
  async close(): Promise<void> {
    if (this.#state !== "closed") {
      this.#state = "closed";
      this.#reason = "this client is closed";
      this.#retry?.cancel();
      this.#connection?.close("closed by this side");
      this.#failWaiting("OVS_CLOSED");
    }
    if (this.#connection !== null || this.#attempts > 0) {
      await new Promise<void>((resolve) => this.#closing.push(resolve));
    }
    this.#alarm.cancel();
  }

  // ConnectionHandler: called by the network only.

  onFrame(connection: Connection, frame: ReceivedFrame): void {
    assert(connection === this.#connection, "frames come from the one connection");
    this.#heard = true;
    if (frame.kind === 1 && frame.operation < OPERATION_RESERVED) this.#onAnswer(frame);
    else if (frame.kind === 1) this.#onOwnAnswer(frame);
    else if (frame.kind === 2) this.#onNotice(frame);
    else {
      if (frame.payload !== 0) this.#world.network.release(frame.payload);
      throw new StorageError("OVS_PROTOCOL", "a server does not send requests");
    }
  }

  onClose(connection: Connection, reason: string): void {
    assert(connection === this.#connection, "the one connection ends");
    const wasUp = this.#state === "up";
    this.#connection = null;
    if (this.#state !== "closed") {
      this.#state = "down";
      this.#reason = `connection to ${this.address} lost: ${reason}`;
      this.#downCode = "OVS_UNAVAILABLE";
    }
    this.#failSent();
    this.#greeting.onEnd(this.#reason);
    if (this.#state === "closed") this.#finishClosing();
    else if (this.#attempts === 0) this.#scheduleRetry();
    if (!wasUp) return;
    if (!this.#isClosed()) this.#world.log.warn("connection lost", { reason: this.#reason });
    this.#options.onDown?.(this.#reason);
  }

  #onAnswer(frame: ReceivedFrame): void {
    const slot = this.#calls.find(frame.requestId);
    if (slot < 0 || this.#calls.state[slot] !== CallState.Sent) {
      if (frame.payload !== 0) this.#world.network.release(frame.payload);
      return;
    }
    if (this.#calls.lent[slot] === 1) {
      // An answer before the whole request was taken: the rest of it must not be sent from memory
      // that the caller believes free.
      if (frame.payload !== 0) this.#world.network.release(frame.payload);
      throw new StorageError("OVS_PROTOCOL", "answered before the request was complete");
    }
    this.#end(slot, frame.status, frame.meta, frame.payload, frame.payloadBytes);
    this.#pump();
  }

  #onOwnAnswer(frame: ReceivedFrame): void {
    if (frame.payload !== 0) this.#world.network.release(frame.payload);
    if (frame.operation === OPERATION_HELLO) this.#greeting.onAnswer(frame);
  }

  #onNotice(frame: ReceivedFrame): void {
    const onNotice = this.#options.onNotice;
    if (onNotice) onNotice(frame.operation, frame.meta, frame.payload, frame.payloadBytes);
    else if (frame.payload !== 0) this.#world.network.release(frame.payload);
  }

  // Sending.

  #header(
    kind: number,
    operation: number,
    priority: number,
    requestId: number,
    timeoutMs: number,
  ): void {
    const frame = this.#frame;
    frame.kind = kind;
    frame.operation = operation;
    frame.priority = priority;
    frame.requestId = requestId;
    frame.timeoutMs = Math.max(0, Math.ceil(timeoutMs));
  }

  #send(
    slot: number,
    meta: Uint8Array | null,
    payload: Segments | null,
    into: Segments | null,
    timeoutMs: number,
  ): void {
    const calls = this.#calls;
    const connection = this.#connection!;
    const id = calls.ids[slot]!;
    calls.state[slot] = CallState.Sent;
    this.#inFlight++;
    if (into !== null) connection.expect(id, into);
    this.#header(0, calls.operations[slot]!, calls.priorities[slot]!, id, timeoutMs);
    if (payload === null) {
      connection.send(this.#frame, meta, null, null);
      return;
    }
    calls.lent[slot] = 1;
    connection.send(this.#frame, meta, payload, this.#sentOf(slot));
  }

  /** The one closure of a slot; a slot is not given back while its payload is lent. */
  #sentOf(slot: number): () => void {
    let sent = this.#sent[slot];
    if (sent === undefined) {
      sent = () => {
        this.#calls.lent[slot] = 0;
      };
      this.#sent[slot] = sent;
    }
    return sent;
  }

  /** Sends what waits, as far as there is room. */
  #pump(): void {
    const calls = this.#calls;
    const nowMs = calls.waiting > 0 ? this.#clock.nowMs() : 0;
    while (calls.waiting > 0 && this.#state === "up" && this.#inFlight < this.#inFlightMax) {
      const slot = calls.nextWaiting();
      const leftMs = calls.deadlines[slot]! - nowMs;
      const { metas, payloads, intos } = calls;
      if (leftMs <= 0) this.#endWith(slot, "OVS_TIMEOUT", this.#timeoutMessage(slot));
      else this.#send(slot, metas[slot]!, payloads[slot]!, intos[slot]!, leftMs);
    }
  }

  // Ending calls.

  #end(
    slot: number,
    status: number,
    meta: Uint8Array,
    payload: number,
    payloadBytes: number,
  ): void {
    const calls = this.#calls;
    const handler = calls.handlers[slot]!;
    const token = calls.tokens[slot]!;
    if (calls.state[slot] !== CallState.Waiting) this.#inFlight--;
    calls.give(slot);
    handler.onAnswer(token, status, meta, payload, payloadBytes);
  }

  #endWith(slot: number, code: ErrorCode, message: string): void {
    this.#end(slot, STATUS_OF[code], encodeMessage(message), 0, 0);
  }

  /** After the connection has ended: nothing is lent any more. */
  #failSent(): void {
    const calls = this.#calls;
    const closed = this.#state === "closed";
    for (let slot = 0; slot < calls.capacity; slot++) {
      const state = calls.state[slot];
      if (state === CallState.Expired)
        this.#endWith(slot, "OVS_TIMEOUT", this.#timeoutMessage(slot));
      else if (state === CallState.Sent) {
        this.#endWith(slot, closed ? "OVS_CLOSED" : "OVS_UNAVAILABLE", this.#reason);
      }
    }
    assert(this.#inFlight === 0, "no call outlives its connection");
  }

  #failWaiting(code: ErrorCode): void {
    // Calls that a handler makes while it is told of a failure wait for the next attempt.
    for (let count = this.#calls.waiting; count > 0; count--) {
      this.#endWith(this.#calls.nextWaiting(), code, this.#reason);
    }
  }

  #refusal(): ErrorCode | null {
    if (this.#state === "closed") return "OVS_CLOSED";
    if (this.#state === "down" && this.#options.whileDown !== "wait") return this.#downCode;
    return null;
  }

  #refuse(handler: AnswerHandler, token: number, code: ErrorCode): void {
    const meta = encodeMessage(code === "OVS_BUSY" ? this.#fullMessage() : this.#reason);
    this.#world.clock.immediate(() => handler.onAnswer(token, STATUS_OF[code], meta, 0, 0));
  }

  #fullMessage(): string {
    return `more than ${this.#calls.size} calls to ${this.address} at once`;
  }

  #timeoutMessage(slot: number): string {
    const operation = this.#calls.operations[slot];
    const why = this.#state === "up" ? "" : ` (${this.#reason})`;
    return `no answer from ${this.address} to operation ${operation} in time${why}`;
  }

  // Time: one timer for all deadlines and the heartbeat.

  #onAlarm(): void {
    const nowMs = this.#world.clock.nowMs();
    const calls = this.#calls;
    let nextMs = Number.POSITIVE_INFINITY;
    for (let slot = 0, left = calls.used; left > 0 && slot < calls.capacity; slot++) {
      const state = calls.state[slot];
      if (state !== CallState.Free) left--;
      if (state !== CallState.Waiting && state !== CallState.Sent) continue;
      if (calls.deadlines[slot]! <= nowMs) this.#expire(slot);
      else if (calls.deadlines[slot]! < nextMs) nextMs = calls.deadlines[slot]!;
    }
    this.#pump();
    if (this.#connection !== null) nextMs = Math.min(nextMs, this.#heartbeat(nowMs));
    this.#alarm.set(nextMs);
  }

  #expire(slot: number): void {
    const calls = this.#calls;
    if (calls.state[slot] === CallState.Waiting) {
      calls.unwait(slot);
      this.#endWith(slot, "OVS_TIMEOUT", this.#timeoutMessage(slot));
      return;
    }
    const connection = this.#connection!;
    if (calls.lent[slot] === 1) connection.close("a request was not taken in time");
    else if (calls.graceGiven[slot] === 1) connection.forget(calls.ids[slot]!);
    else if (!connection.tryForget(calls.ids[slot]!)) {
      // Half of its answer is here: to drop it now would cost the connection and all other calls.
      calls.graceGiven[slot] = 1;
      calls.deadlines[slot]! += ARRIVAL_GRACE_MS;
      this.#alarm.set(calls.deadlines[slot]!);
      return;
    }
    if (connection.open) this.#endWith(slot, "OVS_TIMEOUT", this.#timeoutMessage(slot));
    else calls.state[slot] = CallState.Expired;
  }

  /** Asks a silent peer for a sign of life, gives up a dead one; returns when to look again. */
  #heartbeat(nowMs: number): number {
    if (nowMs < this.#heartbeatAtMs) return this.#heartbeatAtMs;
    this.#heartbeatAtMs = nowMs + untilTickMs(nowMs, this.#heartbeatMs);
    if (this.#heard) this.#silence = 0;
    else this.#silence++;
    this.#heard = false;
    if (this.#silence >= SILENCE_MAX) {
      this.#connection!.close(`no sign of life for ${this.#silence * this.#heartbeatMs} ms`);
    } else if (this.#silence > 0 && this.#state === "up") {
      this.#header(0, OPERATION_PING, 0, 0, this.#heartbeatMs);
      this.#connection!.send(this.#frame, null, null, null);
    }
    return this.#heartbeatAtMs;
  }

  // Connecting.

  async #connect(): Promise<void> {
    assert(this.#connection === null && this.#attempts === 0, "one attempt at a time");
    this.#attempts++;
    this.#state = "connecting";
    const timeoutMs = this.#options.connectTimeoutMs ?? 5000;
    try {
      const connection = await this.#world.network.connect(this.address, this, timeoutMs);
      this.#connection = connection;
      if (this.#isClosed()) connection.close("closed by this side");
      else await this.#greet(connection, timeoutMs);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      if (!this.#isClosed()) {
        this.#reason = `cannot reach ${this.address}: ${messageOf(error)}`;
        this.#downCode = error.kind === "invalid" ? error.code : "OVS_UNAVAILABLE";
      }
      this.#connection?.close(messageOf(error));
    }
    this.#attempts--;
    this.#settleAttempt();
  }

  /** Read anew after every await. */
  #isClosed(): boolean {
    return this.#state === "closed";
  }

  #settleAttempt(): void {
    if (this.#state === "closed") {
      if (this.#connection === null) this.#finishClosing();
      return;
    }
    if (this.#state === "up") return;
    this.#state = "down";
    this.#failures++;
    if (this.#failures === 1) this.#world.log.warn("no connection", { reason: this.#reason });
    if (this.#options.whileDown !== "wait") this.#failWaiting(this.#downCode);
    if (this.#connection === null) this.#scheduleRetry();
  }

  /** Hello, handshake, up. Throws when refused. */
  async #greet(connection: Connection, timeoutMs: number): Promise<void> {
    this.#state = "greeting";
    this.#heard = true;
    this.#silence = 0;
    const nowMs = this.#world.clock.nowMs();
    this.#heartbeatAtMs = nowMs + untilTickMs(nowMs, this.#heartbeatMs);
    this.#alarm.set(this.#heartbeatAtMs);
    const greeted = this.#greeting.wait(timeoutMs);
    const hello = encodeControl(makeHello(this.#options.self, this.#options.wants));
    this.#header(0, OPERATION_HELLO, 0, 0, timeoutMs);
    connection.send(this.#frame, hello, null, null);
    const self = await greeted;
    checkIdentity(self, this.#options.wants);
    await this.#options.handshake?.((operation, meta, callMs) =>
      this.#early(operation, meta, callMs),
    );
    if (this.#connection !== connection || !connection.open || this.#state !== "greeting") {
      throw new StorageError("OVS_UNAVAILABLE", this.#reason);
    }
    this.#state = "up";
    if (this.#failures > 0) this.#world.log.info("connected", { address: this.address });
    this.#failures = 0;
    this.#pump();
    this.#options.onUp?.();
  }

  /** A call of the handshake: past the line of waiting calls. */
  #early(operation: number, meta: Uint8Array | null, timeoutMs: number): Promise<Answer> {
    return new Promise<Answer>((resolve, reject) => {
      const open = this.#state === "greeting" && this.#connection !== null;
      const token = open ? this.#promised.add(resolve, reject) : -1;
      const slot = token < 0 ? -1 : this.#calls.take();
      if (slot < 0) {
        if (token >= 0) this.#promised.drop(token);
        reject(new StorageError("OVS_UNAVAILABLE", open ? this.#fullMessage() : this.#reason));
        return;
      }
      this.#calls.operations[slot] = operation;
      this.#calls.priorities[slot] = 0;
      this.#calls.handlers[slot] = this.#promised;
      this.#calls.tokens[slot] = token;
      this.#calls.deadlines[slot] = this.#clock.nowMs() + timeoutMs;
      this.#alarm.set(this.#calls.deadlines[slot]!);
      this.#send(slot, meta, null, null, timeoutMs);
    });
  }

  #scheduleRetry(): void {
    assert(this.#connection === null && this.#state === "down", "a retry follows a failure");
    const min = this.#options.backoffMsMin ?? 50;
    const max = this.#options.backoffMsMax ?? 1000;
    const ceiling = Math.min(max, min * 2 ** Math.min(this.#failures, 16));
    const delayMs = ceiling / 2 + this.#world.random.below(Math.ceil(ceiling / 2) + 1);
    this.#retry = this.#world.clock.after(delayMs, () => {
      this.#retry = null;
      if (this.#state === "down") void this.#connect();
    });
  }

  #finishClosing(): void {
    const closing = this.#closing;
    this.#closing = [];
    for (const resolve of closing) resolve();
  }
}
