// SPDX-License-Identifier: Apache-2.0
// What came of many seeds, while they run and at the end.

import { COUNTS, lacks } from "../../sim/counts.js";
import type { Cuts } from "../../sim/cuts.js";
import { ALL_TROUBLES } from "../../sim/kinds.js";
import type { RunResult } from "../../sim/run.js";
import { missingKinds, Spread } from "../../sim/spread.js";
import { commitOf, showFailure, showLost } from "./seed.js";

/** Failures that are shown in full. */
const SHOWN = 5;
/** Seeds that are named for each reason not to count. */
const NAMED = 5;

export class Totals {
  seeds = 0;
  readonly failed: number[] = [];
  readonly #cuts: Cuts;
  readonly #spread = new Spread();
  readonly #faults = new Map<string, number>();
  readonly #begun = new Set<string>();
  readonly #startMs = performance.now();
  /** Now: files may change while it runs. */
  readonly #commit = commitOf();
  #simulatedMs = 0;
  #cpuMs = 0;
  #acknowledged = 0;
  #counted = 0;
  /** Why seeds do not count, and which. */
  readonly #lacking = new Map<string, number[]>();

  constructor(cuts: Cuts) {
    this.#cuts = cuts;
  }

  /** One more seed, and the CPU time that it took; a failure is shown. */
  add(result: RunResult, cpuMs: number): void {
    this.seeds++;
    this.#simulatedMs += result.simulatedMs;
    this.#cpuMs += cpuMs;
    this.#acknowledged += result.acknowledged;
    this.#spread.add(result);
    this.#count(result.seed, lacks(result));
    for (const { kind } of result.troubles) this.#begun.add(kind);
    for (const [kind, count] of Object.entries(result.faults)) {
      this.#faults.set(kind, (this.#faults.get(kind) ?? 0) + count);
    }
    if (result.failure === "") return;
    this.failed.push(result.seed);
    if (this.failed.length <= SHOWN) showFailure(result, this.#cuts, this.#commit);
  }

  /** A seed that has no result; that is a failure too. */
  lost(seed: number, words: string): void {
    this.seeds++;
    this.failed.push(seed);
    this.#count(seed, ["failed"]);
    if (this.failed.length <= SHOWN) showLost(seed, words, this.#cuts, this.#commit);
  }

  /** One line of progress. */
  say(): void {
    const seconds = (performance.now() - this.#startMs) / 1000;
    const rate = (this.seeds / seconds).toFixed(2);
    const times = (ms: number) => (this.#simulatedMs / Math.max(1, ms)).toFixed(0);
    console.log(
      `${seconds.toFixed(0)} s: ${this.seeds} seeds (${rate}/s), ${this.failed.length} failed, ` +
        `${this.#acknowledged} requests answered, ${times(seconds * 1000)} × real time, ` +
        `${times(this.#cpuMs)} × CPU time, ` +
        `${this.#begun.size} of ${ALL_TROUBLES.length} kinds of trouble`,
    );
  }

  /** All at the end. */
  sum(): void {
    for (const line of this.#spread.lines()) console.log(line);
    const kinds = [...this.#faults].sort((a, b) => b[1] - a[1]);
    if (kinds.length > 0) {
      console.log(`faults: ${kinds.map(([kind, count]) => `${kind} ${count}`).join(", ")}`);
    }
    const missing = missingKinds(this.#begun);
    if (missing.length > 0) console.log(`never happened: ${missing.join(", ")}`);
    for (const line of this.countLines()) console.log(line);
    this.say();
    if (this.failed.length > 0) console.log(`failed: ${this.failed.join(" ")}`);
  }

  /** How many seeds count, and why the others do not. */
  countLines(): string[] {
    const { seconds, acknowledged, crashes, others, troubles } = COUNTS;
    const needs =
      `passed, at least ${seconds} s simulated, ${acknowledged} requests answered, ` +
      `${crashes} crash, ${others} other faults of ${troubles} other troubles`;
    const lines = [`${this.#counted} of ${this.seeds} seeds count (${needs})`];
    for (const [why, seeds] of this.#lacking) {
      const named = seeds.slice(0, NAMED).join(" ");
      const more = seeds.length > NAMED ? " …" : "";
      lines.push(`do not count: ${seeds.length}, ${why}: ${named}${more}`);
    }
    return lines;
  }

  #count(seed: number, lacking: readonly string[]): void {
    if (lacking.length === 0) this.#counted++;
    for (const why of lacking) {
      const seeds = this.#lacking.get(why);
      if (seeds === undefined) this.#lacking.set(why, [seed]);
      else seeds.push(seed);
    }
  }
}
