// SPDX-License-Identifier: Apache-2.0
// A clock for tests, which moves when it is told.

import type { Clock, Timer } from "../../src/platform/world.js";

/** A clock that moves when it is told. Timers that are due run in order, as after a stop. */
export class HandClock implements Clock {
  #now = 0;
  #timers: Array<{ atMs: number; work: () => void }> = [];

  nowMs(): number {
    return this.#now;
  }

  wallMs(): number {
    return this.#now;
  }

  after(delayMs: number, work: () => void): Timer {
    const timer = { atMs: this.#now + delayMs, work };
    this.#timers.push(timer);
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((other) => other !== timer);
      },
    };
  }

  immediate(work: () => void): void {
    work();
  }

  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.after(delayMs, resolve));
  }

  /** Timers that are set. */
  get waiting(): number {
    return this.#timers.length;
  }

  /** Time goes by, and every timer runs when it is due. */
  pass(ms: number): void {
    for (const end = this.#now + ms; this.#now < end; ) this.stall(Math.min(10, end - this.#now));
  }

  /** The process stands still: what is due runs late. `reversed`: the latest timer first. */
  stall(ms: number, reversed = false): void {
    this.#now += ms;
    const due = this.#timers.filter((timer) => timer.atMs <= this.#now);
    due.sort((a, b) => (reversed ? b.atMs - a.atMs : a.atMs - b.atMs));
    this.#timers = this.#timers.filter((timer) => !due.includes(timer));
    for (const { work } of due) work();
  }
}

/** Lets everything that waits for nothing but its turn run. */
export async function settled(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise<void>((resolve) => void setImmediate(resolve));
}
