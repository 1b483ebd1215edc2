// SPDX-License-Identifier: Apache-2.0
// The table of a client's calls: one slot each, its state in typed arrays, so that a call makes no
// object. A slot is Waiting (for a connection or for room), Sent, or Expired (its time is over, but
// memory is still lent until the connection has ended). Request ids are slot + table size × n, so
// an answer finds its slot by a remainder, and a late one is told from a newer call's. Memory for
// the slots is taken when they are needed for the first time: most clients have few calls at once.

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

/** Slots that a table begins with. */
const CAPACITY_FIRST = 32;

export class CallTable {
  /** Slots that there may be. */
  readonly size: number;
  /** Slots that have memory: those from here on are free. */
  capacity = 0;
  ids = new Float64Array(0);
  deadlines = new Float64Array(0);
  state = new Uint8Array(0);
  operations = new Uint16Array(0);
  priorities = new Uint8Array(0);
  /** 1 while the network borrows the call's payload. */
  lent = new Uint8Array(0);
  /** 1 when a call has got more time because its answer was arriving. */
  graceGiven = new Uint8Array(0);
  tokens = new Float64Array(0);
  readonly handlers: Array<AnswerHandler | null> = [];
  /** Of waiting calls: copies, because the caller may use its own again. */
  readonly metas: Array<Uint8Array | null> = [];
  readonly payloads: Array<Segments | null> = [];
  readonly intos: Array<Segments | null> = [];
  #free = new Uint16Array(0);
  #freeCount = 0;
  #waiting = new Uint16Array(0);
  #waitingFirst = 0;
  #waitingCount = 0;
  #serial = 0;

  constructor(size: number) {
    assert(size > 0 && size <= 65_536, "slots fit 16 bits");
    this.size = size;
    this.#grow(Math.min(size, CAPACITY_FIRST));
  }

  /** Slots that are not free, in whatever state. */
  get used(): number {
    return this.capacity - this.#freeCount;
  }

  /** Calls in the line for a connection or for room. */
  get waiting(): number {
    return this.#waitingCount;
  }

  /** Takes a free slot with a fresh request id (never 0: that one is rpc's own); -1: none. */
  take(): number {
    if (this.#freeCount === 0) {
      if (this.capacity === this.size) return -1;
      this.#grow(Math.min(this.size, 2 * this.capacity));
    }
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
    this.#waiting[(this.#waitingFirst + this.#waitingCount) % this.capacity] = slot;
    this.#waitingCount++;
    assert(this.#waitingCount <= this.capacity, "a call waits once");
  }

  /** The longest waiting call, taken out of the line; -1: none. */
  nextWaiting(): number {
    if (this.#waitingCount === 0) return -1;
    const slot = this.#waiting[this.#waitingFirst]!;
    this.#waitingFirst = (this.#waitingFirst + 1) % this.capacity;
    this.#waitingCount--;
    return slot;
  }

  /** Takes a call out of the middle of the line. */
  unwait(slot: number): void {
    let found = false;
    for (let i = 0; i < this.#waitingCount; i++) {
      const at = (this.#waitingFirst + i) % this.capacity;
      if (found) this.#waiting[(at + this.capacity - 1) % this.capacity] = this.#waiting[at]!;
      else found = this.#waiting[at] === slot;
    }
    assert(found, "a waiting call stands in the line");
    this.#waitingCount--;
  }

  /** Memory for so many slots, the new ones free. */
  #grow(capacity: number): void {
    const { capacity: before } = this;
    const waiting = new Uint16Array(capacity);
    for (let i = 0; i < this.#waitingCount; i++) {
      waiting[i] = this.#waiting[(this.#waitingFirst + i) % before]!;
    }
    this.#waiting = waiting;
    this.#waitingFirst = 0;
    this.ids = grown(this.ids, new Float64Array(capacity));
    this.deadlines = grown(this.deadlines, new Float64Array(capacity));
    this.state = grown(this.state, new Uint8Array(capacity));
    this.operations = grown(this.operations, new Uint16Array(capacity));
    this.priorities = grown(this.priorities, new Uint8Array(capacity));
    this.lent = grown(this.lent, new Uint8Array(capacity));
    this.graceGiven = grown(this.graceGiven, new Uint8Array(capacity));
    this.tokens = grown(this.tokens, new Float64Array(capacity));
    this.#free = grown(this.#free, new Uint16Array(capacity));
    for (let slot = capacity - 1; slot >= before; slot--) this.#free[this.#freeCount++] = slot;
    for (let slot = before; slot < capacity; slot++) {
      this.handlers.push(null);
      this.metas.push(null);
      this.payloads.push(null);
      this.intos.push(null);
    }
    this.capacity = capacity;
  }
}

function grown<T extends Float64Array | Uint16Array | Uint8Array>(old: T, larger: T): T {
  larger.set(old);
  return larger;
}
