// SPDX-License-Identifier: Apache-2.0
// Waiting for each other on one loop: semaphores with a bound, deadlines, and settling of lists.

import { assert } from "./assert.js";
import { StorageError } from "./errors.js";

/** Counting semaphore. Waiters are served in order; more than `waitersMax` are refused. */
export class Semaphore {
  #free: number;
  readonly #waitersMax: number;
  readonly #waiters: Array<() => void> = [];

  constructor(permits: number, waitersMax = 65_536) {
    assert(permits > 0, "a semaphore has permits");
    this.#free = permits;
    this.#waitersMax = waitersMax;
  }

  /** Callers of `acquire` that stand in line. */
  get waiting(): number {
    return this.#waiters.length;
  }

  /**
   * Takes a permit, in order of the calls; give it back by `release`. OVS_BUSY when the line is
   * full.
   */
  async acquire(): Promise<void> {
    if (this.#free > 0) {
      this.#free--;
      return;
    }
    if (this.#waiters.length >= this.#waitersMax) {
      throw new StorageError("OVS_BUSY", `more than ${this.#waitersMax} operations wait here`);
    }
    await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }

  /** Gives a permit back: to who waits longest, if anybody does. */
  release(): void {
    const next = this.#waiters.shift();
    if (next) next();
    else this.#free++;
  }

  /** Runs `work` with one permit held. */
  async with<T>(work: () => Promise<T>): Promise<T> {
    await this.acquire();
    try {
      return await work();
    } finally {
      this.release();
    }
  }
}

/** A promise and the two functions that settle it. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  /** Settles the promise; only the first call of the two counts. */
  resolve(value: T): void;
  /** Makes the promise reject with `error`. */
  reject(error: unknown): void;
}

/** A promise that its maker settles from outside. */
export function deferred<T>(): Deferred<T> {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}

/**
 * Waits for all to settle, then throws the first failure: nothing that was lent is still in use.
 */
export async function settleAll<T>(promises: ReadonlyArray<Promise<T>>): Promise<T[]> {
  const results = await Promise.allSettled(promises);
  const values: T[] = [];
  for (const result of results) {
    if (result.status === "rejected") throw result.reason;
    values.push(result.value);
  }
  return values;
}
