// SPDX-License-Identifier: Apache-2.0
// The extent files `extents/0000`, `extents/0001`, …: 256 MiB each, made when room is needed,
// read and written by O_DIRECT in whole pages. Which pages are used, the allocator knows.
//
// A new file's name and blocks are durable before its first page is given out. A failed write or
// fdatasync is never retried: the kernel may have dropped the pages, so the whole disk is given up
// (the owner of this object does that).

import { assert } from "../base/assert.js";
import { hasCode, StorageError } from "../base/errors.js";
import { Semaphore, settleAll } from "../base/sync.js";
import { KIB, MIB } from "../base/units.js";
import type { CompletionHandler, Disk, FileId, HandlerId } from "../platform/disk.js";
import { ASD_PAGE_BYTES } from "../wire/generated/asd.js";
import { Allocator, EXTENT_PAGES, type Runs } from "./allocator.js";

/** Least pages of an extent file, unless the capacity ends before. */
const EXTENT_PAGES_MIN = (16 * MIB) / ASD_PAGE_BYTES;
/**
 * Fragments are written in pieces of this size, few at a time: a burst of megabytes in the disk's
 * queue would stand before the small write of a journal, or a read, that comes after it.
 */
const WRITE_BYTES_MAX = 256 * KIB;
const WRITES_AT_ONCE = 2;
/** More pieces than the applies that an ASD takes at once can have. */
const WRITES_WAITING_MAX = 2 ** 24;
const NAME = /^\d{4,}$/;

export class Extents {
  readonly #disk: Disk;
  readonly #folder: string;
  readonly #files: FileId[] = [];
  readonly allocator: Allocator;
  readonly #writing = new Semaphore(WRITES_AT_ONCE, WRITES_WAITING_MAX);
  /** Growing goes on: later growers wait for it. */
  #growing: Promise<boolean> | null = null;

  private constructor(disk: Disk, folder: string, allocator: Allocator) {
    this.#disk = disk;
    this.#folder = folder;
    this.allocator = allocator;
  }

  /** Opens all extent files of the folder; `pagesMax`: pages that may be used together. */
  static async open(disk: Disk, folder: string, pagesMax: number): Promise<Extents> {
    await disk.files.makeFolder(folder);
    const extents = new Extents(disk, folder, new Allocator(pagesMax));
    const names = (await disk.files.list(folder)).filter((name) => NAME.test(name));
    for (let number = 0; number < names.length; number++) {
      const path = `${folder}/${nameOf(number)}`;
      if (!names.includes(nameOf(number))) {
        throw new StorageError("OVS_CORRUPT", `the extent file ${path} is missing`);
      }
      await extents.#openFile(path, number === names.length - 1);
    }
    return extents;
  }

  async #openFile(path: string, isLast: boolean): Promise<void> {
    const file = await this.#disk.open(path, {
      create: false,
      exclusive: false,
      write: true,
      direct: true,
    });
    const size = await this.#disk.size(file);
    const pages = Math.min(Math.floor(size / ASD_PAGE_BYTES), EXTENT_PAGES);
    if (pages === 0) {
      // A crash between the making of the file and its growth: nothing was ever in it.
      await this.#disk.close(file);
      if (!isLast) throw new StorageError("OVS_CORRUPT", `the extent file ${path} is empty`);
      await this.#disk.files.remove(path);
      return;
    }
    this.#files.push(file);
    this.allocator.addFile(pages);
  }

  /**
   * Room for `pages` pages; grows by a file when needed. OVS_FULL in words when there is none.
   * `reserveBytes`: what the file system must keep free after growing.
   */
  async take(pages: number, reserveBytes: number): Promise<Runs> {
    for (;;) {
      const runs = this.allocator.take(pages);
      if (runs !== null) return runs;
      if (pages > this.allocator.freePages) break;
      this.#growing ??= this.#grow(reserveBytes).finally(() => (this.#growing = null));
      if (!(await this.#growing)) break;
    }
    const runs = this.allocator.takeScattered(pages);
    if (runs !== null) return runs;
    throw new StorageError(
      "OVS_FULL",
      `no room for ${pages * ASD_PAGE_BYTES} bytes: ${this.allocator.freePages} pages of ` +
        `${this.allocator.pagesMax} are free; delete something or give the disk more capacity`,
    );
  }

  /** Adds an extent file; false when the capacity or the file system allows none. */
  async #grow(reserveBytes: number): Promise<boolean> {
    const { allocator } = this;
    const wanted = Math.min(EXTENT_PAGES, allocator.pagesMax - allocator.filePages);
    const { freeBytes } = await this.#disk.files.space(this.#folder);
    const pages = Math.min(wanted, Math.floor((freeBytes - reserveBytes) / ASD_PAGE_BYTES));
    // What a nearly full file system has left is taken too, but not in crumbs.
    if (pages <= 0 || (pages < wanted && pages < EXTENT_PAGES_MIN)) return false;
    const bytes = pages * ASD_PAGE_BYTES;
    const path = `${this.#folder}/${nameOf(this.#files.length)}`;
    const file = await this.#disk.open(path, {
      create: true,
      exclusive: false,
      write: true,
      direct: true,
    });
    try {
      await this.#disk.allocateAsync(file, 0, bytes);
      await this.#disk.syncAsync(file);
      await this.#disk.files.syncFolder(this.#folder);
    } catch (error) {
      await this.#disk.close(file);
      await this.#disk.files.remove(path);
      if (hasCode(error, "OVS_FULL")) return false;
      throw error;
    }
    this.#files.push(file);
    allocator.addFile(pages);
    return true;
  }

  /** Writes `pieces` (arena offset, bytes; whole pages) over the runs, in order. */
  async write(runs: Runs, pieces: Uint32Array): Promise<void> {
    const writes: Array<Promise<void>> = [];
    let piece = 0;
    let done = 0;
    for (let i = 0; i < runs.length; i += 3) {
      let offset = runs[i + 1]! * ASD_PAGE_BYTES;
      let left = runs[i + 2]! * ASD_PAGE_BYTES;
      while (left > 0) {
        assert(piece < pieces.length, "the pieces fill the runs");
        const bytes = Math.min(left, pieces[piece + 1]! - done, WRITE_BYTES_MAX);
        writes.push(this.#write(this.#files[runs[i]!]!, offset, pieces[piece]! + done, bytes));
        offset += bytes;
        left -= bytes;
        done += bytes;
        if (done === pieces[piece + 1]) {
          piece += 2;
          done = 0;
        }
      }
    }
    assert(piece === pieces.length && done === 0, "the runs take all pieces");
    await settleAll(writes);
  }

  async #write(file: FileId, offset: number, arena: number, bytes: number): Promise<void> {
    await this.#writing.with(() => this.#disk.writeAsync(file, offset, arena, bytes));
  }

  /** fdatasync of the files with these numbers. */
  async sync(files: ReadonlySet<number>): Promise<void> {
    await settleAll([...files].map((file) => this.#disk.syncAsync(this.#files[file]!)));
  }

  /** Registers a handler of reads; see Disk.handler. */
  handler(handler: CompletionHandler): HandlerId {
    return this.#disk.handler(handler);
  }

  /** Stages one read of consecutive pages; those of a turn are told together. */
  read(
    handler: HandlerId,
    tag: number,
    file: number,
    page: number,
    arena: number,
    bytes: number,
  ): void {
    const offset = page * ASD_PAGE_BYTES;
    this.#disk.readTogether(handler, tag, this.#files[file]!, offset, arena, bytes);
  }

  /** Closes the files after what is in flight on them. */
  async close(): Promise<void> {
    await settleAll(this.#files.map((file) => this.#disk.close(file)));
    this.#files.length = 0;
  }
}

function nameOf(number: number): string {
  return String(number).padStart(4, "0");
}
