// SPDX-License-Identifier: Apache-2.0
// One segment of a journal: a preallocated file of 4 KiB blocks, block 0 its header, records
// behind.
//
//   prepared ──open──► (records are appended) ──seal──► sealed ──destaged, no readers──► freed
//
// A segment is freed only when it is sealed, all its records are destaged, and nobody reads, writes
// or syncs it (P-A5).

import { assert } from "../base/assert.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { FileId } from "../platform/disk.js";

export class Segment {
  /** Place in the journal's table, used in dirty map locations. */
  readonly slot: number;
  readonly file: FileId;
  readonly path: string;
  readonly epoch: number;
  readonly number: number;
  readonly bytes: number;
  /** First block that no record takes yet; 1 when there is none. */
  nextBlock = 1;
  firstSequence = 0;
  /** Sequence of the last record in it; 0 while there is none. */
  lastSequence = 0;
  headerWritten = false;
  /** Its header survives a loss of power. */
  headerDurable = false;
  sealed = false;
  /** Writes that were completed and not yet covered by a sync. */
  unsynced = false;
  syncing = false;
  /** The sync that runs began when the header was written. */
  syncingHeader = false;
  writesInFlight = 0;
  readers = 0;

  constructor(place: {
    slot: number;
    file: FileId;
    path: string;
    epoch: number;
    number: number;
    bytes: number;
  }) {
    assert(place.bytes % CLUSTER_BYTES === 0, "a segment is whole blocks");
    this.slot = place.slot;
    this.file = place.file;
    this.path = place.path;
    this.epoch = place.epoch;
    this.number = place.number;
    this.bytes = place.bytes;
  }

  /** Blocks of 4 KiB of the file, the header included. */
  get blocks(): number {
    return this.bytes / CLUSTER_BYTES;
  }

  /** Nobody reads, writes or syncs it (P-A5). */
  get idle(): boolean {
    return this.readers === 0 && this.writesInFlight === 0 && !this.syncing;
  }
}

/** The name of a segment's file; names sort as (epoch, number). */
export function segmentName(epoch: number, number: number): string {
  return `${hex14(epoch)}-${hex14(number)}.seg`;
}

/** (epoch, number) of a file's name, null when it is no segment. */
export function parseSegmentName(name: string): { epoch: number; number: number } | null {
  const match = /^([0-9a-f]{14})-([0-9a-f]{14})\.seg$/.exec(name);
  if (!match) return null;
  return { epoch: Number.parseInt(match[1]!, 16), number: Number.parseInt(match[2]!, 16) };
}

function hex14(value: number): string {
  return value.toString(16).padStart(14, "0");
}
