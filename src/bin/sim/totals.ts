// SPDX-License-Identifier: Apache-2.0
// What came of many seeds, while they run and at the end.

import type { Cuts } from "../../sim/cuts.js";
import { ALL_TROUBLES } from "../../sim/nemesis.js";
import { counts, type RunResult } from "../../sim/run.js";
import { missingKinds, Spread } from "../../sim/spread.js";
import { showFailure } from "./seed.js";

/** Failures that are shown in full. */
const SHOWN = 5;

export class Totals {
  seeds = 0;
  readonly failed: number[] = [];
  readonly #cuts: Cuts;
  readonly #spread = new Spread();
  readonly #faults = new Map<string, number>();
  readonly #begun = new Set<string>();
  readonly #startMs = performance.now();
  /** Seeds in which enough happened. */
  #counted = 0;
  #simulatedMs = 0;
  #acknowledged = 0;

  constructor(cuts: Cuts) {
    this.#cuts = cuts;
  }

  /** One more seed; a failure is shown. */
  add(result: RunResult): void {
    this.seeds++;
    this.#simulatedMs += result.simulatedMs;
    this.#acknowledged += result.acknowledged;
    this.#spread.add(result);
    if (counts(result)) this.#counted++;
    for (const { kind } of result.troubles) this.#begun.add(kind);
    for (const [kind, count] of Object.entries(result.faults)) {
      this.#faults.set(kind, (this.#faults.get(kind) ?? 0) + count);
    }
    if (result.failure === "") return;
    this.failed.push(result.seed);
    if (this.failed.length <= SHOWN) showFailure(result, this.#cuts);
  }

  /** One line of progress. */
  say(): void {
    const seconds = (performance.now() - this.#startMs) / 1000;
    const speed = this.#simulatedMs / 1000 / seconds;
    const rate = (this.seeds / seconds).toFixed(2);
    console.log(
      `${seconds.toFixed(0)} s: ${this.seeds} seeds (${rate}/s), ${this.failed.length} failed, ` +
        `${this.#acknowledged} requests answered, ${speed.toFixed(0)} × real time, ` +
        `${this.#begun.size} of ${ALL_TROUBLES.length} kinds of trouble`,
    );
  }

  /** All at the end. */
  sum(): void {
    for (const line of this.#spread.lines()) console.log(line);
    console.log(`${this.#counted} of ${this.seeds} seeds count: long, busy, with enough trouble`);
    const kinds = [...this.#faults].sort((a, b) => b[1] - a[1]);
    console.log(`faults: ${kinds.map(([kind, count]) => `${kind} ${count}`).join(", ")}`);
    const missing = missingKinds(this.#begun);
    if (missing.length > 0) console.log(`never happened: ${missing.join(", ")}`);
    this.say();
    if (this.failed.length > 0) console.log(`failed: ${this.failed.join(" ")}`);
  }
}
