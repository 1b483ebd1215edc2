// SPDX-License-Identifier: Apache-2.0
// Journal records as the hot path writes them: header, ranges and CRCs straight into one 4 KiB
// block of the arena through the generated offsets, and as recovery reads them back.
//
//   | header, 160 | range × rangeCount, 32 each | CRC × clusterCount, 4 each | zero | payload …
//   '------------------ 4 KiB: the header area ------------------------------------'
//
// A record is bound to its vDisk, epoch and place in the chain: sequence and hash of the record
// before it (P-A3).

import { assert } from "../base/assert.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { Arena } from "../platform/arena.js";
import type { Codec } from "../platform/codec.js";
import * as wire from "../wire/generated/journal.js";

/** Largest payload of one record, in clusters, and most ranges: both fit the 4 KiB header area. */
export const RECORD_CLUSTERS_MAX = 264;
export const RECORD_RANGES_MAX = 90;
export const HEADER_AREA_BYTES = wire.JOURNAL_HEADER_AREA_BYTES;

const TWO_32 = 2 ** 32;
const RANGES_AT = wire.JOURNAL_RECORD_HEADER_BYTES;
assert(
  RANGES_AT + RECORD_RANGES_MAX * wire.JOURNAL_RANGE_BYTES + RECORD_CLUSTERS_MAX * 4 <=
    HEADER_AREA_BYTES,
  "the largest record fits the header area",
);

/** What names the owner of a journal in every record of it. */
export interface JournalIdentity {
  clusterUuid: Uint8Array;
  vdiskUuid: Uint8Array;
  epoch: number;
}

/** Builds records, one at a time, in header buffers of the arena. */
export class RecordWriter {
  readonly #arena: Arena;
  readonly #codec: Codec;
  readonly #identity: JournalIdentity;
  #at = 0;
  #ranges = 0;
  #clusters = 0;
  /** CRCs are collected here until the number of ranges is known. */
  readonly #crcs = new Uint32Array(RECORD_CLUSTERS_MAX);
  #fua = 0;
  /** Hash of the last record: its header CRC and body CRC. */
  previousHeaderCrc = 0;
  previousBodyCrc = 0;

  constructor(arena: Arena, codec: Codec, identity: JournalIdentity) {
    this.#arena = arena;
    this.#codec = codec;
    this.#identity = identity;
  }

  /** Ranges of the record that is being built. */
  get ranges(): number {
    return this.#ranges;
  }

  /** Clusters of payload of the record that is being built. */
  get clusters(): number {
    return this.#clusters;
  }

  /** Begins a record in the header buffer at arena offset `at` (borrowed until it is written). */
  begin(at: number): void {
    assert(at % HEADER_AREA_BYTES === 0 && at > 0, "a header buffer is one block");
    this.#at = at;
    this.#ranges = 0;
    this.#clusters = 0;
    this.#fua = 0;
  }

  /** Adds a range; a data range is followed by one `crc` call per cluster. */
  range(
    kind: wire.JournalRangeKind,
    cluster: number,
    count: number,
    idLow: number,
    idHigh: number,
  ): void {
    assert(this.#ranges < RECORD_RANGES_MAX, "the record has room for a range");
    const word = (this.#at + RANGES_AT + this.#ranges * wire.JOURNAL_RANGE_BYTES) >>> 2;
    const u32 = this.#arena.u32;
    u32[word] = kind;
    u32[word + 1] = 0;
    u32[word + 2] = cluster >>> 0;
    u32[word + 3] = (cluster / TWO_32) >>> 0;
    u32[word + 4] = count >>> 0;
    u32[word + 5] = (count / TWO_32) >>> 0;
    u32[word + 6] = idLow;
    u32[word + 7] = idHigh;
    this.#ranges++;
  }

  /** CRC-32C of the next cluster of the last data range. */
  crc(crc: number): void {
    assert(this.#clusters < RECORD_CLUSTERS_MAX, "the record has room for a cluster");
    this.#crcs[this.#clusters++] = crc;
  }

  /** Notes in the record that one of its requests asked for FUA. */
  fua(): void {
    this.#fua = 1;
  }

  /** Closes the record: after this the header area may be written. */
  close(
    kind: wire.JournalKind,
    sequence: number,
    complete: number,
    flushed: number,
    value: number,
  ): void {
    const u32 = this.#arena.u32;
    const at = this.#at;
    const base = at >>> 2;
    const crcsAt = (at + RANGES_AT + this.#ranges * wire.JOURNAL_RANGE_BYTES) >>> 2;
    for (let i = 0; i < this.#clusters; i++) u32[crcsAt + i] = this.#crcs[i];
    u32.fill(0, base, base + RANGES_AT / 4);
    u32.fill(0, crcsAt + this.#clusters, base + HEADER_AREA_BYTES / 4);
    u32[base] = wire.JOURNAL_RECORD_MAGIC_U32;
    u32[base + 1] = wire.JOURNAL_RECORD_FORMAT_VERSION | (kind << 16) | (this.#fua << 24);
    this.#arena.bytes.set(this.#identity.clusterUuid, at + wire.JOURNAL_RECORD_CLUSTER_UUID);
    this.#arena.bytes.set(this.#identity.vdiskUuid, at + wire.JOURNAL_RECORD_VDISK_UUID);
    this.#u64(wire.JOURNAL_RECORD_OWNER_EPOCH, this.#identity.epoch);
    this.#u64(wire.JOURNAL_RECORD_SEQUENCE, sequence);
    u32[(at + wire.JOURNAL_RECORD_PREVIOUS_HASH) >>> 2] = this.previousHeaderCrc;
    u32[((at + wire.JOURNAL_RECORD_PREVIOUS_HASH) >>> 2) + 1] = this.previousBodyCrc;
    this.#u64(wire.JOURNAL_RECORD_COMPLETE, complete);
    this.#u64(wire.JOURNAL_RECORD_FLUSHED, flushed);
    this.#u64(wire.JOURNAL_RECORD_VALUE, value);
    u32[(at + wire.JOURNAL_RECORD_RANGE_COUNT) >>> 2] = this.#ranges;
    u32[(at + wire.JOURNAL_RECORD_CLUSTER_COUNT) >>> 2] = this.#clusters;
    u32[(at + wire.JOURNAL_RECORD_HEADER_AREA_BYTES) >>> 2] = HEADER_AREA_BYTES;
    u32[(at + wire.JOURNAL_RECORD_LENGTH) >>> 2] =
      HEADER_AREA_BYTES + this.#clusters * CLUSTER_BYTES;
    const bodyCrc = this.#codec.crc32c(at + RANGES_AT, HEADER_AREA_BYTES - RANGES_AT, 0);
    u32[(at + wire.JOURNAL_RECORD_BODY_CRC) >>> 2] = bodyCrc;
    const headerCrc = this.#codec.crc32c(at, wire.JOURNAL_RECORD_HEADER_CRC, 0);
    u32[(at + wire.JOURNAL_RECORD_HEADER_CRC) >>> 2] = headerCrc;
    this.previousHeaderCrc = headerCrc;
    this.previousBodyCrc = bodyCrc;
  }

  #u64(field: number, value: number): void {
    const word = (this.#at + field) >>> 2;
    this.#arena.u32[word] = value >>> 0;
    this.#arena.u32[word + 1] = (value / TWO_32) >>> 0;
  }
}

/** A record's header area as recovery sees it. Reused for each record: copy what is kept. */
export class ParsedRecord {
  kind = 0;
  epoch = 0;
  sequence = 0;
  complete = 0;
  flushed = 0;
  value = 0;
  previousHeaderCrc = 0;
  previousBodyCrc = 0;
  headerCrc = 0;
  bodyCrc = 0;
  ranges = 0;
  clusters = 0;
  readonly rangeKinds = new Uint8Array(RECORD_RANGES_MAX);
  readonly rangeClusters = new Float64Array(RECORD_RANGES_MAX);
  readonly rangeCounts = new Float64Array(RECORD_RANGES_MAX);
  readonly crcs = new Uint32Array(RECORD_CLUSTERS_MAX);
}

/** Reads header areas from the arena. */
export class RecordParser {
  readonly #arena: Arena;
  readonly #codec: Codec;
  readonly #uuids = new Uint32Array(8);
  readonly record = new ParsedRecord();

  constructor(
    arena: Arena,
    codec: Codec,
    identity: { clusterUuid: Uint8Array; vdiskUuid: Uint8Array },
  ) {
    this.#arena = arena;
    this.#codec = codec;
    const bytes = new Uint8Array(this.#uuids.buffer);
    bytes.set(identity.clusterUuid, 0);
    bytes.set(identity.vdiskUuid, 16);
  }

  /**
   * Reads the block at arena offset `at` into `record`. False when it is no undamaged header area
   * of this vDisk; whether that means corruption or the end is the caller's decision (P-A3). The
   * payload's CRCs are not checked here.
   */
  parse(at: number): boolean {
    const u32 = this.#arena.u32;
    const base = at >>> 2;
    if (u32[base] !== wire.JOURNAL_RECORD_MAGIC_U32) return false;
    if ((u32[base + 1] & 0xffff) !== wire.JOURNAL_RECORD_FORMAT_VERSION) return false;
    const headerCrc = u32[(at + wire.JOURNAL_RECORD_HEADER_CRC) >>> 2];
    if (this.#codec.crc32c(at, wire.JOURNAL_RECORD_HEADER_CRC, 0) !== headerCrc) return false;
    for (let i = 0; i < 8; i++) {
      if (u32[((at + wire.JOURNAL_RECORD_CLUSTER_UUID) >>> 2) + i] !== this.#uuids[i]) return false;
    }
    const record = this.record;
    record.headerCrc = headerCrc;
    record.kind = (u32[base + 1] >>> 16) & 0xff;
    record.epoch = this.#u64(at + wire.JOURNAL_RECORD_OWNER_EPOCH);
    record.sequence = this.#u64(at + wire.JOURNAL_RECORD_SEQUENCE);
    record.complete = this.#u64(at + wire.JOURNAL_RECORD_COMPLETE);
    record.flushed = this.#u64(at + wire.JOURNAL_RECORD_FLUSHED);
    record.value = this.#u64(at + wire.JOURNAL_RECORD_VALUE);
    record.previousHeaderCrc = u32[(at + wire.JOURNAL_RECORD_PREVIOUS_HASH) >>> 2];
    record.previousBodyCrc = u32[((at + wire.JOURNAL_RECORD_PREVIOUS_HASH) >>> 2) + 1];
    record.bodyCrc = u32[(at + wire.JOURNAL_RECORD_BODY_CRC) >>> 2];
    record.ranges = u32[(at + wire.JOURNAL_RECORD_RANGE_COUNT) >>> 2];
    record.clusters = u32[(at + wire.JOURNAL_RECORD_CLUSTER_COUNT) >>> 2];
    if (u32[(at + wire.JOURNAL_RECORD_HEADER_AREA_BYTES) >>> 2] !== HEADER_AREA_BYTES) return false;
    if (record.ranges > RECORD_RANGES_MAX || record.clusters > RECORD_CLUSTERS_MAX) return false;
    const bodyCrc = this.#codec.crc32c(at + RANGES_AT, HEADER_AREA_BYTES - RANGES_AT, 0);
    return bodyCrc === record.bodyCrc && this.#tables(at + RANGES_AT);
  }

  #tables(at: number): boolean {
    const record = this.record;
    const u32 = this.#arena.u32;
    let clusters = 0;
    for (let i = 0; i < record.ranges; i++) {
      const range = at + i * wire.JOURNAL_RANGE_BYTES;
      const kind = u32[range >>> 2] & 0xff;
      const count = this.#u64(range + wire.JOURNAL_RANGE_COUNT);
      if (kind !== wire.JournalRangeKind.data && kind !== wire.JournalRangeKind.zero) return false;
      if (count === 0) return false;
      record.rangeKinds[i] = kind;
      record.rangeClusters[i] = this.#u64(range + wire.JOURNAL_RANGE_CLUSTER);
      record.rangeCounts[i] = count;
      if (kind === wire.JournalRangeKind.data) clusters += count;
    }
    if (clusters !== record.clusters) return false;
    const crcsAt = (at + record.ranges * wire.JOURNAL_RANGE_BYTES) >>> 2;
    for (let i = 0; i < clusters; i++) record.crcs[i] = u32[crcsAt + i];
    return true;
  }

  #u64(at: number): number {
    return this.#arena.u32[at >>> 2] + this.#arena.u32[(at >>> 2) + 1] * TWO_32;
  }
}
