// SPDX-License-Identifier: Apache-2.0
// A row of the benchmark table: what `npm run perf -- ROW` runs.

import type { Line } from "./stats.js";

export interface RowContext {
  /** Folder for files of this row on a real disk; empty at the start and removed at the end. */
  readonly folder: string;
  /** Rounds of each side; at least 5 unless --quick. */
  readonly rounds: number;
  /** Length of one round's measurement. */
  readonly seconds: number;
  /** A look whether the row works: short cuts that make its values worthless are welcome. */
  readonly quick: boolean;
  /** Tells the reader what goes on. */
  say(message: string): void;
}

export interface Row {
  readonly name: string;
  /** The target in words, for the list of rows. */
  readonly target: string;
  run(context: RowContext): Promise<Line[]>;
}
