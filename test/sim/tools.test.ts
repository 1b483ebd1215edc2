// SPDX-License-Identifier: Apache-2.0
// What looks at a seed closely: replay, shrinking, pictures, the table of many seeds.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { countFaults, lacks } from "../../src/sim/counts.js";
import { type Cuts, cutPlan, noCuts, numbersOf, optionsOf, rangesOf } from "../../src/sim/cuts.js";
import { ALL_TROUBLES } from "../../src/sim/kinds.js";
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
  t.notMatch(svg, /<script|&(?!amp;|lt;|gt;|quot;)|NaN|undefined|Infinity/);
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
  const wrong = [
    "--shrink",
    "--replay x",
    "--without luck",
    "--seed 1.5",
    "--seeds 0",
    "--trace",
    "--seed 3 --seeds 5 --picture x.svg",
    "--seed 3 --picture x.png",
    "--seed 3 --picture /no/such/folder/x.svg",
    "--replay 3 --shrink",
    "--never-run x",
  ];
  for (const words of wrong) {
    const { code, text } = await sim(...words.split(" "));
    t.equal(code, 2, words);
    t.match(text, "--help tells what there is");
  }
});

t.test(
  "a seed counts when it was long, busy and troubled enough; operations are no faults",
  (t) => {
    const faults = {
      "kill asd": 1,
      "disk bit rot": 5,
      "net power": 9,
      "vDisk grown": 9,
      "stop asd": 9,
    };
    const kinds = ["bit rot", "bit rot", "one way", "clock jump", "full disk"] as const;
    const more = ["kill asd", "stop process", "replaced disk", "power of another host"] as const;
    const troubles = [...kinds, ...more].map((kind, i) => ({ number: i + 1, kind }));
    const run = { failure: "", simulatedMs: 60_000, acknowledged: 500, faults, troubles };
    t.same(countFaults(run), { crashes: 1, others: 5, troubles: 5 });
    t.same(lacks(run), []);
    t.same(lacks({ ...run, failure: "x" }), ["failed"]);
    t.same(lacks({ ...run, simulatedMs: 59_999 }), ["fewer than 60 simulated seconds"]);
    t.same(lacks({ ...run, acknowledged: 499 }), ["fewer than 500 requests answered"]);
    t.same(lacks({ ...run, faults: { ...faults, "kill asd": 0 } }), ["fewer than 1 crash"]);
    t.same(lacks({ ...run, faults: { ...faults, "disk bit rot": 4 } }), [
      "fewer than 5 other faults",
    ]);
    t.same(lacks({ ...run, troubles: troubles.slice(1) }), ["fewer than 5 other troubles"]);
    t.end();
  },
);

t.test("a process that dies is told with its seed; an interrupt ends with the sum", async (t) => {
  const args = ["--seed", "1", "--seeds", "1000", "--workers", "2", ...SHORT];
  const child = spawn(process.execPath, [SIM, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const children = () => readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8");
  let text = "";
  let [isKilled, isTold] = [false, false];
  child.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString();
    const pids = children().trim().split(" ").map(Number);
    if (!isKilled && pids[0]) {
      isKilled = true;
      process.kill(pids[0], "SIGKILL");
    } else if (!isTold && /its process ended \(SIGKILL\)/.test(text)) {
      isTold = true;
      child.kill("SIGINT");
    }
  });
  const code = await new Promise((resolve) => child.once("close", resolve));
  t.equal(code, 1, text);
  t.match(text, /seed \d+ FAILED: its process ended \(SIGKILL\)\ncommit [0-9a-f]{40}/);
  t.match(text, /interrupted; until then:\n/);
  t.match(text, /\d+ of \d+ seeds count .*\ndo not count: /);
  t.match(text, /\ndo not count: \d+, failed: \d/);
  t.match(text, /do not count: \d+, fewer than 60 simulated seconds: \d/);
});

t.test("many seeds end with how they differ, and the lines that they ran", async (t) => {
  const { code, text } = await sim("--seed", "20", "--seeds", "2", "--coverage", ...SHORT);
  t.equal(code, 0, text);
  t.match(text, /requests answered +\d+ +\d+ +\d+ +\d+ +\d+\n/);
  t.match(text, /src\/volume +\d+ of +\d+ lines [1-9]\d\.\d %/);
  t.same(new Spread().lines(), []);
});
