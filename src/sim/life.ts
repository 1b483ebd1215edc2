// SPDX-License-Identifier: Apache-2.0
// The life of one process, from its start to its end. All that happens to a process is an event
// that belongs to its life: after a SIGKILL nothing happens to it any more, its promises never
// settle, and what it had asked of the kernel may or may not have been done. A frozen one (SIGSTOP,
// a stalled host) goes on later with its old beliefs.

import { assert } from "../base/assert.js";
import type { Timer } from "../platform/world.js";
import type { Owner, Timeline } from "./timeline.js";

export class Life implements Owner {
  readonly name: string;
  readonly timeline: Timeline;
  #state: Owner["state"] = "alive";
  #held: Array<() => void> = [];
  readonly #onEnd: Array<() => void> = [];
  readonly #threads: Life[] = [];

  constructor(name: string, timeline: Timeline) {
    this.name = name;
    this.timeline = timeline;
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

  /** A thread: it ends, freezes and goes on with the process, and may end before it. */
  thread(name: string): Life {
    const thread = new Life(name, this.timeline);
    this.#threads.push(thread);
    return thread;
  }

  /** Nothing happens to it until `thaw`; connections stay, peers see silence. */
  freeze(): void {
    if (this.#state !== "alive") return;
    this.#state = "frozen";
    for (const thread of this.#threads) thread.freeze();
  }

  /** What should have happened meanwhile happens now, in the old order. */
  thaw(): void {
    if (this.#state !== "frozen") return;
    this.#state = "alive";
    const held = this.#held;
    this.#held = [];
    for (const work of held) this.after(0, work);
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
