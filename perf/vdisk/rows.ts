// SPDX-License-Identifier: Apache-2.0
// The vDisk rows of the table: 4+2 on six ASDs on this disk, beside qemu-nbd on a raw file.

import type { FioOptions } from "../lib/fio.js";
import type { Row } from "../lib/row.js";
import { compare, iops, mibPerSecond, NO_CACHES, p99, type Sides, withSides } from "./compare.js";
import { work } from "./sides.js";

const SUSTAINED_S = 60;
const perSecond = { unit: "IOPS", better: "higher", measure: iops } as const;
const latency = { unit: "µs", better: "lower", target: 1, measure: p99 } as const;
const throughput = { unit: "MiB/s", better: "higher", measure: mibPerSecond } as const;
const randomWrite = { rw: "randwrite", bs: "4k", time_based: true } as const;
const verified = { rw: "randread", bs: "4k", iodepth: 32, verify: "crc32c" } as const;

const writeRow: Row = {
  name: "vdisk-write",
  target: "4 KiB random write QD 32 while the journal has room: ≥ 3 × qemu-nbd; p99 below its p99",
  run: (context) =>
    withSides(context, ["--journal-size", "16G"], (sides) =>
      compare(context, sides, {
        options: { ...randomWrite, iodepth: 32, runtime: context.seconds },
        lines: [
          { ...perSecond, label: "4k randwrite, QD 32, the journal has room", target: 3 },
          { ...latency, label: "4k randwrite, QD 32, the journal has room: p99" },
        ],
      }),
    ),
};

const sustainedRow: Row = {
  name: "vdisk-sustained",
  target: "4 KiB random write QD 32 over 60 s with destage: ≥ 2 × qemu-nbd; p99 below its p99",
  run: (context) =>
    withSides(context, [], (sides) =>
      compare(context, sides, {
        options: { ...randomWrite, iodepth: 32, runtime: context.quick ? 10 : SUSTAINED_S },
        lines: [
          { ...perSecond, label: "4k randwrite, QD 32, 60 s with destage", target: 2 },
          { ...latency, label: "4k randwrite, QD 32, 60 s with destage: p99" },
        ],
      }),
    ),
};

const depthOneRow: Row = {
  name: "vdisk-qd1",
  target: "4 KiB random write QD 1 / with a flush after each: ≥ 1.5 × / ≥ 0.9 × qemu-nbd",
  run: (context) =>
    withSides(context, [], async (sides) => {
      const one = { ...randomWrite, iodepth: 1, runtime: context.seconds };
      const plain = { ...perSecond, label: "4k randwrite, QD 1", target: 1.5 };
      const flushed = { ...perSecond, label: "4k randwrite, QD 1, flush after each", target: 0.9 };
      return [
        ...(await compare(context, sides, { options: one, lines: [plain] })),
        ...(await compare(context, sides, { options: { ...one, fsync: 1 }, lines: [flushed] })),
      ];
    }),
};

/** Writes the whole span with checksums in every block, and brings it to the backend. */
async function fill(sides: Sides): Promise<void> {
  for (const side of [sides.ours, sides.peer]) {
    await work(side, { rw: "write", bs: "4k", iodepth: 64, verify: "crc32c", do_verify: 0 });
  }
  await sides.ours.sync();
}

const readRow: Row = {
  name: "vdisk-read",
  target: "4 KiB random read QD 32, verified: in the cache ≥ 3 ×, cold ≥ 0.8 × qemu-nbd",
  run: async (context) => {
    const job: FioOptions = { ...verified, runtime: context.seconds, time_based: true };
    const cached = await withSides(context, ["--cache-size", "3G"], async (sides) => {
      await fill(sides);
      const options: FioOptions = { ...job, size: "1G" };
      await work(sides.ours, { rw: "read", bs: "1M", iodepth: 8, size: "1G" });
      const label = "4k randread, QD 32, in the cache, verified";
      return await compare(context, sides, {
        options,
        lines: [{ ...perSecond, label, target: 3 }],
      });
    });
    const cold = await withSides(context, NO_CACHES, (sides) =>
      compare(context, sides, {
        options: job,
        lines: [
          { ...perSecond, label: "4k randread, QD 32, cold from the ASDs, verified", target: 0.8 },
        ],
        before: () => sides.ours.dropCaches(),
      }),
    );
    return [...cached, ...cold];
  },
};

const sequentialRow: Row = {
  name: "vdisk-seq",
  target:
    "1 MiB sequential write past the journal ≥ 0.4 ×, cold read ≥ 0.5 × qemu-nbd; " +
    "≤ 5 / ≤ 4 core-seconds a GB",
  run: async (context) => {
    // The journal takes an eighth of what is written: the rest is destaged while fio waits.
    const writes = await withSides(context, ["--journal-size", "512M"], (sides) =>
      compare(context, sides, {
        options: { rw: "write", bs: "1M", iodepth: 8 },
        lines: [{ ...throughput, label: "1M write, 4 GiB past a journal of 512 MiB", target: 0.4 }],
        coreSecondsPerGb: 5,
      }),
    );
    const reads = await withSides(context, NO_CACHES, (sides) =>
      compare(context, sides, {
        options: { rw: "read", bs: "1M", iodepth: 8 },
        lines: [{ ...throughput, label: "1M read, 4 GiB, cold from the ASDs", target: 0.5 }],
        before: () => sides.ours.dropCaches(),
        coreSecondsPerGb: 4,
      }),
    );
    return [...writes, ...reads];
  },
};

export const VDISK_ROWS: readonly Row[] = [
  writeRow,
  sustainedRow,
  depthOneRow,
  readRow,
  sequentialRow,
];
