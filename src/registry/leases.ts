// SPDX-License-Identifier: Apache-2.0
// The leases of an embedded registry: who lives until when, and which keys die with it. Memory
// only; what must survive a restart is written by the caller. After a restart every lease begins
// anew with its full time (P-C7), because nobody knows how long the registry was away.
//
// The same when this process stood still (stopped, or a host without time for it): nobody could
// renew in that time, so that every living lease begins anew, as etcd does for a new leader. A beat
// tells: it comes late by as long as the process stood.
//
// An expired lease is first *ending*: it cannot be renewed any more, and `onExpired` has its
// transaction queued; that one removes it.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import type { Clock, Timer } from "../platform/world.js";

export const LEASES_MAX = 10_000;
export const LEASE_KEYS_MAX = 1000;

const BEAT_MS = 500;
/** A beat that comes later than this says that the process stood still. */
const STALL_MS = 1250;

export interface Lease {
  id: bigint;
  ttlSeconds: number;
  deadlineMs: number;
  ending: boolean;
  keys: Set<string>;
}

export class LeaseTable {
  readonly #clock: Clock;
  readonly #onExpired: (lease: Lease) => void;
  readonly #leases = new Map<bigint, Lease>();
  readonly #onStall: (stallMs: number) => void;
  #timer: Timer | null = null;
  #timerAtMs = Number.POSITIVE_INFINITY;
  #beat: Timer | null = null;
  #beatMs = 0;

  /** `onStall`: the process stood still for so long, and all leases begin anew. */
  constructor(
    clock: Clock,
    onExpired: (lease: Lease) => void,
    onStall: (stallMs: number) => void = () => undefined,
  ) {
    this.#clock = clock;
    this.#onExpired = onExpired;
    this.#onStall = onStall;
  }

  /** Leases that are living or ending. */
  get size(): number {
    return this.#leases.size;
  }

  /** True for a lease that is living or ending. */
  has(id: bigint): boolean {
    return this.#leases.has(id);
  }

  /** The lease, unless it is gone or ending: then OVS_NOT_FOUND. */
  living(id: bigint): Lease {
    const lease = this.#leases.get(id);
    if (lease && !lease.ending) return lease;
    throw new StorageError("OVS_NOT_FOUND", `the lease ${id} is gone`);
  }

  /** The lease in whatever state, or null. */
  find(id: bigint): Lease | null {
    return this.#leases.get(id) ?? null;
  }

  /** Adds a lease whose time begins now. */
  add(id: bigint, ttlSeconds: number): Lease {
    assert(id > 0n && !this.#leases.has(id), "a lease is new");
    const deadlineMs = this.#clock.nowMs() + ttlSeconds * 1000;
    const lease = { id, ttlSeconds, deadlineMs, ending: false, keys: new Set<string>() };
    this.#leases.set(id, lease);
    this.#arm(deadlineMs);
    if (this.#beat === null) this.#startBeat();
    return lease;
  }

  /** Begins its time anew; returns the seconds. */
  renew(id: bigint): number {
    const lease = this.living(id);
    lease.deadlineMs = this.#clock.nowMs() + lease.ttlSeconds * 1000;
    return lease.ttlSeconds;
  }

  /** Forgets a lease whose end is written. */
  remove(id: bigint): void {
    assert(this.#leases.delete(id), "a lease is removed once");
  }

  /** The key dies with the lease from now on. */
  attach(id: bigint, key: string): void {
    const lease = this.#leases.get(id);
    assert(lease !== undefined, "keys are attached to leases that are there");
    lease.keys.add(key);
  }

  /** The key does not die with the lease any more; nothing happens where the lease is gone. */
  detach(id: bigint, key: string): void {
    this.#leases.get(id)?.keys.delete(key);
  }

  /** Ends the timers: no lease expires after it. */
  stop(): void {
    this.#timer?.cancel();
    this.#timer = null;
    this.#timerAtMs = 0;
    this.#beat?.cancel();
    this.#beat = null;
  }

  #startBeat(): void {
    this.#beatMs = this.#clock.nowMs();
    this.#beat = this.#clock.after(BEAT_MS, () => {
      this.#beat = null;
      this.#noticeStall();
      if (this.#leases.size > 0) this.#startBeat();
    });
  }

  #noticeStall(): void {
    const now = this.#clock.nowMs();
    const lateMs = now - this.#beatMs - BEAT_MS;
    if (lateMs < STALL_MS - BEAT_MS) return;
    this.#beatMs = now;
    for (const lease of this.#leases.values()) {
      if (!lease.ending) lease.deadlineMs = now + lease.ttlSeconds * 1000;
    }
    this.#onStall(lateMs);
  }

  #arm(atMs: number): void {
    if (atMs >= this.#timerAtMs) return;
    this.#timer?.cancel();
    this.#timerAtMs = atMs;
    const delayMs = Math.max(0, atMs - this.#clock.nowMs());
    this.#timer = this.#clock.after(delayMs, () => this.#expire());
  }

  /** Renewals only move deadlines back, so the timer may come early and looks at all. */
  #expire(): void {
    this.#timer = null;
    this.#timerAtMs = Number.POSITIVE_INFINITY;
    // This timer may be the first to run after a stall.
    this.#noticeStall();
    const now = this.#clock.nowMs();
    let earliest = Number.POSITIVE_INFINITY;
    for (const lease of this.#leases.values()) {
      if (lease.ending) continue;
      if (lease.deadlineMs > now) {
        earliest = Math.min(earliest, lease.deadlineMs);
        continue;
      }
      lease.ending = true;
      this.#onExpired(lease);
    }
    if (earliest !== Number.POSITIVE_INFINITY) this.#arm(earliest);
  }
}
