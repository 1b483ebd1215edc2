// SPDX-License-Identifier: Apache-2.0
// The simulator's command line: runs seeds, in several processes, and shows what fails. The same
// seed on the same commit does the same, event by event.

import { type ChildProcess, fork } from "node:child_process";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { counts, type RunResult, runSeed } from "../sim/run.js";

const HELP = `npm run sim -- [options]: the whole cluster in one process, under a seed

  --seed N       first seed (a random one); with --seeds 1 it is told in full
  --seeds N      how many (1 with --seed, else as many as fit in --minutes)
  --minutes M    goes on for so long (1)
  --seconds S    simulated seconds of trouble of each seed (60)
  --workers W    processes (one for each core)
  --until-failure  ends at the first seed that fails, and says how many it took
  --trace        prints everything that happened in the first seed`;

const BEAT_MS = 5_000;
const SHOWN = 5;

interface Settings {
  seed: number;
  seeds: number;
  minutes: number;
  seconds: number;
  workers: number;
  untilFailure: boolean;
  trace: boolean;
}

function settingsOf(args: string[]): Settings | null {
  const one = { type: "string" } as const;
  const { values } = parseArgs({
    args,
    options: {
      seed: one,
      seeds: one,
      minutes: one,
      seconds: one,
      workers: one,
      "until-failure": { type: "boolean", default: false },
      trace: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return null;
  const number = (name: "seed" | "seeds" | "minutes" | "seconds" | "workers", none: number) => {
    const value = Number(values[name] ?? none);
    if (Number.isFinite(value) && value >= 0) return value;
    throw new Error(`--${name} ${values[name]} is not a number`);
  };
  const single = values.seed !== undefined && values.minutes === undefined;
  return {
    seed: number("seed", Math.floor(Math.random() * 2 ** 31)),
    seeds: number("seeds", single ? 1 : Number.MAX_SAFE_INTEGER),
    minutes: number("minutes", 1),
    seconds: number("seconds", 60),
    workers: Math.max(1, number("workers", availableParallelism())),
    untilFailure: values["until-failure"],
    trace: values.trace,
  };
}

/** A process that runs the seeds that it is told, one after the other. */
async function worker(seconds: number): Promise<void> {
  process.on("message", (seed: number) => {
    void guarded(seed, seconds, false).then((result) => process.send?.(result));
  });
}

/** An error that nobody has caught belongs to the seed that runs. */
async function guarded(seed: number, seconds: number, traceAll: boolean): Promise<RunResult> {
  let stray: unknown = null;
  const onStray = (error: unknown): void => {
    stray ??= error;
  };
  process.on("unhandledRejection", onStray);
  const result = await runSeed({ seed, seconds, traceAll, stray: () => stray });
  process.off("unhandledRejection", onStray);
  return result;
}

class Totals {
  seeds = 0;
  simulatedMs = 0;
  acknowledged = 0;
  /** Seeds in which enough happened. */
  counted = 0;
  readonly failures: RunResult[] = [];
  readonly faults = new Map<string, number>();
  readonly #startMs = performance.now();

  add(result: RunResult): void {
    this.seeds++;
    this.simulatedMs += result.simulatedMs;
    this.acknowledged += result.acknowledged;
    if (counts(result)) this.counted++;
    for (const [kind, count] of Object.entries(result.faults)) {
      this.faults.set(kind, (this.faults.get(kind) ?? 0) + count);
    }
    if (result.failure === "") return;
    this.failures.push(result);
    if (this.failures.length <= SHOWN) show(result);
  }

  say(): void {
    const seconds = (performance.now() - this.#startMs) / 1000;
    const speed = this.simulatedMs / 1000 / seconds;
    const rate = (this.seeds / seconds).toFixed(2);
    console.log(
      `${seconds.toFixed(0)} s: ${this.seeds} seeds (${rate}/s), ${this.failures.length} failed, ` +
        `${this.acknowledged} requests answered, ${speed.toFixed(0)} × real time`,
    );
  }

  sum(): void {
    this.say();
    const kinds = [...this.faults].sort((a, b) => b[1] - a[1]);
    console.log(`${this.counted} of ${this.seeds} seeds count: long, busy, with enough trouble`);
    console.log(`faults: ${kinds.map(([kind, count]) => `${kind} ${count}`).join(", ")}`);
    if (this.failures.length > 0) {
      console.log(`failed: ${this.failures.map(({ seed }) => seed).join(" ")}`);
    }
  }
}

function show(result: RunResult): void {
  console.log(`\nseed ${result.seed} FAILED: ${result.failure}`);
  for (const { timeMs, node, text } of result.trace) {
    console.log(`  ${(timeMs / 1000).toFixed(6)} ${node}: ${text}`);
  }
  console.log(`again: npm run sim -- --seed ${result.seed} --trace\n`);
}

async function many(settings: Settings): Promise<number> {
  const totals = new Totals();
  const endMs = performance.now() + settings.minutes * 60_000;
  let next = settings.seed;
  const last = settings.seed + settings.seeds;
  const beat = setInterval(() => totals.say(), BEAT_MS);
  const program = fileURLToPath(import.meta.url);
  const run = (child: ChildProcess): Promise<void> =>
    new Promise((resolve, reject) => {
      let current = -1;
      const more = (): void => {
        const isEnough = settings.untilFailure && totals.failures.length > 0;
        if (next >= last || performance.now() > endMs || isEnough) {
          child.removeAllListeners("exit");
          child.disconnect();
          resolve();
          return;
        }
        current = next++;
        child.send(current);
      };
      child.on("message", (result: RunResult) => {
        totals.add(result);
        more();
      });
      child.once("exit", (code) =>
        reject(new Error(`seed ${current}: the process ended (${code})`)),
      );
      more();
    });
  const children = Array.from({ length: settings.workers }, () =>
    fork(program, ["--worker", String(settings.seconds)]),
  );
  try {
    await Promise.all(children.map(run));
  } finally {
    clearInterval(beat);
    for (const child of children) child.kill();
  }
  totals.sum();
  const [failed] = totals.failures.map(({ seed }) => seed).sort((a, b) => a - b);
  if (settings.untilFailure && failed !== undefined) {
    console.log(`found after ${failed - settings.seed + 1} seeds`);
  }
  return totals.failures.length > 0 ? 1 : 0;
}

async function single(settings: Settings): Promise<number> {
  const result = await guarded(settings.seed, settings.seconds, settings.trace);
  if (settings.trace && result.failure === "") {
    for (const { timeMs, node, text } of result.trace) {
      console.log(`${(timeMs / 1000).toFixed(6)} ${node}: ${text}`);
    }
  }
  if (result.failure !== "") show(result);
  const { trace: _, ...rest } = result;
  console.log(JSON.stringify({ ...rest, digest: result.digest.toString(16).padStart(8, "0") }));
  return result.failure === "" ? 0 : 1;
}

const args = process.argv.slice(2);
if (args[0] === "--worker") await worker(Number(args[1]));
else {
  const settings = settingsOf(args);
  if (settings === null) console.log(HELP);
  else process.exitCode = await (settings.seeds === 1 ? single(settings) : many(settings));
}
