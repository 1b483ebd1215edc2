// SPDX-License-Identifier: Apache-2.0
// Reads of pages: many parts a request, all staged in one turn, verified against the writer's
// CRCs, given back as one run of arena memory. Nothing is copied, and per part nothing is made but
// its key's text.
//
//   start ─► (room in the pool) ─► look up: cache, else index ─► disk reads ─► verify ─► done
//
// Reads of clients go first: background ones are begun only when no other waits, and a few at a
// time, but each at the latest after BACKGROUND_WAIT_MS, so that they never starve.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { ArenaPool } from "../platform/arena.js";
import type { HandlerId } from "../platform/disk.js";
import { FlushStage } from "../platform/turn.js";
import type { World } from "../platform/world.js";
import { TurnClock } from "../rpc/turnclock.js";
import {
  ASD_PAGE_BYTES,
  ASD_PARTS_MAX,
  ASD_READ_PAGES_MAX,
  AsdPartStatus,
} from "../wire/generated/asd.js";
import type { Entry, EntryCache } from "./cache.js";
import type { Extents } from "./extents.js";
import type { Holds } from "./holds.js";
import { type Index, type Loaded, printable } from "./index.js";

const JOBS_WAITING_MAX = 8192;
const BACKGROUND_RUNNING_MAX = 2;
const BACKGROUND_WAIT_MS = 200;
const LATENCY_WEIGHT = 1 / 16;

/** One request. Pooled by its owner; its parts are filled before `start`. */
export class ReadJob {
  count = 0;
  pagesTotal = 0;
  isBackground = false;
  readonly keys: string[] = [];
  first = new Uint32Array(16);
  pages = new Uint32Array(16);
  /** Page of the answer where the part begins. */
  at = new Uint32Array(16);
  statuses = new Uint8Array(16);
  /** CRC-32C of each page of the answer; 0 for those of failed parts. */
  crcs = new Uint32Array(64);
  readonly entries: Array<Loaded | undefined> = [];
  /** Arena memory of the answer. Gives: `Reads.release(job)` when it is sent. */
  arena = 0;
  /** Runs once, inside a turn or soon after; set by the owner. */
  done: (job: ReadJob) => void = () => {};
  /** The asker has given up: the job need not be begun. `dropped` tells of it instead of `done`. */
  isStale(): boolean {
    return false;
  }

  /** Runs instead of `done` when a job was stale. */
  dropped(): void {}

  // Of Reads.
  pending = 0;
  generation = 0;
  startedMs = 0;
  waitingSinceMs = 0;

  /** For the next request, when the memory is released. What the lists hold means nothing then. */
  clear(): void {
    this.count = 0;
    this.pagesTotal = 0;
    this.isBackground = false;
    this.arena = 0;
  }

  /** Adds pages [first, first + pages) of a key. OVS_INVALID when the request is too big. */
  add(key: string, first: number, pages: number): void {
    if (
      pages === 0 ||
      this.pagesTotal + pages > ASD_READ_PAGES_MAX ||
      this.count >= ASD_PARTS_MAX
    ) {
      throw new StorageError(
        "OVS_INVALID",
        `a read has 1 to ${ASD_PARTS_MAX} parts of at least a page, ${ASD_READ_PAGES_MAX} together`,
      );
    }
    if (this.count === this.first.length) this.#grow();
    this.keys[this.count] = key;
    this.entries[this.count] = undefined;
    this.first[this.count] = first;
    this.pages[this.count] = pages;
    this.at[this.count] = this.pagesTotal;
    this.count++;
    this.pagesTotal += pages;
  }

  #grow(): void {
    const size = 2 * this.first.length;
    const wider = (list: Uint32Array) => {
      const copy = new Uint32Array(size);
      copy.set(list);
      return copy;
    };
    this.first = wider(this.first);
    this.pages = wider(this.pages);
    this.at = wider(this.at);
    this.statuses = new Uint8Array(size);
  }
}

/** Serves reads of one disk from its extents; bounded by its region of the arena. */
export class Reads {
  readonly #world: World;
  readonly #clock: TurnClock;
  readonly #extents: Extents;
  readonly #index: Index;
  readonly #cache: EntryCache;
  readonly #holds: Holds;
  readonly #pool: ArenaPool;
  readonly #handler: HandlerId;
  readonly #detach: () => void;
  readonly #waiting: ReadJob[] = [];
  readonly #background: ReadJob[] = [];
  /** Jobs that need the index; asked for together at the end of the turn. */
  #missing: ReadJob[] = [];
  // One operation on the ring each: its job, part and expected bytes.
  readonly #opJob: Array<ReadJob | null>;
  readonly #opPart: Uint16Array;
  readonly #opBytes: Uint32Array;
  readonly #opFree: Uint32Array;
  #opFreeCount: number;
  #running = 0;
  #backgroundRunning = 0;
  #idle: Array<() => void> = [];
  reads = 0;
  readPages = 0;
  corruptPages = 0;
  failedParts = 0;
  latencyMs = 0;
  lastMs = 0;

  /** `poolAt`, `poolBytes`: the arena region that answers lie in. */
  constructor(parts: {
    world: World;
    extents: Extents;
    index: Index;
    cache: EntryCache;
    holds: Holds;
    poolAt: number;
    poolBytes: number;
  }) {
    this.#world = parts.world;
    this.#clock = new TurnClock(parts.world.clock, parts.world.turn);
    this.#extents = parts.extents;
    this.#index = parts.index;
    this.#cache = parts.cache;
    this.#holds = parts.holds;
    assert(
      parts.poolBytes >= ASD_READ_PAGES_MAX * ASD_PAGE_BYTES,
      "the biggest read fits the pool",
    );
    this.#pool = new ArenaPool(parts.poolAt, parts.poolBytes);
    // Every operation reads a page of the pool at least: there are never more.
    const ops = parts.poolBytes / ASD_PAGE_BYTES;
    this.#opJob = new Array<ReadJob | null>(ops).fill(null);
    this.#opPart = new Uint16Array(ops);
    this.#opBytes = new Uint32Array(ops);
    this.#opFree = Uint32Array.from({ length: ops }, (_, i) => ops - 1 - i);
    this.#opFreeCount = ops;
    this.#handler = this.#extents.handler((tag, result) => this.#onRead(tag, result));
    this.#detach = this.#world.turn.atEnd(FlushStage.Read, () => this.#loadMissing());
  }

  /** Jobs that wait to be begun, of both priorities. */
  get queued(): number {
    return this.#waiting.length + this.#background.length;
  }

  /** Jobs that were begun and are not done. */
  get running(): number {
    return this.#running;
  }

  /** Takes the job until it is done. OVS_BUSY when too many wait. */
  start(job: ReadJob): void {
    assert(job.count > 0, "a read has parts");
    if (this.queued >= JOBS_WAITING_MAX) {
      throw new StorageError("OVS_BUSY", `${JOBS_WAITING_MAX} reads wait for this disk`);
    }
    job.waitingSinceMs = this.#clock.nowMs();
    (job.isBackground ? this.#background : this.#waiting).push(job);
    this.#beginNext();
    this.#world.turn.request();
  }

  /** The answer's memory is free again. */
  release(job: ReadJob): void {
    assert(job.arena !== 0, "the job has memory");
    this.#pool.give(job.arena);
    job.arena = 0;
    this.#beginNext();
    this.#tellIdle();
  }

  /** Resolves when nothing runs; the caller starts no more. */
  async stop(): Promise<void> {
    if (this.#running > 0 || this.queued > 0) {
      await new Promise<void>((resolve) => this.#idle.push(resolve));
    }
    this.#detach();
  }

  #beginNext(): void {
    while (this.#waiting.length > 0 && this.#tryBegin(this.#waiting));
    while (this.#background.length > 0 && this.#mayBegin(this.#background[0]!)) {
      if (!this.#tryBegin(this.#background)) return;
    }
  }

  /** Begins or drops the first job of a queue; false when there is no memory for it. */
  #tryBegin(queue: ReadJob[]): boolean {
    const job = queue[0]!;
    const isStale = job.isStale();
    if (!isStale) job.arena = this.#pool.tryTake(job.pagesTotal * ASD_PAGE_BYTES);
    if (!isStale && job.arena === 0) return false;
    queue.shift();
    if (isStale) job.dropped();
    else this.#begin(job);
    return true;
  }

  #mayBegin(job: ReadJob): boolean {
    if (this.#backgroundRunning >= BACKGROUND_RUNNING_MAX) return false;
    const isOld = this.#clock.nowMs() - job.waitingSinceMs >= BACKGROUND_WAIT_MS;
    return isOld || (this.#waiting.length === 0 && this.#running === this.#backgroundRunning);
  }

  #begin(job: ReadJob): void {
    job.startedMs = this.#clock.nowMs();
    job.generation = this.#holds.enter();
    this.#running++;
    if (job.isBackground) this.#backgroundRunning++;
    let isComplete = true;
    for (let part = 0; part < job.count; part++) {
      const entry = this.#cache.get(job.keys[part]!);
      job.entries[part] = entry;
      if (entry === undefined) isComplete = false;
    }
    if (isComplete) this.#issue(job);
    else {
      this.#missing.push(job);
      this.#world.turn.request();
    }
  }

  #loadMissing(): void {
    if (this.#missing.length === 0) return;
    const jobs = this.#missing;
    this.#missing = [];
    void this.#load(jobs);
  }

  async #load(jobs: ReadJob[]): Promise<void> {
    const keys = new Set<string>();
    for (const job of jobs) {
      for (let part = 0; part < job.count; part++) {
        if (job.entries[part] === undefined) keys.add(job.keys[part]!);
      }
    }
    const names = [...keys];
    const { changes } = this.#index;
    let loaded: Loaded[];
    try {
      loaded = await this.#index.load(names);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      loaded = names.map(() => "corrupt"); // The index cannot be read: no part can be answered.
    }
    const byKey = new Map(names.map((key, i) => [key, loaded[i]!]));
    this.#world.turn.begin();
    for (const [key, entry] of byKey) {
      const isEntry = entry !== null && entry !== "corrupt";
      // Had a commit come in between, the entry might be one that is deleted by now.
      if (isEntry && changes === this.#index.changes) this.#cache.put(key, entry);
    }
    for (const job of jobs) {
      for (let part = 0; part < job.count; part++) {
        job.entries[part] ??= byKey.get(job.keys[part]!) ?? null;
      }
      this.#issue(job);
    }
    this.#world.turn.end();
  }

  /** Stages the disk reads of a job whose entries are known. */
  #issue(job: ReadJob): void {
    if (job.crcs.length < job.pagesTotal) job.crcs = new Uint32Array(2 * job.pagesTotal);
    job.pending = 1; // Ours: so that it does not end before all is staged.
    for (let part = 0; part < job.count; part++) {
      const entry = job.entries[part]!;
      job.statuses[part] = this.#statusOf(job, part, entry);
      if (job.statuses[part] !== AsdPartStatus.ok) continue;
      if ((entry as Entry).inline) this.#copyInline(job, part, entry as Entry);
      else this.#readPart(job, part, entry as Entry);
    }
    this.#settleOne(job);
  }

  #statusOf(job: ReadJob, part: number, entry: Loaded): AsdPartStatus {
    if (entry === null) return AsdPartStatus.missing;
    if (entry === "corrupt") return AsdPartStatus.corrupt;
    const end = job.first[part]! + job.pages[part]!;
    return end > entry.pages ? AsdPartStatus.outside : AsdPartStatus.ok;
  }

  #copyInline(job: ReadJob, part: number, entry: Entry): void {
    const at = job.arena + job.at[part]! * ASD_PAGE_BYTES;
    const { bytes } = this.#world.arena;
    bytes.set(entry.inline!, at);
    bytes.fill(0, at + entry.inline!.byteLength, at + ASD_PAGE_BYTES);
  }

  #readPart(job: ReadJob, part: number, entry: Entry): void {
    let skip = job.first[part]!;
    let left = job.pages[part]!;
    let arena = job.arena + job.at[part]! * ASD_PAGE_BYTES;
    const { runs } = entry;
    for (let i = 0; left > 0; i += 3) {
      assert(i < runs.length, "the runs of a value have all its pages");
      const run = runs[i + 2]!;
      if (skip >= run) {
        skip -= run;
        continue;
      }
      const pages = Math.min(run - skip, left);
      this.#readRun(job, part, { file: runs[i]!, page: runs[i + 1]! + skip, pages, arena });
      arena += pages * ASD_PAGE_BYTES;
      left -= pages;
      skip = 0;
    }
  }

  #readRun(
    job: ReadJob,
    part: number,
    run: { file: number; page: number; pages: number; arena: number },
  ): void {
    if (run.file >= this.#extents.allocator.files) {
      job.statuses[part] = AsdPartStatus.failed; // The file was lost.
      return;
    }
    assert(this.#opFreeCount > 0, "there are as many operations as pages in the pool");
    const tag = this.#opFree[--this.#opFreeCount]!;
    const bytes = run.pages * ASD_PAGE_BYTES;
    this.#opJob[tag] = job;
    this.#opPart[tag] = part;
    this.#opBytes[tag] = bytes;
    job.pending++;
    this.#extents.read(this.#handler, tag, run.file, run.page, run.arena, bytes);
  }

  #onRead(tag: number, result: number): void {
    const job = this.#opJob[tag]!;
    const part = this.#opPart[tag]!;
    this.#opJob[tag] = null;
    this.#opFree[this.#opFreeCount++] = tag;
    if (result !== this.#opBytes[tag]) job.statuses[part] = AsdPartStatus.failed;
    this.#settleOne(job);
  }

  #settleOne(job: ReadJob): void {
    if (--job.pending > 0) return;
    this.#holds.leave(job.generation);
    if (!this.#verifyWhole(job)) {
      for (let part = 0; part < job.count; part++) this.#verify(job, part);
    }
    this.reads++;
    this.readPages += job.pagesTotal;
    this.lastMs = this.#clock.nowMs();
    this.latencyMs += (this.lastMs - job.startedMs - this.latencyMs) * LATENCY_WEIGHT;
    this.#running--;
    if (job.isBackground) this.#backgroundRunning--;
    job.done(job);
    this.#beginNext();
    this.#tellIdle();
  }

  #tellIdle(): void {
    if (this.#idle.length === 0 || this.#running > 0 || this.queued > 0) return;
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** All parts in one call, which is nearly always enough; false: each must be looked at. */
  #verifyWhole(job: ReadJob): boolean {
    const { count, crcs } = job;
    for (let part = 0; part < count; part++) {
      if (job.statuses[part] !== AsdPartStatus.ok) return false;
      const expected = (job.entries[part] as Entry).crcs;
      const [at, first, pages] = [job.at[part]!, job.first[part]!, job.pages[part]!];
      for (let i = 0; i < pages; i++) crcs[at + i] = expected[first + i]!;
    }
    return this.#world.codec.crc32cVerify(job.arena, job.pagesTotal, crcs, 0) < 0;
  }

  /** Checks a part's pages, gives their CRCs; a part that failed is zeroes. */
  #verify(job: ReadJob, part: number): void {
    const [at, pages, first] = [job.at[part]!, job.pages[part]!, job.first[part]!];
    const arena = job.arena + at * ASD_PAGE_BYTES;
    if (job.statuses[part] === AsdPartStatus.ok) {
      const { crcs } = job.entries[part] as Entry;
      if (this.#world.codec.crc32cVerify(arena, pages, crcs, first) < 0) {
        for (let i = 0; i < pages; i++) job.crcs[at + i] = crcs[first + i]!;
        return;
      }
      job.statuses[part] = AsdPartStatus.corrupt;
      this.corruptPages++;
      this.#world.log.warn("a page is not what was written", { key: printable(job.keys[part]!) });
    }
    if (job.statuses[part] === AsdPartStatus.failed) this.failedParts++;
    job.crcs.fill(0, at, at + pages);
    this.#world.arena.bytes.fill(0, arena, arena + pages * ASD_PAGE_BYTES);
  }
}
