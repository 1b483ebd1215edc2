// SPDX-License-Identifier: Apache-2.0
// Writes and zeroes that cover a cluster partly (P-A6): the first and last cluster of the request
// are merged with their newest committed content before they go into a record.
//
//   consider ─► lock ─► (records in flight that touch the clusters commit) ─► read old ─► merge
//            ─► back to the queue, locked until committed ─► release
//
// While a cluster is locked, other writes that touch it wait. All locks of a request are taken at
// once or not at all, so that nobody waits in a circle.

import { assert } from "../base/assert.js";
import type { ErrorKind } from "../base/errors.js";
import { CLUSTER_BYTES } from "../base/units.js";
import { RequestKind } from "../nbd/target.js";
import { ClusterLocks } from "./lock.js";
import { INTERNAL_JOBS } from "./reader.js";
import { SlotQueue } from "./slots.js";
import type { VolumeThread } from "./thread.js";
import type { Volume } from "./volume.js";

export interface PartialEvents {
  /** The edges of the request are merged: it may go into a record. */
  merged(slot: number): void;
  /**
   * The old content could not be read, or the volume has failed: the request is over, its locks are
   * free.
   */
  failed(slot: number, error: ErrorKind): void;
  /** The request waited for a lock, and may be looked at again, before all others. */
  unlocked(slot: number): void;
}

export type Step = "whole" | "taken" | "wait";

export class PartialWrites {
  readonly #volume: Volume;
  readonly #thread: VolumeThread;
  readonly #events: PartialEvents;
  readonly #locks: ClusterLocks;
  /** Requests that wait for a lock, and those that wait for records in flight. */
  readonly #blocked: SlotQueue;
  readonly #behind: SlotQueue;
  /** Request and edge (0 first, 1 last) of each internal read. */
  readonly #edges = new Uint32Array(INTERNAL_JOBS);

  constructor(volume: Volume, thread: VolumeThread, events: PartialEvents) {
    const slots = thread.requests.slots;
    this.#volume = volume;
    this.#thread = thread;
    this.#events = events;
    this.#locks = new ClusterLocks(slots);
    this.#blocked = new SlotQueue(slots);
    this.#behind = new SlotQueue(slots);
  }

  /**
   * Looks at the first request of the queue: "whole" may go into a record now; "taken" was taken
   * over by this class and comes back by an event; "wait" must be asked again later.
   */
  consider(slot: number): Step {
    const { slots, requests } = this.#thread;
    const first = slots.first[slot];
    const end = slots.end[slot];
    if (this.#locks.count > 0 && this.#locks.holderIn(first, end) >= 0) {
      this.#blocked.push(slot);
      return "taken";
    }
    const offset = requests.offset[slot];
    const bytesEnd = offset + requests.length[slot];
    const headCut = offset % CLUSTER_BYTES !== 0;
    const tailCut = bytesEnd % CLUSTER_BYTES !== 0;
    if (!headCut && !tailCut) return "whole";
    const hasHead = headCut || end === first + 1;
    const hasTail = tailCut && end > first + 1;
    return this.#begin(slot, hasHead, hasTail) ? "taken" : "wait";
  }

  /** Records up to `committed` are committed. */
  onAdvance(committed: number): void {
    for (let n = this.#behind.count; n > 0; n--) {
      const slot = this.#behind.shift();
      if (this.#thread.slots.barrier[slot] <= committed) this.#readEdges(slot);
      else this.#behind.push(slot);
    }
  }

  /** The read of an edge's old content has ended; the last one of a request leads to its merge. */
  onRead(job: number, error: ErrorKind | null): void {
    const { slots, requests, reader } = this.#thread;
    const edge = this.#edges[job - requests.slots];
    const slot = edge >>> 1;
    reader.endInternal(job);
    if (error !== null) slots.edgeFailed[slot] = 1;
    slots.edgesPending[slot]--;
    if (slots.edgesPending[slot] > 0) return;
    const failed =
      this.#volume.failed ?? (slots.edgeFailed[slot] === 1 ? (error ?? "unavailable") : null);
    if (failed !== null) {
      this.release(slot);
      this.#events.failed(slot, failed);
      return;
    }
    this.#merge(slot);
    slots.merged[slot] = 1;
    this.#events.merged(slot);
  }

  /** The request is committed or given up: its locks and frames are free. */
  release(slot: number): void {
    const { slots, scratch } = this.#thread;
    if (slots.headFrame[slot] === 0 && slots.tailFrame[slot] === 0) return;
    if (slots.headFrame[slot] !== 0) scratch.give(slots.headFrame[slot]);
    if (slots.tailFrame[slot] !== 0) scratch.give(slots.tailFrame[slot]);
    slots.headFrame[slot] = 0;
    slots.tailFrame[slot] = 0;
    this.#locks.release(slot);
    // In order, before all that came later: from the last to the first.
    for (let i = this.#blocked.count - 1; i >= 0; i--) this.#events.unlocked(this.#blocked.at(i));
    while (this.#blocked.count > 0) this.#blocked.shift();
    this.#thread.activate(this.#volume);
  }

  /** The volume is halted: those that only wait are given up; those with reads end with them. */
  abandon(): void {
    const kind = this.#volume.failed ?? "closed";
    while (this.#blocked.count > 0) this.#events.failed(this.#blocked.shift(), kind);
    while (this.#behind.count > 0) {
      const slot = this.#behind.shift();
      this.release(slot);
      this.#events.failed(slot, kind);
    }
  }

  #begin(slot: number, hasHead: boolean, hasTail: boolean): boolean {
    const { slots, scratch } = this.#thread;
    const need = (hasHead ? 1 : 0) + (hasTail ? 1 : 0);
    if (scratch.free < need) return false;
    const first = slots.first[slot];
    const last = slots.end[slot] - 1;
    let barrier = 0;
    this.#locks.take(first, last + 1, slot);
    if (hasHead) {
      slots.headFrame[slot] = scratch.take();
      barrier = this.#volume.writer.lastTouching(first, first + 1);
    }
    if (hasTail) {
      slots.tailFrame[slot] = scratch.take();
      barrier = Math.max(barrier, this.#volume.writer.lastTouching(last, last + 1));
    }
    slots.barrier[slot] = barrier;
    if (barrier > this.#volume.writer.committed) this.#behind.push(slot);
    else this.#readEdges(slot);
    return true;
  }

  #readEdges(slot: number): void {
    const { slots, reader, requests } = this.#thread;
    const head = slots.headFrame[slot];
    const tail = slots.tailFrame[slot];
    const first = slots.first[slot];
    const last = slots.end[slot] - 1;
    // There are as many jobs as frames, and each job reads to a frame: whoever has frames has jobs.
    // Both are counted before the first is started: a read can end at once.
    slots.edgesPending[slot] = (head !== 0 ? 1 : 0) + (tail !== 0 ? 1 : 0);
    for (let edge = 0; edge < 2; edge++) {
      const frame = edge === 0 ? head : tail;
      if (frame === 0) continue;
      const job = reader.takeInternal();
      this.#edges[job - requests.slots] = slot * 2 + edge;
      reader.startInternal(this.#volume, job, edge === 0 ? first : last, frame);
    }
  }

  /** Puts the request's bytes over the old content. */
  #merge(slot: number): void {
    const { slots, requests, world } = this.#thread;
    const offset = requests.offset[slot];
    const bytesEnd = offset + requests.length[slot];
    const head = slots.headFrame[slot];
    const tail = slots.tailFrame[slot];
    if (head !== 0) {
      const from = offset % CLUSTER_BYTES;
      const to = Math.min(CLUSTER_BYTES, from + requests.length[slot]);
      this.#put(slot, head + from, requests.memory[slot], to - from);
      slots.headCrc[slot] = world.codec.crc32c(head, CLUSTER_BYTES, 0);
    }
    if (tail !== 0) {
      const tailOffset = (slots.end[slot] - 1) * CLUSTER_BYTES;
      assert(bytesEnd > tailOffset, "the request reaches into its last cluster");
      this.#put(slot, tail, requests.memory[slot] + (tailOffset - offset), bytesEnd - tailOffset);
      slots.tailCrc[slot] = world.codec.crc32c(tail, CLUSTER_BYTES, 0);
    }
  }

  #put(slot: number, target: number, source: number, bytes: number): void {
    const { requests, world } = this.#thread;
    if (requests.kind[slot] === RequestKind.Write)
      world.arena.bytes.copyWithin(target, source, source + bytes);
    else world.arena.bytes.fill(0, target, target + bytes);
  }
}
