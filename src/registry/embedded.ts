// SPDX-License-Identifier: Apache-2.0
// The registry of one machine: the contract of registry.ts over one key-value store.
//
// Writes go through one queue. Those that wait are taken together, carried out one after the other
// in memory, and written as one synced batch; only then are they answered and told to watchers.
// Reads go straight to the store and so see what is durable. The present lies in the store, the
// recent past in memory (watches.ts): after a restart it is compacted.
//
//   transact / grant / revoke ─► [ queue ] ─► Group: load, run ─► synced write ─► watchers, answers
//
// A failed write is the end: nobody knows what of it will be there after a restart (P-B1).

import { assert } from "../base/assert.js";
import { messageOf, StorageError } from "../base/errors.js";
import { GIB, MIB } from "../base/units.js";
import type { KvStore } from "../platform/kv.js";
import type { World } from "../platform/world.js";
import { REGISTRY_LEASE_BYTES, REGISTRY_STATE_BYTES } from "../wire/generated/registry.js";
import { Group } from "./group.js";
import {
  ALL_ATTACHED,
  ALL_LEASES,
  currentKey,
  currentRange,
  entryOf,
  keyOfAttached,
  keyOfCurrent,
  leaseKey,
  leaseOf,
  readLease,
  readRecord,
  readState,
  STATE_KEY,
} from "./layout.js";
import { LEASES_MAX, type Lease, LeaseTable } from "./leases.js";
import {
  checkKey,
  checkLease,
  checkPrefix,
  checkRange,
  checkRevision,
  checkTransaction,
  checkTtl,
} from "./limits.js";
import type {
  RangeResult,
  Registry,
  RegistryEntry,
  Transaction,
  TransactionResult,
  Watch,
  WatchHandler,
} from "./registry.js";
import { PAST_BYTES_MAX, PAST_REVISIONS_MAX, type PastLimits, WatchHub } from "./watches.js";

const GROUP_JOBS_MAX = 256;
const GROUP_BYTES_MAX = 4 * MIB;
const QUEUE_JOBS_MAX = 16_384;
const QUEUE_BYTES_MAX = 64 * MIB;
const RANGE_PAGE = 256;
const RANGE_BYTES_MAX = 4 * MIB;
const ROOM_CHECK_MS = 2000;
/** An empty registry's, as etcd's. */
const FIRST_REVISION = 1;

export interface EmbeddedOptions {
  /** Bytes on disk from which on puts are refused with OVS_FULL; deletes always work. */
  quotaBytes?: number;
  past?: PastLimits;
  /** Free bytes where the store lies, and how few are too few; without it nobody looks. */
  room?: { freeBytes: () => Promise<number>; freeBytesMin: number };
  /** After a failed write, once; the registry answers nothing any more. */
  onFatal?: (error: StorageError) => void;
}

export interface EmbeddedStats {
  revision: number;
  compactedRevision: number;
  leases: number;
  watches: number;
  diskBytes: number;
  memoryBytes: number;
  keysEstimate: number;
  /** No room for puts. */
  full: boolean;
}

type Work =
  | { kind: "transact"; transaction: Transaction }
  | { kind: "grant"; id: bigint; ttlSeconds: number }
  | { kind: "revoke"; id: bigint };

interface Job {
  work: Work;
  bytes: number;
  resolve: (result: TransactionResult | null) => void;
  reject: (error: unknown) => void;
}

export class EmbeddedRegistry implements Registry {
  readonly #world: Pick<World, "clock" | "random" | "log">;
  readonly #store: KvStore;
  readonly #options: EmbeddedOptions;
  readonly #leases: LeaseTable;
  readonly #watches: WatchHub;
  #revision: number;
  #queue: Job[] = [];
  #queueBytes = 0;
  #running: Promise<void> | null = null;
  #full = false;
  #roomCheckedMs = Number.NEGATIVE_INFINITY;
  #failure: StorageError | null = null;
  #closed = false;

  private constructor(
    world: Pick<World, "clock" | "random" | "log">,
    store: KvStore,
    revision: number,
    options: EmbeddedOptions,
  ) {
    this.#world = world;
    this.#store = store;
    this.#revision = revision;
    this.#options = options;
    const past = options.past ?? { revisionsMax: PAST_REVISIONS_MAX, bytesMax: PAST_BYTES_MAX };
    this.#watches = new WatchHub(world.clock, revision, past);
    this.#leases = new LeaseTable(
      world.clock,
      (lease) => this.#expired(lease),
      (stallMs) => world.log.warn("the registry stood still: all leases begin anew", { stallMs }),
    );
  }

  /**
   * Takes up what the store holds; leases begin anew with their full time. The store stays the
   * caller's: close it after the registry. OVS_CORRUPT when it holds something else.
   */
  static async open(
    world: Pick<World, "clock" | "random" | "log">,
    store: KvStore,
    options: EmbeddedOptions = {},
  ): Promise<EmbeddedRegistry> {
    const state = await store.get(STATE_KEY);
    const revision = state ? readState(state).revision : FIRST_REVISION;
    const registry = new EmbeddedRegistry(world, store, revision, options);
    await registry.#takeUpLeases();
    return registry;
  }

  /** Of the last transaction that wrote. */
  get revision(): number {
    return this.#revision;
  }

  /** Size of the store and counts, for status. */
  async stats(): Promise<EmbeddedStats> {
    this.#checkUsable();
    return {
      ...(await this.#store.stats()),
      revision: this.#revision,
      compactedRevision: this.#watches.compactedRevision,
      leases: this.#leases.size,
      watches: this.#watches.watchers,
      full: this.#full,
    };
  }

  async get(key: string): Promise<RegistryEntry | null> {
    checkKey(key);
    this.#checkUsable();
    const value = await this.#store.get(currentKey(key));
    return value && entryOf(key, readRecord(value));
  }

  async range(prefix: string, options: { after?: string; limit: number }): Promise<RangeResult> {
    checkRange(prefix, options);
    this.#checkUsable();
    const snapshot = this.#store.snapshot();
    try {
      const state = await snapshot.get(STATE_KEY);
      const revision = state ? readState(state).revision : FIRST_REVISION;
      const entries: RegistryEntry[] = [];
      let after = options.after;
      for (let bytes = 0; ; ) {
        const wanted = Math.min(RANGE_PAGE, options.limit + 1 - entries.length);
        const range = { ...currentRange(prefix, after), reverse: false, limit: wanted };
        const page = await snapshot.range(range);
        for (const { key, value } of page) {
          if (entries.length === options.limit || bytes > RANGE_BYTES_MAX) {
            return { entries, more: true, revision };
          }
          bytes += key.byteLength + value.byteLength;
          entries.push(entryOf(keyOfCurrent(key), readRecord(value)));
        }
        if (page.length < wanted) return { entries, more: false, revision };
        after = entries.at(-1)!.key;
      }
    } finally {
      snapshot.release();
    }
  }

  async transact(transaction: Transaction): Promise<TransactionResult> {
    const bytes = checkTransaction(transaction);
    const result = await this.#enqueue({ kind: "transact", transaction }, bytes);
    assert(result !== null, "a transaction has a result");
    return result;
  }

  async watch(prefix: string, fromRevision: number, handler: WatchHandler): Promise<Watch> {
    checkPrefix(prefix);
    checkRevision(fromRevision);
    this.#checkUsable();
    return this.#watches.watch(prefix, fromRevision, handler);
  }

  async leaseGrant(ttlSeconds: number): Promise<{ lease: string; ttlSeconds: number }> {
    checkTtl(ttlSeconds);
    const id = this.#newLease();
    await this.#enqueue({ kind: "grant", id, ttlSeconds }, 0);
    return { lease: String(id), ttlSeconds };
  }

  async leaseKeepAlive(lease: string): Promise<{ ttlSeconds: number }> {
    const id = checkLease(lease);
    this.#checkUsable();
    return { ttlSeconds: this.#leases.renew(id) };
  }

  async leaseRevoke(lease: string): Promise<void> {
    const id = checkLease(lease);
    this.#checkUsable();
    this.#checkQueue();
    this.#leases.living(id).ending = true;
    await this.#enqueue({ kind: "revoke", id }, 0);
  }

  /** Finishes what was asked, ends all watches. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#leases.stop();
    await this.#running;
    this.#watches.end("the registry is closed");
  }

  #checkUsable(): void {
    if (this.#failure) throw this.#failure;
    if (this.#closed) throw new StorageError("OVS_CLOSED", "the registry is closed");
  }

  #checkQueue(): void {
    if (this.#queue.length < QUEUE_JOBS_MAX && this.#queueBytes < QUEUE_BYTES_MAX) return;
    throw new StorageError("OVS_BUSY", "too many transactions wait for the registry");
  }

  async #takeUpLeases(): Promise<void> {
    const all = { reverse: false, limit: LEASES_MAX + 1 };
    for (const { key, value } of await this.#store.range({ ...ALL_LEASES, ...all })) {
      this.#leases.add(leaseOf(key), readLease(value).ttlSeconds);
    }
    let first = ALL_ATTACHED.first;
    while (true) {
      const page = await this.#store.range({ ...ALL_ATTACHED, first, reverse: false, limit: 4096 });
      for (const { key } of page) {
        if (!this.#leases.has(leaseOf(key))) {
          throw new StorageError("OVS_CORRUPT", `a key of the unknown lease ${leaseOf(key)}`);
        }
        this.#leases.attach(leaseOf(key), keyOfAttached(key));
      }
      if (page.length < 4096) return;
      first = Buffer.concat([page.at(-1)!.key, Uint8Array.of(0)]);
    }
  }

  #newLease(): bigint {
    while (true) {
      const bytes = this.#world.random.bytes(8);
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      const id = view.getBigUint64(0) & ((1n << 63n) - 1n);
      if (id !== 0n && !this.#leases.has(id)) return id;
    }
  }

  #expired(lease: Lease): void {
    this.#world.log.info("lease expired", { lease: String(lease.id), keys: lease.keys.size });
    // Nobody waits for it; if it fails, so does the registry.
    this.#push(
      { kind: "revoke", id: lease.id },
      0,
      () => {},
      () => {},
    );
  }

  async #enqueue(work: Work, bytes: number): Promise<TransactionResult | null> {
    this.#checkUsable();
    this.#checkQueue();
    return await new Promise<TransactionResult | null>((resolve, reject) => {
      this.#push(work, bytes, resolve, reject);
    });
  }

  #push(work: Work, bytes: number, resolve: Job["resolve"], reject: Job["reject"]): void {
    this.#queue.push({ work, bytes, resolve, reject });
    this.#queueBytes += bytes;
    this.#running ??= this.#run();
  }

  async #run(): Promise<void> {
    // Lets those who call in the same turn share the first write.
    await Promise.resolve();
    while (this.#queue.length > 0 && !this.#failure) {
      const jobs = this.#take();
      try {
        await this.#checkRoom();
        await this.#execute(jobs);
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        this.#fail(error, jobs);
      }
    }
    this.#running = null;
  }

  #take(): Job[] {
    let count = 0;
    let bytes = 0;
    for (const job of this.#queue) {
      bytes += job.bytes;
      if (count === GROUP_JOBS_MAX || (count > 0 && bytes > GROUP_BYTES_MAX)) break;
      count++;
    }
    const jobs = this.#queue.splice(0, count);
    for (const job of jobs) this.#queueBytes -= job.bytes;
    assert(jobs.length > 0 && this.#queueBytes >= 0, "somebody waits");
    return jobs;
  }

  async #execute(jobs: Job[]): Promise<void> {
    const group = new Group(this.#store, this.#leases, this.#revision);
    for (const { work } of jobs) if (work.kind === "transact") group.needs(work.transaction);
    await group.load();
    const results = jobs.map((job) => this.#carryOut(group, job));
    if (group.revision > this.#revision) {
      const state = new Uint8Array(REGISTRY_STATE_BYTES);
      new DataView(state.buffer).setBigUint64(0, BigInt(group.revision), true);
      group.batch.put(STATE_KEY, state);
    }
    if (group.batch.count > 0) await this.#store.write(group.batch, { sync: true });
    this.#revision = group.revision;
    for (const { revision, events } of group.published) this.#watches.publish(revision, events);
    for (const [i, job] of jobs.entries()) {
      const result = results[i];
      if (result instanceof StorageError) job.reject(result);
      else job.resolve(result ?? null);
    }
  }

  /** A result, or the reason why this job alone is refused. */
  #carryOut(group: Group, { work }: Job): TransactionResult | StorageError | null {
    try {
      if (work.kind === "transact") return group.transact(work.transaction, this.#full);
      if (work.kind === "grant") this.#grant(group, work.id, work.ttlSeconds);
      else {
        const lease = this.#leases.find(work.id);
        assert(lease?.ending === true, "a lease is ended once");
        group.revoke(lease);
      }
      return null;
    } catch (error) {
      if (error instanceof StorageError) return error;
      throw error;
    }
  }

  #grant(group: Group, id: bigint, ttlSeconds: number): void {
    if (this.#full) throw new StorageError("OVS_FULL", "the registry has no room");
    if (this.#leases.size >= LEASES_MAX) {
      throw new StorageError("OVS_FULL", `more than ${LEASES_MAX} leases`);
    }
    this.#leases.add(id, ttlSeconds);
    const value = new Uint8Array(REGISTRY_LEASE_BYTES);
    new DataView(value.buffer).setUint32(0, ttlSeconds, true);
    group.batch.put(leaseKey(id), value);
  }

  #fail(error: StorageError, jobs: Job[]): void {
    const text = `the registry failed: ${messageOf(error)}`;
    this.#failure = new StorageError("OVS_UNAVAILABLE", text, { cause: error });
    this.#world.log.error("the registry failed", { reason: messageOf(error) });
    this.#leases.stop();
    for (const job of [...jobs, ...this.#queue.splice(0)]) job.reject(this.#failure);
    this.#queueBytes = 0;
    this.#watches.end(text);
    this.#options.onFatal?.(this.#failure);
  }

  /** Looks from time to time whether there is room for more. */
  async #checkRoom(): Promise<void> {
    const now = this.#world.clock.nowMs();
    if (now - this.#roomCheckedMs < ROOM_CHECK_MS) return;
    this.#roomCheckedMs = now;
    const { diskBytes } = await this.#store.stats();
    const room = this.#options.room;
    const freeBytes = room ? await room.freeBytes() : Number.POSITIVE_INFINITY;
    const full =
      diskBytes > (this.#options.quotaBytes ?? 8 * GIB) || freeBytes < (room?.freeBytesMin ?? 0);
    if (full !== this.#full) {
      this.#world.log.warn(full ? "the registry is full" : "the registry has room again", {
        diskBytes,
      });
    }
    this.#full = full;
  }
}
