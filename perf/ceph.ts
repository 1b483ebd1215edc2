// SPDX-License-Identifier: Apache-2.0
// The Ceph row: a vDisk beside an image of a one-host Ceph, both erasure-coded 4+2 over six daemons
// on this disk, 4 KiB. Ceph's packages are many: `npm run perf -- ceph` installs them, and without
// them the row says that it was not measured.

import type { FioOptions } from "./lib/fio.js";
import type { Row, RowContext } from "./lib/row.js";
import type { Line } from "./lib/stats.js";
import { CEPH_FIO, Ceph, haveCeph } from "./peers/ceph.js";
import { compare, iops, NO_CACHES, type Sides, withOurs } from "./vdisk/compare.js";
import { type Ours, work } from "./vdisk/sides.js";

const RATIO_MIN = 20;
const SETUP = ["--asd-size", "20G", "--vdisk", "vd0:10G"];
const perSecond = { unit: "IOPS", better: "higher", measure: iops, target: RATIO_MIN } as const;

export const cephRow: Row = {
  name: "ceph",
  target: `one-host Ceph, EC 4+2, all 4 KiB rows: ≥ ${RATIO_MIN} ×`,
  async run(context: RowContext): Promise<Line[]> {
    if (!haveCeph()) throw new Error("Ceph is not installed: npm run perf -- ceph installs it");
    const peer = new Ceph(context.folder);
    try {
      context.say("starting Ceph, about a minute");
      await peer.start();
      const hot = await withOurs(context, [...SETUP, "--cache-size", "3G"], async (ours) => {
        const sides: Sides<Ceph> = { ours, peer, peerName: "Ceph" };
        await fill(context, sides);
        return [...(await writes(context, sides)), ...(await cachedReads(context, sides))];
      });
      await peer.restartOsds();
      const cold = await withOurs(context, [...SETUP, ...NO_CACHES], async (ours) =>
        coldReads(context, ours, peer),
      );
      return [...hot, ...cold];
    } finally {
      await peer.stop();
    }
  },
};

/** Both are written once in full: an image of Ceph makes its objects then. */
async function fill(context: RowContext, { ours, peer }: Sides): Promise<void> {
  context.say("writing both once");
  const job: FioOptions = { rw: "write", bs: "4M", iodepth: 8 };
  await work(peer, { ...CEPH_FIO, ...job });
  await work(ours, job);
  await ours.sync();
}

async function writes(context: RowContext, sides: Sides): Promise<Line[]> {
  const runtime = context.seconds;
  const job: FioOptions = { rw: "randwrite", bs: "4k", time_based: true, runtime };
  const works: Array<[string, FioOptions]> = [
    ["4k randwrite, QD 32", { ...job, iodepth: 32 }],
    ["4k randwrite, QD 1", { ...job, iodepth: 1 }],
    ["4k randwrite, QD 1, flush after each", { ...job, iodepth: 1, fsync: 1 }],
  ];
  const lines: Line[] = [];
  for (const [label, options] of works) {
    const wanted = { options, peerOptions: CEPH_FIO, lines: [{ ...perSecond, label }] };
    lines.push(...(await compare(context, sides, wanted)));
  }
  return lines;
}

const reads = { rw: "randread", bs: "4k", iodepth: 32, time_based: true } as const;

async function cachedReads(context: RowContext, sides: Sides): Promise<Line[]> {
  const size = "1G";
  const warm: FioOptions = { rw: "read", bs: "1M", iodepth: 8, size };
  await work(sides.peer, { ...CEPH_FIO, ...warm });
  await work(sides.ours, warm);
  return await compare(context, sides, {
    options: { ...reads, size, runtime: context.seconds },
    peerOptions: CEPH_FIO,
    lines: [{ ...perSecond, label: "4k randread, QD 32, in the cache" }],
  });
}

async function coldReads(context: RowContext, ours: Ours, peer: Ceph): Promise<Line[]> {
  return await compare(
    context,
    { ours, peer, peerName: "Ceph" },
    {
      options: { ...reads, runtime: context.seconds },
      peerOptions: CEPH_FIO,
      lines: [{ ...perSecond, label: "4k randread, QD 32, cold" }],
      before: () => ours.dropCaches(),
    },
  );
}
