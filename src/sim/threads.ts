// SPDX-License-Identifier: Apache-2.0
// Worker threads of a simulated process: a life of their own inside that of the process, a world of
// their own, and messages that are copied as between real threads.

import { assert } from "../base/assert.js";
import type { Port, Thread, Threads } from "../platform/threads.js";
import type { Life } from "./life.js";

/** Starts what a thread of this role runs, in its life. */
export type ThreadMain = (life: Life, role: string, data: unknown, port: Port) => void;

export class SimThreads implements Threads {
  readonly #process: Life;
  readonly #main: ThreadMain;
  #count = 0;

  constructor(process: Life, main: ThreadMain) {
    this.#process = process;
    this.#main = main;
  }

  spawn(role: string, data: unknown, onEnd: (reason: string) => void): Thread {
    const process = this.#process;
    const life = process.thread(`${process.name}/${this.#count++}`);
    const [inner, outer] = [new SimPort(process), new SimPort(life)];
    inner.other = outer;
    outer.other = inner;
    const copy = structuredClone(data);
    life.after(0, () => this.#main(life, role, copy, inner));
    return {
      post: (message) => outer.post(message),
      onMessage: (handler) => outer.onMessage(handler),
      terminate: async () => {
        if (life.state === "dead") return;
        life.end();
        process.after(0, () => onEnd(""));
      },
    };
  }
}

/** One end of a channel; what is posted comes to the other end, in order. */
class SimPort implements Port {
  other: SimPort | null = null;
  /** Whose event the arrival of a message at the other end is. */
  readonly #receiver: Life;
  #handler: ((message: unknown) => void) | null = null;
  #early: unknown[] = [];

  constructor(receiver: Life) {
    this.#receiver = receiver;
  }

  post(message: unknown): void {
    const copy = structuredClone(message);
    this.#receiver.after(0, () => this.other!.#take(copy));
  }

  onMessage(handler: (message: unknown) => void): void {
    assert(this.#handler === null, "a port has one receiver");
    this.#handler = handler;
    const early = this.#early;
    this.#early = [];
    for (const message of early) handler(message);
  }

  #take(message: unknown): void {
    if (this.#handler === null) this.#early.push(message);
    else this.#handler(message);
  }
}
