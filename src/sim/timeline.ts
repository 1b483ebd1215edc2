// SPDX-License-Identifier: Apache-2.0
// Virtual time: a heap of events, run one after the other; between two of them every promise that
// can settle has settled. Nothing else happens in a simulation, so that the order of events, and
// with it all that follows, is a function of the seed.
//
// An event may belong to a life (life.ts): that of a dead one is dropped, that of a frozen one
// waits for it. Events of the same time run in the order in which they were made.

import { assert } from "../base/assert.js";
import { runInTicks } from "../platform/node/ticks.js";
import type { Timer } from "../platform/world.js";

/** Who an event happens to. */
export interface Owner {
  readonly state: "alive" | "frozen" | "dead";
  /** Keeps an event of a frozen one; it is made anew when that goes on. */
  hold(work: () => void): void;
  /** An event is about to happen to it; may end or freeze it. */
  step(what: "event" | "send"): void;
}

class Event implements Timer {
  readonly timeMs: number;
  readonly serial: number;
  work: (() => void) | null;
  readonly owner: Owner | null;

  constructor(timeMs: number, serial: number, owner: Owner | null, work: () => void) {
    this.timeMs = timeMs;
    this.serial = serial;
    this.owner = owner;
    this.work = work;
  }

  cancel(): void {
    this.work = null;
  }
}

export class Timeline {
  readonly #heap: Event[] = [];
  #nowMs = 0;
  #serial = 0;
  #events = 0;
  #digest = 0x811c9dc5;

  /** Milliseconds since the simulation began. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /** Events that were run. */
  get events(): number {
    return this.#events;
  }

  /** Of all events until now: two runs of a seed have the same. */
  get digest(): number {
    return this.#digest >>> 0;
  }

  /** Mixes what an event did into the digest: 32 bits of it. */
  mix(value: number): void {
    this.#digest = Math.imul(this.#digest ^ (value >>> 0), 0x01000193);
  }

  /** Runs `work` after `delayMs`, as something that happens to `owner` (null: to nobody). */
  after(delayMs: number, owner: Owner | null, work: () => void): Timer {
    assert(delayMs >= 0, "time goes forward");
    const event = new Event(this.#nowMs + delayMs, this.#serial++, owner, work);
    this.#push(event);
    return event;
  }

  /** Runs events until `done` says so after one, or until nothing is left to happen. */
  async run(done: () => boolean): Promise<void> {
    await runInTicks(() => !done() && this.#step());
  }

  /** Runs all events of the next `ms` milliseconds. */
  async pass(ms: number): Promise<void> {
    let over = false;
    this.after(ms, null, () => {
      over = true;
    });
    await this.run(() => over);
  }

  #step(): boolean {
    for (;;) {
      const event = this.#pop();
      if (event === undefined) return false;
      const { work, owner } = event;
      if (work === null || owner?.state === "dead") continue;
      this.#nowMs = event.timeMs;
      owner?.step("event");
      if (isDead(owner)) continue;
      if (owner?.state === "frozen") {
        owner.hold(() => event.work?.());
        continue;
      }
      this.#events++;
      this.mix(event.serial ^ Math.imul(event.timeMs * 1000, 31));
      event.work = null;
      work();
      return true;
    }
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(event, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): Event | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++;
      if (!before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

function isDead(owner: Owner | null): boolean {
  return owner?.state === "dead";
}

function before(a: Event, b: Event): boolean {
  return a.timeMs < b.timeMs || (a.timeMs === b.timeMs && a.serial < b.serial);
}
