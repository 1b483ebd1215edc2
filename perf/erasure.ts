// SPDX-License-Identifier: Apache-2.0
// The erasure row: encoding through the addon against a C program that calls ISA-L directly, and
// against @ronomon/reed-solomon. The C program is compared by CPU time: both do nothing but
// arithmetic, and on a busy machine the clock on the wall says more about the neighbours. The other
// addon is compared by what a caller gets done in a second, one object after the other.

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { messageOf } from "../src/base/errors.js";
import { KIB, MIB } from "../src/base/units.js";
import { run, runLoad } from "./lib/process.js";
import type { Row, RowContext } from "./lib/row.js";
import type { Line, Round } from "./lib/stats.js";
import { alternate } from "./lib/stats.js";

const LOAD = new URL("./erasure-load.js", import.meta.url).pathname;
const ROOT = new URL("../..", import.meta.url).pathname;
const OBJECTS = 8;

interface Case {
  k: number;
  m: number;
  fragmentBytes: number;
  checksums: boolean;
}

interface Result {
  perCpu: number;
  perSecond: number;
  cpuSeconds: number;
}

const CODES = [
  [4, 2],
  [8, 3],
] as const;

export const erasureRow: Row = {
  name: "erasure",
  target:
    "4+2 and 8+3, 64 KiB and 1 MiB fragments: ≥ 0.9 × a C program calling ISA-L; " +
    "≥ 3 × @ronomon/reed-solomon at 64 KiB",
  async run(context: RowContext): Promise<Line[]> {
    const program = join(context.folder, "erasure-peer");
    const source = join(ROOT, "perf/erasure-peer.c");
    await run("cc", ["-O2", source, "-lisal", "-o", program], { timeoutMs: 60_000 });
    const reason = await buildRonomon();
    if (reason !== null) context.say(`without @ronomon/reed-solomon: ${reason}`);
    const seconds = Math.max(0.5, context.seconds / 5);
    const lines: Line[] = [];
    for (const fragmentBytes of [64 * KIB, MIB]) {
      for (const [k, m] of CODES) {
        const plain = { k, m, fragmentBytes, checksums: false };
        lines.push(await againstC(context, program, plain, seconds));
        lines.push(await againstC(context, program, { ...plain, checksums: true }, seconds));
        if (reason === null) lines.push(await againstRonomon(context, plain, seconds));
      }
    }
    return lines;
  },
};

async function againstC(
  context: RowContext,
  program: string,
  wanted: Case,
  seconds: number,
): Promise<Line> {
  const rounds = await alternate(
    context.rounds,
    async () => {
      const { perCpu, cpuSeconds } = await load("ours", wanted, seconds);
      return { value: perCpu, cpuSeconds };
    },
    async () => {
      const text = await run(program, argumentsOf(wanted, seconds), { timeoutMs: 120_000 });
      const { perCpu, cpuSeconds } = JSON.parse(text) as Result;
      return { value: perCpu, cpuSeconds };
    },
  );
  return {
    label: labelOf(wanted),
    unit: "MiB per CPU second",
    better: "higher",
    peer: "C with ISA-L",
    target: wanted.checksums ? null : 0.9,
    ...rounds,
  };
}

async function againstRonomon(context: RowContext, wanted: Case, seconds: number): Promise<Line> {
  const second = async (side: "ours" | "ronomon"): Promise<Round> => {
    const { perSecond, cpuSeconds } = await load(side, wanted, seconds);
    return { value: perSecond, cpuSeconds };
  };
  const rounds = await alternate(
    context.rounds,
    () => second("ours"),
    () => second("ronomon"),
  );
  return {
    label: labelOf(wanted),
    unit: "MiB/s",
    better: "higher",
    peer: "@ronomon/reed-solomon",
    target: wanted.fragmentBytes === 64 * KIB ? 3 : null,
    ...rounds,
  };
}

async function load(side: "ours" | "ronomon", wanted: Case, seconds: number): Promise<Result> {
  return await runLoad(LOAD, [side, ...argumentsOf(wanted, seconds)], { timeoutMs: 120_000 });
}

function argumentsOf({ k, m, fragmentBytes, checksums }: Case, seconds: number): string[] {
  return [k, m, fragmentBytes, OBJECTS, seconds, checksums ? 1 : 0].map(String);
}

function labelOf({ k, m, fragmentBytes, checksums }: Case): string {
  const size = fragmentBytes === 64 * KIB ? "64 KiB" : "1 MiB";
  return `encode ${k}+${m}, ${size} fragments${checksums ? ", CRC of every 4 KiB" : ""}`;
}

/** Builds the peer's addon where it is not built yet; null, or why it cannot be had. */
async function buildRonomon(): Promise<string | null> {
  try {
    const require = createRequire(import.meta.url);
    const folder = dirname(require.resolve("@ronomon/reed-solomon/package.json"));
    if (existsSync(join(folder, "binding.node"))) return null;
    const beside = join(dirname(process.execPath), "..");
    const nodedir = existsSync(join(beside, "include/node/node_api.h")) ? beside : "/usr";
    const gyp = join(ROOT, "node_modules/.bin/node-gyp");
    const args = ["rebuild", `--nodedir=${nodedir}`, "--directory", folder];
    await run(gyp, args, { timeoutMs: 300_000 });
    return null;
  } catch (error) {
    return messageOf(error).slice(0, 200);
  }
}
