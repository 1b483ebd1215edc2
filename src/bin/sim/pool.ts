// SPDX-License-Identifier: Apache-2.0
// Processes that run seeds: each gets one, answers with its result, and gets the next. A process
// that dies of its seed, or does not answer, is told of, and another takes its place. With a folder
// for coverage they write there what they have run, when they end.

import { type ChildProcess, fork } from "node:child_process";
import { totalmem } from "node:os";
import { GIB } from "../../base/units.js";
import { type Cuts, noCuts } from "../../sim/cuts.js";
import { MemoryPool } from "../../sim/memory.js";
import type { RunResult } from "../../sim/run.js";
import { runHere } from "./seed.js";

/** Real time that one seed may take: a few seconds are common, and a machine may be busy. */
const SEED_MS_MAX = 600_000;
/** What the processes together may keep for seeds to come: a share of the machine's memory. */
const KEPT_SHARE = 0.5;
const KEPT_BYTES_MAX = 6 * GIB;
/**
 * Environment of processes that run seeds. Arenas are mapped then, and so zero already: glibc would
 * take those below 32 MiB from its heap, and write the zeroes.
 */
export const SEED_ENVIRONMENT = { MALLOC_MMAP_THRESHOLD_: "4194304" };
/** Processes in a row that answer nothing at all: then it is not the seeds. */
const USELESS_MAX = 3;

export interface PoolOptions {
  /** The program to start, with `--worker`. */
  program: string;
  workers: number;
  cuts: Cuts;
  /** Where the processes write which code they ran; null: nowhere. */
  coverageFolder: string | null;
  /** No more seeds; those under way end only where they are to write what they ran. */
  stop: AbortSignal;
  /** The next seed; null: there is none. */
  next: () => number | null;
  /** Called for each seed that has ended, in the order in which they end. */
  onResult: (result: RunResult, cpuMs: number) => void;
  /** Called for a seed without a result: its process died, or did not answer. */
  onLost: (seed: number, words: string) => void;
}

/** What a process answers: the result, and what it took. */
interface Answer extends RunResult {
  cpuMs: number;
}

/** Resolves when `next` has no more, or after `stop`, and all processes have ended. */
export async function runPool(options: PoolOptions): Promise<void> {
  await Promise.all(Array.from({ length: options.workers }, () => keepOne(options)));
}

/**
 * What a process of the pool does: its arguments end with the words of `runPool`, and the bytes
 * that it may keep.
 */
export function runWorker(words: string, keptBytes?: string): void {
  const cuts = cutsOf(words);
  const pool = new MemoryPool(keptBytes === undefined ? {} : { keptBytes: Number(keptBytes) });
  // An interrupt from the terminal reaches all; it is the parent's to say what comes of it.
  process.on("SIGINT", () => {});
  process.on("disconnect", () => process.exit());
  process.on("message", (seed: number) => {
    const before = process.cpuUsage();
    void runHere(seed, cuts, { pool }).then((result) => {
      const { user, system } = process.cpuUsage(before);
      const answer: Answer = { ...result, cpuMs: (user + system) / 1000 };
      process.send?.(answer);
    });
  });
}

/** One process after the other, until there are no more seeds. */
async function keepOne(options: PoolOptions): Promise<void> {
  const { program, workers, cuts, coverageFolder, next, stop } = options;
  const kept = Math.floor(Math.min(KEPT_BYTES_MAX, (KEPT_SHARE * totalmem()) / workers));
  const env: NodeJS.ProcessEnv = { ...SEED_ENVIRONMENT, ...process.env };
  if (coverageFolder !== null) env.NODE_V8_COVERAGE = coverageFolder;
  const more = () => (stop.aborted ? null : next());
  let useless = 0;
  for (let seed = more(); seed !== null && useless < USELESS_MAX; seed = more()) {
    const child = fork(program, ["--worker", wordsOf(cuts), String(kept)], { env });
    useless = (await serve(child, seed, more, options)) > 0 ? 0 : useless + 1;
  }
}

/** Resolves when the process has ended, with the number of its answers. */
function serve(
  child: ChildProcess,
  first: number,
  more: () => number | null,
  { coverageFolder, stop, onResult, onLost }: PoolOptions,
): Promise<number> {
  return new Promise((resolve) => {
    let answers = 0;
    let current: number | null = null;
    let why = "";
    let late: NodeJS.Timeout | undefined;
    const end = (words: string): void => {
      why = words;
      child.kill("SIGKILL");
    };
    const give = (seed: number | null): void => {
      clearTimeout(late);
      current = seed;
      if (seed === null) {
        child.disconnect();
        return;
      }
      late = setTimeout(() => end(`no answer within ${SEED_MS_MAX / 1000} s`), SEED_MS_MAX);
      child.send(seed);
    };
    const onStop = (): void => {
      if (coverageFolder !== null) return;
      current = null;
      end("");
    };
    stop.addEventListener("abort", onStop);
    child.on("message", (answer: Answer) => {
      answers++;
      onResult(answer, answer.cpuMs);
      give(more());
    });
    // A process that dies in between cannot be told of the next seed: its end says the rest.
    child.on("error", (error) => {
      why ||= error.message;
    });
    child.once("exit", (code, signal) => {
      clearTimeout(late);
      stop.removeEventListener("abort", onStop);
      if (current !== null) onLost(current, why || `its process ended (${signal ?? code})`);
      resolve(answers);
    });
    give(first);
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
