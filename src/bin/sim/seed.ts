// SPDX-License-Identifier: Apache-2.0
// One seed in this process, and how its result is shown.

import { execFileSync } from "node:child_process";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { type Cuts, cutPlan, noCuts, optionsOf } from "../../sim/cuts.js";
import { MemoryPool } from "../../sim/memory.js";
import { planOf, type RunResult, runSeed } from "../../sim/run.js";
import type { TraceLine } from "../../sim/trace.js";

/** Events that a failure shows. */
const LAST = 100;
/** What a run depends on besides the machine's Node.js. */
const SOURCES = ["src", "native", "package-lock.json"].map((path) => `:(top)${path}`);

export interface HereOptions {
  /** Keeps every line of the trace. */
  traceAll?: boolean;
  /** For those who run several. */
  pool?: MemoryPool;
}

/** Runs a seed; an error that nobody has caught meanwhile belongs to it. */
export async function runHere(
  seed: number,
  cuts: Cuts,
  { traceAll = false, pool = new MemoryPool() }: HereOptions = {},
): Promise<RunResult> {
  let stray: unknown = null;
  const onStray = (error: unknown): void => {
    stray ??= error;
  };
  process.on("unhandledRejection", onStray);
  const options = { seed, seconds: cuts.seconds, traceAll, stray: () => stray, pool };
  try {
    return await runSeed(options, cutPlan(planOf(seed), cuts));
  } finally {
    process.off("unhandledRejection", onStray);
  }
}

/** Eight hexadecimal digits. */
export function digestOf(result: RunResult): string {
  return result.digest.toString(16).padStart(8, "0");
}

/** The commit that runs, and whether sources differ from it. */
export function commitOf(): string {
  const cwd = dirname(fileURLToPath(import.meta.url));
  const git = (...args: string[]) =>
    execFileSync("git", args, { cwd, stdio: ["ignore", "pipe", "ignore"] })
      .toString()
      .trim();
  try {
    const commit = git("rev-parse", "HEAD");
    return git("status", "--porcelain", "--", ...SOURCES) === "" ? commit : `${commit}, changed`;
  } catch {
    return "unknown: this is no checkout";
  }
}

/** Prints lines of a trace. */
export function showLines(lines: readonly TraceLine[]): void {
  for (const { timeMs, node, text } of lines) {
    console.log(`  ${(timeMs / 1000).toFixed(6)} ${node}: ${text}`);
  }
}

/** Prints what failed, where, the last of what happened, and how to see it again. */
export function showFailure(result: RunResult, cuts: Cuts, commit = commitOf()): void {
  console.log(`\nseed ${result.seed} FAILED: ${result.failure}`);
  console.log(`commit ${commit}, digest ${digestOf(result)}; the last that happened:`);
  showLines(result.trace.slice(-LAST));
  const again = commandOf(result.seed, cuts);
  console.log(`again:   ${again} --trace\nsmaller: ${again} --shrink\n`);
}

/** The same of a seed that has no result: `words` say what became of its process. */
export function showLost(seed: number, words: string, cuts: Cuts, commit: string): void {
  console.log(`\nseed ${seed} FAILED: ${words}\ncommit ${commit}`);
  console.log(`again:   ${commandOf(seed, cuts)} --trace\n`);
}

/** What to type to run a seed so. */
export function commandOf(seed: number, cuts: Cuts): string {
  const isPlain = optionsOf(cuts) === optionsOf(noCuts(60));
  return `npm run sim -- --seed ${seed}${isPlain ? "" : ` ${optionsOf(cuts)}`}`;
}
