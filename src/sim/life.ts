// SPDX-License-Identifier: Apache-2.0
// The life of one process, from its start to its end. All that happens to a process is an event
// that belongs to its life: after a SIGKILL nothing happens to it any more, its promises never
// settle, and what it had asked of the kernel may or may not have been done. A frozen one (SIGSTOP,
// a stalled host) goes on later with its old beliefs.

import { assert } from "../base/assert.js";
import type { Timer } from "../platform/world.js";
import type { Owner, Timeline } from "./timeline.js";

/** What comes next: an event of the process, or its kernel gets what one connection sends. */
export type Step = "event" | "send";

export class Life implements Owner {
  readonly name: string;
  readonly timeline: Timeline;
  #state: Owner["state"] = "alive";
  #freezes = 0;
  #held: Array<() => void> = [];
  readonly #onEnd: Array<() => void> = [];
  readonly #threads: Life[] = [];
  /** Of a thread: its process. */
  readonly #process: Life;
  /** Of a process: told before each step of it or of a thread. */
  #watch: ((what: Step) => void) | null = null;

  constructor(name: string, timeline: Timeline, process: Life | null = null) {
    this.name = name;
    this.timeline = timeline;
    this.#process = process ?? this;
  }

  /** Dead is for ever. */
  get state(): Owner["state"] {
    return this.#state;
  }

  hold(work: () => void): void {
    assert(this.#state === "frozen", "only what is frozen holds events");
    this.#held.push(work);
  }

  /** An event of this life, after `delayMs`. */
  after(delayMs: number, work: () => void): Timer {
    return this.timeline.after(delayMs, this, work);
  }

  /** What the kernel does when the process is gone, however: called once, at its end. */
  atEnd(work: () => void): void {
    assert(this.#state !== "dead", "a life has one end");
    this.#onEnd.push(work);
  }

  /** `work` is told before each step of the process, and may end or freeze it there. */
  watch(work: ((what: Step) => void) | null): void {
    this.#watch = work;
  }

  /** It is about to take a step. */
  step(what: Step): void {
    if (this.#state === "alive") this.#process.#watch?.(what);
  }

  /** A thread: it ends, freezes and goes on with the process, and may end before it. */
  thread(name: string): Life {
    const thread = new Life(name, this.timeline, this.#process);
    this.#threads.push(thread);
    return thread;
  }

  /**
   * Nothing happens to it until `thaw`, as often as it was frozen; connections stay, peers see
   * silence.
   */
  freeze(): void {
    if (this.#state === "dead") return;
    this.#freezes++;
    this.#state = "frozen";
    for (const thread of this.#threads) thread.freeze();
  }

  /** What should have happened meanwhile happens now, in the old order. */
  thaw(): void {
    if (this.#state !== "frozen") return;
    this.#freezes--;
    if (this.#freezes === 0) {
      this.#state = "alive";
      const held = this.#held;
      this.#held = [];
      for (const work of held) this.after(0, work);
    }
    for (const thread of this.#threads) thread.thaw();
  }

  /** SIGKILL, or the end of the process by itself. */
  end(): void {
    if (this.#state === "dead") return;
    this.#state = "dead";
    this.#held = [];
    for (const thread of this.#threads) thread.end();
    for (const work of this.#onEnd) work();
  }
}
