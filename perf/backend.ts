// SPDX-License-Identifier: Apache-2.0
// The backend row, for the record: objects of 16 MiB through a proxy to six ASDs, and cold reads of
// them straight from the ASDs, every byte verified. There is no peer; what counts is the CPU time
// of all processes, which is in the last column and in `extra`.

import { readFileSync } from "node:fs";
import { parse } from "smol-toml";
import { runLoad } from "./lib/process.js";
import type { Row, RowContext } from "./lib/row.js";
import type { Line, Round } from "./lib/stats.js";
import { Ours } from "./vdisk/sides.js";

const LOAD = new URL("./backend-load.js", import.meta.url).pathname;

interface Case {
  label: string;
  unit: string;
  args: [what: string, depth: number, size: number];
  /** What one unit of CPU is told for, and how many of the values make it. */
  per: { name: string; values: number };
}

const CASES: Case[] = [
  {
    label: "upload objects of 16 MiB, 4+2, QD 2",
    unit: "MiB/s",
    args: ["put", 2, 16],
    per: { name: "CPU seconds per GiB", values: 1024 },
  },
  {
    label: "read 4 KiB at random, cold, QD 32",
    unit: "IOPS",
    args: ["read", 32, 4],
    per: { name: "CPU µs per read", values: 1e6 },
  },
  {
    label: "read 1 MiB at random, cold, QD 2",
    unit: "IOPS",
    args: ["read", 2, 1024],
    per: { name: "CPU seconds per GiB", values: 1024 },
  },
];

export const backendRow: Row = {
  name: "backend",
  target: "uploads and cold reads of the backend alone, for the record",
  async run(context: RowContext): Promise<Line[]> {
    const ours = new Ours(context.folder);
    await ours.start("--asds", "6");
    const { cluster } = parse(readFileSync(`${ours.data}/ovs.toml`, "utf8")) as { cluster: string };
    try {
      const lines: Line[] = [];
      for (const wanted of CASES) {
        context.say(wanted.label);
        lines.push(await measure(context, ours, cluster, wanted));
      }
      return lines;
    } finally {
      await ours.stop();
    }
  },
};

async function measure(
  context: RowContext,
  ours: Ours,
  cluster: string,
  { label, unit, args, per }: Case,
): Promise<Line> {
  const [what, depth, size] = args;
  const values: number[] = [];
  const cpu: number[] = [];
  const each: number[] = [];
  for (let i = 0; i < context.rounds; i++) {
    const before = ours.cpuSeconds();
    const { value, cpuSeconds } = await runLoad<Round>(
      LOAD,
      [ours.data, cluster, what, context.seconds, depth, size],
      { timeoutMs: (context.seconds + 120) * 1000 },
    );
    const used = ours.cpuSeconds() - before + cpuSeconds;
    values.push(value);
    cpu.push(used);
    each.push((used / (value * context.seconds)) * per.values);
  }
  return {
    label,
    unit,
    better: "higher",
    peer: null,
    target: null,
    ours: values,
    peers: [],
    oursCpuSeconds: cpu,
    peersCpuSeconds: [],
    extra: { [per.name]: Number((each.reduce((a, b) => a + b, 0) / each.length).toPrecision(3)) },
  };
}
