// SPDX-License-Identifier: Apache-2.0
// The content of one simulated file: 4 KiB pages, holes, allocation, and what of all that would be
// left by a power loss.
//
//   page 7:  base (synced) ── version 1 ── version 2 ── version 3 = what is read now
//   sizes:   synced size   ── change 1  ── change 2  = the size now
//
// A sync makes the newest version that was acknowledged when it was asked for the base. At a power
// loss each sector of a page is that of the base or of any version; of the changes of size, holes
// and cuts the first few survive, in order, as a journal has them. A hole or a cut that survives
// takes with it what was before, one that does not takes what came after.

import { assert } from "../base/assert.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { Dice } from "./dice.js";
import type { LossChooser } from "./loss.js";
import type { Memory } from "./memory.js";
import { PageSet } from "./pageset.js";

const SECTOR_BYTES = 512;
const SECTORS = CLUSTER_BYTES / SECTOR_BYTES;
/** Versions of a page, and changes of size, that may be unsynced; of more the first are synced. */
const VERSIONS_MAX = 8;
const CHANGES_MAX = 64;
const POOL_PAGES_MAX = 4096;

/** One operation that changes a file: the number of its acknowledgement, Infinity before it. */
export interface ChangeRecord {
  completed: number;
}

interface Version {
  /** null: a hole. */
  bytes: Uint8Array | null;
  readonly record: ChangeRecord;
  /** Number of the change of size, hole or cut that made it; 0: a write. */
  readonly cut: number;
}

interface Dirty {
  base: Uint8Array | null;
  versions: Version[];
}

interface SizeChange {
  readonly serial: number;
  readonly sizeBytes: number;
  readonly record: ChangeRecord;
}

/** Memory of pages that nobody shows any more. */
export class PagePool {
  readonly #free: Uint8Array[] = [];
  readonly #memory: Memory;
  #slab = new ArrayBuffer(0);
  #used = 0;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** Gives a page of any content. */
  take(): Uint8Array {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#used === this.#slab.byteLength) {
      this.#slab = this.#memory.slab();
      this.#used = 0;
    }
    const page = new Uint8Array(this.#slab, this.#used, CLUSTER_BYTES);
    this.#used += CLUSTER_BYTES;
    return page;
  }

  /** Takes a page that nothing refers to. */
  give(page: Uint8Array | null): void {
    if (page !== null && this.#free.length < POOL_PAGES_MAX) this.#free.push(page);
  }
}

/** Content of a file; who opens and names it is the device's matter. */
export class FileContent {
  readonly #pool: PagePool;
  #pages = new Map<number, Uint8Array>();
  readonly #dirty = new Map<number, Dirty>();
  #allocated = new PageSet();
  #syncedAllocated = new PageSet();
  #allocationChanged = false;
  #sizeBytes = 0;
  #syncedSizeBytes = 0;
  #syncedSerial = 0;
  #changes: SizeChange[] = [];
  #serial = 0;
  #completions = 0;
  /** Pages that cannot be read until they are written. */
  #bad: Set<number> | null = null;

  constructor(pool: PagePool) {
    this.#pool = pool;
  }

  /** With what was not synced yet. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Whole pages that it occupies on the device, written or allocated. */
  get allocatedBytes(): number {
    return this.#allocated.count * CLUSTER_BYTES;
  }

  /** Pages that have content. */
  get storedPages(): number {
    return this.#pages.size;
  }

  /** A loss of power could take something of it. */
  get isDirty(): boolean {
    return this.#dirty.size > 0 || this.#changes.length > 0 || this.#allocationChanged;
  }

  /** Changes that were acknowledged until now: what a sync asked for now must cover. */
  get completions(): number {
    return this.#completions;
  }

  /** A change is acknowledged: syncs that are asked for from now on cover it. */
  complete(record: ChangeRecord): void {
    assert(record.completed === Infinity, "a change is acknowledged once");
    record.completed = ++this.#completions;
  }

  /** Bytes that writing or allocating the range would occupy. */
  missingBytes(offset: number, bytes: number): number {
    const first = Math.floor(offset / CLUSTER_BYTES);
    const end = Math.ceil((offset + bytes) / CLUSTER_BYTES);
    return (end - first - this.#allocated.within(first, end)) * CLUSTER_BYTES;
  }

  /** Borrows for the call. Returns the bytes before the end of the file. */
  read(offset: number, memory: Uint8Array, start: number, bytes: number): number {
    const count = Math.max(0, Math.min(bytes, this.#sizeBytes - offset));
    for (let done = 0; done < count; ) {
      const page = Math.floor((offset + done) / CLUSTER_BYTES);
      const skip = offset + done - page * CLUSTER_BYTES;
      const length = Math.min(CLUSTER_BYTES - skip, count - done);
      const content = this.#pages.get(page);
      const at = start + done;
      if (content === undefined) memory.fill(0, at, at + length);
      else if (length === CLUSTER_BYTES) memory.set(content, at);
      else memory.set(content.subarray(skip, skip + length), at);
      done += length;
    }
    return count;
  }

  /** Borrows for the call. */
  write(
    offset: number,
    memory: Uint8Array,
    start: number,
    bytes: number,
    record: ChangeRecord,
  ): void {
    for (let done = 0; done < bytes; ) {
      const page = Math.floor((offset + done) / CLUSTER_BYTES);
      const skip = offset + done - page * CLUSTER_BYTES;
      const length = Math.min(CLUSTER_BYTES - skip, bytes - done);
      const content = this.#pageFor(page, length, record);
      content.set(memory.subarray(start + done, start + done + length), skip);
      this.#bad?.delete(page);
      done += length;
    }
    this.#occupy(offset, bytes);
    if (offset + bytes > this.#sizeBytes) this.#change(offset + bytes, record);
  }

  /** The file grows to the end of the range. */
  allocate(offset: number, bytes: number, record: ChangeRecord): void {
    this.#occupy(offset, bytes);
    if (offset + bytes > this.#sizeBytes) this.#change(offset + bytes, record);
  }

  /** Zeroes the range and frees its whole pages. */
  punch(offset: number, bytes: number, record: ChangeRecord): void {
    const serial = this.#change(this.#sizeBytes, record);
    this.#clear(offset, offset + bytes, record, serial);
  }

  /** A new end. Pages beyond it are freed, and read as zeroes when the file grows again. */
  truncate(sizeBytes: number, record: ChangeRecord): void {
    const before = this.#sizeBytes;
    const serial = this.#change(sizeBytes, record);
    if (sizeBytes < before) this.#clear(sizeBytes, Infinity, record, serial);
  }

  /** Makes durable what had been acknowledged when `completions` was taken; `all`: all there is. */
  sync(completions: number, all: boolean): void {
    const limit = all ? Infinity : completions;
    for (const [page, dirty] of this.#dirty) {
      const { versions } = dirty;
      let last = versions.length - 1;
      while (last >= 0 && versions[last]!.record.completed > limit) last--;
      if (last < 0) continue;
      this.#pool.give(dirty.base);
      for (let i = 0; i < last; i++) this.#pool.give(versions[i]!.bytes);
      dirty.base = versions[last]!.bytes;
      versions.splice(0, last + 1);
      if (versions.length === 0) this.#dirty.delete(page);
    }
    const changes = this.#changes;
    let last = changes.length - 1;
    while (last >= 0 && changes[last]!.record.completed > limit) last--;
    if (last >= 0) this.#settle(changes[last]!);
    changes.splice(0, last + 1);
    if (!this.#allocationChanged || changes.length > 0) return;
    this.#syncedAllocated = this.#allocated.clone();
    this.#allocationChanged = false;
  }

  /** Pages and changes of size that a power loss would ask about: who made each. */
  unsynced(tell: (page: number, records: ChangeRecord[]) => void): ChangeRecord[] {
    for (const [page, { versions }] of this.#dirty) {
      tell(
        page,
        versions.map(({ record }) => record),
      );
    }
    return this.#changes.map(({ record }) => record);
  }

  /** The power fails: only what is durable and what `chooser` keeps is left. */
  lose(path: string, chooser: LossChooser): void {
    if (!this.isDirty) return;
    const count = this.#changes.length;
    const kept = count === 0 ? 0 : chooser.sizes(path, count);
    const last = kept > 0 ? this.#changes[kept - 1]! : null;
    const cut = last?.serial ?? this.#syncedSerial;
    const isWhole = kept === count;
    for (const [page, dirty] of this.#dirty) this.#losePage(path, page, dirty, { cut, chooser });
    this.#dirty.clear();
    this.#sizeBytes = last?.sizeBytes ?? this.#syncedSizeBytes;
    this.#syncedSizeBytes = this.#sizeBytes;
    this.#syncedSerial = cut;
    this.#changes = [];
    if (!isWhole) this.#allocated = this.#syncedAllocated;
    this.#dropBehind(this.#sizeBytes);
    for (const page of this.#pages.keys()) this.#allocated.add(page, page + 1);
    this.#syncedAllocated = this.#allocated.clone();
    this.#allocationChanged = false;
  }

  /** Flips a bit of a stored page; null when there is none, else its place. */
  rot(dice: Dice): number | null {
    if (this.#pages.size === 0) return null;
    let left = dice.below(this.#pages.size);
    for (const [page, content] of this.#pages) {
      if (left-- > 0) continue;
      const at = dice.below(CLUSTER_BYTES);
      content[at]! ^= 1 << dice.below(8);
      return page * CLUSTER_BYTES + at;
    }
    return null;
  }

  /** The pages of the range cannot be read any more, until they are written. */
  spoil(offset: number, bytes: number): void {
    this.#bad ??= new Set();
    const end = Math.ceil((offset + bytes) / CLUSTER_BYTES);
    for (let page = Math.floor(offset / CLUSTER_BYTES); page < end; page++) this.#bad.add(page);
  }

  /** True when a page of the range cannot be read. */
  isBad(offset: number, bytes: number): boolean {
    if (this.#bad === null || this.#bad.size === 0) return false;
    const end = Math.ceil((offset + bytes) / CLUSTER_BYTES);
    for (let page = Math.floor(offset / CLUSTER_BYTES); page < end; page++) {
      if (this.#bad.has(page)) return true;
    }
    return false;
  }

  #occupy(offset: number, bytes: number): void {
    const first = Math.floor(offset / CLUSTER_BYTES);
    const fresh = this.#allocated.add(first, Math.ceil((offset + bytes) / CLUSTER_BYTES));
    if (fresh > 0) this.#allocationChanged = true;
  }

  #change(sizeBytes: number, record: ChangeRecord): number {
    const serial = ++this.#serial;
    this.#sizeBytes = sizeBytes;
    this.#changes.push({ serial, sizeBytes, record });
    // The journal is written by itself.
    if (this.#changes.length > CHANGES_MAX) this.#settle(this.#changes.shift()!);
    return serial;
  }

  #settle(change: SizeChange): void {
    this.#syncedSizeBytes = change.sizeBytes;
    this.#syncedSerial = change.serial;
  }

  /** The page that a write of so many bytes fills: its own of before, or a new version. */
  #pageFor(page: number, bytes: number, record: ChangeRecord): Uint8Array {
    const last = this.#dirty.get(page)?.versions.at(-1);
    if (last?.record === record && last.bytes !== null) return last.bytes;
    const content = this.#pool.take();
    if (bytes < CLUSTER_BYTES) this.#copyPage(page, content);
    this.#push(page, { bytes: content, record, cut: 0 });
    return content;
  }

  #copyPage(page: number, target: Uint8Array): void {
    const content = this.#pages.get(page);
    if (content === undefined) target.fill(0);
    else target.set(content);
  }

  #push(page: number, version: Version): void {
    let dirty = this.#dirty.get(page);
    if (dirty === undefined) {
      dirty = { base: this.#pages.get(page) ?? null, versions: [] };
      this.#dirty.set(page, dirty);
    }
    const { versions } = dirty;
    versions.push(version);
    if (version.bytes === null) this.#pages.delete(page);
    else this.#pages.set(page, version.bytes);
    if (versions.length <= VERSIONS_MAX || versions[0]!.cut > 0) return;
    // The disk writes back by itself.
    this.#pool.give(dirty.base);
    dirty.base = versions.shift()!.bytes;
  }

  /** Zeroes [offset, end): whole pages become holes, parts of pages zeroes. */
  #clear(offset: number, end: number, record: ChangeRecord, cut: number): void {
    const first = Math.ceil(offset / CLUSTER_BYTES);
    const last = Math.floor(end / CLUSTER_BYTES);
    if (first > last) {
      this.#zeroPart(last, offset - last * CLUSTER_BYTES, end - last * CLUSTER_BYTES, record, cut);
      return;
    }
    const before = offset - (first - 1) * CLUSTER_BYTES;
    if (before < CLUSTER_BYTES) this.#zeroPart(first - 1, before, CLUSTER_BYTES, record, cut);
    if (end < Infinity) this.#zeroPart(last, 0, end - last * CLUSTER_BYTES, record, cut);
    if (last - first < this.#pages.size) {
      for (let page = first; page < last; page++) this.#hole(page, record, cut);
    } else {
      for (const page of [...this.#pages.keys()]) {
        if (page >= first && page < last) this.#hole(page, record, cut);
      }
    }
    if (this.#allocated.remove(first, last) > 0) this.#allocationChanged = true;
  }

  #hole(page: number, record: ChangeRecord, cut: number): void {
    if (this.#pages.has(page)) this.#push(page, { bytes: null, record, cut });
  }

  #zeroPart(page: number, from: number, to: number, record: ChangeRecord, cut: number): void {
    if (from >= to || !this.#pages.has(page)) return;
    const content = this.#pool.take();
    this.#copyPage(page, content);
    content.fill(0, from, to);
    this.#push(page, { bytes: content, record, cut });
  }

  #losePage(
    path: string,
    page: number,
    dirty: Dirty,
    how: { cut: number; chooser: LossChooser },
  ): void {
    // What may be found: from the last hole that survives to before the first that does not.
    let first = -1;
    let end = 0;
    for (; end < dirty.versions.length; end++) {
      const version = dirty.versions[end]!;
      if (version.cut > how.cut) break;
      if (version.cut > 0) first = end;
    }
    const contents: Array<Uint8Array | null> = first < 0 ? [dirty.base] : [];
    for (let i = Math.max(first, 0); i < end; i++) contents.push(dirty.versions[i]!.bytes);
    const content = new Uint8Array(CLUSTER_BYTES);
    let isHole = true;
    for (let sector = 0; sector < SECTORS; sector++) {
      const count = contents.length - 1;
      const pick = count === 0 ? 0 : how.chooser.sector(path, page, sector, count);
      assert(pick >= 0 && pick <= count, "one of the versions is chosen");
      const source = contents[pick] ?? null;
      if (source === null) continue;
      isHole = false;
      const at = sector * SECTOR_BYTES;
      content.set(source.subarray(at, at + SECTOR_BYTES), at);
    }
    if (isHole) this.#pages.delete(page);
    else this.#pages.set(page, content);
  }

  /** What lies behind the end of the file is gone; it reads zeroes when the file grows. */
  #dropBehind(sizeBytes: number): void {
    const end = Math.ceil(sizeBytes / CLUSTER_BYTES);
    for (const page of [...this.#pages.keys()]) if (page >= end) this.#pages.delete(page);
    const rest = sizeBytes % CLUSTER_BYTES;
    if (rest > 0) this.#pages.get(end - 1)?.fill(0, rest);
  }
}
