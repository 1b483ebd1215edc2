// SPDX-License-Identifier: Apache-2.0
// The simulator's command line: runs seeds, in several processes, and shows what fails; or looks at
// one seed closely. The same seed on the same commit does the same, event by event.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { messageOf } from "../base/errors.js";
import { lacks } from "../sim/counts.js";
import { optionsOf } from "../sim/cuts.js";
import { MemoryPool } from "../sim/memory.js";
import { pictureOf } from "../sim/picture.js";
import { planOf, type RunResult } from "../sim/run.js";
import { shrink } from "../sim/shrink.js";
import { readCoverage } from "./sim/coverage.js";
import { runPool, runWorker } from "./sim/pool.js";
import { commandOf, commitOf, digestOf, runHere, showFailure, showLines } from "./sim/seed.js";
import { HELP, type Settings, settingsOf } from "./sim/settings.js";
import { Totals } from "./sim/totals.js";

/** Progress is told this often, and less so when a run is long. */
const BEAT_MS = 5_000;
const SLOW_BEAT_MS = 30_000;
const SIGNALS = ["SIGINT", "SIGTERM"] as const;
/** As shells say it of SIGINT. */
const INTERRUPTED = 130;
const PROGRAM = fileURLToPath(import.meta.url);

async function many(settings: Settings): Promise<number> {
  const { cuts, workers } = settings;
  const totals = new Totals(cuts);
  const startMs = performance.now();
  const endMs = startMs + settings.minutes * 60_000;
  let seed = settings.seed;
  const last = settings.seed + settings.seeds;
  const next = (): number | null => {
    const isEnough = settings.untilFailure && totals.failed.length > 0;
    return seed >= last || performance.now() > endMs || isEnough ? null : seed++;
  };
  let beat: NodeJS.Timeout;
  const tell = (): void => {
    const isNew = performance.now() - startMs < 12 * BEAT_MS;
    beat = setTimeout(tell, isNew ? BEAT_MS : SLOW_BEAT_MS);
    if (totals.seeds > 0) totals.say();
  };
  beat = setTimeout(tell, BEAT_MS);
  const interrupt = new AbortController();
  const onSignal = () => interrupt.abort();
  // For good: from a terminal an interrupt may come twice.
  for (const signal of SIGNALS) process.on(signal, onSignal);
  const folder = settings.coverage ? mkdtempSync(join(tmpdir(), "ovs-sim-coverage-")) : null;
  try {
    await runPool({
      program: PROGRAM,
      workers: Math.min(workers, settings.seeds),
      cuts,
      coverageFolder: folder,
      stop: interrupt.signal,
      next,
      onResult: (result, cpuMs) => totals.add(result, cpuMs),
      onLost: (lost, words) => totals.lost(lost, words),
    });
    if (folder !== null) tellCoverage(folder, settings.neverRun);
  } finally {
    clearTimeout(beat);
    if (folder !== null) rmSync(folder, { recursive: true, force: true });
  }
  if (interrupt.signal.aborted) console.log("interrupted; until then:");
  totals.sum();
  if (settings.untilFailure && totals.failed.length > 0) {
    console.log(`found after ${Math.min(...totals.failed) - settings.seed + 1} seeds`);
  }
  if (totals.failed.length > 0) return 1;
  return interrupt.signal.aborted ? INTERRUPTED : 0;
}

function tellCoverage(folder: string, neverRun: string): void {
  const coverage = readCoverage(folder);
  for (const line of coverage.folders) console.log(line);
  if (neverRun !== "") writeFileSync(neverRun, `${coverage.neverRun.join("\n")}\n`);
}

async function single({ seed, cuts, trace, picture }: Settings): Promise<number> {
  const result = await runHere(seed, cuts, { traceAll: trace || picture !== "" });
  if (picture !== "") {
    writeFileSync(picture, pictureOf(result, { isHtml: /\.html?$/.test(picture) }));
  }
  if (trace) showLines(result.trace);
  if (result.failure !== "") showFailure(result, cuts);
  console.log(JSON.stringify(summaryOf(result)));
  return result.failure === "" ? 0 : 1;
}

/** What came of a seed, for people and programs; times in milliseconds. */
function summaryOf(result: RunResult): Record<string, unknown> {
  const round = (value: number) => Number(value.toFixed(2));
  return {
    seed: result.seed,
    failure: result.failure,
    digest: digestOf(result),
    events: result.events,
    simulatedMs: round(result.simulatedMs),
    acknowledged: result.acknowledged,
    refused: result.refused,
    slowestMs: round(result.slowestMs),
    wellMs: round(result.wellMs),
    fullest: round(result.fullest),
    faults: result.faults,
    lacks: lacks(result),
  };
}

async function replay(settings: Settings): Promise<number> {
  const { seed, cuts } = settings;
  let wanted = settings.replay!;
  if (wanted === "") {
    let left = 1;
    let lost = "";
    await runPool({
      program: PROGRAM,
      workers: 1,
      cuts,
      coverageFolder: null,
      stop: new AbortController().signal,
      next: () => (left-- > 0 ? seed : null),
      onResult: (result) => {
        wanted = digestOf(result);
      },
      onLost: (_seed, words) => {
        lost = words;
      },
    });
    if (lost !== "") {
      console.error(`seed ${seed} in another process: ${lost}`);
      return 1;
    }
  }
  const result = await runHere(seed, cuts, { traceAll: settings.trace });
  if (settings.trace) showLines(result.trace);
  if (result.failure !== "") showFailure(result, cuts);
  const isSame = digestOf(result) === wanted;
  const words = isSame ? `the same, ${wanted}` : `${digestOf(result)}, not ${wanted}`;
  console.log(`seed ${seed}, commit ${commitOf()}: ${words}; ${result.events} events`);
  return isSame ? 0 : 1;
}

async function smaller({ seed, cuts }: Settings): Promise<number> {
  const pool = new MemoryPool();
  const clients = planOf(seed).cluster.vdisks.length;
  const found = await shrink({
    cuts,
    clients,
    run: (less) => runHere(seed, less, { pool }),
    onTry: (what, fails, now) => {
      const rest = fails ? `: ${optionsOf(now)}` : "";
      console.log(`${fails ? "fails" : "passes"} with ${what}${rest}`);
    },
  });
  if (found === null) {
    console.log(`seed ${seed} does not fail: there is nothing to make smaller`);
    return 0;
  }
  const { result } = found;
  showFailure(result, found.cuts);
  const troubles = result.troubles.map(({ number, kind }) => `${number} ${kind}`);
  console.log(`after ${found.runs} runs, what is left: ${troubles.join(", ") || "no trouble"}`);
  console.log(commandOf(seed, found.cuts));
  return 1;
}

async function main(args: string[]): Promise<number> {
  let settings: Settings | null;
  try {
    settings = settingsOf(args);
    // Not only after all that has run.
    for (const path of [settings?.picture, settings?.neverRun]) if (path) writeFileSync(path, "");
  } catch (error) {
    console.error(`${messageOf(error)}\nnpm run sim -- --help tells what there is`);
    return 2;
  }
  if (settings === null) {
    console.log(HELP);
    return 0;
  }
  if (settings.replay !== null) return await replay(settings);
  if (settings.shrink) return await smaller(settings);
  return await (settings.seeds === 1 && !settings.coverage ? single(settings) : many(settings));
}

const args = process.argv.slice(2);
if (args[0] === "--worker") runWorker(args[1]!, args[2]);
else process.exitCode = await main(args);
