// SPDX-License-Identifier: Apache-2.0
// The idle row: what the whole product burns while nobody asks it anything. It has a vDisk with
// data on it.

import { cpuSecondsOf, pause } from "../lib/process.js";
import type { Row, RowContext } from "../lib/row.js";
import type { Line } from "../lib/stats.js";
import { withOurs } from "./compare.js";
import { type Ours, work } from "./sides.js";

const SETTLE_S = 10;
const IDLE_S = 30;
const PERCENT_MAX = 2;

export const idleRow: Row = {
  name: "idle",
  target: `CPU of all processes while nothing is asked, over ${IDLE_S} s: < ${PERCENT_MAX} % of a core`,
  run: (context) =>
    withOurs(context, [], async (ours) => {
      await work(ours, { rw: "randwrite", bs: "4k", iodepth: 32, io_size: "256M" });
      await ours.sync();
      return [await measure(context, ours)];
    }),
};

async function measure(context: RowContext, ours: Ours): Promise<Line> {
  context.say(`${SETTLE_S} s to settle, then ${IDLE_S} s`);
  await pause(SETTLE_S * 1000);
  const processes = await ours.processes();
  const before = processes.map(({ pid }) => cpuSecondsOf([pid]));
  const begin = performance.now();
  await pause(IDLE_S * 1000);
  const seconds = (performance.now() - begin) / 1000;
  const used = processes.map(({ pid }, i) => cpuSecondsOf([pid]) - before[i]!);
  const all = used.reduce((a, b) => a + b, 0);
  const extra: Record<string, number> = {};
  for (const [i, { id }] of processes.entries()) {
    extra[`${id}, % of a core`] = Number(((100 * used[i]!) / seconds).toFixed(2));
  }
  return {
    label: `idle: CPU of all ${processes.length} processes`,
    unit: "% of a core",
    better: "lower",
    peer: null,
    target: PERCENT_MAX,
    ours: [(100 * all) / seconds],
    peers: [],
    oursCpuSeconds: [all],
    peersCpuSeconds: [],
    extra,
  };
}
