// SPDX-License-Identifier: Apache-2.0
// The way from one simulated host to another, in one direction, and what is wrong with it.

/** Kinds of trouble of the network, as workloads count them. */
export const NET_FAULTS = [
  "delay",
  "loss",
  "slow",
  "partition",
  "one-way",
  "half-open",
  "reset",
  "refused",
  "hanging",
  "late",
  "freeze",
  "power",
] as const;
export type NetFault = (typeof NET_FAULTS)[number];

export const HEALTHY_BYTES_PER_MS = 1_000_000;

/** Time on the wire for so many bytes. */
export function wireMs(bytes: number, bytesPerMs: number): number {
  return bytes / bytesPerMs;
}

/** A direction between two hosts. Faults are switched by setting the fields. */
export class NetLink {
  /** Time that every packet takes. */
  readonly latencyMs: number;
  /** Nothing passes. */
  blocked = false;
  /** Every packet takes this much longer. */
  delayMs = 0;
  /** And up to so much more, at random. */
  jitterMs = 0;
  /** Share of packets that are lost: their connection stalls until they are sent again. */
  lossRate = 0;
  bytesPerMs = HEALTHY_BYTES_PER_MS;
  /** Share of packets at which their connection is reset. */
  resetRate = 0;
  /** Nobody is let in: a firewall that says no. */
  refuses = false;
  /** Attempts to connect get no answer. */
  hangs = false;

  constructor(latencyMs: number) {
    this.latencyMs = latencyMs;
  }

  /** Ends all troubles of this direction; its latency stays what it is. */
  heal(): void {
    this.blocked = false;
    this.delayMs = 0;
    this.jitterMs = 0;
    this.lossRate = 0;
    this.bytesPerMs = HEALTHY_BYTES_PER_MS;
    this.resetRate = 0;
    this.refuses = false;
    this.hangs = false;
  }
}
