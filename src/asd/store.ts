// SPDX-License-Identifier: Apache-2.0
// One disk's store: keys and values, where values of at least 4 KiB lie in extent files and
// smaller ones in the index. What is acknowledged is durable; what is read was verified.
//
//   apply: verify CRCs ─┬─► extents (O_DIRECT) ─► group commit: fdatasync ─► index, synced ─► ok
//                       └─ small values, deletes, asserts ──────────────────┘
//
// Free space is not on disk: at start-up the index is scanned and all that it names is in use
// (allocator.ts), so a crash at any instant leaks nothing. Pages of deleted values are used again
// when the deletion is durable and no read that may know them is left (holds.ts).

import { assert } from "../base/assert.js";
import { ceilDiv, formatUuid } from "../base/bytes.js";
import { messageOf, StorageError } from "../base/errors.js";
import { settleAll } from "../base/sync.js";
import { GIB, MIB } from "../base/units.js";
import type { World } from "../platform/world.js";
import {
  ASD_KEY_BYTES_MAX,
  ASD_PAGE_BYTES,
  ASD_READ_PAGES_MAX,
  AsdPartStatus,
  type DiskIdentity,
} from "../wire/generated/asd.js";
import type { Runs } from "./allocator.js";
import { Entry, EntryCache } from "./cache.js";
import { Committer, type Totals } from "./commit.js";
import { Extents } from "./extents.js";
import { Holds } from "./holds.js";
import { type AsdPlace, openIdentity } from "./identity.js";
import { Index, inlineCrc, keyBytes, printable } from "./index.js";
import type { AsdStats, RangeReply, ScrubReply } from "./protocol.js";
import { ReadJob, Reads } from "./reads.js";
import { checkApply, type StoreApply, type StorePut, wrongPage } from "./request.js";

export type { StoreAssert } from "./commit.js";
export { ReadJob } from "./reads.js";
export type { StoreApply, StorePut } from "./request.js";

/** Pages whose checksums are verified in one go, between other work. */
const VERIFY_PAGES = 128;
const APPLIES_MAX = 4096;
const SPACE_CHECK_MS = 1000;
/** What the index may take of the file system by itself, before there is much in it. */
const INDEX_FILES_BYTES = 32 * MIB;
/** Keys that one call of scrub looks at: their names fit an answer, should all be bad. */
const SCRUB_KEYS = 128;
const LATENCY_WEIGHT = 1 / 16;
/** An average above this marks the disk as slow. */
const SLOW_MS = 500;
const SLOW_MEMORY_MS = 60_000;
const NEARLY_FULL = 0.95;
const NO_RUNS: Runs = new Uint32Array(0);

export interface StoreOptions {
  path: string;
  place: AsdPlace;
  /** Format the folder when it is empty. */
  format: boolean;
  /** Bytes that the folder may fill; 0: what the file system has. */
  capacityBytes: number;
  /** Bytes for index entries in memory. */
  cacheBytes: number;
  /** Bytes of arena for answers. */
  readBytes: number;
  /** Runs once when the disk has failed and the process must end. */
  onFatal: (error: unknown) => void;
}

export class AsdStore {
  readonly identity: DiskIdentity;
  readonly reads: Reads;
  readonly #world: World;
  readonly #options: StoreOptions;
  readonly #extents: Extents;
  readonly #index: Index;
  readonly #cache: EntryCache;
  readonly #holds: Holds;
  readonly #committer: Committer;
  readonly #totals: Totals = { keys: 0, indexBytes: 0, commits: 0 };
  readonly #capacityBytes: number;
  readonly #reserveBytes: number;
  readonly #lock: { release(): Promise<void> };
  #failure: StorageError | null = null;
  #applying = 0;
  #idle: Array<() => void> = [];
  #isClosed = false;
  #spaceCheckedMs = -SPACE_CHECK_MS;
  #isFileSystemFull = false;
  #applyLatencyMs = 0;
  #applies = 0;
  #putBytes = 0;
  #deletes = 0;
  #damagedKeys = 0;

  private constructor(
    world: World,
    options: StoreOptions,
    parts: {
      identity: DiskIdentity;
      lock: { release(): Promise<void> };
      extents: Extents;
      index: Index;
      capacityBytes: number;
      reserveBytes: number;
    },
  ) {
    this.#world = world;
    this.#options = options;
    this.identity = parts.identity;
    this.#lock = parts.lock;
    this.#extents = parts.extents;
    this.#index = parts.index;
    this.#capacityBytes = parts.capacityBytes;
    this.#reserveBytes = parts.reserveBytes;
    this.#cache = new EntryCache(options.cacheBytes);
    this.#holds = new Holds((runs) => this.#extents.allocator.free(runs));
    const shared = {
      extents: this.#extents,
      index: this.#index,
      cache: this.#cache,
      holds: this.#holds,
    };
    this.#committer = new Committer({
      ...shared,
      totals: this.#totals,
      onFatal: (error) => this.#fail(error),
    });
    const poolAt = world.arena.region(options.readBytes, "answers of the disk");
    this.reads = new Reads({ world, ...shared, poolAt, poolBytes: options.readBytes });
  }

  /**
   * Opens the folder, formats it when asked to. Refuses in words: OVS_BUSY (another process has
   * it), OVS_WRONG_IDENTITY, OVS_WRONG_VERSION, OVS_CORRUPT, OVS_INVALID.
   */
  static async open(world: World, options: StoreOptions): Promise<AsdStore> {
    const { files } = world.disk;
    const { path } = options;
    await files.makeFolder(path);
    const lock = await files.lock(path);
    // What was opened, last first: closed again when the rest cannot be.
    const opened: Array<{ close(): Promise<void> }> = [{ close: () => lock.release() }];
    try {
      const identity = await openIdentity(world, path, options.place, { format: options.format });
      const { totalBytes } = await files.space(path);
      const capacityBytes = options.capacityBytes === 0 ? totalBytes : options.capacityBytes;
      const reserveBytes = reserveOf(capacityBytes);
      const pagesMax = Math.floor((capacityBytes - reserveBytes) / ASD_PAGE_BYTES);
      if (pagesMax < 1) {
        throw new StorageError(
          "OVS_INVALID",
          `${capacityBytes} bytes are too few for a disk: give at least 32M`,
        );
      }
      const extents = await Extents.open(world.disk, `${path}/extents`, pagesMax);
      opened.unshift(extents);
      const isNew = (await files.stat(`${path}/index/CURRENT`)) === null;
      if (isNew && extents.allocator.files > 0) {
        throw new StorageError("OVS_CORRUPT", `the index of ${path} is gone: replace the disk`);
      }
      const kv = await world.kv.open(`${path}/index`, {
        create: true,
        cacheBytes: 32 * MIB,
        writeBufferBytes: 16 * MIB,
      });
      opened.unshift(kv);
      await files.syncFolder(path); // The names `extents` and `index`.
      const index = new Index(kv, world.codec);
      const store = new AsdStore(world, options, {
        identity,
        lock,
        extents,
        index,
        capacityBytes,
        reserveBytes,
      });
      await store.#scanIndex();
      return store;
    } catch (error) {
      for (const one of opened) await one.close();
      throw error;
    }
  }

  /** Everything that the index names is in use. */
  async #scanIndex(): Promise<void> {
    const { allocator } = this.#extents;
    await this.#index.scan((key, place) => {
      this.#totals.keys++;
      if (place !== "corrupt") this.#totals.indexBytes += place.indexBytes;
      if (place !== "corrupt" && allocator.claim(place.runs)) return;
      this.#damagedKeys++;
      this.#world.log.error("an index entry is damaged", { key: printable(key) });
    });
    if (allocator.disputedPages > 0) {
      this.#world.log.error("several keys name the same pages", { pages: allocator.disputedPages });
    }
  }

  /** Why the disk was given up (OVS_DISK_FAILED); null while it works. */
  get failure(): StorageError | null {
    return this.#failure;
  }

  /** Above 95 % of what may be stored. */
  get isNearlyFull(): boolean {
    return this.#isFileSystemFull || this.#usedBytes >= NEARLY_FULL * this.#storeBytesMax;
  }

  /** True while recent reads or changes took much longer than a healthy disk needs. */
  get isSlow(): boolean {
    const since = this.#world.clock.nowMs() - this.reads.lastMs;
    return since < SLOW_MEMORY_MS && Math.max(this.reads.latencyMs, this.#applyLatencyMs) > SLOW_MS;
  }

  get #storeBytesMax(): number {
    return this.#capacityBytes - this.#reserveBytes;
  }

  get #usedBytes(): number {
    return this.#extents.allocator.usedPages * ASD_PAGE_BYTES + this.#totals.indexBytes;
  }

  /**
   * All asserts hold, and all puts and deletes are done and durable; or nothing is.
   * OVS_CONFLICT: an assert does not hold. OVS_FULL: no room (deletes alone are always taken).
   * OVS_CORRUPT: a page is not what its checksum says. OVS_DISK_FAILED: the disk is given up.
   */
  async apply(request: StoreApply): Promise<void> {
    this.#checkOpen();
    const pages = checkApply(request);
    if (this.#applying >= APPLIES_MAX) {
      throw new StorageError("OVS_BUSY", `${APPLIES_MAX} applies wait for this disk`);
    }
    const startMs = this.#world.clock.nowMs();
    this.#applying++;
    try {
      if (request.puts.length > 0) await this.#checkRoom(pages, request);
      const puts = await this.#store(request.puts);
      await this.#committer.submit({ asserts: request.asserts, puts, deletes: request.deletes });
      this.#applies++;
      this.#putBytes += pages * ASD_PAGE_BYTES;
      this.#deletes += request.deletes.length;
    } finally {
      const tookMs = this.#world.clock.nowMs() - startMs;
      this.#applyLatencyMs += (tookMs - this.#applyLatencyMs) * LATENCY_WEIGHT;
      this.#applying--;
      if (this.#applying === 0) for (const resolve of this.#idle.splice(0)) resolve();
    }
  }

  /** Refuses puts when the capacity or the file system has no room beside the reserve. */
  async #checkRoom(pages: number, request: StoreApply): Promise<void> {
    let bytes = pages * ASD_PAGE_BYTES;
    for (const put of request.puts)
      bytes += (put.value?.byteLength ?? 4 * put.crcs.length) + 2 * put.key.length;
    if (this.#usedBytes + bytes > this.#storeBytesMax) {
      throw new StorageError(
        "OVS_FULL",
        `the disk is full: ${this.#usedBytes} of ${this.#storeBytesMax} bytes are used`,
      );
    }
    await this.lookForRoom();
    if (this.#isFileSystemFull) {
      throw new StorageError(
        "OVS_FULL",
        "the file system is full: what is left is kept for the index",
      );
    }
  }

  /**
   * Looks how much room the file system has, once a second at most. Also for those who only ask: a
   * disk that is called full gets no puts, at which it would notice that it is not any more.
   */
  async lookForRoom(): Promise<void> {
    const { clock, disk } = this.#world;
    if (clock.nowMs() - this.#spaceCheckedMs < SPACE_CHECK_MS) return;
    this.#spaceCheckedMs = clock.nowMs();
    const { freeBytes } = await disk.files.space(this.#options.path);
    this.#isFileSystemFull = freeBytes < Math.max(8 * MIB, this.#reserveBytes / 4);
  }

  /** Writes all values that need pages; gives entries whose pages nobody else knows. */
  async #store(puts: readonly StorePut[]): Promise<Array<{ key: string; entry: Entry }>> {
    const made: Array<{ key: string; entry: Entry }> = [];
    const results = await Promise.allSettled(puts.map((put) => this.#storeOne(put)));
    let failure: unknown = null;
    results.forEach((result, i) => {
      if (result.status === "fulfilled") made.push({ key: puts[i]!.key, entry: result.value });
      else failure ??= result.reason;
    });
    if (failure === null) return made;
    for (const { entry } of made) this.#extents.allocator.free(entry.runs);
    throw failure;
  }

  async #storeOne(put: StorePut): Promise<Entry> {
    if (put.value !== null) {
      if (inlineCrc(put.value) !== put.crcs[0]) throw wrongPage(put.key, 0);
      return new Entry(put.length, NO_RUNS, put.crcs.slice(), put.value.slice());
    }
    const runs = await this.#extents.take(put.crcs.length, this.#reserveBytes + INDEX_FILES_BYTES);
    const [write, verify] = await Promise.allSettled([
      this.#extents.write(runs, put.pieces!),
      this.#verifyPieces(put),
    ]);
    // Pages that could not be written stay out of use until the next start.
    if (write.status === "rejected") throw write.reason;
    if (verify.status === "rejected") {
      this.#extents.allocator.free(runs);
      throw verify.reason;
    }
    return new Entry(put.length, runs, put.crcs.slice(), null);
  }

  /** Verifies while the disk writes: in small pieces, so that others get their turn. */
  async #verifyPieces(put: StorePut): Promise<void> {
    const { clock, codec } = this.#world;
    let page = 0;
    for (let i = 0; i < put.pieces!.length; i += 2) {
      let arena = put.pieces![i]!;
      let left = put.pieces![i + 1]! / ASD_PAGE_BYTES;
      while (left > 0) {
        await new Promise<void>((resolve) => clock.immediate(resolve));
        const pages = Math.min(left, VERIFY_PAGES);
        const bad = codec.crc32cVerify(arena, pages, put.crcs, page);
        if (bad >= 0) throw wrongPage(put.key, page + bad);
        page += pages;
        arena += pages * ASD_PAGE_BYTES;
        left -= pages;
      }
    }
  }

  /** Small values of keys; null for missing ones. OVS_INVALID when one lies in the extents. */
  async getSmall(keys: readonly string[]): Promise<Array<Uint8Array | null>> {
    this.#checkOpen();
    const loaded = await this.#index.load(keys);
    return loaded.map((entry, i) => {
      if (entry === null) return null;
      const name = printable(keys[i]!);
      if (entry === "corrupt")
        throw new StorageError("OVS_CORRUPT", `the value of ${name} is damaged`);
      if (entry.inline === null)
        throw new StorageError("OVS_INVALID", `the value of ${name} is not small`);
      return entry.inline;
    });
  }

  /** Whether each key has a value, damaged or not, in the order of the keys. */
  async exists(keys: readonly string[]): Promise<boolean[]> {
    this.#checkOpen();
    return (await this.#index.places(keys)).map((place) => place !== null);
  }

  /** Keys in order with the lengths of their values. */
  async range(
    first: string | null,
    end: string | null,
    options: { limit: number; reverse: boolean },
  ): Promise<RangeReply> {
    this.#checkOpen();
    const found = await this.#index.range(first, end, options);
    return {
      keys: found.map(({ key }) => keyBytes(key)),
      lengths: found.map(({ length }) => length),
      more: found.length === options.limit,
    };
  }

  /** Reads and verifies, in the background, about `pagesMax` pages of the keys behind `after`. */
  async scrub(after: string | null, pagesMax: number): Promise<ScrubReply> {
    this.#checkOpen();
    // The smallest key behind `after` is `after` followed by a zero byte.
    const first = after === null || after.length === ASD_KEY_BYTES_MAX ? after : `${after}\0`;
    const range = await this.#index.range(first, null, { limit: SCRUB_KEYS, reverse: false });
    const found = range.filter(({ key }) => key !== after);
    const reply: ScrubReply = { bad: [], next: null, keys: 0, pages: 0 };
    for (const { key, length } of found) {
      if (reply.pages >= pagesMax) return reply;
      const pages = Math.max(1, ceilDiv(length, ASD_PAGE_BYTES));
      if (!(await this.#scrubKey(key, pages))) reply.bad.push(keyBytes(key));
      reply.keys++;
      reply.pages += pages;
      reply.next = keyBytes(key);
    }
    if (range.length < SCRUB_KEYS) reply.next = null;
    return reply;
  }

  async #scrubKey(key: string, pages: number): Promise<boolean> {
    for (let first = 0; first < pages; first += ASD_READ_PAGES_MAX / 16) {
      const job = new ReadJob();
      job.add(key, first, Math.min(pages - first, ASD_READ_PAGES_MAX / 16));
      job.isBackground = true;
      await this.read(job);
      const status = job.statuses[0]!;
      this.reads.release(job);
      // Deleted, or replaced by a shorter value, meanwhile: nothing to complain about.
      if (status === AsdPartStatus.missing || status === AsdPartStatus.outside) return true;
      if (status !== AsdPartStatus.ok) return false;
    }
    return true;
  }

  /** Reads a job's pages; its memory must be released by `reads.release`. For cold paths. */
  async read(job: ReadJob): Promise<void> {
    this.#checkOpen();
    await new Promise<void>((resolve) => {
      job.done = () => resolve();
      this.reads.start(job);
    });
  }

  /** Identity, room, state and counters since the start. */
  stats(): AsdStats {
    const usedBytes = this.#usedBytes;
    return {
      clusterUuid: formatUuid(this.identity.clusterUuid),
      diskUuid: formatUuid(this.identity.diskUuid),
      capacityBytes: this.#capacityBytes,
      usedBytes,
      freeBytes: Math.max(0, this.#storeBytesMax - usedBytes),
      indexBytes: this.#totals.indexBytes,
      keys: this.#totals.keys,
      full: this.isNearlyFull,
      slow: this.isSlow,
      failed: this.#failure?.message ?? null,
      reads: this.reads.reads,
      readBytes: this.reads.readPages * ASD_PAGE_BYTES,
      applies: this.#applies,
      putBytes: this.#putBytes,
      deletes: this.#deletes,
      commits: this.#totals.commits,
      corruptPages: this.reads.corruptPages,
      damagedKeys: this.#damagedKeys,
      disputedPages: this.#extents.allocator.disputedPages,
      readLatencyMs: this.reads.latencyMs,
      applyLatencyMs: this.#applyLatencyMs,
      cacheBytes: this.#cache.bytes,
      cacheHits: this.#cache.hits,
      cacheMisses: this.#cache.misses,
      queued: this.reads.queued + this.#applying,
    };
  }

  /** What lies in an extent file, in the order of its pages; `first`: page of the value. */
  async placesIn(
    file: number,
  ): Promise<Array<{ key: string; page: number; pages: number; first: number }>> {
    const places: Array<{ key: string; page: number; pages: number; first: number }> = [];
    await this.#index.scan((key, place) => {
      if (place === "corrupt") return;
      let first = 0;
      for (let i = 0; i < place.runs.length; i += 3) {
        const [page, pages] = [place.runs[i + 1]!, place.runs[i + 2]!];
        if (place.runs[i] === file) places.push({ key, page, pages, first });
        first += pages;
      }
    });
    return places.sort((a, b) => a.page - b.page);
  }

  /** Forgets cached index entries. */
  dropCache(): void {
    this.#cache.clear();
  }

  /** Pages in use, for tests of leaks. */
  get usedPages(): number {
    return this.#extents.allocator.usedPages;
  }

  /** Finishes what runs, takes nothing more. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#applying > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
    await this.#committer.idle();
    await this.reads.stop();
    assert(this.#failure !== null || this.#holds.readers === 0, "no read is left");
    await settleAll([this.#extents.close(), this.#index.close()]);
    await this.#lock.release();
  }

  #checkOpen(): void {
    if (this.#failure) throw this.#failure;
    if (this.#isClosed) throw new StorageError("OVS_CLOSED", "the disk is closed");
  }

  #fail(error: unknown): void {
    if (this.#failure) return;
    this.#failure = new StorageError(
      "OVS_DISK_FAILED",
      `the disk is given up: ${messageOf(error)}`,
      { cause: error },
    );
    this.#world.log.error("the disk is given up", { reason: messageOf(error) });
    this.#options.onFatal(error);
  }
}

/** Room that is kept free for the index, so that deletes always work. */
function reserveOf(capacityBytes: number): number {
  return Math.min(GIB, Math.max(16 * MIB, Math.floor(capacityBytes / 32)));
}
