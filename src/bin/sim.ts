// SPDX-License-Identifier: Apache-2.0
// The simulator's command line: runs seeds, in several processes, and shows what fails; or looks at
// one seed closely. The same seed on the same commit does the same, event by event.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { messageOf } from "../base/errors.js";
import { optionsOf } from "../sim/cuts.js";
import { MemoryPool } from "../sim/memory.js";
import { pictureOf } from "../sim/picture.js";
import { planOf, type RunResult } from "../sim/run.js";
import { shrink } from "../sim/shrink.js";
import { coverageLines } from "./sim/coverage.js";
import { runPool, runWorker } from "./sim/pool.js";
import { commitOf, digestOf, runHere, showFailure, showLines } from "./sim/seed.js";
import { HELP, type Settings, settingsOf } from "./sim/settings.js";
import { Totals } from "./sim/totals.js";

const BEAT_MS = 5_000;
const PROGRAM = fileURLToPath(import.meta.url);

async function many(settings: Settings): Promise<number> {
  const { cuts, workers } = settings;
  const totals = new Totals(cuts);
  const endMs = performance.now() + settings.minutes * 60_000;
  let seed = settings.seed;
  const last = settings.seed + settings.seeds;
  const next = (): number | null => {
    const isEnough = settings.untilFailure && totals.failed.length > 0;
    return seed >= last || performance.now() > endMs || isEnough ? null : seed++;
  };
  const beat = setInterval(() => totals.say(), BEAT_MS);
  const folder = settings.coverage ? mkdtempSync(join(tmpdir(), "ovs-sim-coverage-")) : null;
  const onResult = (result: RunResult) => totals.add(result);
  try {
    await runPool({ program: PROGRAM, workers, cuts, coverageFolder: folder, next, onResult });
    clearInterval(beat);
    if (folder !== null) for (const line of coverageLines(folder)) console.log(line);
  } finally {
    clearInterval(beat);
    if (folder !== null) rmSync(folder, { recursive: true, force: true });
  }
  totals.sum();
  if (settings.untilFailure && totals.failed.length > 0) {
    console.log(`found after ${Math.min(...totals.failed) - settings.seed + 1} seeds`);
  }
  return totals.failed.length > 0 ? 1 : 0;
}

async function single({ seed, cuts, trace, picture }: Settings): Promise<number> {
  const result = await runHere(seed, cuts, { traceAll: trace || picture !== "" });
  if (picture !== "") {
    writeFileSync(picture, pictureOf(result, { isHtml: /\.html?$/.test(picture) }));
  }
  if (trace) showLines(result.trace);
  if (result.failure !== "") showFailure(result, cuts);
  const { trace: _trace, troubles: _troubles, nodes: _nodes, clients: _clients, ...rest } = result;
  console.log(JSON.stringify({ ...rest, digest: digestOf(result) }));
  return result.failure === "" ? 0 : 1;
}

async function replay(settings: Settings): Promise<number> {
  const { seed, cuts } = settings;
  let wanted = settings.replay!;
  if (wanted === "") {
    let left = 1;
    await runPool({
      program: PROGRAM,
      workers: 1,
      cuts,
      coverageFolder: null,
      next: () => (left-- > 0 ? seed : null),
      onResult: (result) => {
        wanted = digestOf(result);
      },
    });
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
    onTry: (what, fails) => console.log(`${fails ? "fails" : "passes"} with ${what}`),
  });
  if (found === null) {
    console.log(`seed ${seed} does not fail: there is nothing to make smaller`);
    return 0;
  }
  const { result } = found;
  showFailure(result, found.cuts);
  const troubles = result.troubles.map(({ number, kind }) => `${number} ${kind}`);
  console.log(`after ${found.runs} runs, what is left: ${troubles.join(", ") || "no trouble"}`);
  console.log(`npm run sim -- --seed ${seed} ${optionsOf(found.cuts)}`);
  return 1;
}

async function main(args: string[]): Promise<number> {
  let settings: Settings | null;
  try {
    settings = settingsOf(args);
  } catch (error) {
    console.error(`${messageOf(error)}\n\n${HELP}`);
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
if (args[0] === "--worker") runWorker(args[1]!);
else process.exitCode = await main(args);
