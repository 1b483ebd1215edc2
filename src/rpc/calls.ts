// SPDX-License-Identifier: Apache-2.0
// The table of a client's calls: one slot each, its state in typed arrays, so that a call makes no
// object. A slot is Waiting (for a connection or for room), Sent, or Expired (its time is over, but
// memory is still lent until the connection has ended). Request ids are slot + table size × n, so
// an answer finds its slot by a remainder, and a late one is told from a newer call's.

import { assert } from "../base/assert.js";
import type { Segments } from "../platform/network.js";

export const CallState = { Free: 0, Waiting: 1, Sent: 2, Expired: 3 } as const;

/** Who is told of a call's end; see RpcClient.callWith. */
export interface AnswerHandler {
  /**
   * Once per call, never inside callWith. `status` 0: success; else an error, `meta` its message
   * (errorOf makes the StorageError). `meta` is valid during the call only. `payload` is the arena
   * offset of a payload that did not go to `into` (0: none); gives it: release it when done. What
   * was lent with the call is free. Must not throw.
   */
  onAnswer(
    token: number,
    status: number,
    meta: Uint8Array,
    payload: number,
    payloadBytes: number,
  ): void;
}

export class CallTable {
  readonly size: number;
  readonly ids: Float64Array;
  readonly deadlines: Float64Array;
  readonly state: Uint8Array;
  readonly operations: Uint16Array;
  readonly priorities: Uint8Array;
  /** 1 while the network borrows the call's payload. */
  readonly lent: Uint8Array;
  /** 1 when a call has got more time because its answer was arriving. */
  readonly graceGiven: Uint8Array;
  readonly tokens: Float64Array;
  readonly handlers: Array<AnswerHandler | null>;
  /** Of waiting calls: copies, because the caller may use its own again. */
  readonly metas: Array<Uint8Array | null>;
  readonly payloads: Array<Segments | null>;
  readonly intos: Array<Segments | null>;
  readonly #free: Uint16Array;
  #freeCount: number;
  readonly #waiting: Uint16Array;
  #waitingFirst = 0;
  #waitingCount = 0;
  #serial = 0;

  constructor(size: number) {
    assert(size > 0 && size <= 65_536, "slots fit 16 bits");
    this.size = size;
    this.ids = new Float64Array(size);
    this.deadlines = new Float64Array(size);
    this.state = new Uint8Array(size);
    this.operations = new Uint16Array(size);
    this.priorities = new Uint8Array(size);
    this.lent = new Uint8Array(size);
    this.graceGiven = new Uint8Array(size);
    this.tokens = new Float64Array(size);
    this.handlers = new Array<AnswerHandler | null>(size).fill(null);
    this.metas = new Array<Uint8Array | null>(size).fill(null);
    this.payloads = new Array<Segments | null>(size).fill(null);
    this.intos = new Array<Segments | null>(size).fill(null);
    this.#free = new Uint16Array(size);
    for (let i = 0; i < size; i++) this.#free[i] = size - 1 - i;
    this.#freeCount = size;
    this.#waiting = new Uint16Array(size);
  }

  /** Slots that are not free, in whatever state. */
  get used(): number {
    return this.size - this.#freeCount;
  }

  /** Calls in the line for a connection or for room. */
  get waiting(): number {
    return this.#waitingCount;
  }

  /** Takes a free slot with a fresh request id (never 0: that one is rpc's own); -1: none. */
  take(): number {
    if (this.#freeCount === 0) return -1;
    const slot = this.#free[--this.#freeCount]!;
    assert(this.state[slot] === CallState.Free, "a free slot is free");
    this.#serial++;
    this.ids[slot] = this.#serial * this.size + slot;
    assert(this.ids[slot]! < Number.MAX_SAFE_INTEGER, "request ids are exact numbers");
    return slot;
  }

  /** The slot of a request id that is still Sent or Expired; -1: a late or foreign one. */
  find(requestId: number): number {
    const slot = requestId % this.size;
    if (this.ids[slot] !== requestId) return -1;
    const state = this.state[slot];
    return state === CallState.Sent || state === CallState.Expired ? slot : -1;
  }

  /** Frees a slot and forgets what it referred to; its request id is found no more. */
  give(slot: number): void {
    assert(this.state[slot] !== CallState.Free, "a used slot is given back");
    this.state[slot] = CallState.Free;
    this.ids[slot] = -1;
    this.lent[slot] = 0;
    this.graceGiven[slot] = 0;
    this.handlers[slot] = null;
    this.metas[slot] = null;
    this.payloads[slot] = null;
    this.intos[slot] = null;
    this.#free[this.#freeCount++] = slot;
  }

  /** Puts a call at the end of the line. */
  wait(slot: number): void {
    this.state[slot] = CallState.Waiting;
    this.#waiting[(this.#waitingFirst + this.#waitingCount) % this.size] = slot;
    this.#waitingCount++;
    assert(this.#waitingCount <= this.size, "a call waits once");
  }

  /** The longest waiting call, taken out of the line; -1: none. */
  nextWaiting(): number {
    if (this.#waitingCount === 0) return -1;
    const slot = this.#waiting[this.#waitingFirst]!;
    this.#waitingFirst = (this.#waitingFirst + 1) % this.size;
    this.#waitingCount--;
    return slot;
  }

  /** Takes a call out of the middle of the line. */
  unwait(slot: number): void {
    let found = false;
    for (let i = 0; i < this.#waitingCount; i++) {
      const at = (this.#waitingFirst + i) % this.size;
      if (found) this.#waiting[(at + this.size - 1) % this.size] = this.#waiting[at]!;
      else found = this.#waiting[at] === slot;
    }
    assert(found, "a waiting call stands in the line");
    this.#waitingCount--;
  }
}
