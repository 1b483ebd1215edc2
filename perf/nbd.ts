// SPDX-License-Identifier: Apache-2.0
// The nbd row: `ovs nbd-serve memory:` against nbdkit's memory plugin, fio's nbd engine on a unix
// socket. Both disks are written once before, so that no read is answered from nothing.

import { existsSync } from "node:fs";
import { runFio } from "./lib/fio.js";
import type { Server } from "./lib/process.js";
import { cpuSecondsOf, startServer } from "./lib/process.js";
import type { Row, RowContext } from "./lib/row.js";
import type { Line, Round } from "./lib/stats.js";
import { alternate } from "./lib/stats.js";

const DISK_MIB = 1024;
const OVS = new URL("../src/bin/ovs.js", import.meta.url).pathname;

interface Work {
  rw: "randread" | "randwrite" | "read" | "write";
  bs: string;
  depth: number;
  /** Ratio to reach; null: for the record. */
  target: number | null;
}

const WORKS: readonly Work[] = [
  { rw: "randread", bs: "4k", depth: 32, target: 2 },
  { rw: "randwrite", bs: "4k", depth: 32, target: 2 },
  { rw: "randread", bs: "4k", depth: 1, target: 1.35 },
  { rw: "randwrite", bs: "4k", depth: 1, target: 1.35 },
  { rw: "read", bs: "1M", depth: 4, target: null },
  { rw: "write", bs: "1M", depth: 4, target: null },
];

export const nbdRow: Row = {
  name: "nbd",
  target: "ovs nbd-serve memory: ≥ 2 × nbdkit memory at 4 KiB QD 32; QD 1 latency ≤ 1.35 ×",
  async run(context: RowContext): Promise<Line[]> {
    const oursSocket = `${context.folder}/ours.sock`;
    const peerSocket = `${context.folder}/peer.sock`;
    const ready = (path: string) => () => existsSync(path);
    const oursArgs = [OVS, "nbd-serve", "-k", oursSocket, `memory:${DISK_MIB}M`];
    const peerArgs = ["-f", "-U", peerSocket, "memory", `${DISK_MIB}M`];
    const limit = { timeoutMs: 20_000 };
    const ours = await startServer(process.execPath, oursArgs, ready(oursSocket), limit);
    try {
      const peer = await startServer("nbdkit", peerArgs, ready(peerSocket), limit);
      try {
        return await compare(context, [ours, oursSocket], [peer, peerSocket]);
      } finally {
        await peer.stop();
      }
    } finally {
      await ours.stop();
    }
  },
};

type Side = [server: Server, socket: string];

async function compare(context: RowContext, ours: Side, peer: Side): Promise<Line[]> {
  for (const [, socket] of [ours, peer]) {
    await runFio({ ...common(socket), rw: "write", bs: "1M", iodepth: 4 });
  }
  const lines: Line[] = [];
  // The disk is memory: there is nothing to tire.
  const seconds = context.seconds / 2;
  for (const work of WORKS) {
    const { rw, bs, depth, target } = work;
    const latency = depth === 1;
    const label = `${bs} ${rw}, QD ${depth}`;
    context.say(`${context.rounds} rounds of ${label}`);
    const rounds = await alternate(
      context.rounds,
      () => round(ours, work, seconds),
      () => round(peer, work, seconds),
    );
    const unit = latency ? "µs" : "IOPS";
    const better = latency ? "lower" : "higher";
    lines.push({ label, unit, better, peer: "nbdkit memory", target, ...rounds });
  }
  return lines;
}

function common(socket: string) {
  return {
    ioengine: "nbd",
    uri: `nbd+unix:///?socket=${socket}`,
    size: `${DISK_MIB}M`,
    refill_buffers: true,
    norandommap: true,
  } as const;
}

/** One measurement: operations a second, or the mean latency at depth 1. */
async function round([server, socket]: Side, work: Work, seconds: number): Promise<Round> {
  const before = cpuSecondsOf([server.pid]);
  const result = await runFio({
    ...common(socket),
    rw: work.rw,
    bs: work.bs,
    iodepth: work.depth,
    runtime: seconds,
    time_based: true,
  });
  const cpuSeconds = cpuSecondsOf([server.pid]) - before;
  return { value: work.depth === 1 ? result.latencyUs.mean : result.iops, cpuSeconds };
}
