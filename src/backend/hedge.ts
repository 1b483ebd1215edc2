// SPDX-License-Identifier: Apache-2.0
// When a read stops waiting for an OSD and asks others instead. The delay follows what reads take
// (mean and deviation, as TCP's retransmission timer does); a budget of tokens keeps hedges a
// small part of all reads, because under general overload they would only add to it. An OSD that
// was too slow several times is left alone for a while, then tried again.

const DELAY_MS_MIN = 30;
const DELAY_MS_MAX = 1000;
/** A disk that delivers less counts as slow. */
const BYTES_PER_MS = 5000;
const TOKENS_MAX = 32;
const TOKENS_PER_READ = 0.02;
const SLOW_IN_A_ROW = 3;
const AVOID_MS_MIN = 200;
const AVOID_MS_MAX = 5000;

interface Seen {
  slowInARow: number;
  /** When the last of them was found. */
  slowAtMs: number;
  avoidUntilMs: number;
}

export class Hedge {
  #meanMs = 5;
  #deviationMs = 5;
  #tokens = TOKENS_MAX;
  readonly #seen = new Map<number, Seen>();

  /** Milliseconds to wait for a read of so many bytes; Infinity when no hedge can be afforded. */
  delayMs(bytes: number): number {
    if (this.#tokens < 1) return Number.POSITIVE_INFINITY;
    const usual = this.#meanMs + 6 * this.#deviationMs;
    return Math.min(DELAY_MS_MAX, Math.max(DELAY_MS_MIN, usual)) + bytes / BYTES_PER_MS;
  }

  /** True while the OSD should not be asked if others can answer. */
  avoids(osd: number, nowMs: number): boolean {
    const seen = this.#seen.get(osd);
    return seen !== undefined && nowMs < seen.avoidUntilMs;
  }

  /** An OSD has answered after `tookMs`: it is not avoided any more, and the delay follows. */
  answered(osd: number, tookMs: number): void {
    const error = tookMs - this.#meanMs;
    this.#meanMs += error / 16;
    this.#deviationMs += (Math.abs(error) - this.#deviationMs) / 16;
    this.#tokens = Math.min(TOKENS_MAX, this.#tokens + TOKENS_PER_READ);
    if (this.#seen.size > 0) this.#seen.delete(osd);
  }

  /** Reads that were all on their way when an OSD paused tell of one pause, not of many. */
  tooSlow(osd: number, sentMs: number, nowMs: number): void {
    this.#tokens = Math.max(0, this.#tokens - 1);
    const seen = this.#seen.get(osd) ?? { slowInARow: 0, slowAtMs: 0, avoidUntilMs: 0 };
    this.#seen.set(osd, seen);
    if (sentMs < seen.slowAtMs) return;
    seen.slowAtMs = nowMs;
    seen.slowInARow++;
    const over = seen.slowInARow - SLOW_IN_A_ROW;
    if (over >= 0) seen.avoidUntilMs = nowMs + Math.min(AVOID_MS_MAX, AVOID_MS_MIN * 2 ** over);
  }
}
