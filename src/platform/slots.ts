// SPDX-License-Identifier: Apache-2.0
// The table of a ring disk: a row of numbers per operation that is staged or in flight. Its columns
// lie one behind the other in one block of memory, as native/disk/core/table.h has them.

import { assert } from "../base/assert.js";
import { DISK_DEPTH_MAX } from "./disk.js";

/** Rows of the table: operations that can be staged or in flight at once. */
export const DISK_SLOTS = DISK_DEPTH_MAX;
/** Bytes of all columns of a row. */
const ROW_BYTES = 2 * 8 + 7 * 4;
export const SLOT_TABLE_BYTES = DISK_SLOTS * ROW_BYTES;

/** What a row does; numbers as in native/disk/core/table.h. Truncate never reaches an engine. */
export const DiskKind = {
  Read: 0,
  Write: 1,
  ReadScatter: 2,
  WriteGather: 3,
  Sync: 4,
  Allocate: 5,
  Punch: 6,
  Truncate: 7,
  ReadTogether: 8,
} as const;
export type DiskKind = (typeof DiskKind)[keyof typeof DiskKind];

export interface SlotTable {
  readonly offset: Float64Array;
  readonly length: Float64Array;
  readonly memory: Uint32Array;
  readonly fd: Int32Array;
  readonly kind: Uint32Array;
  readonly count: Uint32Array;
  readonly result: Int32Array;
  readonly staged: Uint32Array;
  readonly done: Uint32Array;
}

/** The columns inside the first SLOT_TABLE_BYTES of `memory`. */
export function slotTable(memory: ArrayBuffer): SlotTable {
  assert(memory.byteLength >= SLOT_TABLE_BYTES, "the memory holds all columns");
  let offset = 0;
  const next = (bytes: number): number => {
    const at = offset;
    offset += DISK_SLOTS * bytes;
    return at;
  };
  const table: SlotTable = {
    offset: new Float64Array(memory, next(8), DISK_SLOTS),
    length: new Float64Array(memory, next(8), DISK_SLOTS),
    memory: new Uint32Array(memory, next(4), DISK_SLOTS),
    fd: new Int32Array(memory, next(4), DISK_SLOTS),
    kind: new Uint32Array(memory, next(4), DISK_SLOTS),
    count: new Uint32Array(memory, next(4), DISK_SLOTS),
    result: new Int32Array(memory, next(4), DISK_SLOTS),
    staged: new Uint32Array(memory, next(4), DISK_SLOTS),
    done: new Uint32Array(memory, next(4), DISK_SLOTS),
  };
  assert(offset === SLOT_TABLE_BYTES, "a row is all its columns");
  return table;
}
