// SPDX-License-Identifier: Apache-2.0
// One timer for all deadlines of a client: it rings at the earliest time that was asked for.
//
// A loop that was busy past that time may have what was waited for in a socket already, and sockets
// are looked at only after timers. So an alarm that comes too late waits for the loop's next round
// before it rings, once.

import type { Clock, Timer } from "../platform/world.js";

/** A timer that comes so much too late tells of a busy loop. */
const LATE_MS = 5;

export class Alarm {
  readonly #clock: Clock;
  readonly #ring: () => void;
  #timer: Timer | null = null;
  #atMs = Number.POSITIVE_INFINITY;

  /** `ring` runs once for each alarm; it sets the next one. */
  constructor(clock: Clock, ring: () => void) {
    this.#clock = clock;
    this.#ring = ring;
  }

  /** Rings at `atMs` (clock) or before; later than an alarm that is set changes nothing. */
  set(atMs: number): void {
    if (atMs >= this.#atMs) return;
    this.#timer?.cancel();
    this.#atMs = atMs;
    const delayMs = Math.max(0, atMs - this.#clock.nowMs());
    this.#timer = this.#clock.after(delayMs, () => this.#onTimer());
  }

  /** Does not ring any more until it is set again. */
  cancel(): void {
    this.#timer?.cancel();
    this.#timer = null;
    this.#atMs = Number.POSITIVE_INFINITY;
  }

  #onTimer(): void {
    if (this.#clock.nowMs() - this.#atMs > LATE_MS) {
      this.#timer = this.#clock.after(1, () => this.#go());
    } else this.#go();
  }

  #go(): void {
    this.#timer = null;
    this.#atMs = Number.POSITIVE_INFINITY;
    this.#ring();
  }
}
