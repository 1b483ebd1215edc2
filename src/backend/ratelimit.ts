// SPDX-License-Identifier: Apache-2.0
// A limit of bytes per second for background work, lower while clients are being served.

import { assert } from "../base/assert.js";
import type { Clock } from "../platform/world.js";

const BURST_MS = 250;

export interface RateOptions {
  bytesPerSecond: number;
  /** While clients are being served. */
  bytesPerSecondBusy: number;
  /** True while clients are being served. */
  isBusy: () => boolean;
}

export class RateLimit {
  readonly #clock: Clock;
  readonly #options: RateOptions;
  /** When what was let through so far is paid for. */
  #paidUntilMs = 0;

  constructor(clock: Clock, options: RateOptions) {
    assert(options.bytesPerSecond > 0 && options.bytesPerSecondBusy > 0, "a rate is positive");
    this.#clock = clock;
    this.#options = options;
  }

  /** Resolves when so many bytes may be moved. */
  async take(bytes: number): Promise<void> {
    const { bytesPerSecond, bytesPerSecondBusy, isBusy } = this.#options;
    const rate = isBusy() ? bytesPerSecondBusy : bytesPerSecond;
    const nowMs = this.#clock.nowMs();
    const beginMs = Math.max(nowMs - BURST_MS, this.#paidUntilMs);
    this.#paidUntilMs = beginMs + (1000 * bytes) / rate;
    const waitMs = this.#paidUntilMs - nowMs;
    if (waitMs > 0) await this.#clock.sleep(waitMs);
  }
}
