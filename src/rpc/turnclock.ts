// SPDX-License-Identifier: Apache-2.0
// The time, read once a turn: deadlines of requests need no better, and a turn is short.

import type { Turn } from "../platform/turn.js";
import type { Clock } from "../platform/world.js";

export class TurnClock {
  readonly #clock: Clock;
  readonly #turn: Turn;
  #readIn = 0;
  #nowMs = 0;

  constructor(clock: Clock, turn: Turn) {
    this.#clock = clock;
    this.#turn = turn;
  }

  /** Milliseconds as Clock.nowMs: inside a turn the same for all who ask. */
  nowMs(): number {
    const turn = this.#turn.current;
    if (turn !== 0 && turn === this.#readIn) return this.#nowMs;
    this.#readIn = turn;
    this.#nowMs = this.#clock.nowMs();
    return this.#nowMs;
  }
}
