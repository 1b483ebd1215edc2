// SPDX-License-Identifier: Apache-2.0
// A process and its supervisor: started, killed, frozen, stopped in order, and started anew when it
// has ended by itself. Each start is a new life; nothing of the old one goes on.

import { assert } from "../base/assert.js";
import { messageOf, StorageError } from "../base/errors.js";
import { Life, type Step } from "./life.js";
import type { Running, Spec } from "./spec.js";

const BACKOFF_MS = 100;
const BACKOFF_MS_MAX = 5_000;
/** A process that ran for longer had no trouble starting. */
const STEADY_MS = 10_000;

export class SimProcess {
  readonly spec: Spec;
  /** Called when a life has ended in the supervisor's sight, before the next start. */
  onDeath: () => Promise<void> = async () => {};
  #life: Life | null = null;
  #running: Running | null = null;
  #watch: ((what: Step) => void) | null = null;
  #ready = false;
  #wanted = false;
  #starts = 0;
  #startedMs = 0;
  #backoffMs = BACKOFF_MS;

  constructor(spec: Spec) {
    this.spec = spec;
  }

  /** The same for all its lives. */
  get name(): string {
    return this.spec.name;
  }

  /** It serves, as far as it knows. */
  get isReady(): boolean {
    return this.#ready;
  }

  /** There is a life, frozen or not. */
  get isAlive(): boolean {
    return this.#life !== null;
  }

  /** From now on it is kept running. */
  keep(): void {
    this.#wanted = true;
    this.#start();
  }

  /** SIGKILL; the supervisor starts it again after a while. */
  kill(reason: string): void {
    const life = this.#life;
    if (life === null) return;
    this.spec.host.trace.note(this.name, `ends: ${reason}`);
    this.#forget();
    life.end();
    void this.onDeath().then(() => this.#again());
  }

  /** `work` is told before each step that it takes, in this life and those that follow. */
  watch(work: ((what: Step) => void) | null): void {
    this.#watch = work;
    this.#life?.watch(work);
  }

  /**
   * SIGSTOP. Answers what ends it: the process goes on with its old beliefs. Its next life is not
   * frozen.
   */
  freeze(): () => void {
    const life = this.#life;
    life?.freeze();
    return () => life?.thaw();
  }

  /**
   * SIGTERM: resolves when it has stopped in order, or has died meanwhile. A main stops when it has
   * started; one that has not is killed, as supervisors do in the end.
   */
  async stop(): Promise<void> {
    this.#wanted = false;
    const [life, running] = [this.#life, this.#running];
    if (life === null) return;
    if (running === null || !this.#ready) {
      this.kill("SIGKILL: it is to stop, and starts still");
      return;
    }
    const dead = new Promise<void>((resolve) => life.atEnd(resolve));
    let how = "stopped";
    try {
      await Promise.race([running.stop(), dead]);
    } catch (error) {
      // As a real main: it says why, and is gone all the same.
      if (!(error instanceof StorageError)) throw error;
      how = `stopped, not in order: ${messageOf(error)}`;
    }
    if (this.#life !== life) return;
    this.spec.host.trace.note(this.name, how);
    this.#forget();
    life.end();
  }

  #forget(): void {
    this.#life = null;
    this.#running = null;
    this.#ready = false;
  }

  #start(): void {
    const { host } = this.spec;
    if (!this.#wanted || this.#life !== null || !host.isOn) return;
    const { timeline, trace } = host;
    this.#startedMs = timeline.nowMs;
    const life = new Life(`${this.name}#${++this.#starts}`, timeline);
    this.#life = life;
    life.watch(this.#watch);
    host.adopt(life);
    trace.note(this.name, `start ${this.#starts}`);
    life.after(0, () => this.#run(life));
  }

  #run(life: Life): void {
    const running = this.spec.make(life, (reason) => {
      // The process goes on until its event is over, as one does that calls exit: then it is gone.
      assert(this.#life === life, "a process ends itself while it lives");
      this.kill(reason);
    });
    this.#running = running;
    running.start().then(
      () => {
        if (this.#life !== life) return;
        this.#ready = true;
        this.spec.host.trace.note(this.name, "ready");
      },
      (error: unknown) => {
        if (!(error instanceof StorageError)) throw error;
        if (this.#life === life) this.kill(`cannot start: ${messageOf(error)}`);
      },
    );
  }

  /** After the death of a life: the next one, once the host is on. */
  #again(): void {
    if (!this.#wanted) return;
    const { timeline, dice } = this.spec.host;
    const ran = timeline.nowMs - this.#startedMs;
    this.#backoffMs = ran > STEADY_MS ? BACKOFF_MS : Math.min(2 * this.#backoffMs, BACKOFF_MS_MAX);
    timeline.after(this.#backoffMs * (0.5 + dice.share()), null, () => this.#start());
  }

  /** The host has power again. */
  powerIsBack(): void {
    this.#backoffMs = BACKOFF_MS;
    this.#again();
  }

  /** The host has lost power: the life is over already, and nobody is told. */
  powerIsGone(): void {
    this.#forget();
  }
}
