// SPDX-License-Identifier: Apache-2.0
// A request at the server, from its frame to the moment the kernel has its answer. Objects are
// pooled: nobody may hold one after its reply.

import { assert } from "../base/assert.js";
import type { StorageError } from "../base/errors.js";
import type { Frame, ReceivedFrame, Segments } from "../platform/network.js";
import { encodeControl } from "./control.js";
import type { RpcConnection } from "./server.js";
import { encodeMessage, STATUS_OF, STATUS_OK } from "./status.js";

const NO_BYTES = new Uint8Array(0);

/** What the server's core does for a request. */
export interface RequestHost<S> {
  /** Milliseconds of the clock, read once a turn. */
  now(): number;
  /** Stages the reply; `request.sentByNetwork` runs when the kernel has it or nobody takes it. */
  send(
    request: RpcRequest<S>,
    frame: Frame,
    meta: Uint8Array | null,
    payload: Segments | null,
  ): void;
  /** Gives a request's payload back to the arena. */
  release(payload: number): void;
  /** Takes the object back: nobody holds it any more. */
  recycle(request: RpcRequest<S>): void;
}

export class RpcRequest<S> {
  operation = 0;
  /** For `handleFast` valid until the handler returns; for `handle` a copy. */
  meta: Uint8Array = NO_BYTES;
  /** Arena offset of the payload, 0 for none; released after the reply unless taken. */
  payload = 0;
  payloadBytes = 0;
  /** 0 normal, 1 background. */
  priority = 0;
  /** Milliseconds that the caller waited at most when it sent this. */
  timeoutMs = 0;
  connection!: RpcConnection<S>;
  session!: S;
  readonly #host: RequestHost<S>;
  readonly #frame: Frame;
  #arrivedMs = 0;
  #replied = false;
  #sent = false;
  #handled = false;
  #owned = 0;
  #onSent: (() => void) | null = null;

  /** Runs when the kernel has the reply, or there is nobody any more to take it. */
  readonly sentByNetwork = (): void => {
    assert(this.#replied && !this.#sent, "a reply is sent once");
    this.#sent = true;
    if (this.#owned !== 0) this.#host.release(this.#owned);
    this.#owned = 0;
    const onSent = this.#onSent;
    this.#onSent = null;
    onSent?.();
    this.connection.requestEnded();
    this.#recycle();
  };

  constructor(host: RequestHost<S>) {
    this.#host = host;
    this.#frame = { kind: 1, operation: 0, status: 0, priority: 0, requestId: 0, timeoutMs: 0 };
  }

  /** Fills the object from a frame. Takes the payload. */
  begin(connection: RpcConnection<S>, frame: ReceivedFrame): void {
    this.connection = connection;
    this.session = connection.session;
    this.operation = frame.operation;
    this.meta = frame.meta;
    this.payload = frame.payload;
    this.payloadBytes = frame.payloadBytes;
    this.priority = frame.priority;
    this.timeoutMs = frame.timeoutMs;
    this.#frame.operation = frame.operation;
    this.#frame.priority = frame.priority;
    this.#frame.requestId = frame.requestId;
    this.#arrivedMs = frame.timeoutMs === 0 ? 0 : this.#host.now();
    this.#owned = frame.payload;
    this.#replied = false;
    this.#sent = false;
    this.#handled = false;
  }

  /** True once an answer was given, though the kernel may not have it yet. */
  get replied(): boolean {
    return this.#replied;
  }

  /** True once the caller has given up (by our clock, from the request's arrival). */
  get expired(): boolean {
    return this.timeoutMs !== 0 && this.#host.now() - this.#arrivedMs >= this.timeoutMs;
  }

  /** Milliseconds that the caller still waits; Infinity when it sets no limit. */
  get leftMs(): number {
    if (this.timeoutMs === 0) return Number.POSITIVE_INFINITY;
    return Math.max(0, this.timeoutMs - (this.#host.now() - this.#arrivedMs));
  }

  /** Gives the payload's memory: the caller must `network.release` it. */
  take(): number {
    assert(this.#owned !== 0, "the request has a payload and it was not taken before");
    const payload = this.#owned;
    this.#owned = 0;
    return payload;
  }

  /**
   * Answers with success. Copies `meta`; borrows the payload until `onSent` runs (always, also
   * when the caller is gone). After it the request must not be touched.
   */
  reply(meta: Uint8Array | null, payload: Segments | null, onSent: (() => void) | null): void {
    this.replyStatus(STATUS_OK, meta, payload, onSent);
  }

  /** Answers with a control message. */
  replyControl(message: unknown): void {
    this.replyStatus(STATUS_OK, encodeControl(message), null, null);
  }

  /** Answers with an error. */
  fail(error: StorageError): void {
    this.replyStatus(STATUS_OF[error.code], encodeMessage(error.message), null, null);
  }

  /** As `reply`, with any status of the wire; `meta` is then what that status carries. */
  replyStatus(
    status: number,
    meta: Uint8Array | null,
    payload: Segments | null,
    onSent: (() => void) | null,
  ): void {
    assert(!this.#replied, "a request is answered once");
    this.#replied = true;
    this.#onSent = onSent;
    this.#frame.status = status;
    this.#host.send(this, this.#frame, meta, payload);
  }

  /** The handler has returned or its promise has settled. */
  handled(): void {
    this.#handled = true;
    this.#recycle();
  }

  #recycle(): void {
    if (!this.#handled || !this.#sent) return;
    this.meta = NO_BYTES;
    this.#host.recycle(this);
  }
}
