// SPDX-License-Identifier: Apache-2.0
// Reading a journal back after a stop or a crash (P-A3, P-A4, P-A8).
//
// All segments of the vDisk are read in order of (epoch, number). Their records must form a chain:
// sequence by sequence, each naming the hash of the one before within its epoch. The first record
// that does not fit ends its epoch, and is one of two things:
//
//   torn tail    nothing valid behind it says that it was committed: it is cut
//   corruption   a valid record states `complete` ≥ it: the journal is refused
//
// After a reboot what was not flushed may be gone in any order, so that there `flushed` counts
// instead of `complete`. Where a later epoch began, its first segment says where the older ended.

import { assert } from "../base/assert.js";
import { equalBytes } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { CLUSTER_BYTES, MIB } from "../base/units.js";
import type { World } from "../platform/world.js";
import type { JournalSegmentHeader } from "../wire/generated/journal.js";
import {
  decodeJournalSegmentHeader,
  invalidJournalSegmentHeader,
  JournalKind,
  JournalRangeKind,
} from "../wire/generated/journal.js";
import type { DirtyMap } from "./dirty.js";
import { locationOf } from "./dirty.js";
import { HEADER_AREA_BYTES, RECORD_CLUSTERS_MAX, RecordParser } from "./record.js";
import { parseSegmentName, Segment } from "./segment.js";

const READ_BYTES = 4 * MIB;
const RECORD_BYTES_MAX = HEADER_AREA_BYTES + RECORD_CLUSTERS_MAX * CLUSTER_BYTES;

export interface RecoveryOptions {
  folder: string;
  name: string;
  clusterUuid: Uint8Array;
  vdiskId: Uint8Array;
  /** Records up to this sequence are in the map. */
  mapSequence: number;
  /** Owner epoch of the last record in the map. */
  mapEpoch: number;
  /** Bytes of a batch. */
  batchBytes: number;
  /** Cut at the first damage, whatever is lost. */
  acceptLoss: boolean;
  /** Memory of the arena to read into, at least READ_BYTES + one record; borrowed. */
  memory: number;
}

export interface Recovered {
  /**
   * Segments with records that are not in the map, oldest first, open files. When there is none,
   * the newest with a right header that is not of the cut: a folder without any says that the
   * journal is lost.
   */
  segments: Segment[];
  /** Last sequence found, at least mapSequence. */
  sequence: number;
  /** Highest epoch of any segment; 0 when there was none. */
  epochLast: number;
  /** Size that resize records set; 0: none. */
  sizeBytes: number;
  /** Records cut as a torn tail, for the log. */
  torn: number;
}

/**
 * A segment's file. Without a header it was prepared and not used yet, or the header is damaged.
 */
interface Found {
  segment: Segment;
  header: JournalSegmentHeader | null;
}

/** Bytes of arena that recovery needs. */
export const RECOVERY_MEMORY_BYTES = READ_BYTES + RECORD_BYTES_MAX + CLUSTER_BYTES;

export class Recovery {
  readonly #world: World;
  readonly #options: RecoveryOptions;
  readonly #dirty: DirtyMap;
  readonly #parser: RecordParser;
  #sequence = 0;
  #previous: { header: number; body: number } | null = null;
  #epoch = 0;
  #sizeBytes = 0;
  #torn = 0;
  #slots = 0;
  readonly #evidence = new Set<Segment>();
  // Window of the segment that is being read.
  #windowFirst = 0;
  #windowBlocks = 0;

  constructor(world: World, dirty: DirtyMap, options: RecoveryOptions) {
    this.#world = world;
    this.#dirty = dirty;
    this.#options = options;
    this.#parser = new RecordParser(world.arena, world.codec, {
      clusterUuid: options.clusterUuid,
      vdiskUuid: options.vdiskId,
    });
  }

  /**
   * Reads the journal into the dirty map. Throws OVS_CORRUPT where acknowledged writes are damaged.
   */
  async run(): Promise<Recovered> {
    const found = await this.#open();
    try {
      return await this.#replay(found);
    } catch (error) {
      for (const { segment } of found) {
        if (!this.#evidence.has(segment)) await this.#world.disk.close(segment.file);
      }
      throw error;
    }
  }

  async #replay(found: Found[]): Promise<Recovered> {
    for (let i = 0; i < found.length; i++) {
      const { epoch } = found[i]!.segment;
      if (epoch < this.#options.mapEpoch && !this.#isInMap(found, i)) {
        await this.#keepEvidence(found[i]!);
        continue;
      }
      if (epoch !== this.#epoch) this.#beginEpoch(found, i);
      if (this.#skips(found, i)) continue;
      if (!(await this.#replaySegment(found, i))) {
        // The epoch ended here: its later segments are part of the cut.
        while (i + 1 < found.length && found[i + 1]!.segment.epoch === this.#epoch) i++;
      }
    }
    const kept = found.filter(({ segment }) => !this.#evidence.has(segment));
    const segments = this.#needed(kept);
    // D3: a new owner has synced what it recovered before it serves.
    for (const segment of segments) await this.#world.disk.syncAsync(segment.file);
    for (const { segment } of kept) {
      if (!segments.includes(segment)) await this.#discard(segment);
    }
    return {
      segments,
      sequence: Math.max(this.#sequence, this.#options.mapSequence),
      epochLast: found.reduce((epoch, one) => (one.header ? one.segment.epoch : epoch), 0),
      sizeBytes: this.#sizeBytes,
      torn: this.#torn,
    };
  }

  #needed(kept: readonly Found[]): Segment[] {
    const isNeeded = ({ segment }: Found) => segment.lastSequence > this.#options.mapSequence;
    const needed = kept.filter(isNeeded);
    // One of the cut would say that what lies before it is missing.
    const end = Math.max(this.#sequence, this.#options.mapSequence) + 1;
    const last = kept.findLast(({ header }) => header !== null && header.firstSequence <= end);
    if (needed.length === 0 && last) needed.push(last);
    return needed.map(({ segment }) => segment);
  }

  /** P-A8: a journal from before the map's epoch is evidence: kept and shown, never replayed. */
  async #keepEvidence({ segment }: Found): Promise<void> {
    this.#evidence.add(segment);
    const target = segment.path.replace(/\.seg$/, ".evidence");
    await this.#world.disk.close(segment.file);
    await this.#world.disk.files.rename(segment.path, target);
    const { name, mapEpoch } = this.#options;
    const fields = { vdisk: name, file: target, epoch: segment.epoch, mapEpoch };
    this.#world.log.warn("a journal segment of an older owner is kept and not replayed", fields);
  }

  async #discard(segment: Segment): Promise<void> {
    await this.#world.disk.close(segment.file);
    await this.#world.disk.files.remove(segment.path);
  }

  /** Opens all segments, in order. */
  async #open(): Promise<Found[]> {
    const { files } = this.#world.disk;
    const found: Found[] = [];
    for (const name of (await files.list(this.#options.folder)).sort()) {
      const place = parseSegmentName(name);
      if (place !== null) found.push(await this.#openOne(`${this.#options.folder}/${name}`, place));
    }
    return found;
  }

  async #openOne(path: string, place: { epoch: number; number: number }): Promise<Found> {
    const { disk, arena } = this.#world;
    const { memory, clusterUuid, vdiskId } = this.#options;
    const file = await disk.open(path, {
      create: false,
      exclusive: false,
      write: true,
      direct: true,
    });
    const bytes = Math.floor((await disk.size(file)) / CLUSTER_BYTES) * CLUSTER_BYTES;
    const segment = new Segment({ slot: this.#slots++, file, path, ...place, bytes });
    const got = bytes > 0 ? await disk.readAsync(file, 0, memory, CLUSTER_BYTES) : 0;
    const block = arena.slice(memory, CLUSTER_BYTES);
    if (got !== CLUSTER_BYTES || invalidJournalSegmentHeader(block) !== null)
      return { segment, header: null };
    const header = decodeJournalSegmentHeader(block);
    if (!equalBytes(header.clusterUuid, clusterUuid) || !equalBytes(header.vdiskUuid, vdiskId)) {
      await disk.close(file);
      throw new StorageError("OVS_WRONG_IDENTITY", `${path} belongs to another vDisk or cluster`);
    }
    // A renamed segment that was not opened yet has the header of its former life.
    const isCurrent = header.ownerEpoch === place.epoch && header.segmentNumber === place.number;
    return { segment, header: isCurrent ? header : null };
  }

  #beginEpoch(found: Found[], i: number): void {
    const { header, segment } = found[i]!;
    const { mapSequence } = this.#options;
    this.#epoch = segment.epoch;
    this.#previous = null;
    const known = i === 0 ? mapSequence : Math.max(this.#sequence, mapSequence);
    const expected = header?.firstSequence ?? known + 1;
    if (expected > known + 1 && !this.#options.acceptLoss) {
      throw new StorageError(
        "OVS_CORRUPT",
        `the journal of ${this.#options.name} misses the records from ${known + 1} to ${expected - 1} ` +
          `(before ${segment.path})`,
      );
    }
    // The new owner began behind what it had recovered: nothing newer of the older epoch counts.
    this.#sequence = expected - 1;
  }

  /** Whether all records of a segment are surely in the map: the next one says where it begins. */
  #isInMap(found: Found[], i: number): boolean {
    const next = found[i + 1]?.header;
    return next ? next.firstSequence <= this.#options.mapSequence + 1 : false;
  }

  /** A segment whose records are all in the map is not read. */
  #skips(found: Found[], i: number): boolean {
    if (!this.#isInMap(found, i)) return false;
    const next = found[i + 1]!;
    if (next.segment.epoch === this.#epoch && next.header) {
      this.#sequence = next.header.firstSequence - 1;
      this.#previous = hashOf(next.header);
    }
    return true;
  }

  /** Reads one segment's records. False when the epoch ends in it. */
  async #replaySegment(found: Found[], i: number): Promise<boolean> {
    const { segment, header } = found[i]!;
    if (header === null || header.firstSequence !== this.#sequence + 1) {
      await this.#judge(found, i, 1);
      return false;
    }
    this.#previous ??= hashOf(header);
    const end = this.#endOfEpoch(found, i);
    const block = await this.#replayBlocks(segment, end);
    segment.nextBlock = block;
    if (this.#sequence + 1 >= end || this.#continues(found, i)) return true;
    await this.#judge(found, i, block);
    return false;
  }

  /** Enters records until one does not fit; answers the block where that is. */
  async #replayBlocks(segment: Segment, end: number): Promise<number> {
    this.#windowBlocks = 0;
    let block = 1;
    while (block < segment.blocks && this.#sequence + 1 < end) {
      const at = await this.#blockAt(segment, block, 1);
      if (at === 0 || !this.#fits(at)) {
        const next = await this.#resume(segment, block);
        if (next === 0) return block;
        block = next;
        continue;
      }
      const record = this.#parser.record;
      const whole = await this.#blockAt(segment, block, 1 + record.clusters);
      const isRight = whole !== 0 && this.#payloadRight(whole);
      if (!isRight && record.sequence > this.#options.mapSequence) return block;
      this.#enter(segment, block);
      block += 1 + record.clusters;
    }
    return block;
  }

  /**
   * Damage among records that are in the map already harms nobody: goes on behind it. 0: cannot.
   */
  async #resume(segment: Segment, block: number): Promise<number> {
    const { mapSequence } = this.#options;
    if (this.#sequence + 1 > mapSequence) return 0;
    for (let next = block + 1; next < segment.blocks; next++) {
      const at = await this.#blockAt(segment, next, 1);
      if (at === 0) return 0;
      if (!this.#parser.parse(at)) continue;
      const record = this.#parser.record;
      if (record.epoch !== this.#epoch || record.sequence <= this.#sequence) continue;
      if (record.sequence > mapSequence + 1) return 0;
      this.#sequence = record.sequence - 1;
      this.#previous = { header: record.previousHeaderCrc, body: record.previousBodyCrc };
      return next;
    }
    return 0;
  }

  /** First sequence of the next epoch: nothing from it on counts in this one. */
  #endOfEpoch(found: Found[], i: number): number {
    for (let j = i + 1; j < found.length; j++) {
      const { header, segment } = found[j]!;
      if (header !== null && segment.epoch > this.#epoch) return header.firstSequence;
    }
    return Number.MAX_SAFE_INTEGER;
  }

  /** The next segment of the epoch goes on exactly where this one ended. */
  #continues(found: Found[], i: number): boolean {
    const next = found[i + 1];
    return next?.segment.epoch === this.#epoch && next.header?.firstSequence === this.#sequence + 1;
  }

  /** Reads the segment so that blocks [block, block + count) are in memory; 0: beyond its end. */
  async #blockAt(segment: Segment, block: number, count: number): Promise<number> {
    if (block + count > segment.blocks) return 0;
    const { memory } = this.#options;
    if (block < this.#windowFirst || block + count > this.#windowFirst + this.#windowBlocks) {
      const bytes = Math.min(READ_BYTES, (segment.blocks - block) * CLUSTER_BYTES);
      const got = await this.#world.disk.readAsync(
        segment.file,
        block * CLUSTER_BYTES,
        memory,
        bytes,
      );
      this.#windowFirst = block;
      this.#windowBlocks = Math.floor(got / CLUSTER_BYTES);
      if (count > this.#windowBlocks) return 0;
    }
    return memory + (block - this.#windowFirst) * CLUSTER_BYTES;
  }

  /** Whether the block is the record that has to come next. */
  #fits(at: number): boolean {
    if (!this.#parser.parse(at)) return false;
    const record = this.#parser.record;
    if (record.epoch !== this.#epoch || record.sequence !== this.#sequence + 1) return false;
    const hash = this.#previous;
    assert(hash !== null, "the chain has a beginning");
    return record.previousHeaderCrc === hash.header && record.previousBodyCrc === hash.body;
  }

  #payloadRight(at: number): boolean {
    const { clusters, crcs } = this.#parser.record;
    if (clusters === 0) return true;
    return this.#world.codec.crc32cVerify(at + HEADER_AREA_BYTES, clusters, crcs, 0) < 0;
  }

  #enter(segment: Segment, block: number): void {
    const record = this.#parser.record;
    this.#sequence = record.sequence;
    this.#previous = { header: record.headerCrc, body: record.bodyCrc };
    segment.lastSequence = record.sequence;
    if (record.sequence <= this.#options.mapSequence) return;
    const layer = this.#dirty.open;
    if (layer.empty) {
      layer.firstSequence = record.sequence;
      layer.openedMs = this.#world.clock.nowMs();
    }
    layer.lastSequence = record.sequence;
    layer.lastEpoch = record.epoch;
    layer.payloadBytes += record.clusters * CLUSTER_BYTES;
    if (record.kind === JournalKind.resize) {
      layer.sizeBytes = record.value;
      this.#sizeBytes = record.value;
    }
    let at = block + 1;
    let crc = 0;
    for (let i = 0; i < record.ranges; i++) {
      const cluster = record.rangeClusters[i];
      const count = record.rangeCounts[i];
      if (record.rangeKinds[i] === JournalRangeKind.zero) {
        layer.setZero(cluster, count);
        continue;
      }
      for (let j = 0; j < count; j++)
        layer.set(cluster + j, locationOf(segment.slot, at++), record.crcs[crc++]);
    }
    const dirtyBytes = Math.max(layer.payloadBytes, layer.entries * CLUSTER_BYTES);
    if (dirtyBytes >= this.#options.batchBytes) this.#dirty.close();
  }

  /** P-A3: what follows the last good record is a torn tail, or corruption. */
  async #judge(found: Found[], i: number, block: number): Promise<void> {
    const bad = this.#sequence + 1;
    const end = this.#endOfEpoch(found, i);
    const bootId = found[i]!.header?.bootId ?? this.#world.bootId;
    const rebooted = !equalBytes(bootId, this.#world.bootId);
    let proof = end === Number.MAX_SAFE_INTEGER ? 0 : end - 1;
    for (let j = i; j < found.length && found[j]!.segment.epoch === this.#epoch; j++) {
      const { segment, header } = found[j]!;
      if (j > i && header && !rebooted)
        proof = Math.max(proof, header.firstSequence - 1 - RECORDS_IN_FLIGHT);
      proof = Math.max(proof, await this.#highestProof(segment, j === i ? block : 1, rebooted));
    }
    if (proof < bad) {
      const last = await this.#highestSequence(found, i, block);
      this.#torn += Math.max(0, last - this.#sequence);
      return;
    }
    const text =
      `record ${bad} of the journal of ${this.#options.name} is damaged ` +
      `(${found[i]!.segment.path}, block ${block}), and records up to ${proof} were acknowledged`;
    if (!this.#options.acceptLoss) {
      throw new StorageError(
        "OVS_CORRUPT",
        `${text}: refused; \`ovs vdisk recover ${this.#options.name} --accept-loss\` goes on ` +
          "without them",
      );
    }
    this.#world.log.error(`${text}: given up as the operator accepted`);
    this.#torn += proof - this.#sequence;
  }

  /** Highest `complete` (`flushed` after a reboot) that a valid record behind the damage states. */
  async #highestProof(segment: Segment, from: number, rebooted: boolean): Promise<number> {
    let proof = 0;
    await this.#scan(segment, from, () => {
      const record = this.#parser.record;
      proof = Math.max(proof, rebooted ? record.flushed : record.complete);
    });
    return proof;
  }

  async #highestSequence(found: Found[], i: number, block: number): Promise<number> {
    let last = 0;
    for (let j = i; j < found.length && found[j]!.segment.epoch === this.#epoch; j++) {
      await this.#scan(found[j]!.segment, j === i ? block : 1, () => {
        last = Math.max(last, this.#parser.record.sequence);
      });
    }
    return last;
  }

  /** Calls `visit` for every block from `from` on that is a header of this epoch's records. */
  async #scan(segment: Segment, from: number, visit: () => void): Promise<void> {
    this.#windowBlocks = 0;
    for (let block = from; block < segment.blocks; block++) {
      const at = await this.#blockAt(segment, block, 1);
      if (at === 0) return;
      if (this.#parser.parse(at) && this.#parser.record.epoch === this.#epoch) visit();
    }
  }
}

/** Records beyond `committed` that a writer may have begun when it opened a segment. */
const RECORDS_IN_FLIGHT = 64;

function hashOf(header: JournalSegmentHeader): { header: number; body: number } {
  const view = new DataView(header.previousHash.buffer, header.previousHash.byteOffset, 8);
  return { header: view.getUint32(0, true), body: view.getUint32(4, true) };
}

assert(READ_BYTES > RECORD_BYTES_MAX, "a record fits the window");
