// SPDX-License-Identifier: Apache-2.0
// The files of a vDisk's journal: it owns the segments, prepares the next one ahead, gives places
// to records, syncs, and frees what is destaged.
//
//   folder:  <epoch>-<number>.seg …    oldest … open | prepared | spares (freed, to be renamed)
//
// Invariants: records go only into the open segment, which is of this service's own epoch; nothing
// is ever appended to a segment of an older one (P-A3). A segment's name is durable before its
// first record, and the header of the oldest one in use always is. After a failed write or sync
// nothing more is written: the volume halts (P-A2).
//
// Bound: all files of a thread's journals together keep to the budget, but for SEGMENTS_FREE of
// each vDisk. A start obeys it as well: without room it writes a marker, a segment of one block,
// and its first write waits (back-pressure) until older segments are destaged and freed.

import { assert } from "../base/assert.js";
import { hasCode, messageOf, StorageError } from "../base/errors.js";
import { type Deferred, deferred } from "../base/sync.js";
import { CLUSTER_BYTES, MIB } from "../base/units.js";
import type { HandlerId } from "../platform/disk.js";
import type { World } from "../platform/world.js";
import * as wire from "../wire/generated/journal.js";
import type { JournalBudget } from "./budget.js";
import type { FramePool } from "./frames.js";
import type { JournalIdentity } from "./record.js";
import { Segment, segmentName } from "./segment.js";

const SEGMENT_SLOTS_MAX = 65_000;
/**
 * Segments of each vDisk that are free of the budget, so that no vDisk starves another for ever:
 * one to write to while the other one is destaged.
 */
export const SEGMENTS_FREE = 2;
/** Freed segments kept for reuse: their blocks are written already, which makes writes cheaper. */
const SPARES_MAX = 1024;
/**
 * A segment whose first quarter was filled faster than this leaves no time to write the next one
 * in advance: that would take from the very disk that the writer waits for.
 */
const QUARTER_FAST_MS = 500;
/** A marker is a header without records behind it. */
export const MARKER_BYTES = CLUSTER_BYTES;
const RETRY_MS = 1000;
const SYNC_TAG = 1 << 20;

export interface JournalOptions {
  /** Absolute path of this vDisk's journal folder; exists. */
  folder: string;
  identity: JournalIdentity;
  routerUuid: Uint8Array;
  incarnation: number;
  /** Bytes of a new segment. */
  segmentBytes: number;
  /** Most segments, prepared and spare ones included. */
  segmentsMax: number;
}

/** What the journals of a thread share. */
export interface JournalParts {
  headers: FramePool;
  budget: JournalBudget;
  /** Arena offset of ZEROES_BYTES that are zero and that nobody writes to. */
  zeroes: number;
}

/** Bytes of a new segment that are zeroed by one write. */
export const ZEROES_BYTES = MIB;

export interface JournalEvents {
  /** A segment's header is written: records in it may commit. */
  onHeader(): void;
  /** A segment was prepared or freed. */
  onRoom(): void;
  /** A round of syncs is done: all that was complete when it began is durable. */
  onSynced(): void;
  /** A write or sync failed; nothing may be acknowledged any more (P-A2). */
  onFailed(what: string): void;
}

export class Journal {
  readonly options: JournalOptions;
  readonly #world: World;
  readonly #headers: FramePool;
  readonly #budget: JournalBudget;
  readonly #zeroes: number;
  readonly #events: JournalEvents;
  readonly #handler: HandlerId;
  readonly #bySlot: Array<Segment | null> = [];
  readonly #headerFrames: number[] = [];
  /** In use, oldest first; the last one is open, unless it is sealed: then none is. */
  readonly #used: Segment[] = [];
  readonly #spares: Segment[] = [];
  #next: Segment | null = null;
  #preparing: Promise<void> | null = null;
  #numberNext = 1;
  #syncsPending = 0;
  readonly #tellRoom = () => this.#events.onRoom();
  readonly #giveSpare = () => this.#dropSpare();
  #openedMs = Number.NEGATIVE_INFINITY;
  #syncFailed = false;
  /** Of `close`, while a round runs. */
  #lastSync: Deferred<void> | null = null;
  #stopping = false;
  #removing = new Set<Promise<void>>();
  /** Files that are being removed. */
  #leaving = 0;
  /** Why no segment can be prepared now; null when one can. */
  obstacle: string | null = null;

  constructor(world: World, parts: JournalParts, options: JournalOptions, events: JournalEvents) {
    assert(options.segmentsMax >= 3, "a journal has an open, a prepared and a closed segment");
    this.#world = world;
    this.#headers = parts.headers;
    this.#budget = parts.budget;
    this.#zeroes = parts.zeroes;
    this.options = options;
    this.#events = events;
    this.#handler = world.disk.handler((tag, result) => this.#onDone(tag, result));
    this.#budget.addHolder(this.#giveSpare);
  }

  /** Takes over segments that recovery read, oldest first: sealed, never appended to. */
  adopt(segments: readonly Segment[]): void {
    assert(this.#used.length === 0, "segments are adopted before service");
    for (const segment of segments) {
      segment.sealed = true;
      segment.headerWritten = true;
      segment.headerDurable = true;
      this.#bySlot[segment.slot] = segment;
      this.#used.push(segment);
      this.#budget.take(segment.bytes);
    }
  }

  /**
   * Opens the first segment of this epoch. Its name and its header are durable on return (P-A3), so
   * that a journal without any header was damaged, whatever the registry says of it, and all that
   * was recovered is known to have been there. Without room for a segment a marker says the same.
   */
  async start(firstSequence: number, sizeBytes: number): Promise<void> {
    if (!(await this.#prepareFirst())) return;
    const frame = this.#takeNext(firstSequence, sizeBytes, 0, 0);
    const first = this.#used[this.#used.length - 1]!;
    try {
      await this.#world.disk.writeAsync(first.file, 0, frame, CLUSTER_BYTES);
      await this.#world.disk.syncAsync(first.file);
    } finally {
      this.#headers.give(frame);
    }
    first.headerWritten = true;
    first.headerDurable = true;
    first.sealed = first.bytes === MARKER_BYTES;
  }

  /**
   * A vDisk whose journal is there is served also where the disk is full: what it has is destaged,
   * and that makes room. False: there is not even a marker, and the oldest header stands for it.
   */
  async #prepareFirst(): Promise<boolean> {
    const { segmentBytes } = this.options;
    const sizes = this.#mayAllocate() ? [segmentBytes, MARKER_BYTES] : [MARKER_BYTES];
    for (const bytes of sizes) {
      try {
        await this.#prepareOnce(bytes);
        return true;
      } catch (error) {
        if (this.#used.length === 0 || !hasCode(error, "OVS_FULL")) throw error;
        this.#world.log.warn("a journal is opened without room", { reason: messageOf(error) });
      }
    }
    return false;
  }

  /** The segment that records are appended to; the journal must have been started. */
  get open(): Segment {
    const open = this.#used[this.#used.length - 1];
    assert(open !== undefined && !open.sealed, "the journal is started");
    return open;
  }

  /** Segments in use, oldest first, the open one last. Borrowed: changes with the journal. */
  get segments(): readonly Segment[] {
    return this.#used;
  }

  /** Bytes of files in use, of the limit. */
  get usedBytes(): number {
    let bytes = 0;
    for (const segment of this.#used)
      bytes += segment.sealed ? segment.bytes : segment.nextBlock * CLUSTER_BYTES;
    return bytes;
  }

  /** Half of what this journal may take is free, and no other one waits for room. */
  get hasHalf(): boolean {
    return this.#isBelow(1 / 2);
  }

  /** Less than a quarter is free, or another journal waits for room. */
  get isCrowded(): boolean {
    return !this.#isBelow(3 / 4);
  }

  #isBelow(share: number): boolean {
    const { segmentBytes, segmentsMax } = this.options;
    const limit = Math.min(segmentBytes * segmentsMax, this.#budget.totalBytes);
    return this.usedBytes < limit * share && this.obstacle === null && this.#budget.roomy;
  }

  /** The segment in use that dirty map locations call by `slot`. */
  segmentAt(slot: number): Segment {
    const segment = this.#bySlot[slot];
    assert(segment !== null && segment !== undefined, "a location names a segment in use");
    return segment;
  }

  /**
   * Makes room for a record of `blocks` in the open segment, switching to the prepared one when
   * it does not fit. False: there is no room now; `onRoom` tells when to try again.
   */
  makeRoom(
    blocks: number,
    sequence: number,
    sizeBytes: number,
    hash: { header: number; body: number },
  ): boolean {
    const open = this.#used[this.#used.length - 1]!;
    assert(blocks * CLUSTER_BYTES < this.options.segmentBytes, "a record fits a segment");
    if (!open.sealed && open.nextBlock + blocks <= open.blocks) {
      if (open.nextBlock * 4 > open.blocks) this.#prepareAhead();
      return true;
    }
    if (this.#next === null || this.#headers.free === 0) {
      this.#prepareAhead();
      return false;
    }
    open.sealed = true;
    this.#openNext(sequence, sizeBytes, hash.header, hash.body);
    return true;
  }

  /**
   * Starts a round: fdatasync of every segment with completed, unsynced writes (P-D3). Answers
   * false when there is nothing to sync. At most one round runs at a time.
   */
  sync(): boolean {
    assert(this.#syncsPending === 0, "one round of syncs at a time");
    for (const segment of this.#used) {
      if (!segment.unsynced) continue;
      segment.unsynced = false;
      segment.syncing = true;
      segment.syncingHeader = segment.headerWritten;
      this.#syncsPending++;
      this.#world.disk.sync(this.#handler, SYNC_TAG + segment.slot, segment.file);
    }
    return this.#syncsPending > 0;
  }

  /** True while a round of syncs runs; `onSynced` tells of its end. */
  get syncing(): boolean {
    return this.#syncsPending > 0;
  }

  /**
   * Frees segments whose records are all destaged and that nobody uses (P-A5). True: the next one
   * has to wait for a sync. The header behind it would else be the oldest, and gone after a loss of
   * power: a journal without any header is refused (P-A3), though nothing was lost.
   */
  free(destagedSequence: number): boolean {
    while (this.#used.length > 1) {
      const [oldest, next] = this.#used as [Segment, Segment];
      if (!oldest.sealed || oldest.lastSequence > destagedSequence || !oldest.idle) return false;
      if (!next.headerDurable) return next.headerWritten && !next.syncing;
      this.#used.shift();
      this.#retire(oldest);
    }
    return false;
  }

  /** Waits until the segment that is being prepared is there, or cannot be. */
  async prepared(): Promise<void> {
    await this.#preparing;
  }

  /** Segments that are no longer needed go at once; waits for what is in flight. */
  async close(): Promise<void> {
    this.#stopping = true;
    this.#budget.removeHolder(this.#giveSpare);
    await this.#preparing;
    await Promise.all(this.#removing);
    if (this.#syncsPending > 0) {
      this.#lastSync = deferred();
      await this.#lastSync.promise;
    }
    const unused = [...this.#spares];
    if (this.#next) unused.push(this.#next);
    for (const segment of [...this.#used, ...unused]) await this.#world.disk.close(segment.file);
    for (const segment of unused) await this.#world.disk.files.remove(segment.path);
    for (const segment of [...this.#used, ...unused]) this.#budget.give(segment.bytes);
    // They stay on disk for the next start.
    for (const segment of this.#used) this.#budget.keep(this.options.folder, segment.bytes);
    this.#used.length = 0;
    this.#spares.length = 0;
    this.#next = null;
  }

  /** Switches to the prepared segment; its header leaves with this turn. */
  #openNext(firstSequence: number, sizeBytes: number, hashHeader: number, hashBody: number): void {
    const frame = this.#takeNext(firstSequence, sizeBytes, hashHeader, hashBody);
    const { open } = this;
    this.#headerFrames[open.slot] = frame;
    open.writesInFlight++;
    this.#world.disk.write(this.#handler, open.slot, open.file, 0, frame, CLUSTER_BYTES);
  }

  /** Makes the prepared segment the open one; gives the frame with its header. */
  #takeNext(
    firstSequence: number,
    sizeBytes: number,
    hashHeader: number,
    hashBody: number,
  ): number {
    const next = this.#next;
    assert(next !== null, "the next segment is prepared");
    this.#next = null;
    next.firstSequence = firstSequence;
    this.#used.push(next);
    this.#openedMs = this.#world.clock.nowMs();
    const { identity, routerUuid, incarnation } = this.options;
    const frame = this.#headers.take();
    const previousHash = new Uint8Array(8);
    const view = new DataView(previousHash.buffer);
    view.setUint32(0, hashHeader, true);
    view.setUint32(4, hashBody, true);
    wire.encodeJournalSegmentHeader(
      {
        clusterUuid: identity.clusterUuid,
        vdiskUuid: identity.vdiskUuid,
        ownerEpoch: identity.epoch,
        segmentNumber: next.number,
        bootId: this.#world.bootId,
        routerUuid,
        incarnation,
        firstSequence,
        previousHash,
        sizeBytes,
        segmentBytes: next.bytes,
        createdMs: Math.floor(this.#world.clock.wallMs()),
        appliedCount: 0,
      },
      this.#world.arena.bytes,
      frame,
    );
    return frame;
  }

  #onDone(tag: number, result: number): void {
    if (tag >= SYNC_TAG) {
      this.#onSynced(this.segmentAt(tag - SYNC_TAG), result);
      return;
    }
    const segment = this.segmentAt(tag);
    segment.writesInFlight--;
    this.#headers.give(this.#headerFrames[tag]);
    if (result !== CLUSTER_BYTES) {
      this.#events.onFailed(`writing the header of ${segment.path} failed (${result})`);
      return;
    }
    segment.headerWritten = true;
    segment.unsynced = true;
    this.#events.onHeader();
  }

  #onSynced(segment: Segment, result: number): void {
    segment.syncing = false;
    this.#syncsPending--;
    if (result >= 0) segment.headerDurable ||= segment.syncingHeader;
    else {
      this.#syncFailed = true;
      this.#events.onFailed(`fdatasync of ${segment.path} failed (${result})`);
    }
    if (this.#syncsPending > 0) return;
    this.#lastSync?.resolve();
    if (!this.#syncFailed) this.#events.onSynced();
  }

  #prepareAhead(): void {
    if (this.#next !== null || this.#preparing !== null || this.#stopping) return;
    if (this.#spares.length === 0 && !this.#mayAllocate()) {
      this.obstacle = "the journal is full";
      this.#budget.whenRoom(this.#tellRoom, this.#giveSpare);
      return;
    }
    this.#preparing = this.#prepare().finally(() => {
      this.#preparing = null;
    });
  }

  #mayAllocate(): boolean {
    const { segmentBytes, segmentsMax } = this.options;
    // Those that are on their way out are still there.
    const count = this.#used.length + this.#leaving;
    if (this.#used.length >= segmentsMax) return false;
    return count < SEGMENTS_FREE || this.#budget.has(segmentBytes);
  }

  async #prepare(): Promise<void> {
    try {
      await this.#prepareOnce(this.options.segmentBytes);
    } catch (error) {
      // A full disk is back-pressure: writes wait, and it is tried again.
      if (!(error instanceof StorageError)) throw error;
      this.obstacle = messageOf(error);
      this.#world.log.warn("no new journal segment", { reason: this.obstacle });
      await this.#world.clock.sleep(RETRY_MS);
    }
    this.#events.onRoom();
    this.#world.turn.request();
  }

  /** Prepares a spare, or a new file of `bytes`. */
  async #prepareOnce(bytes: number): Promise<void> {
    assert(this.#next === null, "one segment is prepared at a time");
    const { folder, identity } = this.options;
    const number = this.#numberNext;
    const path = `${folder}/${segmentName(identity.epoch, number)}`;
    const files = this.#world.disk.files;
    const spare = this.#spares.pop();
    if (spare) {
      try {
        await files.rename(spare.path, path);
        await files.syncFolder(folder);
      } catch (error) {
        this.#spares.push(spare);
        throw error;
      }
      this.#next = this.#register(spare.file, path, number, spare.bytes);
      return;
    }
    assert(bytes === MARKER_BYTES || this.#mayAllocate(), "there is room for a segment");
    this.#budget.take(bytes);
    const isHurried = this.#world.clock.nowMs() - this.#openedMs < QUARTER_FAST_MS;
    const file = await this.#allocate(path, bytes, !isHurried);
    await files.syncFolder(folder);
    this.#next = this.#register(file, path, number, bytes);
  }

  /** A new file; `written`: its blocks are written once before they are used. */
  async #allocate(path: string, bytes: number, written: boolean): Promise<number> {
    const { disk } = this.#world;
    const file = await disk.open(path, {
      create: true,
      exclusive: false,
      write: true,
      direct: true,
    });
    try {
      await disk.allocateAsync(file, 0, bytes);
      // Blocks that were written before take half the time: the file system has nothing to note
      // when a record is synced.
      for (let at = 0; written && at < bytes && !this.#stopping; at += ZEROES_BYTES) {
        await disk.writeAsync(file, at, this.#zeroes, Math.min(ZEROES_BYTES, bytes - at));
      }
      await disk.syncAsync(file);
      return file;
    } catch (error) {
      await disk.close(file);
      await disk.files.remove(path);
      this.#budget.give(bytes);
      throw error;
    }
  }

  #register(file: number, path: string, number: number, bytes: number): Segment {
    this.#numberNext++;
    this.obstacle = null;
    let slot = this.#bySlot.findIndex((segment) => segment === null || segment === undefined);
    if (slot < 0) slot = this.#bySlot.length;
    assert(slot < SEGMENT_SLOTS_MAX, "segments fit the dirty map's locations");
    const segment = new Segment({
      slot,
      file,
      path,
      epoch: this.options.identity.epoch,
      number,
      bytes,
    });
    this.#bySlot[slot] = segment;
    return segment;
  }

  /** A freed segment becomes a spare, or goes. Those of older epochs always go: a write of the dead
   * process might still be on its way to them. */
  #retire(segment: Segment): void {
    this.#bySlot[segment.slot] = null;
    const { identity, segmentBytes } = this.options;
    const reusable = segment.epoch === identity.epoch && segment.bytes === segmentBytes;
    if (reusable && this.#spares.length < SPARES_MAX && this.#budget.roomy) {
      this.#spares.push(segment);
      this.#events.onRoom();
      return;
    }
    this.#removeSoon(segment);
  }

  /** Another journal waits for room. */
  #dropSpare(): void {
    const spare = this.#spares.shift();
    if (spare) this.#removeSoon(spare);
  }

  #removeSoon(segment: Segment): void {
    this.#leaving++;
    const removal = this.#remove(segment).finally(() => this.#removing.delete(removal));
    this.#removing.add(removal);
  }

  async #remove(segment: Segment): Promise<void> {
    await this.#world.disk.close(segment.file);
    await this.#world.disk.files.remove(segment.path);
    this.#leaving--;
    this.#budget.give(segment.bytes);
    this.#events.onRoom();
    this.#world.turn.request();
  }
}
