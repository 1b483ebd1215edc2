// SPDX-License-Identifier: Apache-2.0
// The whole cluster under seeds: those that once found a bug, fresh ones for two minutes, and the
// same seed in two processes, event by event.

import { spawn } from "node:child_process";
import t from "tap";
import { cutPlan, noCuts } from "../../src/sim/cuts.js";
import type { TroubleKind } from "../../src/sim/kinds.js";
import { planOf, runSeed } from "../../src/sim/run.js";

t.setTimeout(600_000);

const SIM = new URL("../../src/bin/sim.js", import.meta.url).pathname;
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const FRESH_MINUTES = process.env.CI === "true" ? 2 : 0.5;

/** What each found is told in docs/simulator.md; some had more of a kind of trouble. */
const PINNED: ReadonlyArray<[seed: number, ...more: TroubleKind[]]> = [
  [3],
  [100],
  [105],
  [250],
  [1002],
  [2148],
  [2202],
  [12165],
  [20308],
  [31330, "drained disk"],
  [34041],
  [60001, "damaged index"],
  [1001518],
  [1002764],
  [1477603833],
];

/** Runs the program; resolves with its exit code and what it printed. */
async function sim(...args: string[]): Promise<{ code: number; text: string }> {
  const child = spawn(process.execPath, [SIM, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  const take = (chunk: Buffer) => {
    text += chunk.toString();
  };
  child.stdout.on("data", take);
  child.stderr.on("data", take);
  const code = await new Promise<number>((resolve) => child.once("close", (c) => resolve(c ?? -1)));
  return { code, text };
}

for (const [seed, ...more] of PINNED) {
  t.test(`seed ${[seed, ...more].join(" with more ")} passes`, async (t) => {
    const plan = cutPlan(planOf(seed), { ...noCuts(60), more });
    const result = await runSeed({ seed, seconds: 60, traceAll: false }, plan);
    t.equal(result.failure, "", result.trace.map((line) => JSON.stringify(line)).join("\n"));
  });
}

t.test(`a seed does the same in every process (SEED=${SEED})`, async (t) => {
  const args = ["--seed", String(SEED), "--seconds", "10"];
  const [one, two] = await Promise.all([sim(...args), sim(...args)]);
  t.equal(one.code, 0, one.text);
  t.match(one.text, /"digest":"[0-9a-f]{8}"/);
  t.equal(one.text, two.text);
});

t.test(`fresh seeds pass (SEED=${SEED + 1} and on)`, async (t) => {
  const args = ["--seed", String(SEED + 1), "--minutes", String(FRESH_MINUTES), "--workers", "1"];
  const { code, text } = await sim(...args);
  t.equal(code, 0, text);
  t.comment(text.trim().split("\n").slice(-2).join("\n"));
});
