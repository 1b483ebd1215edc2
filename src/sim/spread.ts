// SPDX-License-Identifier: Apache-2.0
// How seeds differ: least, tenth, middle, nine tenths and most of each quantity, as a table.

import { countFaults } from "./counts.js";
import { ALL_TROUBLES } from "./kinds.js";
import type { RunResult } from "./run.js";

const QUANTILES = [
  ["min", 0],
  ["p10", 0.1],
  ["median", 0.5],
  ["p90", 0.9],
  ["max", 1],
] as const;
const WIDTH = 9;

/** Kinds of trouble that never began. */
export function missingKinds(begun: ReadonlySet<string>): string[] {
  return ALL_TROUBLES.filter((kind) => !begun.has(kind));
}

export class Spread {
  readonly #rows = new Map<string, number[]>();

  /** One more seed. */
  add(result: RunResult): void {
    this.#put("simulated seconds", result.simulatedMs / 1000);
    this.#put("requests answered", result.acknowledged);
    const { crashes, others, troubles } = countFaults(result);
    this.#put("crashes", crashes);
    this.#put("other faults", others);
    this.#put("other troubles", troubles);
  }

  /** Lines of the table; none without seeds. */
  lines(): string[] {
    if (this.#rows.size === 0) return [];
    const cell = (words: string) => words.padStart(WIDTH);
    const head = QUANTILES.map(([name]) => cell(name)).join("");
    const rows = [...this.#rows].map(([name, values]) => {
      const sorted = [...values].sort((a, b) => a - b);
      const at = (share: number) => sorted[Math.round(share * (sorted.length - 1))]!;
      return name.padEnd(18) + QUANTILES.map(([, q]) => cell(at(q).toFixed(0))).join("");
    });
    return [`${"of each seed".padEnd(18)}${head}`, ...rows];
  }

  #put(name: string, value: number): void {
    const values = this.#rows.get(name);
    if (values === undefined) this.#rows.set(name, [value]);
    else values.push(value);
  }
}
