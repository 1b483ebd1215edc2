// SPDX-License-Identifier: Apache-2.0
// The clock of a host as one process sees it: it may run fast or slow, and its wall time may be
// wrong and jump; the monotonic one never does.

import { assert } from "../base/assert.js";
import type { Clock, Timer } from "../platform/world.js";
import type { Life } from "./life.js";

/** Midnight of 1 January 2030: wall time when a simulation begins. */
const WALL_ORIGIN_MS = 1_893_456_000_000;

/** What is wrong with the clock of a host. Shared by all its processes. */
export interface HostTime {
  /** Milliseconds of the host that pass in one true millisecond. */
  readonly rate: number;
  /** Monotonic time of the host when the simulation began. */
  readonly originMs: number;
  /** How far its wall time is ahead; changes when the clock jumps. */
  skewMs: number;
}

export class SimClock implements Clock {
  readonly #life: Life;
  readonly #time: HostTime;

  constructor(life: Life, time: HostTime) {
    this.#life = life;
    this.#time = time;
  }

  nowMs(): number {
    return this.#time.originMs + this.#life.timeline.nowMs * this.#time.rate;
  }

  wallMs(): number {
    const passed = this.#life.timeline.nowMs * this.#time.rate;
    return Math.floor(WALL_ORIGIN_MS + passed + this.#time.skewMs);
  }

  after(delayMs: number, work: () => void): Timer {
    assert(!Number.isNaN(delayMs), "a delay is a number");
    return this.#life.after(Math.max(0, delayMs) / this.#time.rate, work);
  }

  immediate(work: () => void): void {
    this.#life.after(0, work);
  }

  async sleep(delayMs: number): Promise<void> {
    await new Promise<void>((resolve) => void this.after(delayMs, resolve));
  }
}
