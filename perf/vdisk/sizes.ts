// SPDX-License-Identifier: Apache-2.0
// vDisks of three sizes in one product, written sparsely at random over all of their length: the
// larger the vDisk, the more pages of its map each batch touches. What must not grow with the size
// is the memory, and the rate of writes hardly.

import type { FioResult } from "../lib/fio.js";
import { residentBytesOf } from "../lib/process.js";
import type { Row, RowContext } from "../lib/row.js";
import { alternate, type Line, type Round } from "../lib/stats.js";
import { withOurs } from "./compare.js";
import { type Ours, work } from "./sides.js";

const SIZES = ["10G", "1T", "16T"] as const;
type Size = (typeof SIZES)[number];
const CACHE_MIB = 64;
const MEMORY_MIB_MAX = 250;
const IOPS_SHARE_MIN = 0.8;
const MIB = 2 ** 20;
const names: Record<Size, string> = { "10G": "small", "1T": "middle", "16T": "large" };

interface Memory {
  router: number[];
  all: number[];
}

export const sizesRow: Row = {
  name: "vdisk-sizes",
  target:
    `vDisks of 10 GiB, 1 TiB, 16 TiB, sparse random writes: RSS ≤ caches + ${MEMORY_MIB_MAX} MiB; ` +
    `IOPS at 16 TiB ≥ ${IOPS_SHARE_MIN} × those at 10 GiB`,
  run: async (context) => {
    const vdisks = SIZES.flatMap((size) => ["--vdisk", `${names[size]}:${size}`]);
    const options = ["--asd-size", "20G", "--cache-size", `${CACHE_MIB}M`, ...vdisks];
    return await withOurs(context, options, async (ours) => {
      const memory: Memory = { router: [], all: [] };
      const lines: Line[] = [];
      for (const size of ["1T", "16T"] as const) {
        lines.push(await beside(context, ours, size, memory));
      }
      return [...lines, ...memoryLines(memory)];
    });
  },
};

/** Rounds of a large vDisk beside the small one. */
async function beside(context: RowContext, ours: Ours, size: Size, memory: Memory): Promise<Line> {
  context.say(`${context.rounds} rounds at ${size} and at 10G`);
  const rounds = await alternate(
    context.rounds,
    () => round(context, ours, size, memory),
    () => round(context, ours, "10G", memory),
  );
  return {
    label: `4k randwrite, QD 32, on a vDisk of ${size}iB`,
    unit: "IOPS",
    better: "higher",
    peer: "one of 10GiB",
    target: size === "16T" ? IOPS_SHARE_MIN : null,
    ...rounds,
  };
}

/** A round ends when all is in the backend, and memory is looked at after that. */
async function round(context: RowContext, ours: Ours, size: Size, memory: Memory): Promise<Round> {
  const start = ours.cpuSeconds();
  const side = { uri: ours.uriOf(names[size]), cpuSeconds: () => 0, stop: async () => undefined };
  const result: FioResult = await work(side, {
    rw: "randwrite",
    bs: "4k",
    iodepth: 32,
    size,
    time_based: true,
    runtime: context.seconds,
  });
  await ours.sync(names[size]);
  const processes = await ours.processes();
  const resident = (pids: number[]) => residentBytesOf(pids) / MIB;
  memory.router.push(resident(processes.filter((p) => p.role === "router").map((p) => p.pid)));
  memory.all.push(resident(processes.map((p) => p.pid)));
  return { value: result.iops, cpuSeconds: ours.cpuSeconds() - start };
}

function memoryLines({ router, all }: Memory): Line[] {
  const line = {
    unit: "MiB",
    better: "lower" as const,
    peer: null,
    peers: [],
    oursCpuSeconds: [],
    peersCpuSeconds: [],
  };
  return [
    {
      ...line,
      label: `RSS of the router with these vDisks, read cache of ${CACHE_MIB} MiB, at its most`,
      target: CACHE_MIB + MEMORY_MIB_MAX,
      ours: [Math.max(...router)],
      extra: { "MiB after each round": router.map(Math.round).join(" ") },
    },
    {
      ...line,
      label: "RSS of all processes, at their most",
      target: null,
      ours: [Math.max(...all)],
    },
  ];
}
