// SPDX-License-Identifier: Apache-2.0
// The crash-point sweep's command line: every point of the story, every kind of crash.

import { parseArgs } from "node:util";
import { type CrashKind, type CrashPoint, type SweepResult, sweepOnce } from "../sim/sweep.js";

const HELP = `npm run sweep -- [options]: a crash at every disk and network operation of one story

  --seed N    of the simulation (1)
  --every N   only every Nth point (1)
  --ways N    most ways to lose unsynced writes that are tried at a point (8)`;

const BEAT_MS = 10_000;

interface Count {
  runs: number;
  points: number;
  failures: number;
}

const { values } = parseArgs({
  options: {
    seed: { type: "string", default: "1" },
    every: { type: "string", default: "1" },
    ways: { type: "string", default: "8" },
    help: { type: "boolean", short: "h", default: false },
  },
});
if (values.help) console.log(HELP);
else process.exitCode = await sweep(Number(values.seed), Number(values.every), Number(values.ways));

/** All points of the story; answers the exit code. */
async function sweep(seed: number, every: number, ways: number): Promise<number> {
  const plain = await guarded(seed, null);
  if (plain.failure !== "") return told(plain, "without a crash");
  const points: CrashPoint[] = [];
  plain.effects.forEach((count, host) => {
    for (let number = 1; number <= count; number += every) {
      points.push({ what: "disk", host, number });
    }
  });
  for (let number = 1; number <= plain.frames; number += every) {
    points.push({ what: "frame", host: number % plain.effects.length, number });
  }
  console.log(
    `${points.length} points: ${plain.effects.join(" + ")} effects, ${plain.frames} frames`,
  );
  const count: Count = { runs: 0, points: 0, failures: 0 };
  const say = () =>
    console.log(`${count.points} points, ${count.runs} runs, ${count.failures} failed`);
  const beat = setInterval(say, BEAT_MS);
  for (const point of points) {
    await onePoint(seed, point, ways, count);
    count.points++;
  }
  clearInterval(beat);
  say();
  return count.failures > 0 ? 1 : 0;
}

async function onePoint(
  seed: number,
  point: CrashPoint,
  ways: number,
  count: Count,
): Promise<void> {
  const run = async (kind: CrashKind): Promise<SweepResult> => {
    const result = await guarded(seed, { point, kind });
    count.runs++;
    if (result.failure !== "") {
      count.failures++;
      told(result, `${JSON.stringify(point)}, ${kind}`);
    }
    return result;
  };
  await run("kill");
  // Frames are many, and what a disk keeps does not depend on where they are.
  if (point.what === "frame") {
    await run("chance");
    return;
  }
  await run("nothing");
  const { ways: all } = await run("everything");
  if (all <= ways) for (let way = 1; way < all - 1; way++) await run(way);
  else await run("chance");
}

async function guarded(
  seed: number,
  crash: { point: CrashPoint; kind: CrashKind } | null,
): Promise<SweepResult> {
  let stray: unknown = null;
  const onStray = (error: unknown): void => {
    stray ??= error;
  };
  process.on("unhandledRejection", onStray);
  const result = await sweepOnce(seed, crash);
  process.off("unhandledRejection", onStray);
  if (stray !== null && result.failure === "") result.failure = String(stray);
  return result;
}

function told(result: SweepResult, where: string): number {
  console.log(`FAILED at ${where}: ${result.failure}`);
  for (const { timeMs, node, text } of result.trace.slice(-100)) {
    console.log(`  ${timeMs.toFixed(3)} ${node}: ${text}`);
  }
  return 1;
}
