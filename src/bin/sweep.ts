// SPDX-License-Identifier: Apache-2.0
// The crash-point sweep's command line: every point of every story, every way to crash there.

import { parseArgs } from "node:util";
import { MemoryPool } from "../sim/memory.js";
import type { Crash, CrashPoint, SweepResult } from "../sim/sweep.js";
import { sweepOnce } from "../sim/sweep.js";
import {
  casesOf,
  crashesOf,
  firstCrashes,
  pointsOf,
  recordedPoints,
  recoveryCases,
  runCase,
  type SweepBase,
  type SweepCase,
  wordsOf,
} from "../sim/sweepcases.js";
import { STORIES } from "../sim/sweepstory.js";
import type { TraceLine } from "../sim/trace.js";

const HELP = `npm run sweep -- [options]: a crash at every disk and network operation of two stories

  --seed N      of the simulation (1)
  --every N     only every Nth case (1)
  --part I/N    only the Ith of N parts, for several processes (1/1)
  --run WORDS   one run: story/at:victim.host:kind:way/..., as a failure prints it`;

const BEAT_MS = 15_000;
/** Of a failure. */
const LINES = 60;

/** Of one kind of case; a point counts once. */
interface Row {
  points: Set<string>;
  cases: number;
  runs: number;
  failures: number;
}

const { values } = parseArgs({
  options: {
    seed: { type: "string", default: "1" },
    every: { type: "string", default: "1" },
    part: { type: "string", default: "1/1" },
    run: { type: "string" },
    help: { type: "boolean", short: "h", default: false },
  },
});
const stray = strayCatcher();
if (values.help) console.log(HELP);
else if (values.run !== undefined) process.exitCode = await once(Number(values.seed), values.run);
else {
  const pool = new MemoryPool({ clears: false });
  process.exitCode = await sweep({ seed: Number(values.seed), pool, stray });
}

async function once(seed: number, words: string): Promise<number> {
  const asked = crashesOf(words);
  if (asked === null) {
    console.error(`"${words}" is not story/at:victim.host:kind:way/...`);
    return 2;
  }
  const result = await sweepOnce({ seed, ...asked, traceAll: true, stray });
  for (const line of result.trace) console.log(lineOf(line));
  console.log(`${result.fired} crashes, ${result.ways.length} ways at the last`);
  if (result.failure !== "") console.log(`FAILED ${result.failure}`);
  return result.failure === "" ? 0 : 1;
}

/** Catches what nobody else does; what it gives tells each once. */
function strayCatcher(): () => unknown {
  const strays: unknown[] = [];
  process.on("unhandledRejection", (error) => strays.push(error));
  return () => strays.splice(0)[0] ?? null;
}

/** All cases; answers the exit code. */
async function sweep(base: SweepBase): Promise<number> {
  const [part, parts] = values.part.split("/").map(Number) as [number, number];
  const every = Number(values.every);
  const cases = (await allCases(base)).filter((_, i) => {
    return i % every === 0 && Math.floor(i / every) % parts === part - 1;
  });
  console.log(`${cases.length} cases`);
  const rows = new Map<string, Row>();
  const usage = process.cpuUsage();
  let done = 0;
  const say = () => {
    const { user, system } = process.cpuUsage(usage);
    const seconds = (user + system) / 1e6;
    const all = done > 0 ? (seconds / done) * cases.length : 0;
    const failures = [...rows.values()].reduce((sum, row) => sum + row.failures, 0);
    const spent = `${seconds.toFixed(0)} of about ${all.toFixed(0)} CPU-seconds`;
    console.log(`${done} of ${cases.length} cases, ${failures} failed, ${spent}`);
  };
  let lastMs = performance.now();
  for (const each of cases) {
    await oneCase(base, each, rows);
    done++;
    if (performance.now() - lastMs < BEAT_MS) continue;
    lastMs = performance.now();
    say();
  }
  say();
  return table(rows);
}

async function allCases(base: SweepBase): Promise<SweepCase[]> {
  const cases: SweepCase[] = [];
  for (const { name } of STORIES) {
    const points = await pointsOf(base, name);
    cases.push(...casesOf(name, points));
    let more = 0;
    for (const first of firstCrashes(points)) {
      const recovery = await recordedPoints(base, name, [first]);
      more += recovery.length;
      cases.push(...recoveryCases(name, first, recovery));
    }
    const disk = points.filter(({ what }) => what === "disk").length;
    const frames = points.length - disk;
    console.log(`${name}: ${disk} points of disks, ${frames} of frames, ${more} of recoveries`);
  }
  return cases;
}

async function oneCase(base: SweepBase, each: SweepCase, rows: Map<string, Row>): Promise<void> {
  const { story, first, point, crash } = each;
  const what = first.length > 0 ? `recovery, ${point.what}` : `${point.what}, ${point.when}`;
  const name = `${story}: ${what}: ${crash.victim === "all" ? "blackout" : crash.kind}`;
  let row = rows.get(name);
  if (row === undefined) {
    row = { points: new Set(), cases: 0, runs: 0, failures: 0 };
    rows.set(name, row);
  }
  row.cases++;
  row.points.add(`${first[0]?.at ?? 0}:${point.at}`);
  await runCase(base, each, (result: SweepResult, crashes: readonly Crash[]) => {
    row.runs++;
    if (result.failure === "") return;
    row.failures++;
    told(result, wordsOf(story, crashes), point);
  });
}

function lineOf({ timeMs, node, text }: TraceLine): string {
  return `${timeMs.toFixed(3)} ${node}: ${text}`;
}

function told(result: SweepResult, words: string, { when, text }: CrashPoint): void {
  console.log(`FAILED --run ${words} (${when} ${text})\n${result.failure}`);
  for (const line of result.trace.slice(-LINES)) console.log(`  ${lineOf(line)}`);
}

function table(rows: ReadonlyMap<string, Row>): number {
  const sum = { points: new Set<string>(), cases: 0, runs: 0, failures: 0 };
  for (const [name, { points, cases, runs, failures }] of rows) {
    console.log(`${name}: ${points.size} points, ${cases} cases, ${runs} runs, ${failures} failed`);
    const story = name.slice(0, name.indexOf(":"));
    for (const point of points) sum.points.add(`${story} ${point}`);
    sum.cases += cases;
    sum.runs += runs;
    sum.failures += failures;
  }
  const { points, cases, runs, failures } = sum;
  console.log(`all: ${points.size} points, ${cases} cases, ${runs} runs, ${failures} failed`);
  return failures > 0 ? 1 : 0;
}
