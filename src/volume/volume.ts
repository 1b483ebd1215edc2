// SPDX-License-Identifier: Apache-2.0
// A vDisk on one thread: takes requests in batches and answers them from journal, caches, map and
// backend. This file owns admission and completion; the parts do the rest:
//
//   admit ─► queue ─► (partial: locks, old content, merge) ─► writer ─► journal
//                                                  committed ─► dirty map ─► complete │ sync
//   admit ─► reader ─► complete                    batch closed ─► destager ─► backend, map
//
// Use: `VolumeThread.create` once per thread, `openVolume` per vDisk (open.ts), give the volume to
// the NBD server as its BlockTarget, `sync`/`resize`/`status` at will, and `stop` in the end. All
// requests of a volume come in turns of its thread.
//
// Invariants: a request is completed exactly once, and its slot is not touched after that. A write
// is acknowledged only after it and all before it are committed (P-A2). Once halted, nothing is
// written or acknowledged any more; the journal stays as evidence.

import type { ObjectStore } from "../backend/store.js";
import { assert } from "../base/assert.js";
import type { ErrorKind } from "../base/errors.js";
import { StorageError } from "../base/errors.js";
import type { Deferred } from "../base/sync.js";
import { deferred } from "../base/sync.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { BlockTarget, Requests } from "../nbd/target.js";
import { RequestFlag, RequestKind } from "../nbd/target.js";
import { JournalKind } from "../wire/generated/journal.js";
import { ReadBatch } from "./backendreads.js";
import { answerBlockStatus } from "./blockstatus.js";
import {
  checkGrowth,
  type VolumeConfig,
  type VolumeMarks,
  type VolumeState,
  type VolumeStatus,
} from "./config.js";
import { Destager } from "./destage.js";
import type { DirtyMap, Layer } from "./dirty.js";
import type { Journal } from "./journal.js";
import type { VolumeMap } from "./map.js";
import { DirtyMark } from "./mark.js";
import { Pace } from "./pace.js";
import { PartialWrites } from "./partial.js";
import type { ReadSource } from "./readsource.js";
import { SlotQueue } from "./slots.js";
import { volumeStatus } from "./status.js";
import type { TurnMember, VolumeThread } from "./thread.js";
import { JournalWriter } from "./writer.js";

/** Zero ranges of one batch. */
const ZERO_RANGES_MAX = 8192;

interface Control {
  kind: JournalKind;
  value: number;
  done: Deferred<void>;
}

/** What openVolume made. */
export interface VolumeParts {
  thread: VolumeThread;
  config: VolumeConfig;
  store: ObjectStore;
  marks: VolumeMarks;
  owner: number;
  dirty: DirtyMap;
  map: VolumeMap;
  journal: Journal;
  /** Sequence of the last record that recovery found. */
  sequence: number;
  sizeBytes: number;
  isDirty: boolean;
  batchBytes: number;
}

export class Volume implements BlockTarget, ReadSource, TurnMember {
  readonly readOnly = false;
  isActive = false;
  isWatched = false;
  readonly thread: VolumeThread;
  readonly config: VolumeConfig;
  readonly owner: number;
  readonly name: string;
  readonly namespace: string;
  readonly cacheBase: number;
  readonly store: ObjectStore;
  readonly dirty: DirtyMap;
  readonly map: VolumeMap;
  readonly journal: Journal;
  readonly writer: JournalWriter;
  readonly destager: Destager;
  readonly pace: Pace;
  readonly readCounts = new Float64Array(5);
  readonly backendReads = new Set<Promise<void>>();
  readsWaiting = 0;
  readonly readBatch = new ReadBatch();
  failed: ErrorKind | null = null;
  reason: string | null = null;
  state: VolumeState = "serving";
  sizeBytes: number;
  /** Counters for status. */
  readonly counts = { readBytes: 0, writtenBytes: 0, zeroedBytes: 0, flushes: 0, corruptions: 0 };
  onHalted: (reason: string) => void = () => undefined;
  readonly #requests: Requests;
  readonly #batchBytes: number;
  /** Writes and zeroes that are not yet in a record, in order of admission. */
  readonly #queue: SlotQueue;
  /** Flushes, and committed writes with FUA, that wait for a sync. */
  readonly #flushes: SlotQueue;
  readonly #partial: PartialWrites;
  readonly #controls: Control[] = [];
  #controlWaiters: Array<{ sequence: number; done: Deferred<void> }> = [];
  #syncWaiters: Array<Deferred<void>> = [];
  #syncedWaiters: Array<Deferred<void>> = [];
  #syncCovers = 0;
  #syncTarget = 0;
  /** A segment can be freed when the header of the next one is durable. */
  #syncsForRoom = false;
  #requestsOpen = 0;
  #idleWaiters: Array<() => void> = [];
  readonly #mark: DirtyMark;
  #condemning: Promise<void> | null = null;

  constructor(parts: VolumeParts) {
    const { thread, config } = parts;
    this.thread = thread;
    this.config = config;
    this.owner = parts.owner;
    this.name = config.name;
    this.namespace = config.namespace;
    this.cacheBase = thread.cacheBaseOf(config.namespace);
    this.store = parts.store;
    this.dirty = parts.dirty;
    this.map = parts.map;
    this.journal = parts.journal;
    this.sizeBytes = parts.sizeBytes;
    this.#requests = thread.requests;
    this.#mark = new DirtyMark(parts.marks, thread.world.clock, parts.isDirty, {
      onChange: () => thread.activate(this),
      onFenced: (reason) => this.halt("fenced", reason),
    });
    this.#batchBytes = parts.batchBytes;
    this.#queue = new SlotQueue(thread.requests.slots);
    this.#flushes = new SlotQueue(thread.requests.slots);
    this.#partial = new PartialWrites(this, thread, {
      merged: (slot) => this.#onMerged(slot),
      failed: (slot, error) => this.#complete(slot, error),
      unlocked: (slot) => this.#queue.pushFront(slot),
    });
    this.writer = new JournalWriter(
      {
        world: thread.world,
        requests: thread.requests,
        slots: thread.slots,
        headers: thread.headers,
        journal: parts.journal,
        dirty: parts.dirty,
      },
      parts.sequence,
      {
        onCommitted: (slot) => this.#onCommitted(slot),
        onControl: (sequence) => this.#onControl(sequence),
        onAdvance: () => this.#onAdvance(),
        onFailed: (what) => this.halt("unavailable", what),
      },
    );
    this.writer.sizeBytes = parts.sizeBytes;
    this.pace = new Pace(this);
    this.destager = new Destager(this);
    thread.reader.attach(this);
    if (!this.dirty.empty) this.thread.watch(this);
  }

  // Requests

  admit(slot: number): void {
    this.#requestsOpen++;
    if (this.failed !== null) {
      this.#complete(slot, this.failed);
      return;
    }
    const requests = this.#requests;
    switch (requests.kind[slot]) {
      case RequestKind.Read:
        this.#admitRead(slot);
        return;
      case RequestKind.Write:
        this.counts.writtenBytes += requests.length[slot];
        this.#admitWrite(slot);
        return;
      case RequestKind.Trim:
      case RequestKind.WriteZeroes:
        this.counts.zeroedBytes += requests.length[slot];
        this.#admitWrite(slot);
        return;
      case RequestKind.Flush:
        this.counts.flushes++;
        this.#flushes.push(slot);
        this.thread.activate(this);
        return;
      case RequestKind.BlockStatus:
        void answerBlockStatus(this, slot);
        return;
      default:
        // Cache is advice; we read ahead nothing for it.
        this.#complete(slot, null);
    }
  }

  #admitRead(slot: number): void {
    const offset = this.#requests.offset[slot];
    const length = this.#requests.length[slot];
    this.counts.readBytes += length;
    const first = Math.floor(offset / CLUSTER_BYTES);
    const count = Math.ceil((offset + length) / CLUSTER_BYTES) - first;
    const base = this.#requests.memory[slot] - (offset % CLUSTER_BYTES);
    this.thread.reader.start(this, slot, first, count, base);
  }

  #admitWrite(slot: number): void {
    this.thread.slots.begin(this.#requests, slot);
    this.#queue.push(slot);
    this.thread.activate(this);
  }

  /** Ends a BLOCK_STATUS with `count` extents in the slot's memory. */
  completeStatus(slot: number, count: number): void {
    this.#requestsOpen--;
    this.#requests.completeStatus(slot, count);
    this.#tellIdle();
  }

  /** Ends a request that is not in a record. */
  complete(slot: number, error: ErrorKind | null): void {
    this.#complete(slot, error);
  }

  #complete(slot: number, error: ErrorKind | null): void {
    assert(this.#requestsOpen > 0, "a request is completed once");
    this.#requestsOpen--;
    this.#requests.complete(slot, error);
    this.#tellIdle();
  }

  #tellIdle(): void {
    if (this.#requestsOpen > 0 || this.#idleWaiters.length === 0) return;
    for (const tell of this.#idleWaiters.splice(0, this.#idleWaiters.length)) tell();
  }

  // The end of a turn

  turnEnd(): boolean {
    if (this.failed === null) {
      this.#drain();
      this.#startSync();
    }
    return this.#queue.count > 0 || this.#controls.length > 0;
  }

  #drain(): void {
    if (this.#queue.count === 0 && this.#controls.length === 0) return;
    if (!this.#mark.mayWrite) {
      this.#mark.askDirty();
      return;
    }
    const slots = this.thread.slots;
    while (this.#queue.count > 0) {
      // Taken out first: a request that `consider` takes over may come back before it returns.
      const slot = this.#queue.shift();
      const step = slots.merged[slot] === 1 ? "whole" : this.#partial.consider(slot);
      if (step === "taken") continue;
      if (step === "whole") {
        if (!this.writer.fits(slot)) this.writer.close();
        if (this.writer.ready()) {
          this.writer.add(slot);
          continue;
        }
      }
      this.#queue.pushFront(slot);
      break;
    }
    this.writer.close();
    while (this.#controls.length > 0 && this.writer.ready())
      this.#writeControl(this.#controls.shift()!);
    if (this.#queue.count > 0) this.#whileFull();
  }

  #writeControl(control: Control): void {
    const sequence = this.writer.control(control.kind, control.value);
    this.#controlWaiters.push({ sequence, done: control.done });
  }

  /** Requests wait for room: the batch that holds the room is closed, if none is on its way. */
  #whileFull(): void {
    if (this.journal.obstacle === null) return;
    if (this.dirty.closedCount === 0 && !this.dirty.open.empty) this.closeBatch();
  }

  #onMerged(slot: number): void {
    this.#queue.pushFront(slot);
    this.thread.activate(this);
  }

  #onCommitted(slot: number): void {
    this.#partial.release(slot);
    if ((this.#requests.flags[slot] & RequestFlag.Fua) !== 0) {
      this.#flushes.push(slot);
      this.thread.activate(this);
      return;
    }
    this.#complete(slot, null);
  }

  #onControl(sequence: number): void {
    const waiter = this.#controlWaiters.shift();
    assert(waiter?.sequence === sequence, "control records commit in order");
    if (this.dirty.open.sizeBytes > 0) {
      this.sizeBytes = this.dirty.open.sizeBytes;
      this.writer.sizeBytes = this.sizeBytes;
    }
    waiter.done.resolve();
  }

  #onAdvance(): void {
    if (this.failed !== null) {
      this.#failAll();
      return;
    }
    this.#partial.onAdvance(this.writer.committed);
    const open = this.dirty.open;
    if (this.#isFull(open)) {
      this.pace.onFull(this.thread.world.clock.nowMs());
      this.closeBatch();
    } else if (!open.empty) this.thread.watch(this);
    if (this.#queue.count > 0) this.thread.activate(this);
  }

  #isFull(layer: Layer): boolean {
    const bytes = Math.max(layer.payloadBytes, layer.entries * CLUSTER_BYTES);
    return bytes >= this.#batchBytes || layer.zeroes.count >= ZERO_RANGES_MAX;
  }

  // Sync (P-D3)

  #startSync(): void {
    if (this.journal.syncing || !this.#wantsSync) return;
    this.#syncsForRoom = false;
    this.#syncCovers = this.#flushes.count;
    this.#syncedWaiters = this.#syncWaiters;
    this.#syncWaiters = [];
    this.#syncTarget = this.writer.committed;
    if (!this.journal.sync()) this.onSynced();
  }

  get #wantsSync(): boolean {
    return this.#flushes.count > 0 || this.#syncWaiters.length > 0 || this.#syncsForRoom;
  }

  /** Called by the journal: the round of syncs is done. */
  onSynced(): void {
    if (this.failed !== null) return;
    this.writer.flushed = Math.max(this.writer.flushed, this.#syncTarget);
    for (; this.#syncCovers > 0; this.#syncCovers--) this.#complete(this.#flushes.shift(), null);
    for (const waiter of this.#syncedWaiters) waiter.resolve();
    this.#syncedWaiters = [];
    if (this.#wantsSync) this.thread.activate(this);
    this.freeSegments();
  }

  /** As a FLUSH of a client, for control paths. */
  async flush(): Promise<void> {
    this.#assertServing();
    await this.#syncOnce();
  }

  async #syncOnce(): Promise<void> {
    const waiter = deferred<void>();
    this.#syncWaiters.push(waiter);
    this.thread.activate(this);
    await waiter.promise;
  }

  // Batches

  /** Closes the open batch, if it has anything, and sees that it is destaged. */
  closeBatch(): void {
    if (this.dirty.open.empty) return;
    this.dirty.close();
    this.destager.kick();
  }

  tick(nowMs: number): boolean {
    if (this.failed !== null) return false;
    const open = this.dirty.open;
    // While the destager is behind, the open batch grows instead: more is absorbed.
    const isOld = !open.empty && nowMs - open.openedMs >= this.config.batchAgeMs;
    this.pace.tick(nowMs);
    if (isOld && this.dirty.closedCount === 0) this.closeBatch();
    else if (this.dirty.closedCount > 0) this.destager.kick();
    if (!this.dirty.empty) return true;
    if (!this.#isAllDestaged) return false;
    void this.#markClean();
    return !this.#mark.isClean;
  }

  /** The destager put a batch into the backend and the map. */
  onDestaged(): void {
    this.freeSegments();
    this.thread.activate(this);
    this.thread.watch(this);
  }

  /** Frees segments whose records the map has and nobody reads; comes back after a sync. */
  freeSegments(): void {
    this.#syncsForRoom = this.journal.free(this.map.mark.sequence);
    if (this.#syncsForRoom) this.thread.activate(this);
  }

  /** Called by the journal: there may be room now. */
  onRoom(): void {
    if (this.#queue.count > 0) this.thread.activate(this);
  }

  /** Nothing is acknowledged, or about to be, that is not in the backend. */
  get #isAllDestaged(): boolean {
    const isQuiet = this.#requestsOpen === 0 && this.#controls.length === 0;
    return isQuiet && this.writer.inFlight === 0 && this.dirty.empty;
  }

  async #markClean(isLast = false): Promise<void> {
    if (this.failed === null) await this.#mark.makeClean(this.map.mark.tlogNumber, { isLast });
  }

  // Reads (ReadSource)

  onRead(job: number, error: ErrorKind | null): void {
    if (job < this.#requests.slots) this.#complete(job, error);
    else this.#partial.onRead(job, error);
  }

  onMapDamaged(reason: string): void {
    this.counts.corruptions++;
    this.halt(
      "corrupt",
      `the map in the local store is damaged (${reason}); it is rebuilt at the next start`,
    );
    // A store that takes no writes any more is condemned whole by its owner.
    this.#condemning = this.map.condemn().catch(() => undefined);
  }

  // Control

  /** Grows the vDisk; durable in the journal on return, in the backend with the next batch. */
  async resize(sizeBytes: number): Promise<void> {
    this.#assertServing();
    checkGrowth(this, sizeBytes);
    if (sizeBytes === this.sizeBytes) return;
    await this.#control(JournalKind.resize, sizeBytes);
    await this.flush();
  }

  async #control(kind: JournalKind, value: number): Promise<void> {
    const done = deferred<void>();
    this.#controls.push({ kind, value, done });
    this.thread.activate(this);
    await done.promise;
  }

  /**
   * Everything acknowledged before the call is in the backend on return, at the full width that
   * the living OSDs allow (P-A10) or as far as it got in `timeoutMs`.
   */
  async sync(timeoutMs: number): Promise<{ full: boolean; spareMin: number }> {
    this.#assertServing();
    const until = this.thread.world.clock.nowMs() + timeoutMs;
    this.closeBatch();
    await this.destager.waitFor(this.writer.committed, timeoutMs);
    const left = Math.max(1, until - this.thread.world.clock.nowMs());
    const width = await this.store.waitFullWidth(this.namespace, left);
    if (this.#isAllDestaged) await this.#markClean();
    return width;
  }

  /** Clean stop: waits for requests, syncs the journal, writes the stop record. Idempotent. */
  async stop(): Promise<void> {
    if (this.state === "stopped" || this.state === "stopping") return;
    const wasServing = this.state === "serving";
    this.state = "stopping";
    await this.#whenIdle();
    if (wasServing && this.failed === null) await this.#stopCleanly();
    this.failed ??= "closed";
    await this.destager.stop();
    await this.#close();
  }

  async #stopCleanly(): Promise<void> {
    try {
      await this.destager.stop();
      if (this.dirty.empty) {
        await this.#markClean(true);
        return;
      }
      // Synced before and after, so that the stop record states that all before it is flushed.
      await this.#syncOnce();
      // Nothing makes room any more: a full journal goes without the record.
      if (!this.writer.ready()) await this.journal.prepared();
      if (!this.writer.ready()) return;
      await this.#control(JournalKind.stop, 0);
      await this.#syncOnce();
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.thread.world.log.warn("not stopped cleanly", {
        vdisk: this.name,
        reason: error.message,
      });
    }
  }

  async #close(): Promise<void> {
    await this.#mark.settled();
    await this.#condemning;
    await Promise.allSettled(this.backendReads);
    await this.journal.close();
    this.thread.forget(this);
    this.thread.reader.detach(this);
    this.thread.giveOwner(this.owner);
    this.state = "stopped";
  }

  async #whenIdle(): Promise<void> {
    if (this.#requestsOpen === 0) return;
    await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
  }

  /** State, sizes and counters since the start of service. */
  status(): VolumeStatus {
    return volumeStatus(this);
  }

  /** Requests that wait to enter a record. */
  get requestsWaiting(): number {
    return this.#queue.count;
  }

  /** The registry says surely that the journal is needed. */
  get isDirty(): boolean {
    return this.#mark.isDirty;
  }

  // Halting

  /** Ends service: nothing is written or acknowledged any more; requests fail with `kind`. */
  halt(kind: ErrorKind, reason: string): void {
    if (this.failed !== null) return;
    this.failed = kind;
    this.reason = reason;
    this.state = "halted";
    this.onHalted(reason);
    this.thread.world.log.error("the vDisk is halted", { vdisk: this.name, reason, kind });
    this.writer.fail();
    this.destager.halt();
    this.#failAll();
  }

  /** Fails everything whose memory nobody uses any more; called again when writes end. */
  #failAll(): void {
    const kind = this.failed!;
    const error = new StorageError(
      kind === "fenced" ? "OVS_FENCED" : "OVS_CLOSED",
      `${this.name}: ${this.reason}`,
    );
    this.#partial.abandon();
    while (this.#queue.count > 0) {
      const slot = this.#queue.shift();
      this.#partial.release(slot);
      this.#complete(slot, kind);
    }
    while (this.#flushes.count > 0) this.#complete(this.#flushes.shift(), kind);
    this.#syncCovers = 0;
    this.writer.abandon((slot) => {
      this.#partial.release(slot);
      this.#complete(slot, kind);
    });
    for (const waiter of [...this.#syncWaiters, ...this.#syncedWaiters]) waiter.reject(error);
    for (const { done } of this.#controlWaiters) done.reject(error);
    for (const { done } of this.#controls) done.reject(error);
    this.#syncWaiters = [];
    this.#syncedWaiters = [];
    this.#controlWaiters = [];
    this.#controls.length = 0;
  }

  #assertServing(): void {
    if (this.state === "serving") return;
    throw new StorageError(
      "OVS_CLOSED",
      `${this.name} is ${this.state}${this.reason ? `: ${this.reason}` : ""}`,
    );
  }
}
