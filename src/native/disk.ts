// SPDX-License-Identifier: Apache-2.0
// Face of the addon `disk`: memory for arenas, the io_uring of a thread, and the few system calls
// on files that Node does not have. Names and order are those of native/disk/binding.cc.

import { assert } from "../base/assert.js";
import { DISK_DEPTH_MAX } from "../platform/disk.js";
import { loadAddon } from "./load.js";

/** Rows of the table: operations that can be staged or in flight at once. */
export const DISK_SLOTS = DISK_DEPTH_MAX;

/** What a row does; numbers as in native/disk/core/table.h. Truncate never reaches the addon. */
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

/** Words of a piece, an iovec in the making: offset, 0, bytes, 0. */
export const PIECE_WORDS = 4;

/** Numbers of a ring in this thread. */
export type RingId = number;

export interface DiskAddon {
  /** Bytes of a table; rows; most pieces of one row. */
  readonly layout: { tableBytes: number; slots: number; piecesMax: number };
  /** Maps zeroed memory aligned to 2 MiB; null when the system has none. Gives. */
  mapMemory(bytes: number, hugePages: boolean): ArrayBuffer | null;
  /**
   * Opens an io_uring on this thread's loop over an arena and a table, both from mapMemory, which
   * it keeps alive. `done(count)` is called outside any turn: done[0…count) are finished. Returns
   * the ring's number, or -errno when the kernel refuses.
   */
  ringOpen(arena: ArrayBuffer, table: ArrayBuffer, done: (count: number) => void): RingId;
  /** Takes staged[0…count). */
  ringSubmit(ring: RingId, count: number): void;
  /** Nothing may be in flight. */
  ringClose(ring: RingId): void;
  /** Takes the exclusive lock of an open file; 0 or -errno (-EWOULDBLOCK: somebody has it). */
  flock(fd: number): number;
  /** fallocate on the worker pool; `done` gets 0 or -errno. */
  fallocate(
    fd: number,
    punch: boolean,
    offset: number,
    bytes: number,
    done: (result: number) => void,
  ): void;
}

/** Columns of the table that the engine and the face share; see native/disk/core/table.h. */
export interface DiskTable {
  readonly offset: Float64Array;
  readonly length: Float64Array;
  readonly memory: Uint32Array;
  readonly fd: Int32Array;
  readonly kind: Uint32Array;
  readonly count: Uint32Array;
  readonly result: Int32Array;
  readonly staged: Uint32Array;
  readonly done: Uint32Array;
  readonly pieces: Uint32Array;
  readonly piecesMax: number;
}

/** Loads the addon and checks that both sides mean the same table. */
export function loadDiskAddon(): DiskAddon {
  const addon = loadAddon<DiskAddon>("disk");
  assert(addon.layout.slots === DISK_SLOTS, "addon and face have the same number of slots");
  return addon;
}

/** The columns inside memory of `layout.tableBytes`. */
export function diskTable(addon: DiskAddon, memory: ArrayBuffer): DiskTable {
  assert(memory.byteLength === addon.layout.tableBytes, "a table has the addon's size");
  let offset = 0;
  const next = (bytes: number): number => {
    const at = offset;
    offset += bytes;
    return at;
  };
  const table: DiskTable = {
    offset: new Float64Array(memory, next(DISK_SLOTS * 8), DISK_SLOTS),
    length: new Float64Array(memory, next(DISK_SLOTS * 8), DISK_SLOTS),
    memory: new Uint32Array(memory, next(DISK_SLOTS * 4), DISK_SLOTS),
    fd: new Int32Array(memory, next(DISK_SLOTS * 4), DISK_SLOTS),
    kind: new Uint32Array(memory, next(DISK_SLOTS * 4), DISK_SLOTS),
    count: new Uint32Array(memory, next(DISK_SLOTS * 4), DISK_SLOTS),
    result: new Int32Array(memory, next(DISK_SLOTS * 4), DISK_SLOTS),
    staged: new Uint32Array(memory, next(DISK_SLOTS * 4), DISK_SLOTS),
    done: new Uint32Array(memory, next(DISK_SLOTS * 4), DISK_SLOTS),
    pieces: new Uint32Array(memory, offset),
    piecesMax: addon.layout.piecesMax,
  };
  assert(
    table.pieces.length === DISK_SLOTS * addon.layout.piecesMax * PIECE_WORDS,
    "the pieces fill the rest of the table",
  );
  return table;
}
