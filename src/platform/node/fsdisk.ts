// SPDX-License-Identifier: Apache-2.0
// The engine that stands in for io_uring where the kernel or a container forbids it: the same table
// of slots, worked off by node:fs on libuv's pool. Slower, the same semantics.

import * as fs from "node:fs";
import { assert } from "../../base/assert.js";
import type { DiskAddon, DiskTable } from "../../native/disk.js";
import { diskTable, PIECE_WORDS, putPieces } from "../../native/disk.js";
import type { Engine } from "../ringdisk.js";
import { DISK_SLOTS, DiskKind } from "../slots.js";

/** Operations handed to libuv's pool at once; the pool is small and shared with everybody. */
const RUNNING_MAX = 32;
/** How often one operation may be interrupted before its error is reported. */
const RETRIES_MAX = 100;
const EIO = 5;

export class FsEngine implements Engine {
  readonly name = "fs";
  readonly table: DiskTable;
  readonly #addon: DiskAddon;
  readonly #bytes: Uint8Array;
  readonly #onDone: (count: number) => void;
  readonly #waiting: number[] = [];
  #running = 0;
  #doneCount = 0;
  #reporting = false;

  /** Borrows the arena's memory for as long as operations are in flight. */
  constructor(addon: DiskAddon, arena: ArrayBuffer, onDone: (count: number) => void) {
    this.#addon = addon;
    this.#bytes = new Uint8Array(arena);
    this.#onDone = onDone;
    this.table = diskTable(addon, new ArrayBuffer(addon.layout.tableBytes));
  }

  putPieces(slot: number, pieces: Uint32Array, count: number): void {
    putPieces(this.table, slot, pieces, count);
  }

  submit(count: number): void {
    assert(count > 0 && count <= DISK_SLOTS, "staged slots are slots of the table");
    for (let i = 0; i < count; i++) this.#waiting.push(this.table.staged[i]!);
    this.#start();
  }

  close(): void {
    assert(this.#running === 0 && this.#waiting.length === 0, "nothing is in flight");
  }

  #start(): void {
    while (this.#running < RUNNING_MAX && this.#waiting.length > 0) {
      this.#running++;
      this.#run(this.#waiting.shift()!);
    }
  }

  #run(slot: number): void {
    const { fd, kind, offset, length } = this.table;
    const file = fd[slot]!;
    const done = (result: number) => this.#finish(slot, result);
    switch (kind[slot] as DiskKind) {
      case DiskKind.Read:
      case DiskKind.ReadScatter:
      case DiskKind.ReadTogether:
        this.#transfer(slot, false, 0, 0);
        return;
      case DiskKind.Write:
      case DiskKind.WriteGather:
        this.#transfer(slot, true, 0, 0);
        return;
      case DiskKind.Sync:
        fs.fdatasync(file, (error) => done(error ? errnoOf(error) : 0));
        return;
      case DiskKind.Allocate:
      case DiskKind.Punch: {
        const punch = kind[slot] === DiskKind.Punch;
        this.#addon.fallocate(file, punch, offset[slot]!, length[slot]!, done);
        return;
      }
      default:
        assert(false, "the slot's kind is one of the table's");
    }
  }

  /** Moves what is left after `progress` bytes; short transfers go on until the end or an error. */
  #transfer(slot: number, write: boolean, progress: number, retries: number): void {
    const total = this.table.length[slot]!;
    const position = this.table.offset[slot]! + progress;
    const views = this.#viewsFrom(slot, progress);
    const done = (error: NodeJS.ErrnoException | null, bytes: number) => {
      if (error && retries < RETRIES_MAX && (error.code === "EINTR" || error.code === "EAGAIN")) {
        this.#transfer(slot, write, progress, retries + 1);
      } else if (error && error.code === "EINVAL" && !write && progress > 0) {
        // Direct I/O cannot go on from the unaligned end of a file.
        this.#finish(slot, progress);
      } else if (error) {
        this.#finish(slot, errnoOf(error));
      } else if (bytes === 0) {
        this.#finish(slot, write ? -EIO : progress);
      } else if (progress + bytes < total) {
        this.#transfer(slot, write, progress + bytes, retries);
      } else {
        this.#finish(slot, total);
      }
    };
    const file = this.table.fd[slot]!;
    if (write) fs.writev(file, views, position, done);
    else fs.readv(file, views, position, done);
  }

  #viewsFrom(slot: number, progress: number): Uint8Array[] {
    const { kind, count, memory, length, pieces, piecesMax } = this.table;
    const gathered = kind[slot] === DiskKind.ReadScatter || kind[slot] === DiskKind.WriteGather;
    if (!gathered) return [this.#view(memory[slot]!, length[slot]!, progress)];
    const views: Uint8Array[] = [];
    let skip = progress;
    let word = slot * piecesMax * PIECE_WORDS;
    for (let i = 0; i < count[slot]!; i++, word += PIECE_WORDS) {
      const bytes = pieces[word + 2]!;
      if (skip < bytes) views.push(this.#view(pieces[word]!, bytes, skip));
      skip = Math.max(0, skip - bytes);
    }
    return views;
  }

  #view(arena: number, bytes: number, skip: number): Uint8Array {
    assert(skip < bytes, "something is left to do");
    return this.#bytes.subarray(arena + skip, arena + bytes);
  }

  /** Results that come in the same turn of the loop are reported together. */
  #finish(slot: number, result: number): void {
    this.table.result[slot] = result;
    this.table.done[this.#doneCount++] = slot;
    this.#running--;
    this.#start();
    if (this.#reporting) return;
    this.#reporting = true;
    setImmediate(() => {
      const count = this.#doneCount;
      this.#doneCount = 0;
      this.#reporting = false;
      this.#onDone(count);
    });
  }
}

function errnoOf(error: NodeJS.ErrnoException): number {
  return error.errno ?? -EIO;
}
