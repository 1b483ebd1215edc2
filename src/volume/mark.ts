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
    this.#onChange = () => events.onChange();
    this.#onFenced = (reason) => events.onFenced(reason);
  }

  /** The registry says surely that the journal is needed. */
  get isDirty(): boolean {
    return this.#isDirty;
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

  /** Everything acknowledged is in the backend, up to TLog `tlogNumber`. */
  async makeClean(tlogNumber: number): Promise<void> {
    if (this.#changing !== null || !this.#isDirty) return;
    // Whatever becomes of it: dirty is asked again before the next write.
    this.#isDirty = false;
    const change = this.#try(() => this.#marks.clean(tlogNumber));
    this.#changing = change.then(() => undefined);
    await change;
    this.#changing = null;
    this.#onChange();
  }

  /** Resolves when no change is under way. */
  async settled(): Promise<void> {
    await this.#changing;
  }

  async #makeDirty(): Promise<void> {
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
