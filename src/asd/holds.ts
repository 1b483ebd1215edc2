// SPDX-License-Identifier: Apache-2.0
// Pages of a deleted value are used again only when no read that may know of them is left (as
// P-A5 asks of segments). Readers enter one of two generations; retired pages wait until every
// reader that entered before their retirement has left:
//
//   retire ─► fresh ─(flip once the older generation is empty)─► draining ─(readers left)─► free

import { assert } from "../base/assert.js";
import type { Runs } from "./allocator.js";

export class Holds {
  readonly #free: (runs: Runs) => void;
  readonly #readers = [0, 0];
  /** Generation that readers enter now; the other one only drains. */
  #current = 0;
  #fresh: Runs[] = [];
  #draining: Runs[] = [];

  constructor(free: (runs: Runs) => void) {
    this.#free = free;
  }

  /** Values whose pages wait for readers. */
  get waiting(): number {
    return this.#fresh.length + this.#draining.length;
  }

  /** Reads that have not left. */
  get readers(): number {
    return this.#readers[0]! + this.#readers[1]!;
  }

  /** A read begins, before it looks anything up; returns what `leave` wants. */
  enter(): number {
    this.#readers[this.#current]!++;
    return this.#current;
  }

  /** The read has ended; `generation` is what `enter` gave. May free retired pages. */
  leave(generation: number): void {
    assert(this.#readers[generation]! > 0, "whoever leaves has entered");
    this.#readers[generation]!--;
    if (this.#readers[generation] === 0 && this.waiting > 0) this.#advance();
  }

  /** The pages are named by nobody any more, durably. */
  retire(runs: Runs): void {
    if (runs.length === 0) return;
    this.#fresh.push(runs);
    this.#advance();
  }

  #advance(): void {
    for (let step = 0; step < 2; step++) {
      if (this.#readers[1 - this.#current]! > 0) return;
      const free = this.#draining;
      this.#draining = this.#fresh;
      this.#fresh = [];
      for (const runs of free) this.#free(runs);
      if (this.#draining.length === 0) return;
      this.#current = 1 - this.#current;
    }
    if (this.#readers[1 - this.#current] === 0) {
      for (const runs of this.#draining) this.#free(runs);
      this.#draining = [];
    }
  }
}
