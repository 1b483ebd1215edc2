// SPDX-License-Identifier: Apache-2.0
// Processes that run seeds: each gets one, answers with its result, and gets the next. With a
// folder for coverage they write there what they have run, when they end.

import { type ChildProcess, fork } from "node:child_process";
import { type Cuts, noCuts } from "../../sim/cuts.js";
import { MemoryPool } from "../../sim/memory.js";
import type { RunResult } from "../../sim/run.js";
import { runHere } from "./seed.js";

export interface PoolOptions {
  /** The program to start, with `--worker`. */
  program: string;
  workers: number;
  cuts: Cuts;
  /** Where the processes write which code they ran; null: nowhere. */
  coverageFolder: string | null;
  /** The next seed; null: there is none. */
  next: () => number | null;
  /** Called for each seed that has ended, in the order in which they end. */
  onResult: (result: RunResult) => void;
}

/** Resolves when `next` has no more and all processes have ended. Rejects when one of them dies. */
export async function runPool(options: PoolOptions): Promise<void> {
  const { program, workers, cuts, coverageFolder } = options;
  const env = { ...process.env };
  if (coverageFolder !== null) env.NODE_V8_COVERAGE = coverageFolder;
  const children = Array.from({ length: workers }, () =>
    fork(program, ["--worker", wordsOf(cuts)], { env }),
  );
  try {
    await Promise.all(children.map((child) => drive(child, options)));
  } finally {
    for (const child of children) child.kill();
  }
}

/** What a process of the pool does: its arguments end with the words of `runPool`. */
export function runWorker(words: string): void {
  const cuts = cutsOf(words);
  const pool = new MemoryPool();
  process.on("message", (seed: number) => {
    void runHere(seed, cuts, { pool }).then((result) => process.send?.(result));
  });
}

function drive(child: ChildProcess, { next, onResult }: PoolOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    let current: number | null = null;
    const more = (): void => {
      current = next();
      if (current === null) child.disconnect();
      else child.send(current);
    };
    child.on("message", (result: RunResult) => {
      onResult(result);
      more();
    });
    child.once("exit", (code, signal) => {
      if (current === null) resolve();
      else reject(new Error(`seed ${current}: the process ended (${signal ?? code})`));
    });
    more();
  });
}

// JSON knows no Infinity.
function wordsOf(cuts: Cuts): string {
  const { firstTroubles, ...rest } = cuts;
  return JSON.stringify(Number.isFinite(firstTroubles) ? cuts : rest);
}

function cutsOf(words: string): Cuts {
  return { ...noCuts(0), ...(JSON.parse(words) as Partial<Cuts>) };
}
