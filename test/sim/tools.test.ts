// SPDX-License-Identifier: Apache-2.0
// What looks at a seed closely: replay, shrinking, pictures, the table of many seeds.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { type Cuts, cutPlan, noCuts, numbersOf, optionsOf, rangesOf } from "../../src/sim/cuts.js";
import { ALL_TROUBLES } from "../../src/sim/nemesis.js";
import { planOf, type RunResult, runSeed } from "../../src/sim/run.js";
import { failureKind, shrink } from "../../src/sim/shrink.js";
import { Spread } from "../../src/sim/spread.js";

t.setTimeout(300_000);

const SIM = new URL("../../src/bin/sim.js", import.meta.url).pathname;
/** Few seconds, so that it is quick; any seed does. */
const SHORT = ["--seconds", "5"];

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

t.test(
  "a replay passes with the digest of another process, and fails with any other",
  async (t) => {
    const same = await sim("--replay", "7", ...SHORT);
    t.equal(same.code, 0, same.text);
    const digest = /the same, ([0-9a-f]{8})/.exec(same.text)?.[1];
    t.match(same.text, /commit [0-9a-f]{40}/);
    const again = await sim("--replay", `7:${digest}`, ...SHORT);
    t.equal(again.code, 0, again.text);
    const other = await sim("--replay", "7:01234567", ...SHORT);
    t.equal(other.code, 1);
    t.match(other.text, `${digest}, not 01234567`);
  },
);

t.test("a picture is well formed and names every node", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "ovs-simtools-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, "run.svg");
  const { code, text } = await sim("--seed", "7", "--picture", file, ...SHORT);
  t.equal(code, 0, text);
  const svg = readFileSync(file, "utf8");
  const open: string[] = [];
  let isNested = true;
  for (const [, end, name, empty] of svg.matchAll(/<(\/?)([a-z]+)[^<>]*?(\/?)>/g)) {
    if (end === "/") isNested &&= open.pop() === name;
    else if (empty === "") open.push(name!);
  }
  t.ok(isNested && open.length === 0, "each element ends where it may");
  t.notMatch(svg, /<script|&(?!amp;|lt;|gt;|quot;)/);
  const { cluster } = planOf(7);
  const asds = Array.from({ length: cluster.asds }, (_, i) => `asd-${i}`);
  const clients = cluster.vdisks.map(({ name }) => `client ${name}`);
  const names = ["h0", "d0", "registry", "proxy-0", "router", ...asds, ...clients];
  for (const name of names) t.match(svg, new RegExp(`>${name}</text>`));
});

const SOME = planOf(11);

/** As if a trouble began in each second; fails when all of `needed` have begun. */
function pretended(needed: readonly number[]): (cuts: Cuts) => Promise<RunResult> {
  return async (cuts) => {
    const { omit } = cutPlan(SOME, cuts).nemesis;
    const troubles = Array.from({ length: cuts.seconds }, (_, i) => ({
      number: i + 1,
      kind: ALL_TROUBLES[i % ALL_TROUBLES.length]!,
    })).filter(({ number, kind }) => !omit(number, kind));
    const fails = needed.every((each) => troubles.some(({ number }) => number === each));
    return { troubles, failure: fails ? `unit ${troubles.length}` : "" } as unknown as RunResult;
  };
}

t.test("shrinking leaves the troubles that make a seed fail, and nothing else", async (t) => {
  for (const needed of [[], [1], [17, 31], [3, 23, 43, 59]]) {
    const run = pretended(needed);
    const found = (await shrink({ cuts: noCuts(60), clients: 2, run }))!;
    t.same(
      found.result.troubles.map(({ number }) => number),
      needed,
    );
    t.equal(found.cuts.idle.length, 1, "one client is left");
    t.equal(found.cuts.seconds, Math.max(1, needed.at(-1) ?? 0));
    t.ok(found.runs < 120, `${found.runs} runs`);
    const again = (await shrink({ cuts: noCuts(60), clients: 2, run }))!;
    t.same(again.cuts, found.cuts, "and it is the same the next time");
  }
  const healthy = async (cuts: Cuts) => ({ ...(await pretended([])(cuts)), failure: "" });
  t.equal(await shrink({ cuts: noCuts(2), clients: 1, run: healthy }), null);
});

t.test("with one trouble left out of a seed the others happen as before", async (t) => {
  const run = async (cuts: Cuts) =>
    await runSeed({ seed: 11, seconds: 8, traceAll: true }, cutPlan(SOME, cuts));
  const all = await run(noCuts(8));
  t.ok(all.troubles.length > 1, "there is something to leave out");
  const skip = [all.troubles[0]!.number];
  const less = await run({ ...noCuts(8), skip });
  t.same(less.troubles, all.troubles.slice(1));
  const beginnings = ({ trace }: RunResult) =>
    trace.filter((line) => line.node === "nemesis" && !/^1 |meets|over/.test(line.text));
  t.same(beginnings(less), beginnings(all));
});

t.test("cuts are written as options and read back", async (t) => {
  const cuts = { ...noCuts(9), without: ["bit rot" as const], skip: [7, 3, 4, 5], idle: [1] };
  const words = '--seconds 9 --without "bit rot" --skip-troubles 3-5,7 --idle-clients 1';
  t.equal(optionsOf(cuts), words);
  t.same(numbersOf(rangesOf([7, 3, 4, 5])), [3, 4, 5, 7]);
  for (const wrong of ["", "x", "3-", "5-3", "1,,2"]) t.equal(numbersOf(wrong), null, wrong);
  t.equal(failureKind("unit 12 is 3\nmore"), failureKind("unit 7 is 99\nother"));
});

t.test("options that make no sense are refused", async (t) => {
  for (const args of [["--shrink"], ["--replay", "x"], ["--without", "luck"], ["--seed", "a"]]) {
    const { code } = await sim(...args);
    t.equal(code, 2, args.join(" "));
  }
});

t.test("many seeds end with how they differ, and the lines that they ran", async (t) => {
  const { code, text } = await sim("--seed", "20", "--seeds", "2", "--coverage", ...SHORT);
  t.equal(code, 0, text);
  t.match(text, /requests answered +\d+ +\d+ +\d+ +\d+ +\d+\n/);
  t.match(text, /src\/volume +\d+ of +\d+ lines [1-9]\d\.\d %/);
  t.same(new Spread().lines(), []);
});
