// SPDX-License-Identifier: Apache-2.0
// A registry whose answers get lost, for tests of unknown outcomes.

import { StorageError } from "../../src/base/errors.js";
import type {
  Registry,
  Transaction,
  TransactionResult,
  WatchHandler,
} from "../../src/registry/registry.js";

/** What happens to one transaction: nothing of it, its answer is lost, or it comes much later. */
export type Fault = "drop" | "lose-answer" | "delay";

export class FaultyRegistry implements Registry {
  readonly #real: Registry;
  readonly #faults: Fault[] = [];
  #matches: (transaction: Transaction) => boolean = () => false;
  /** Transactions that are still on their way; `deliver` lets them arrive. */
  readonly delayed: Transaction[] = [];
  hit = 0;

  constructor(real: Registry) {
    this.#real = real;
  }

  /** The next transactions with a put of a key that begins so are struck, one fault each. */
  strike(prefix: string, ...faults: Fault[]): void {
    this.#faults.push(...faults);
    this.#matches = ({ success }) =>
      success.some((operation) => operation.kind === "put" && operation.key.startsWith(prefix));
  }

  /** No more faults. */
  calm(): void {
    this.#faults.length = 0;
  }

  /** Lets the delayed ones arrive now; returns which of them were carried out. */
  async deliver(): Promise<boolean[]> {
    const results: boolean[] = [];
    for (const transaction of this.delayed.splice(0)) {
      results.push((await this.#real.transact(transaction)).succeeded);
    }
    return results;
  }

  async transact(transaction: Transaction): Promise<TransactionResult> {
    const fault = this.#matches(transaction) ? this.#faults.shift() : undefined;
    if (fault === undefined) return await this.#real.transact(transaction);
    this.hit++;
    if (fault === "lose-answer") await this.#real.transact(transaction);
    if (fault === "delay") this.delayed.push(transaction);
    throw new StorageError("OVS_TIMEOUT", `test: ${fault}`);
  }

  get = (key: string) => this.#real.get(key);
  range = (prefix: string, options: { after?: string; limit: number }) =>
    this.#real.range(prefix, options);
  watch = (prefix: string, fromRevision: number, handler: WatchHandler) =>
    this.#real.watch(prefix, fromRevision, handler);
  leaseGrant = (ttlSeconds: number) => this.#real.leaseGrant(ttlSeconds);
  leaseKeepAlive = (lease: string) => this.#real.leaseKeepAlive(lease);
  leaseRevoke = (lease: string) => this.#real.leaseRevoke(lease);
  close = () => this.#real.close();
}
