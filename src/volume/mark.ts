// SPDX-License-Identifier: Apache-2.0
// The mark in the registry that says whether the journal is needed. While it says clean, a journal
// that is lost loses nothing: so it must say dirty before the first write is acknowledged, and may
// say clean again only when everything acknowledged is in the backend. While it is being changed,
// and while it says clean, writes wait.

import { StorageError } from "../base/errors.js";
import type { Clock } from "../platform/world.js";
import type { VolumeMarks } from "./config.js";

const RETRY_FIRST_MS = 10;
const RETRY_LAST_MS = 1000;

export class DirtyMark {
  readonly #marks: VolumeMarks;
  readonly #clock: Clock;
  /** Called when writes may be looked at again. */
  readonly #onChange: () => void;
  readonly #onFenced: (reason: string) => void;
  #isDirty: boolean;
  #isClean: boolean;
  #cleanAtMs = Number.NEGATIVE_INFINITY;
  #changing: Promise<void> | null = null;
  #retryMs = RETRY_FIRST_MS;

  constructor(
    marks: VolumeMarks,
    clock: Clock,
    isDirty: boolean,
    events: { onChange(): void; onFenced(reason: string): void },
  ) {
    this.#marks = marks;
    this.#clock = clock;
    this.#isDirty = isDirty;
    this.#isClean = !isDirty;
    this.#onChange = () => events.onChange();
    this.#onFenced = (reason) => events.onFenced(reason);
  }

  /** The registry says surely that the journal is needed. */
  get isDirty(): boolean {
    return this.#isDirty;
  }

  /** The registry says surely that the journal is not needed. */
  get isClean(): boolean {
    return this.#isClean;
  }

  /** Writes may be acknowledged. */
  get mayWrite(): boolean {
    return this.#isDirty && this.#changing === null;
  }

  /** Begins to mark the vDisk dirty; `onChange` tells when to look again. */
  askDirty(): void {
    if (this.#changing !== null) return;
    this.#changing = this.#makeDirty().finally(() => {
      this.#changing = null;
      this.#onChange();
    });
  }

  /**
   * Everything acknowledged is in the backend, up to TLog `tlogNumber`. What fails may be tried
   * again, and is then put off a little unless it `isLast`.
   */
  async makeClean(tlogNumber: number, { isLast }: { isLast: boolean }): Promise<void> {
    if (this.#changing !== null || this.#isClean) return;
    if (!isLast && this.#clock.nowMs() < this.#cleanAtMs) return;
    // Whatever becomes of it: dirty is asked again before the next write.
    this.#isDirty = false;
    const change = this.#try(() => this.#marks.clean(tlogNumber));
    this.#changing = change.then(() => undefined);
    this.#isClean = await change;
    if (!this.#isClean) this.#cleanAtMs = this.#clock.nowMs() + RETRY_LAST_MS;
    this.#changing = null;
    this.#onChange();
  }

  /** Resolves when no change is under way. */
  async settled(): Promise<void> {
    await this.#changing;
  }

  async #makeDirty(): Promise<void> {
    this.#isClean = false;
    if (await this.#try(() => this.#marks.dirty())) {
      this.#isDirty = true;
      this.#retryMs = RETRY_FIRST_MS;
      return;
    }
    await this.#clock.sleep(this.#retryMs);
    this.#retryMs = Math.min(RETRY_LAST_MS, this.#retryMs * 2);
  }

  async #try(change: () => Promise<void>): Promise<boolean> {
    try {
      await change();
      return true;
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      if (error.kind === "fenced") this.#onFenced(error.message);
      return false;
    }
  }
}
