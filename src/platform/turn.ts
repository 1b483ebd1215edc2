// SPDX-License-Identifier: Apache-2.0
// A turn: everything that happens between two waits of the event loop. Addons call JavaScript
// once a turn with a batch; what those handlers stage (disk submissions, frames, replies) leaves
// in one system call each, when the turn ends.
//
// Flushers run in the order of their stage: first those that make work (close the journal
// record), then those that hand it to the kernel (submit the ring, send the frames, send replies).
// A late flusher may call back code that stages work for an early one (a frame was sent, its memory
// is free, the next read starts): then all stages run once more.

import { assert } from "../base/assert.js";

export const FlushStage = { Volume: 0, Read: 1, Disk: 2, Network: 3, Reply: 4 } as const;
export type FlushStage = (typeof FlushStage)[keyof typeof FlushStage];
const STAGES = 5;
/** Rounds of flushing in one turn; what is staged after them gets a turn of its own, soon. */
const ROUNDS_MAX = 16;

export class Turn {
  readonly #flushers: Array<Array<() => void>> = Array.from({ length: STAGES }, () => []);
  readonly #immediate: (work: () => void) => void;
  readonly #wake = () => {
    this.#requested = false;
    this.begin();
    this.end();
  };
  #depth = 0;
  #serial = 0;
  #requested = false;
  #flushing = false;
  #again = false;

  /**
   * `immediate` runs its argument once, soon, outside any turn (setImmediate, or the simulator's).
   */
  constructor(immediate: (work: () => void) => void) {
    this.#immediate = immediate;
  }

  /** Calls `flusher` at the end of every turn from now on. It must be cheap when idle. */
  atEnd(stage: FlushStage, flusher: () => void): () => void {
    const list = this.#flushers[stage]!;
    list.push(flusher);
    return () => {
      const index = list.indexOf(flusher);
      if (index >= 0) list.splice(index, 1);
    };
  }

  /** Number of this turn; 0 outside one. */
  get current(): number {
    return this.#depth > 0 ? this.#serial : 0;
  }

  /** Begins a turn, or one more level inside one. Each begin has its `end`. */
  begin(): void {
    if (this.#depth === 0) this.#serial++;
    this.#depth++;
  }

  /** Ends a turn; the outermost end flushes. */
  end(): void {
    assert(this.#depth > 0, "a turn has begun");
    if (this.#depth === 1) this.#flush();
    this.#depth--;
    if (this.#depth === 0 && this.#again) {
      this.#again = false;
      this.request();
    }
  }

  #flush(): void {
    this.#flushing = true;
    let rounds = 0;
    do {
      this.#again = false;
      for (let stage = 0; stage < STAGES; stage++) {
        const list = this.#flushers[stage]!;
        for (let i = 0; i < list.length; i++) list[i]!();
      }
      rounds++;
    } while (this.#again && rounds < ROUNDS_MAX);
    this.#flushing = false;
  }

  /**
   * Whoever stages work asks for a turn: inside one nothing is to be done, in async code one comes
   * soon, once; while a turn is flushing its stages run again.
   */
  request(): void {
    if (this.#flushing) {
      this.#again = true;
      return;
    }
    if (this.#depth > 0 || this.#requested) return;
    this.#requested = true;
    this.#immediate(this.#wake);
  }
}
