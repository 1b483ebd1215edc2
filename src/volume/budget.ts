// SPDX-License-Identifier: Apache-2.0
// The bytes of journal files that the volumes of one thread may have together.

import { assert } from "../base/assert.js";

export class JournalBudget {
  readonly totalBytes: number;
  #usedBytes = 0;
  #waiting: Array<() => void> = [];

  constructor(totalBytes: number) {
    assert(totalBytes > 0, "a budget is positive");
    this.totalBytes = totalBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** More than a quarter is free: freed segments may be kept for reuse. */
  get roomy(): boolean {
    return this.#usedBytes * 4 <= this.totalBytes * 3;
  }

  has(bytes: number): boolean {
    return this.#usedBytes + bytes <= this.totalBytes;
  }

  /** May go beyond the total for what exists anyway or is needed to serve at all. */
  take(bytes: number): void {
    this.#usedBytes += bytes;
  }

  give(bytes: number): void {
    this.#usedBytes -= bytes;
    assert(this.#usedBytes >= 0, "what is given was taken");
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const tell of waiting) tell();
  }

  /** Calls back once, when something was given. */
  whenRoom(tell: () => void): void {
    if (!this.#waiting.includes(tell)) this.#waiting.push(tell);
  }
}
