// SPDX-License-Identifier: Apache-2.0
// The bytes of journal files that the volumes of one thread may have together. Those of a vDisk
// that is not open count too: they take the same disk.

import { assert } from "../base/assert.js";

export class JournalBudget {
  readonly totalBytes: number;
  #usedBytes = 0;
  /** Bytes of journals that are not open, by their folder. */
  readonly #kept = new Map<string, number>();
  #waiting: Array<() => void> = [];
  /** Those who may have bytes to spare. */
  readonly #holders = new Set<() => void>();

  constructor(totalBytes: number) {
    assert(totalBytes > 0, "a budget is positive");
    this.totalBytes = totalBytes;
  }

  /** Bytes of files that were taken and not given back. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Nobody waits for room. */
  get roomy(): boolean {
    return this.#waiting.length === 0;
  }

  /** `spare` is called when somebody else waits for room: it gives what it can do without. */
  addHolder(spare: () => void): void {
    this.#holders.add(spare);
  }

  /** The holder is not asked any more. */
  removeHolder(spare: () => void): void {
    this.#holders.delete(spare);
  }

  /** True when so many more bytes keep within the total. */
  has(bytes: number): boolean {
    return this.#usedBytes + bytes <= this.totalBytes;
  }

  /** May go beyond the total for what exists anyway or is needed to serve at all. */
  take(bytes: number): void {
    this.#usedBytes += bytes;
  }

  /** Gives bytes back, and tells everybody who waits for room. */
  give(bytes: number): void {
    this.#usedBytes -= bytes;
    assert(this.#usedBytes >= 0, "what is given was taken");
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const tell of waiting) tell();
  }

  /** So many more bytes lie in the folder of a journal that is not open. */
  keep(folder: string, bytes: number): void {
    this.#kept.set(folder, (this.#kept.get(folder) ?? 0) + bytes);
    this.take(bytes);
  }

  /** The journal is opened, whose segments are taken one by one, or it is gone. */
  forget(folder: string): void {
    const bytes = this.#kept.get(folder) ?? 0;
    if (this.#kept.delete(folder)) this.give(bytes);
  }

  /** Calls back once, when something was given; asks all holders but `own` to give. */
  whenRoom(tell: () => void, own: () => void): void {
    if (this.#waiting.includes(tell)) return;
    this.#waiting.push(tell);
    for (const spare of this.#holders) if (spare !== own) spare();
  }
}
