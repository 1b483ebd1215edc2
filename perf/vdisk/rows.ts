// SPDX-License-Identifier: Apache-2.0
// The vDisk rows of the table: 4+2 on six ASDs on this disk, beside qemu-nbd on a raw file.

import type { FioOptions, FioResult } from "../lib/fio.js";
import type { Row, RowContext } from "../lib/row.js";
import { alternate, type Line, type Round } from "../lib/stats.js";
import { Ours, type Side, startQemu, work } from "./sides.js";

const SETUP = ["--asd-size", "20G", "--vdisk", "vd0:10G"];
const SUSTAINED_S = 60;

type Measure = (result: FioResult) => number;
const iops: Measure = (result) => result.iops;
const p99: Measure = (result) => result.latencyUs.p99;
const mibPerSecond: Measure = (result) => result.bytesPerSecond / 2 ** 20;

interface Comparison {
  label: string;
  unit: string;
  better: "higher" | "lower";
  target: number | null;
  measure: Measure;
}

/** Runs the same job on both sides in turn and makes a line of each measure. */
async function compare(
  context: RowContext,
  sides: { ours: Side; peer: Side },
  options: FioOptions,
  comparisons: readonly Comparison[],
  before: () => Promise<void> = async () => undefined,
): Promise<Line[]> {
  const first = comparisons[0]!;
  context.say(`${context.rounds} rounds of ${first.label}`);
  const results = { ours: [] as FioResult[], peers: [] as FioResult[] };
  const round = async (side: Side, list: FioResult[]): Promise<Round> => {
    const start = side.cpuSeconds();
    const result = await work(side, options);
    list.push(result);
    return { value: first.measure(result), cpuSeconds: side.cpuSeconds() - start };
  };
  const rounds = await alternate(
    context.rounds,
    async () => {
      await before();
      return await round(sides.ours, results.ours);
    },
    () => round(sides.peer, results.peers),
  );
  return comparisons.map(({ label, unit, better, target, measure }) => ({
    ...rounds,
    label,
    unit,
    better,
    target,
    peer: "qemu-nbd",
    ours: results.ours.map(measure),
    peers: results.peers.map(measure),
  }));
}

/** Brings both sides up in the row's folder and stops them whatever happens. */
async function withSides(
  context: RowContext,
  options: readonly string[],
  run: (sides: { ours: Ours; peer: Side }) => Promise<Line[]>,
): Promise<Line[]> {
  const ours = new Ours(context.folder);
  await ours.start(...SETUP, ...options);
  try {
    const peer = await startQemu(context.folder);
    try {
      return await run({ ours, peer });
    } finally {
      await peer.stop();
    }
  } finally {
    await ours.stop();
  }
}

const randomWrite = { rw: "randwrite", bs: "4k", time_based: true } as const;

export const vdiskWriteRow: Row = {
  name: "vdisk-write",
  target: "4 KiB random write QD 32 while the journal has room: ≥ 3 × qemu-nbd; p99 below its p99",
  run: (context) =>
    withSides(context, ["--journal-size", "16G"], (sides) =>
      compare(
        context,
        sides,
        { ...randomWrite, iodepth: 32, runtime: context.seconds },
        [
          {
            label: "4k randwrite, QD 32",
            unit: "IOPS",
            better: "higher",
            target: 3,
            measure: iops,
          },
          { label: "its p99", unit: "µs", better: "lower", target: 1, measure: p99 },
        ],
        // The journal has room again before each of our rounds.
        () => sides.ours.sync(),
      ),
    ),
};

export const vdiskSustainedRow: Row = {
  name: "vdisk-sustained",
  target: "4 KiB random write QD 32 over 60 s with destage running: ≥ 2 × qemu-nbd",
  run: (context) =>
    withSides(context, [], async (sides) => {
      const runtime = Math.max(SUSTAINED_S, context.seconds);
      const before = await sides.ours.written();
      const lines = await compare(context, sides, { ...randomWrite, iodepth: 32, runtime }, [
        {
          label: "4k randwrite, QD 32, 60 s",
          unit: "IOPS",
          better: "higher",
          target: 2,
          measure: iops,
        },
        { label: "its p99", unit: "µs", better: "lower", target: 1, measure: p99 },
      ]);
      await sides.ours.sync();
      const after = await sides.ours.written();
      lines.push({
        label: "fragment bytes per byte written",
        unit: "ratio",
        better: "lower",
        target: 1.6,
        peer: null,
        ours: [(after.backend - before.backend) / (after.client - before.client)],
        peers: [],
        oursCpuSeconds: [],
        peersCpuSeconds: [],
      });
      return lines;
    }),
};

export const vdiskDepthOneRow: Row = {
  name: "vdisk-qd1",
  target: "4 KiB random write QD 1 / with a flush after each: ≥ 1.5 × / ≥ 0.9 × qemu-nbd",
  run: (context) =>
    withSides(context, [], async (sides) => {
      const one = { ...randomWrite, iodepth: 1, runtime: context.seconds };
      const line = { unit: "IOPS", better: "higher", measure: iops } as const;
      return [
        ...(await compare(context, sides, one, [
          { ...line, label: "4k randwrite, QD 1", target: 1.5 },
        ])),
        ...(await compare(context, sides, { ...one, fsync: 1 }, [
          { ...line, label: "4k randwrite, QD 1, flush after each", target: 0.9 },
        ])),
      ];
    }),
};

/** Writes the whole span with checksums in every block, and brings it to the backend. */
async function fill(sides: { ours: Ours; peer: Side }): Promise<void> {
  for (const side of [sides.ours, sides.peer]) {
    await work(side, { rw: "write", bs: "4k", iodepth: 64, verify: "crc32c", do_verify: 0 });
  }
  await sides.ours.sync();
}

const verified = { rw: "randread", bs: "4k", iodepth: 32, verify: "crc32c" } as const;

export const vdiskReadRow: Row = {
  name: "vdisk-read",
  target: "4 KiB random read QD 32, verified: in the cache ≥ 3 ×, cold ≥ 0.8 × qemu-nbd",
  run: async (context) => {
    const line = { unit: "IOPS", better: "higher", measure: iops } as const;
    const job: FioOptions = { ...verified, runtime: context.seconds, time_based: true };
    const lines = await withSides(context, ["--cache-size", "3G"], async (sides) => {
      await fill(sides);
      const warm: FioOptions = { ...job, size: "1G" };
      await work(sides.ours, { ...warm, rw: "read", bs: "1M", verify: "null" });
      return await compare(context, sides, warm, [
        { ...line, label: "4k randread in the cache, QD 32", target: 3 },
      ]);
    });
    const none = ["--cache-size", "16M", "--read-cache-size", "0"];
    const cold = await withSides(context, none, (sides) =>
      compare(
        context,
        sides,
        job,
        [{ ...line, label: "4k randread cold from the ASDs, QD 32", target: 0.8 }],
        async () => {
          await sides.ours.ovs("cache", "drop");
        },
      ),
    );
    return [...lines, ...cold];
  },
};

export const vdiskSequentialRow: Row = {
  name: "vdisk-seq",
  target: "1 MiB sequential write past the journal ≥ 0.4 ×, cold read ≥ 0.5 × qemu-nbd",
  run: async (context) => {
    const line = { unit: "MiB/s", better: "higher", measure: mibPerSecond } as const;
    const writes = await withSides(context, ["--journal-size", "1G"], (sides) =>
      compare(context, sides, { rw: "write", bs: "1M", iodepth: 8 }, [
        { ...line, label: "1M write, 4 GiB, journal of 1 GiB", target: 0.4 },
      ]),
    );
    const none = ["--cache-size", "16M", "--read-cache-size", "0"];
    const reads = await withSides(context, none, async (sides) => {
      await sides.ours.sync();
      return await compare(
        context,
        sides,
        { rw: "read", bs: "1M", iodepth: 8 },
        [{ ...line, label: "1M cold read", target: 0.5 }],
        async () => {
          await sides.ours.ovs("cache", "drop");
        },
      );
    });
    return [...writes, ...reads];
  },
};

export const VDISK_ROWS: readonly Row[] = [
  vdiskWriteRow,
  vdiskSustainedRow,
  vdiskDepthOneRow,
  vdiskReadRow,
  vdiskSequentialRow,
];
