// SPDX-License-Identifier: Apache-2.0
// Face of the addon `disk`: memory for arenas, the io_uring of a thread, and the few system calls
// on files that Node does not have. Names and order are those of native/disk/binding.cc.

import { assert } from "../base/assert.js";
import { DISK_PIECES_MAX } from "../platform/disk.js";
import type { SlotTable } from "../platform/slots.js";
import { DISK_SLOTS, SLOT_TABLE_BYTES, slotTable } from "../platform/slots.js";
import { loadAddon } from "./load.js";

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

/** The table that the addon and the face share; see native/disk/core/table.h. */
export interface DiskTable extends SlotTable {
  /** `piecesMax` pieces of PIECE_WORDS for each row. */
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
  const { piecesMax } = addon.layout;
  assert(piecesMax === DISK_PIECES_MAX, "a list has as many pieces as promised");
  const pieces = new Uint32Array(memory, SLOT_TABLE_BYTES);
  assert(
    pieces.length === DISK_SLOTS * piecesMax * PIECE_WORDS,
    "the pieces fill the rest of the table",
  );
  return { ...slotTable(memory), pieces, piecesMax };
}

/** Copies the pieces (arena offset, bytes) of a row into the table. */
export function putPieces(
  table: DiskTable,
  slot: number,
  pieces: Uint32Array,
  count: number,
): void {
  let word = slot * table.piecesMax * PIECE_WORDS;
  for (let i = 0; i < count; i++, word += PIECE_WORDS) {
    table.pieces[word] = pieces[2 * i]!;
    table.pieces[word + 1] = 0;
    table.pieces[word + 2] = pieces[2 * i + 1]!;
    table.pieces[word + 3] = 0;
  }
  table.count[slot] = count;
}
