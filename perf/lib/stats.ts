// SPDX-License-Identifier: Apache-2.0
// Figures of a benchmark: medians and ratios. A line is one comparison; all its rounds are kept.

import { assert } from "../../src/base/assert.js";

/** One line of the table: the same work done by us and by a peer, several times. */
export interface Line {
  /** What was done: "4 KiB random write, QD 32". */
  label: string;
  /** Of the values: "IOPS", "MiB/s", "µs". */
  unit: string;
  /** Which way is good. */
  better: "higher" | "lower";
  /** Name of the peer; null when the target is an absolute value of ours. */
  peer: string | null;
  /**
   * For the ratio ours / peer, or for our value when there is no peer; null: for the record only.
   */
  target: number | null;
  /** One value a round. */
  ours: number[];
  peers: number[];
  /** CPU seconds of all our processes, and of the peer's, in a round. */
  oursCpuSeconds: number[];
  peersCpuSeconds: number[];
  /** Anything else worth keeping in the JSON: percentiles, CPU per operation, notes. */
  extra?: Record<string, number | string>;
}

/** The middle value, or the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  assert(values.length > 0, "a median needs values");
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Value at `share` (0…1) of the sorted values. */
export function percentile(values: readonly number[], share: number): number {
  assert(values.length > 0 && share >= 0 && share <= 1, "a percentile lies in its values");
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!;
}

/**
 * What is held against the target: the median of ours / peer over the rounds, or our median where
 * there is no peer. Round by round, because the two of a round saw the same neighbours; on a busy
 * machine medians of each side over minutes differ by more than the two programs do.
 */
export function score(line: Line): number {
  if (line.peer === null) return median(line.ours);
  if (line.ours.length !== line.peers.length) return median(line.ours) / median(line.peers);
  return median(line.ours.map((ours, round) => ours / line.peers[round]!));
}

/** Whether the target is met; null when the line has none. */
export function met(line: Line): boolean | null {
  if (line.target === null) return null;
  return line.better === "higher" ? score(line) >= line.target : score(line) <= line.target;
}

/**
 * Runs `ours` and `peer` in turn, `rounds` times each, beginning with either one alternately, so
 * that a disk that tires or a noisy neighbour hits both. Each returns a value and CPU seconds.
 */
export async function alternate(
  rounds: number,
  ours: () => Promise<Round>,
  peer: () => Promise<Round>,
): Promise<Pick<Line, "ours" | "peers" | "oursCpuSeconds" | "peersCpuSeconds">> {
  const result = {
    ours: [] as number[],
    peers: [] as number[],
    oursCpuSeconds: [] as number[],
    peersCpuSeconds: [] as number[],
  };
  const runOurs = async () => {
    const round = await ours();
    result.ours.push(round.value);
    result.oursCpuSeconds.push(round.cpuSeconds);
  };
  const runPeer = async () => {
    const round = await peer();
    result.peers.push(round.value);
    result.peersCpuSeconds.push(round.cpuSeconds);
  };
  for (let i = 0; i < rounds; i++) {
    await (i % 2 === 0 ? runOurs() : runPeer());
    await (i % 2 === 0 ? runPeer() : runOurs());
  }
  return result;
}

export interface Round {
  value: number;
  cpuSeconds: number;
}
