// SPDX-License-Identifier: Apache-2.0
// Reads of all volumes of a thread. A job is a run of clusters and where to put them: a client's
// request (job = slot) or the old content of a cluster that is written partly (jobs behind the
// slots). Each cluster is looked up in this order, and the job is done when all have come:
//
//   dirty map ─► journal │ map page ─► zero │ memory cache │ disk cache │ backend, batched
//
// Every cluster is checked against the CRC that dirty map or map entry state, whatever it came
// from, before the job is done; a wrong one is fetched again, elsewhere if possible, and never
// served. Nothing but reads from the backend makes objects or promises.

import { assert } from "../base/assert.js";
import type { ErrorKind } from "../base/errors.js";
import { messageOf } from "../base/errors.js";
import { CLUSTER_BYTES } from "../base/units.js";
import { SLOT_CLUSTERS_MAX } from "../nbd/target.js";
import type { HandlerId } from "../platform/disk.js";
import type { World } from "../platform/world.js";
import { BackendReads } from "./backendreads.js";
import { blockOf, Found, segmentSlotOf } from "./dirty.js";
import type { DiskCache } from "./diskcache.js";
import { PAGE_ENTRIES, SCO_ZERO } from "./page.js";
import type { PageCache } from "./pagecache.js";
import type { MemoryCache } from "./readcache.js";
import { Failure, failureOf, kindOf, type ReadSource } from "./readsource.js";
import type { Segment } from "./segment.js";
import { SlotQueue } from "./slots.js";

/** Jobs for the old content of partly written clusters. */
export const INTERNAL_JOBS = 128;
/** Disk reads in flight; jobs beyond wait. */
const OPERATIONS_MAX = 2048;
/** Clusters of a read that counts as a sequential one. */
const LONG_CLUSTERS = 32;
const ATTEMPTS_MAX = 4;
const RETRY_FIRST_MS = 20;
const RETRY_LAST_MS = 1000;
const TWO_32 = 2 ** 32;

const Source = { Zero: 0, Journal: 1, Memory: 2, Disk: 3, Backend: 4 } as const;

export interface ReaderParts {
  world: World;
  slots: number;
  pages: PageCache;
  memory: MemoryCache;
  disk: DiskCache | null;
  /** How long a read waits for a backend that does not answer, before it fails. */
  patienceMs: number;
}

export class Reader {
  readonly #world: World;
  readonly #pages: PageCache;
  readonly #memory: MemoryCache;
  readonly #cache: DiskCache | null;
  readonly #patienceMs: number;
  readonly #slots: number;
  readonly #handler: HandlerId;
  readonly #zeroCrc: number;

  // Per job.
  readonly #source: Array<ReadSource | null>;
  readonly #first: Float64Array;
  readonly #count: Uint32Array;
  readonly #base: Uint32Array;
  readonly #next: Uint32Array;
  readonly #pending: Uint32Array;
  readonly #failure: Uint8Array;
  readonly #attempt: Uint8Array;
  readonly #startedMs: Float64Array;
  readonly #active: Uint8Array;
  readonly #freeJobs: SlotQueue;

  // Per cluster of a job: job × SLOT_CLUSTERS_MAX + i. A disk read's tag is that of its first.
  readonly #expected: Uint32Array;
  readonly #from: Uint8Array;
  readonly #scoIds: Float64Array;
  readonly #indexes: Uint32Array;
  readonly #segments: Array<Segment | null>;
  readonly #bytes: Uint32Array;

  readonly #starved: SlotQueue;
  #operations = 0;
  readonly #backend: BackendReads;

  constructor(parts: ReaderParts) {
    const jobs = parts.slots + INTERNAL_JOBS;
    const clusters = jobs * SLOT_CLUSTERS_MAX;
    this.#world = parts.world;
    this.#pages = parts.pages;
    this.#memory = parts.memory;
    this.#cache = parts.disk;
    this.#patienceMs = parts.patienceMs;
    this.#slots = parts.slots;
    this.#source = new Array<ReadSource | null>(jobs).fill(null);
    this.#first = new Float64Array(jobs);
    this.#count = new Uint32Array(jobs);
    this.#base = new Uint32Array(jobs);
    this.#next = new Uint32Array(jobs);
    this.#pending = new Uint32Array(jobs);
    this.#failure = new Uint8Array(jobs);
    this.#attempt = new Uint8Array(jobs);
    this.#startedMs = new Float64Array(jobs);
    this.#active = new Uint8Array(jobs);
    this.#freeJobs = new SlotQueue(INTERNAL_JOBS);
    for (let i = 0; i < INTERNAL_JOBS; i++) this.#freeJobs.push(parts.slots + i);
    this.#expected = new Uint32Array(clusters);
    this.#from = new Uint8Array(clusters);
    this.#scoIds = new Float64Array(clusters);
    this.#indexes = new Uint32Array(clusters);
    this.#segments = new Array<Segment | null>(clusters).fill(null);
    this.#bytes = new Uint32Array(clusters);
    this.#starved = new SlotQueue(jobs);
    this.#backend = new BackendReads(parts.world, this.#attempt, (job, failure) =>
      this.#onBackend(job, failure),
    );
    this.#handler = parts.world.disk.handler((tag, result) => this.#onDisk(tag, result));
    this.#zeroCrc = parts.world.codec.crc32cOf(new Uint8Array(CLUSTER_BYTES), 0);
  }

  /** How often `takeInternal` may be called now. */
  get freeInternalJobs(): number {
    return this.#freeJobs.count;
  }

  /** Reads `count` clusters from `first` on to arena offset `base`, for the request in `slot`. */
  start(source: ReadSource, slot: number, first: number, count: number, base: number): void {
    assert(slot < this.#slots, "a client's job is its slot");
    this.#begin(source, slot, first, count, base);
  }

  /** Takes the number of an internal job; there must be one. */
  takeInternal(): number {
    return this.#freeJobs.shift();
  }

  /** Reads one cluster to `base`; `onRead` may be called before this returns. */
  startInternal(source: ReadSource, job: number, cluster: number, base: number): void {
    assert(job >= this.#slots, "an internal job is no slot");
    this.#begin(source, job, cluster, 1, base);
  }

  /** Gives the number of an internal job back. */
  endInternal(job: number): void {
    assert(job >= this.#slots && this.#active[job] === 0, "an internal job has ended");
    this.#freeJobs.push(job);
  }

  /** At the end of a turn: what was collected leaves. */
  flush(): void {
    if (this.#starved.count > 0) this.#resumeStarved();
    if (this.#pages.anyWanted) this.#loadPages();
    this.#backend.flush();
  }

  #begin(source: ReadSource, job: number, first: number, count: number, base: number): void {
    assert(
      this.#active[job] === 0 && count > 0 && count <= SLOT_CLUSTERS_MAX,
      "a job is begun once",
    );
    assert(base % CLUSTER_BYTES === 0, "clusters are read to aligned memory");
    this.#active[job] = 1;
    this.#source[job] = source;
    this.#first[job] = first;
    this.#count[job] = count;
    this.#base[job] = base;
    this.#attempt[job] = 0;
    this.#startedMs[job] = 0;
    this.#restart(job);
  }

  #restart(job: number): void {
    this.#next[job] = 0;
    this.#failure[job] = Failure.None;
    this.#pending[job] = 1;
    this.#resolve(job);
  }

  /** Finds clusters from #next on, until all are found or one has to be waited for. */
  #resolve(job: number): void {
    const source = this.#source[job]!;
    const count = this.#count[job];
    const first = this.#first[job];
    let i = this.#next[job];
    while (i < count) {
      const found = source.dirty.find(first + i);
      let taken = 0;
      if (found === Found.Zero) taken = this.#zero(job, i);
      else if (this.#operations >= OPERATIONS_MAX) taken = -1;
      else if (found === Found.Data) taken = this.#fromJournal(source, job, i);
      else taken = this.#fromMap(source, job, i);
      if (taken === 0) {
        this.#next[job] = i;
        return;
      }
      if (taken < 0) {
        this.#next[job] = i;
        this.#starved.push(job);
        return;
      }
      i += taken;
    }
    this.#next[job] = count;
    this.#partDone(job);
  }

  #zero(job: number, i: number): number {
    const at = this.#base[job] + i * CLUSTER_BYTES;
    this.#world.arena.bytes.fill(0, at, at + CLUSTER_BYTES);
    const place = job * SLOT_CLUSTERS_MAX + i;
    this.#expected[place] = this.#zeroCrc;
    this.#from[place] = Source.Zero;
    return 1;
  }

  /**
   * Reads a run of clusters that lie one after the other in a segment; the first was just found.
   */
  #fromJournal(source: ReadSource, job: number, i: number): number {
    const dirty = source.dirty;
    const location = dirty.location;
    const segment = source.journal.segmentAt(segmentSlotOf(location));
    const place = job * SLOT_CLUSTERS_MAX + i;
    const count = this.#count[job];
    const first = this.#first[job];
    let run = 0;
    do {
      this.#expected[place + run] = dirty.crc;
      this.#from[place + run] = Source.Journal;
      run++;
    } while (
      i + run < count &&
      dirty.find(first + i + run) === Found.Data &&
      dirty.location === location + run
    );
    segment.readers++;
    this.#segments[place] = segment;
    this.#readDisk(job, i, run, segment.file, blockOf(location));
    return run;
  }

  #readDisk(job: number, i: number, run: number, file: number, block: number): void {
    const place = job * SLOT_CLUSTERS_MAX + i;
    this.#bytes[place] = run * CLUSTER_BYTES;
    this.#pending[job]++;
    this.#operations++;
    const into = this.#base[job] + i * CLUSTER_BYTES;
    this.#world.disk.read(
      this.#handler,
      place,
      file,
      block * CLUSTER_BYTES,
      into,
      run * CLUSTER_BYTES,
    );
  }

  #onDisk(tag: number, result: number): void {
    const job = Math.floor(tag / SLOT_CLUSTERS_MAX);
    const segment = this.#segments[tag];
    this.#operations--;
    if (segment) {
      segment.readers--;
      this.#segments[tag] = null;
    }
    if (result !== this.#bytes[tag]) this.#failure[job] = Failure.Corrupt;
    this.#partDone(job);
  }

  /** 1 or more: clusters that are on their way; 0: a page is waited for; -1: starved. */
  #fromMap(source: ReadSource, job: number, i: number): number {
    const cluster = this.#first[job] + i;
    const page = Math.floor(cluster / PAGE_ENTRIES);
    const frame = this.#pages.find(source.owner, page);
    if (frame < 0) return this.#pages.request(source.owner, page, job) ? 0 : -1;
    const words = this.#pages.words;
    const at = this.#pages.entryAt(frame, cluster);
    const scoId = words[at] + words[at + 1] * TWO_32;
    if (scoId <= SCO_ZERO) return this.#zero(job, i);
    const index = source.cacheBase + words[at + 2];
    this.#note(job, i, scoId, index, words[at + 3]);
    const into = this.#base[job] + i * CLUSTER_BYTES;
    const place = job * SLOT_CLUSTERS_MAX + i;
    if (this.#memory.read(scoId, index, into)) {
      this.#from[place] = Source.Memory;
      return 1;
    }
    const block = this.#cache === null ? -1 : this.#cache.find(scoId, index);
    if (block >= 0) return this.#fromCache(source, job, i, block);
    return this.#fromBackend(source, job, i, frame);
  }

  /** A run that lies one after the other in the cache's file; cluster i was just noted. */
  #fromCache(source: ReadSource, job: number, i: number, block: number): number {
    const cache = this.#cache!;
    const first = this.#first[job];
    const place = job * SLOT_CLUSTERS_MAX + i;
    const frame = this.#pages.find(source.owner, Math.floor((first + i) / PAGE_ENTRIES));
    const most = this.#endInPage(job, i);
    const words = this.#pages.words;
    this.#from[place] = Source.Disk;
    let run = 1;
    for (; i + run < most; run++) {
      const at = this.#pages.entryAt(frame, first + i + run);
      const scoId = words[at] + words[at + 1] * TWO_32;
      if (scoId <= SCO_ZERO || source.dirty.find(first + i + run) !== Found.None) break;
      const index = source.cacheBase + words[at + 2];
      if (this.#memory.has(scoId, index)) break;
      if (cache.find(scoId, index) !== block + run) break;
      this.#note(job, i + run, scoId, index, words[at + 3]);
      this.#from[place + run] = Source.Disk;
    }
    this.#readDisk(job, i, run, cache.file, block);
    return run;
  }

  /** Index in the job of the first cluster that is not in the page of cluster i, or its end. */
  #endInPage(job: number, i: number): number {
    const first = this.#first[job];
    const pageEnd = (Math.floor((first + i) / PAGE_ENTRIES) + 1) * PAGE_ENTRIES;
    return Math.min(this.#count[job], pageEnd - first);
  }

  /** `index`: in the read caches, that is from the namespace's base on. */
  #note(job: number, i: number, scoId: number, index: number, crc: number): void {
    const place = job * SLOT_CLUSTERS_MAX + i;
    this.#scoIds[place] = scoId;
    this.#indexes[place] = index;
    this.#expected[place] = crc;
  }

  /** A run that lies one after the other in a SCO and is in no cache; cluster i was just noted. */
  #fromBackend(source: ReadSource, job: number, i: number, frame: number): number {
    const words = this.#pages.words;
    const first = this.#first[job];
    const place = job * SLOT_CLUSTERS_MAX + i;
    const scoId = this.#scoIds[place];
    const index = this.#indexes[place];
    const most = this.#endInPage(job, i);
    this.#from[place] = Source.Backend;
    let run = 1;
    for (; i + run < most; run++) {
      const at = this.#pages.entryAt(frame, first + i + run);
      if (words[at] + words[at + 1] * TWO_32 !== scoId) break;
      if (source.cacheBase + words[at + 2] !== index + run) break;
      if (source.dirty.find(first + i + run) !== Found.None || this.#cached(scoId, index + run))
        break;
      this.#note(job, i + run, scoId, index + run, words[at + 3]);
      this.#from[place + run] = Source.Backend;
    }
    this.#pending[job]++;
    this.#backend.add(source, job, scoId, {
      offset: (index - source.cacheBase) * CLUSTER_BYTES,
      bytes: run * CLUSTER_BYTES,
      into: this.#base[job] + i * CLUSTER_BYTES,
    });
    return run;
  }

  #cached(scoId: number, index: number): boolean {
    return (
      this.#memory.has(scoId, index) ||
      (this.#cache !== null && this.#cache.find(scoId, index) >= 0)
    );
  }

  #onBackend(job: number, failure: Failure): void {
    if (failure !== Failure.None) this.#failure[job] = failure;
    this.#partDone(job);
  }

  #loadPages(): void {
    const frames = this.#pages.takeWanted();
    const byOwner = new Map<number, number[]>();
    for (const frame of frames) {
      const owner = this.#pages.ownerOf(frame);
      const list = byOwner.get(owner);
      if (list) list.push(frame);
      else byOwner.set(owner, [frame]);
    }
    for (const list of byOwner.values()) void this.#loadFrames(list);
  }

  async #loadFrames(frames: number[]): Promise<void> {
    const source = this.#sources.get(this.#pages.ownerOf(frames[0]!));
    let failure: Failure = Failure.None;
    let reason = "";
    try {
      if (source === undefined) failure = Failure.Closed;
      else await source.map.loadFrames(frames);
    } catch (error) {
      failure = failureOf(error);
      reason = messageOf(error);
    }
    this.#world.turn.begin();
    for (const frame of frames) {
      if (failure === Failure.None) this.#pages.loaded(frame, (job) => this.#resolve(job));
      else this.#pages.failed(frame, (job) => this.#giveUp(job, failure));
    }
    if (failure === Failure.Corrupt) source?.onMapDamaged(reason);
    this.#world.turn.end();
    this.#world.turn.request();
  }

  readonly #sources = new Map<number, ReadSource>();

  /** Makes a volume known, so that its pages can be loaded. */
  attach(source: ReadSource): void {
    this.#sources.set(source.owner, source);
  }

  /** Forgets a volume that has no reads left. */
  detach(source: ReadSource): void {
    this.#sources.delete(source.owner);
  }

  /** A job that cannot find the rest of its clusters. */
  #giveUp(job: number, failure: Failure): void {
    this.#failure[job] = failure;
    this.#next[job] = this.#count[job];
    this.#partDone(job);
  }

  #resumeStarved(): void {
    for (let n = this.#starved.count; n > 0 && this.#operations < (OPERATIONS_MAX * 3) / 4; n--) {
      this.#resolve(this.#starved.shift());
    }
    if (this.#starved.count > 0 && this.#operations === 0) this.#world.turn.request();
  }

  #partDone(job: number): void {
    assert(this.#pending[job] > 0, "a part is done once");
    this.#pending[job]--;
    if (this.#pending[job] > 0) return;
    if (this.#failure[job] === Failure.None) this.#verify(job);
    if (this.#failure[job] === Failure.None) this.#succeed(job);
    else this.#failed(job);
  }

  /** P-A5, P-E1: the cluster's own CRC is verified last; it catches the wrong block as well. */
  #verify(job: number): void {
    const count = this.#count[job];
    const at = job * SLOT_CLUSTERS_MAX;
    const bad = this.#world.codec.crc32cVerify(this.#base[job], count, this.#expected, at);
    if (bad < 0) return;
    this.#failure[job] = Failure.Corrupt;
    // A place in the disk cache that was written over while it was read is a miss: read again.
    const isMiss =
      this.#from[at + bad] === Source.Disk &&
      this.#cache?.has(this.#scoIds[at + bad], this.#indexes[at + bad]) === false;
    for (let i = bad; i < count; i++) {
      if (this.#from[at + i] < Source.Memory) continue;
      this.#memory.forget(this.#scoIds[at + i], this.#indexes[at + i]);
      this.#cache?.forget(this.#scoIds[at + i], this.#indexes[at + i]);
    }
    if (isMiss) return;
    const source = this.#source[job]!;
    source.counts.corruptions++;
    this.#world.log.warn("a cluster's checksum is wrong", {
      vdisk: source.name,
      cluster: this.#first[job] + bad,
      from: this.#from[at + bad],
      attempt: this.#attempt[job],
    });
  }

  #succeed(job: number): void {
    const count = this.#count[job];
    const at = job * SLOT_CLUSTERS_MAX;
    const counts = this.#source[job]!.readCounts;
    // A long read passes by once: it takes free memory, but drives out nobody who may be back.
    const keeps = count < LONG_CLUSTERS || !this.#memory.isFull;
    for (let i = 0; i < count; i++) {
      const from = this.#from[at + i];
      counts[from]++;
      if (from < Source.Disk) continue;
      const memory = this.#base[job] + i * CLUSTER_BYTES;
      if (keeps) this.#memory.insert(this.#scoIds[at + i], this.#indexes[at + i], memory);
      if (from === Source.Backend)
        this.#cache?.insert(this.#scoIds[at + i], this.#indexes[at + i], memory);
    }
    this.#end(job, null);
  }

  #failed(job: number): void {
    const source = this.#source[job]!;
    const failure = this.#failure[job] as Failure;
    const now = this.#world.clock.nowMs();
    if (this.#startedMs[job] === 0) this.#startedMs[job] = now;
    this.#attempt[job] = Math.min(this.#attempt[job] + 1, 200);
    const attempt = this.#attempt[job];
    const waits = failure === Failure.Unavailable && now - this.#startedMs[job] < this.#patienceMs;
    const again =
      (failure === Failure.NotFound || failure === Failure.Corrupt) && attempt < ATTEMPTS_MAX;
    if (source.failed !== null || !(waits || again)) {
      this.#end(job, source.failed ?? kindOf(failure));
      return;
    }
    // P-A5: look the map up again, from the store, before it is an error.
    if (failure === Failure.NotFound) this.#forgetPages(job);
    const delayMs = Math.min(RETRY_FIRST_MS * 2 ** Math.min(attempt - 1, 10), RETRY_LAST_MS);
    source.readsWaiting++;
    this.#world.clock.after(delayMs, () => {
      source.readsWaiting--;
      this.#world.turn.begin();
      if (source.failed === null) this.#restart(job);
      else this.#end(job, source.failed);
      this.#world.turn.end();
    });
  }

  #forgetPages(job: number): void {
    const source = this.#source[job]!;
    const last = this.#first[job] + this.#count[job] - 1;
    for (
      let page = Math.floor(this.#first[job] / PAGE_ENTRIES);
      page <= Math.floor(last / PAGE_ENTRIES);
      page++
    ) {
      this.#pages.forget(source.owner, page);
    }
  }

  #end(job: number, error: ErrorKind | null): void {
    const source = this.#source[job]!;
    this.#active[job] = 0;
    this.#source[job] = null;
    source.onRead(job, error);
  }
}
