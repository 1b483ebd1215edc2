// SPDX-License-Identifier: Apache-2.0
// The `Requests` that targets see: the slot table of a server, and the results that they stage
// for the end of the turn. Each slot is staged at most once between two flushes.

import { assert } from "../base/assert.js";
import type { ErrorKind } from "../base/errors.js";
import type { SlotTable } from "../platform/nbd.js";
import { RESULT_EXTENTS } from "../platform/nbd.js";
import type { Turn } from "../platform/turn.js";
import { errnoOf, NbdErrno } from "./errno.js";
import { STATUS_EXTENTS_MAX } from "./limits.js";
import type { Requests } from "./target.js";
import { RequestKind } from "./target.js";

export class Results implements Requests {
  readonly slots: number;
  readonly kind: Uint8Array;
  readonly flags: Uint16Array;
  readonly offset: Float64Array;
  readonly length: Float64Array;
  readonly memory: Uint32Array;
  readonly crcs: Uint32Array;
  readonly cookieLow: Uint32Array;
  readonly cookieHigh: Uint32Array;
  readonly connection: Uint32Array;
  readonly #target: Uint32Array;
  readonly #staged: Uint32Array;
  readonly #turn: Turn;
  /** 1 while a target has the slot. */
  readonly #admitted: Uint8Array;
  /** Slots that each target has, by its id. */
  readonly #inFlight: number[] = [];
  #count = 0;

  constructor(slots: number, table: SlotTable, turn: Turn) {
    this.slots = slots;
    this.kind = table.kind;
    this.flags = table.flags;
    this.offset = table.offset;
    this.length = table.length;
    this.memory = table.memory;
    this.crcs = table.crcs;
    this.cookieLow = table.cookieLow;
    this.cookieHigh = table.cookieHigh;
    this.connection = table.connection;
    this.#target = table.target;
    this.#staged = table.staged;
    this.#turn = turn;
    this.#admitted = new Uint8Array(slots);
  }

  complete(slot: number, error: ErrorKind | null): void {
    this.#stage(slot, error === null ? 0 : errnoOf(error));
  }

  completeStatus(slot: number, count: number): void {
    assert(this.kind[slot] === RequestKind.BlockStatus, "only a block status has extents");
    assert(count > 0 && count <= STATUS_EXTENTS_MAX, "the extents fit the slot");
    this.#stage(slot, (RESULT_EXTENTS | count) >>> 0);
  }

  completeNotFast(slot: number): void {
    assert(this.kind[slot] === RequestKind.WriteZeroes, "only zeroing can be not fast");
    this.#stage(slot, NbdErrno.Enotsup);
  }

  /** A slot goes to its target; answers the target's id. */
  admit(slot: number): number {
    assert(this.#admitted[slot] === 0, "a slot is admitted once");
    this.#admitted[slot] = 1;
    const id = this.#target[slot]!;
    this.#inFlight[id] = (this.#inFlight[id] ?? 0) + 1;
    return id;
  }

  /** Slots that a target has not completed. */
  inFlight(id: number): number {
    return this.#inFlight[id] ?? 0;
  }

  /** How many results are staged; they are the caller's to flush now. */
  take(): number {
    const count = this.#count;
    this.#count = 0;
    return count;
  }

  #stage(slot: number, result: number): void {
    assert(this.#admitted[slot] === 1, "a slot is completed once, by who has it");
    this.#admitted[slot] = 0;
    this.#inFlight[this.#target[slot]!]!--;
    const at = 2 * this.#count++;
    this.#staged[at] = slot;
    this.#staged[at + 1] = result;
    this.#turn.request();
  }
}
