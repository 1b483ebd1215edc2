// SPDX-License-Identifier: Apache-2.0
// Turns requests into journal records and commits them in order.
//
//   add(slot)… ──close()──► gathered write ──done──┐ (any order)
//   ring:  | committed | done | in flight | in flight | …        commit: strictly from the head
//
// A record is committed when it and all before it are complete in the journal (P-A2); then its
// clusters enter the dirty map, and its requests are handed to the volume. The memory of requests
// and header buffers is borrowed until their write is done.

import { assert } from "../base/assert.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { Requests } from "../nbd/target.js";
import { RequestFlag, RequestKind, SLOT_CLUSTERS_MAX } from "../nbd/target.js";
import type { HandlerId } from "../platform/disk.js";
import type { World } from "../platform/world.js";
import { JournalKind, JournalRangeKind } from "../wire/generated/journal.js";
import type { DirtyMap } from "./dirty.js";
import { locationOf } from "./dirty.js";
import type { FramePool } from "./frames.js";
import type { Journal } from "./journal.js";
import {
  HEADER_AREA_BYTES,
  RECORD_CLUSTERS_MAX,
  RECORD_RANGES_MAX,
  RecordWriter,
} from "./record.js";
import type { Segment } from "./segment.js";
import type { SlotState } from "./slots.js";

/** Records in flight at once; a power of two. */
const RECORDS_MAX = 64;
/** Payload in flight at once. */
const BYTES_IN_FLIGHT_MAX = 16 * 1024 * 1024;
/** Ranges that one request can bring: its two edges and the middle. */
const RANGES_PER_SLOT = 3;

export interface WriterEvents {
  /** The request's clusters are committed and in the dirty map. */
  onCommitted(slot: number): void;
  /** A control record is committed. */
  onControl(sequence: number): void;
  /** Some records were committed. */
  onAdvance(): void;
  /** A journal write failed: nothing may be acknowledged any more (P-A2). */
  onFailed(what: string): void;
}

export class JournalWriter {
  readonly #world: World;
  readonly #requests: Requests;
  readonly #slots: SlotState;
  readonly #headers: FramePool;
  readonly #journal: Journal;
  readonly #dirty: DirtyMap;
  readonly #events: WriterEvents;
  readonly #record: RecordWriter;
  readonly #handler: HandlerId;
  readonly #epoch: number;
  /** Clusters of one record; fewer where segments are tiny. */
  readonly #clustersMax: number;

  // The ring: record `sequence` is at sequence % RECORDS_MAX.
  readonly #segments: Segment[] = [];
  readonly #blocks = new Uint32Array(RECORDS_MAX);
  readonly #frames = new Uint32Array(RECORDS_MAX);
  readonly #bytes = new Uint32Array(RECORDS_MAX);
  readonly #done = new Uint8Array(RECORDS_MAX);
  readonly #kinds = new Uint8Array(RECORDS_MAX);
  readonly #values = new Float64Array(RECORDS_MAX);
  readonly #slotCounts = new Uint32Array(RECORDS_MAX);
  readonly #slotLists = new Uint32Array(RECORDS_MAX * RECORD_RANGES_MAX);

  // The record that is being built.
  #building = false;
  #slotCount = 0;
  readonly #pieces = new Uint32Array(2 * (RECORD_CLUSTERS_MAX + 1));
  #pieceCount = 0;

  #bytesInFlight = 0;
  #failed = false;
  /** Sequence of the last closed record, and up to which all are committed or durable. */
  sequence: number;
  committed: number;
  flushed: number;

  constructor(
    parts: {
      world: World;
      requests: Requests;
      slots: SlotState;
      headers: FramePool;
      journal: Journal;
      dirty: DirtyMap;
    },
    sequence: number,
    events: WriterEvents,
  ) {
    this.#world = parts.world;
    this.#requests = parts.requests;
    this.#slots = parts.slots;
    this.#headers = parts.headers;
    this.#journal = parts.journal;
    this.#dirty = parts.dirty;
    this.#events = events;
    this.#epoch = parts.journal.options.identity.epoch;
    const blocks = parts.journal.options.segmentBytes / CLUSTER_BYTES;
    this.#clustersMax = Math.min(RECORD_CLUSTERS_MAX, Math.floor(blocks / 4));
    assert(this.#clustersMax >= SLOT_CLUSTERS_MAX, "a record holds any one request");
    this.#record = new RecordWriter(
      parts.world.arena,
      parts.world.codec,
      parts.journal.options.identity,
    );
    this.#handler = parts.world.disk.handler((tag, result) => this.#onWritten(tag, result));
    this.sequence = sequence;
    this.committed = sequence;
    this.flushed = sequence;
  }

  /** Records closed and not committed. */
  get inFlight(): number {
    return this.sequence - this.committed;
  }

  /** Whether a request fits what is being built and the limits; if not, close or wait. */
  fits(slot: number): boolean {
    if (!this.#building) return true;
    const clusters = this.#payloadClusters(slot);
    return (
      this.#record.ranges + RANGES_PER_SLOT <= RECORD_RANGES_MAX &&
      this.#record.clusters + clusters <= this.#clustersMax
    );
  }

  /** Whether a record can be begun (or goes on). */
  ready(): boolean {
    if (this.#building) return true;
    return (
      !this.#failed &&
      this.inFlight < RECORDS_MAX &&
      this.#bytesInFlight < BYTES_IN_FLIGHT_MAX &&
      this.#headers.free > 1 &&
      this.#journal.makeRoom(1 + this.#clustersMax, this.sequence + 1, this.sizeBytes, {
        header: this.#record.previousHeaderCrc,
        body: this.#record.previousBodyCrc,
      })
    );
  }

  /** Size of the vDisk for new segments' headers; kept by the volume. */
  sizeBytes = 0;

  /**
   * Adds a write or zero request; `ready` and `fits` were asked. Borrows the slot until committed.
   */
  add(slot: number): void {
    if (!this.#building) this.#begin();
    const state = this.#slots;
    const first = state.first[slot];
    const end = state.end[slot];
    const isWrite = this.#requests.kind[slot] === RequestKind.Write;
    if (isWrite) this.#range(slot, JournalRangeKind.data, first, end - first);
    this.#addHead(slot, isWrite);
    const middleFirst = first + (state.headFrame[slot] !== 0 ? 1 : 0);
    const middleEnd = end - (state.tailFrame[slot] !== 0 ? 1 : 0);
    if (middleFirst < middleEnd) {
      if (isWrite) this.#addMiddle(slot, middleFirst, middleEnd);
      else this.#range(slot, JournalRangeKind.zero, middleFirst, middleEnd - middleFirst);
    }
    this.#addTail(slot, isWrite);
    if ((this.#requests.flags[slot] & RequestFlag.Fua) !== 0) this.#record.fua();
    this.#slotLists[((this.sequence + 1) % RECORDS_MAX) * RECORD_RANGES_MAX + this.#slotCount] =
      slot;
    this.#slotCount++;
  }

  /** Closes the record that is being built, if any: its write leaves with this turn. */
  close(): void {
    if (this.#building) this.#close(JournalKind.batch, 0);
  }

  /** Appends a record without requests; `ready` was asked. Returns its sequence. */
  control(kind: JournalKind, value: number): number {
    this.close();
    assert(this.ready(), "there is room for a control record");
    this.#begin();
    this.#close(kind, value);
    return this.sequence;
  }

  /** Sequence of the last record, also the one being built, that touches [first, end); 0: none. */
  lastTouching(first: number, end: number): number {
    const state = this.#slots;
    const last = this.#building ? this.sequence + 1 : this.sequence;
    for (let sequence = last; sequence > this.committed; sequence--) {
      const place = sequence % RECORDS_MAX;
      const count = sequence > this.sequence ? this.#slotCount : this.#slotCounts[place];
      for (let i = 0; i < count; i++) {
        const slot = this.#slotLists[place * RECORD_RANGES_MAX + i];
        if (state.first[slot] < end && state.end[slot] > first) return sequence;
      }
    }
    return 0;
  }

  /** Hands every request of records that will never be committed to `take`; none is in flight. */
  abandon(take: (slot: number) => void): void {
    for (let sequence = this.committed + 1; sequence <= this.sequence; sequence++) {
      const place = sequence % RECORDS_MAX;
      if (this.#done[place] === 0) continue;
      for (let i = 0; i < this.#slotCounts[place]; i++)
        take(this.#slotLists[place * RECORD_RANGES_MAX + i]);
      this.#slotCounts[place] = 0;
    }
  }

  /** No more records; those in flight are not committed any more. */
  fail(): void {
    this.#failed = true;
  }

  /** Commits what is complete, in order. */
  advance(): void {
    const before = this.committed;
    while (this.committed < this.sequence && !this.#failed) {
      const place = (this.committed + 1) % RECORDS_MAX;
      if (this.#done[place] === 0 || !this.#segments[place]!.headerWritten) break;
      this.committed++;
      this.#commit(place);
    }
    if (this.committed !== before) this.#events.onAdvance();
  }

  #payloadClusters(slot: number): number {
    const state = this.#slots;
    if (this.#requests.kind[slot] === RequestKind.Write) return state.end[slot] - state.first[slot];
    return (state.headFrame[slot] !== 0 ? 1 : 0) + (state.tailFrame[slot] !== 0 ? 1 : 0);
  }

  #begin(): void {
    const place = (this.sequence + 1) % RECORDS_MAX;
    this.#frames[place] = this.#headers.take();
    this.#record.begin(this.#frames[place]);
    this.#building = true;
    this.#slotCount = 0;
    this.#pieces[0] = this.#frames[place];
    this.#pieces[1] = HEADER_AREA_BYTES;
    this.#pieceCount = 1;
  }

  #range(slot: number, kind: JournalRangeKind, cluster: number, count: number): void {
    const { cookieLow, cookieHigh } = this.#requests;
    this.#record.range(kind, cluster, count, cookieLow[slot], cookieHigh[slot]);
  }

  #addHead(slot: number, isWrite: boolean): void {
    const frame = this.#slots.headFrame[slot];
    if (frame === 0) return;
    if (!isWrite) this.#range(slot, JournalRangeKind.data, this.#slots.first[slot], 1);
    this.#record.crc(this.#slots.headCrc[slot]);
    this.#piece(frame, CLUSTER_BYTES);
  }

  #addTail(slot: number, isWrite: boolean): void {
    const frame = this.#slots.tailFrame[slot];
    if (frame === 0) return;
    if (!isWrite) this.#range(slot, JournalRangeKind.data, this.#slots.end[slot] - 1, 1);
    this.#record.crc(this.#slots.tailCrc[slot]);
    this.#piece(frame, CLUSTER_BYTES);
  }

  #addMiddle(slot: number, middleFirst: number, middleEnd: number): void {
    const first = this.#slots.first[slot];
    const crcs = slot * SLOT_CLUSTERS_MAX - first;
    for (let cluster = middleFirst; cluster < middleEnd; cluster++) {
      this.#record.crc(this.#requests.crcs[crcs + cluster]);
    }
    const base = this.#requests.memory[slot] - (this.#requests.offset[slot] % CLUSTER_BYTES);
    this.#piece(
      base + (middleFirst - first) * CLUSTER_BYTES,
      (middleEnd - middleFirst) * CLUSTER_BYTES,
    );
  }

  #piece(at: number, bytes: number): void {
    const last = 2 * this.#pieceCount - 2;
    if (this.#pieces[last] + this.#pieces[last + 1] === at) {
      this.#pieces[last + 1] += bytes;
      return;
    }
    this.#pieces[2 * this.#pieceCount] = at;
    this.#pieces[2 * this.#pieceCount + 1] = bytes;
    this.#pieceCount++;
  }

  #close(kind: JournalKind, value: number): void {
    const sequence = ++this.sequence;
    const place = sequence % RECORDS_MAX;
    const segment = this.#journal.open;
    const bytes = HEADER_AREA_BYTES + this.#record.clusters * CLUSTER_BYTES;
    this.#record.close(kind, sequence, this.committed, this.flushed, value);
    this.#building = false;
    this.#segments[place] = segment;
    this.#blocks[place] = segment.nextBlock;
    this.#bytes[place] = bytes;
    this.#done[place] = 0;
    this.#kinds[place] = kind;
    this.#values[place] = value;
    this.#slotCounts[place] = this.#slotCount;
    segment.nextBlock += bytes / CLUSTER_BYTES;
    segment.lastSequence = sequence;
    segment.writesInFlight++;
    this.#bytesInFlight += bytes;
    const offset = this.#blocks[place] * CLUSTER_BYTES;
    this.#world.disk.writeGather(
      this.#handler,
      place,
      segment.file,
      offset,
      this.#pieces,
      this.#pieceCount,
    );
  }

  #onWritten(place: number, result: number): void {
    const segment = this.#segments[place]!;
    segment.writesInFlight--;
    segment.unsynced = true;
    this.#bytesInFlight -= this.#bytes[place];
    this.#headers.give(this.#frames[place]);
    this.#done[place] = 1;
    if (result !== this.#bytes[place]) {
      this.#failed = true;
      this.#events.onFailed(`a write to ${segment.path} failed (${result})`);
      return;
    }
    if (this.#failed) this.#events.onAdvance();
    else this.advance();
  }

  #commit(place: number): void {
    const sequence = this.committed;
    const layer = this.#dirty.open;
    if (layer.empty) {
      layer.firstSequence = sequence;
      layer.openedMs = this.#world.clock.nowMs();
    }
    layer.lastSequence = sequence;
    layer.lastEpoch = this.#epoch;
    if (this.#kinds[place] === JournalKind.resize) layer.sizeBytes = this.#values[place];
    if (this.#kinds[place] !== JournalKind.batch) {
      this.#events.onControl(sequence);
      return;
    }
    layer.payloadBytes += this.#bytes[place] - HEADER_AREA_BYTES;
    const segment = this.#segments[place]!;
    let block = this.#blocks[place] + 1;
    const list = place * RECORD_RANGES_MAX;
    const count = this.#slotCounts[place];
    for (let i = 0; i < count; i++)
      block = this.#enter(this.#slotLists[list + i], segment.slot, block);
    for (let i = 0; i < count; i++) this.#events.onCommitted(this.#slotLists[list + i]);
  }

  /**
   * Enters a request's clusters, the first of which lies at `block`; returns the block behind them.
   */
  #enter(slot: number, segmentSlot: number, block: number): number {
    const state = this.#slots;
    const layer = this.#dirty.open;
    const isWrite = this.#requests.kind[slot] === RequestKind.Write;
    let cluster = state.first[slot];
    const crcs = slot * SLOT_CLUSTERS_MAX - cluster;
    const tailAt = state.tailFrame[slot] !== 0 ? state.end[slot] - 1 : state.end[slot];
    if (state.headFrame[slot] !== 0) {
      layer.set(cluster++, locationOf(segmentSlot, block++), state.headCrc[slot]);
    }
    if (isWrite) {
      for (; cluster < tailAt; cluster++) {
        layer.set(cluster, locationOf(segmentSlot, block++), this.#requests.crcs[crcs + cluster]);
      }
    } else if (cluster < tailAt) {
      layer.setZero(cluster, tailAt - cluster);
    }
    if (state.tailFrame[slot] !== 0) {
      layer.set(tailAt, locationOf(segmentSlot, block++), state.tailCrc[slot]);
    }
    return block;
  }
}
