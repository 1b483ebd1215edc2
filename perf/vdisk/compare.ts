// SPDX-License-Identifier: Apache-2.0
// One fio job on both sides of a vDisk row, in turns. A round of ours that wrote ends only when all
// of it is in the backend: its CPU seconds are those of the whole way, and its destage does not run
// under the peer's round.

import type { FioOptions, FioResult } from "../lib/fio.js";
import type { RowContext } from "../lib/row.js";
import { alternate, type Line, type Round } from "../lib/stats.js";
import { Ours, type Side, startQemu, work } from "./sides.js";

const SETUP = ["--asd-size", "20G", "--vdisk", "vd0:10G"];
/** Options of a router without caches: what is read comes from the ASDs. */
export const NO_CACHES = ["--cache-size", "16M", "--read-cache-size", "0"];

export type Measure = (result: FioResult) => number;
export const iops: Measure = (result) => result.iops;
export const p99: Measure = (result) => result.latencyUs.p99;
export const mibPerSecond: Measure = (result) => result.bytesPerSecond / 2 ** 20;

/** A line to be made of the rounds. */
export interface Comparison {
  label: string;
  unit: string;
  better: "higher" | "lower";
  target: number | null;
  measure: Measure;
}

export interface Sides<Peer extends Side = Side> {
  ours: Ours;
  peer: Peer;
  /** What the table calls the peer. */
  peerName: string;
}

interface Job {
  options: FioOptions;
  /** Other options of the peer's job: its engine and image. */
  peerOptions?: FioOptions;
  lines: readonly Comparison[];
  /** Before each of our rounds. */
  before?: () => Promise<void>;
  /** Most core-seconds a GB (10^9 bytes) of ours; makes a line of its own. */
  coreSecondsPerGb?: number;
}

/** Runs the job on both sides in turns and makes a line of each measure. */
export async function compare(context: RowContext, sides: Sides, job: Job): Promise<Line[]> {
  const first = job.lines[0]!;
  context.say(`${context.rounds} rounds of ${first.label}`);
  const results = { ours: [] as FioResult[], peers: [] as FioResult[] };
  const writes = String(job.options.rw).endsWith("write");
  const ours = async (): Promise<Round> => {
    await job.before?.();
    const start = sides.ours.cpuSeconds();
    const result = await work(sides.ours, job.options);
    if (writes) await sides.ours.sync();
    results.ours.push(result);
    return { value: first.measure(result), cpuSeconds: sides.ours.cpuSeconds() - start };
  };
  const peer = async (): Promise<Round> => {
    const start = sides.peer.cpuSeconds();
    const result = await work(sides.peer, { ...job.options, ...job.peerOptions });
    results.peers.push(result);
    return { value: first.measure(result), cpuSeconds: sides.peer.cpuSeconds() - start };
  };
  const rounds = await alternate(context.rounds, ours, peer);
  const lines: Line[] = job.lines.map(({ measure, ...line }) => ({
    ...rounds,
    ...line,
    peer: sides.peerName,
    ours: results.ours.map(measure),
    peers: results.peers.map(measure),
  }));
  if (job.coreSecondsPerGb === undefined) return lines;
  const gigabytes = (list: FioResult[]) => list.map(({ bytes }) => bytes / 1e9);
  const perGb = (seconds: number[], list: FioResult[]) =>
    gigabytes(list).map((count, round) => seconds[round]! / count);
  const peersPerGb = perGb(rounds.peersCpuSeconds, results.peers);
  return [
    ...lines,
    {
      label: `${first.label}: CPU of all processes`,
      unit: "core-s/GB",
      better: "lower",
      target: job.coreSecondsPerGb,
      peer: null,
      ours: perGb(rounds.oursCpuSeconds, results.ours),
      peers: [],
      oursCpuSeconds: rounds.oursCpuSeconds,
      peersCpuSeconds: [],
      extra: { [`${sides.peerName}, core-s/GB`]: peersPerGb.map((v) => v.toFixed(2)).join(" ") },
    },
  ];
}

/** Brings our side and qemu-nbd up in the row's folder and stops them whatever happens. */
export async function withSides(
  context: RowContext,
  options: readonly string[],
  run: (sides: Sides) => Promise<Line[]>,
): Promise<Line[]> {
  return await withOurs(context, [...SETUP, ...options], async (ours) => {
    const peer = await startQemu(context.folder);
    try {
      return await run({ ours, peer, peerName: "qemu-nbd" });
    } finally {
      await peer.stop();
    }
  });
}

/** Brings our side up in the row's folder and stops it whatever happens. */
export async function withOurs(
  context: RowContext,
  options: readonly string[],
  run: (ours: Ours) => Promise<Line[]>,
): Promise<Line[]> {
  const ours = new Ours(context.folder);
  await ours.start(...options);
  try {
    return await run(ours);
  } finally {
    await ours.stop();
  }
}
