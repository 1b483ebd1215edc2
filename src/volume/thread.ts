// SPDX-License-Identifier: Apache-2.0
// What the volumes of one thread share: request slots, header buffers, scratch clusters, caches,
// the store of maps, the memory for destage, and the end of the turn. One per thread; made once,
// before the first volume is opened.

import { assert } from "../base/assert.js";
import { Semaphore } from "../base/sync.js";
import { CLUSTER_BYTES, MIB } from "../base/units.js";
import type { Requests } from "../nbd/target.js";
import { ArenaPool } from "../platform/arena.js";
import type { KvStore } from "../platform/kv.js";
import { FlushStage } from "../platform/turn.js";
import type { Timer, World } from "../platform/world.js";
import { JournalBudget } from "./budget.js";
import { DISK_CACHE_ARENA_BYTES, DiskCache } from "./diskcache.js";
import { FramePool } from "./frames.js";
import { ZEROES_BYTES } from "./journal.js";
import { PageCache } from "./pagecache.js";
import { MemoryCache } from "./readcache.js";
import { INTERNAL_JOBS, Reader } from "./reader.js";
import { SlotState } from "./slots.js";

const HEADER_FRAMES = 512;
const PAGE_BYTES = 4096;
const TICK_MS = 500;
/** Owners of pages in the cache, so that keys stay exact numbers. */
const OWNERS_MAX = 65_536;
/** Clusters of the largest SCO, and namespaces: both together fill an index of the read caches. */
const SCO_CLUSTERS_MAX = 2 ** 14;
const CACHE_BASES_MAX = 2 ** 18;

export interface VolumeThreadOptions {
  /** Read cache in memory (cut from the arena). */
  memoryCacheBytes: number;
  /** Read cache on disk: path of its file, and bytes; null for none. */
  diskCache: { path: string; bytes: number } | null;
  /** Map pages in memory (heap). */
  pageCacheBytes: number;
  /** Journal files of all volumes of this thread. */
  journalBytes: number;
  /** Memory for SCOs under construction (cut from the arena). */
  destageBytes: number;
  /** How long a read waits for a backend that does not answer. */
  readPatienceMs: number;
  /** Share of the backend's space that is free, from 0 to 1, as far as it is known; for reclaim. */
  backendFreeShare?: () => number;
  /** TLogs since the last checkpoint that are worth one, whatever their size; 2048 by default. */
  checkpointTlogs?: number;
}

/** What the thread calls on a volume. */
export interface TurnMember {
  /** The thread's: whether `turnEnd`, and whether `tick`, is going to be called. */
  isActive: boolean;
  isWatched: boolean;
  /** At the end of a turn; answers whether it wants to be called again at the end of the next. */
  turnEnd(): boolean;
  /** Now and then while it has something dirty; answers whether it still has. */
  tick(nowMs: number): boolean;
}

/** Bytes of arena that a thread with these options needs for the volume layer. */
export function volumeArenaBytes(options: VolumeThreadOptions): number {
  const frames = (HEADER_FRAMES + INTERNAL_JOBS) * CLUSTER_BYTES;
  const cache = options.diskCache === null ? 0 : DISK_CACHE_ARENA_BYTES;
  return frames + cache + options.memoryCacheBytes + options.destageBytes + 2 * MIB;
}

export class VolumeThread {
  readonly world: World;
  readonly requests: Requests;
  readonly kv: KvStore;
  readonly options: VolumeThreadOptions;
  readonly slots: SlotState;
  readonly headers: FramePool;
  readonly scratch: FramePool;
  readonly pages: PageCache;
  readonly memory: MemoryCache;
  readonly disk: DiskCache | null;
  readonly reader: Reader;
  readonly budget: JournalBudget;
  readonly destagePool: ArenaPool;
  /** Whoever takes several runs of the pool holds this while it takes them. */
  readonly destageTaking = new Semaphore(1);
  /** ZEROES_BYTES of zeroes. */
  readonly zeroes: number;
  /** Blocks that nobody wants are read to here. */
  readonly junk: number;
  readonly #owners = new Set<number>();
  readonly #cacheBases = new Map<string, number>();
  readonly #active: TurnMember[] = [];
  readonly #ticking = new Set<TurnMember>();
  #timer: Timer | null = null;
  readonly #detach: Array<() => void>;

  private constructor(
    world: World,
    requests: Requests,
    kv: KvStore,
    options: VolumeThreadOptions,
    disk: DiskCache | null,
  ) {
    assert(options.destageBytes >= 4 * MIB, "destage has memory to work with");
    this.world = world;
    this.requests = requests;
    this.kv = kv;
    this.options = options;
    this.disk = disk;
    this.slots = new SlotState(requests.slots);
    this.headers = new FramePool(world.arena, HEADER_FRAMES, "journal headers");
    this.scratch = new FramePool(world.arena, INTERNAL_JOBS, "scratch clusters");
    this.zeroes = world.arena.region(ZEROES_BYTES, "zeroes");
    this.junk = world.arena.region(CLUSTER_BYTES, "unwanted blocks");
    this.memory = new MemoryCache(world.arena, options.memoryCacheBytes);
    const pool = world.arena.region(options.destageBytes, "destage");
    this.destagePool = new ArenaPool(
      pool,
      Math.floor(options.destageBytes / CLUSTER_BYTES) * CLUSTER_BYTES,
    );
    const frames = Math.max(64, Math.floor(options.pageCacheBytes / PAGE_BYTES));
    this.pages = new PageCache(frames, requests.slots + INTERNAL_JOBS);
    this.budget = new JournalBudget(options.journalBytes);
    this.reader = new Reader({
      world,
      slots: requests.slots,
      pages: this.pages,
      memory: this.memory,
      disk,
      patienceMs: options.readPatienceMs,
    });
    this.#detach = [
      world.turn.atEnd(FlushStage.Volume, () => this.#turnEnd()),
      world.turn.atEnd(FlushStage.Read, () => this.reader.flush()),
    ];
  }

  /** Borrows `requests` and `kv` for its life. */
  static async create(
    world: World,
    requests: Requests,
    kv: KvStore,
    options: VolumeThreadOptions,
  ): Promise<VolumeThread> {
    const { diskCache } = options;
    const disk = diskCache ? await DiskCache.create(world, diskCache.path, diskCache.bytes) : null;
    return new VolumeThread(world, requests, kv, options, disk);
  }

  /** A number for a volume's pages in the cache. */
  takeOwner(): number {
    let owner = 0;
    while (this.#owners.has(owner)) owner++;
    assert(owner < OWNERS_MAX, "a thread has a bounded number of volumes");
    this.#owners.add(owner);
    return owner;
  }

  /**
   * SCO ids are unique in a namespace only (P-F2): in the read caches, which all volumes of the
   * thread share, the clusters of each namespace have a range of indexes of their own. It stays the
   * namespace's, so that a vDisk that is opened again finds what was cached.
   */
  cacheBaseOf(namespace: string): number {
    const known = this.#cacheBases.get(namespace);
    if (known !== undefined) return known;
    if (this.#cacheBases.size === CACHE_BASES_MAX) {
      this.dropCaches();
      this.#cacheBases.clear();
    }
    const base = this.#cacheBases.size * SCO_CLUSTERS_MAX;
    this.#cacheBases.set(namespace, base);
    return base;
  }

  /** Gives the number back; the pages cached under it are forgotten. */
  giveOwner(owner: number): void {
    this.pages.forgetAll(owner);
    this.#owners.delete(owner);
  }

  /** Calls `turnEnd` of the member at the end of this or the next turn. */
  activate(member: TurnMember): void {
    this.world.turn.request();
    if (member.isActive) return;
    member.isActive = true;
    this.#active.push(member);
  }

  /** Calls `tick` of the member now and then, until it answers false. */
  watch(member: TurnMember): void {
    if (member.isWatched) return;
    member.isWatched = true;
    this.#ticking.add(member);
    this.#timer ??= this.world.clock.after(TICK_MS, () => this.#tick());
  }

  /** Forgets a member that is closed. */
  forget(member: TurnMember): void {
    this.#ticking.delete(member);
    member.isWatched = false;
    if (!member.isActive) return;
    member.isActive = false;
    this.#active.splice(this.#active.indexOf(member), 1);
  }

  /** Empties the read caches. */
  dropCaches(): void {
    this.memory.clear();
    this.disk?.clear();
  }

  /** After all volumes are closed. */
  async close(): Promise<void> {
    assert(this.#owners.size === 0, "volumes are closed before their thread");
    this.#timer?.cancel();
    for (const detach of this.#detach) detach();
    await this.disk?.close();
  }

  #turnEnd(): void {
    const active = this.#active;
    let kept = 0;
    for (let i = 0; i < active.length; i++) {
      const member = active[i]!;
      if (member.turnEnd()) active[kept++] = member;
      else member.isActive = false;
    }
    // Setting the length is a call into the runtime; this is not.
    while (active.length > kept) active.pop();
  }

  #tick(): void {
    this.#timer = null;
    this.world.turn.begin();
    const now = this.world.clock.nowMs();
    for (const member of [...this.#ticking]) {
      if (member.tick(now)) continue;
      member.isWatched = false;
      this.#ticking.delete(member);
    }
    this.world.turn.end();
    if (this.#ticking.size > 0) this.#timer = this.world.clock.after(TICK_MS, () => this.#tick());
  }
}
