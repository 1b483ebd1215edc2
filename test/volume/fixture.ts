// SPDX-License-Identifier: Apache-2.0
// What the tests of volumes stand on: a router thread with one vDisk in a real world (disk, store
// of maps, codec), which can be stopped, crashed and started again over an object store in memory.

import { mkdtempSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { StorageError } from "../../src/base/errors.js";
import { MIB } from "../../src/base/units.js";
import type { KvStore } from "../../src/platform/kv.js";
import type { NodeWorld } from "../../src/platform/node/world.js";
import { createWorld } from "../../src/platform/node/world.js";
import type { VolumeConfig } from "../../src/volume/config.js";
import { openVolume } from "../../src/volume/open.js";
import type { VolumeThreadOptions } from "../../src/volume/thread.js";
import { VolumeThread } from "../../src/volume/thread.js";
import type { Volume } from "../../src/volume/volume.js";
import { Client, TestRequests } from "./client.js";
import { FaultDisk } from "./faultdisk.js";
import { MemoryStore } from "./memorystore.js";

/** Small fast random numbers; the same seed gives the same test. */
export class Seeded {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0 || 1;
  }

  below(limit: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    const mixed = Math.imul(this.#state ^ (this.#state >>> 15), 0x2c1b3c6d) >>> 0;
    return Math.floor((((mixed ^ (mixed >>> 12)) >>> 0) / 2 ** 32) * limit);
  }

  bytes(count: number): Uint8Array {
    const bytes = new Uint8Array(count);
    for (let i = 0; i < count; i++) bytes[i] = this.below(256);
    return bytes;
  }
}

/** Waits for a condition; fails after ten seconds, saying for what. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const end = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`waited in vain: ${what}`);
    await new Promise<void>((resolve) => void setImmediate(resolve));
  }
}

export interface HostOptions {
  thread?: Partial<VolumeThreadOptions>;
  config?: Partial<VolumeConfig>;
  arenaBytes?: number;
}

export const VDISK_ID = new Uint8Array(16).fill(7);
export const CLUSTER_ID = new Uint8Array(16).fill(9);
export const NAMESPACE = "ns-vd0";

export class Host {
  readonly dir: string;
  readonly store: MemoryStore;
  readonly options: HostOptions;
  epoch = 0;
  isNew = true;
  /** What the registry would have. */
  wasDirty = false;
  cleanTlog = -1;
  marksFail: StorageError | null = null;
  /** The next start finds another boot id (P-A8). */
  rebooted = false;
  #boot = 0;
  world!: NodeWorld;
  disk!: FaultDisk;
  requests!: TestRequests;
  kv!: KvStore;
  thread!: VolumeThread;
  volume!: Volume;
  client!: Client;

  constructor(options: HostOptions = {}, store = new MemoryStore()) {
    this.dir = mkdtempSync(join(tmpdir(), "ovs-volume-"));
    this.store = store;
    this.options = options;
  }

  get journalFolder(): string {
    return `${this.dir}/journal/07070707-0707-0707-0707-070707070707`;
  }

  /** Everything that a process has: world, store of maps, thread; then opens the vDisk. */
  async start(change: Partial<VolumeConfig> = {}): Promise<Volume> {
    await this.startThread();
    try {
      return await this.open(change);
    } catch (error) {
      await this.stopThread();
      throw error;
    }
  }

  async startThread(): Promise<void> {
    const arenaBytes = this.options.arenaBytes ?? 64 * MIB;
    this.world = createWorld({ name: "test", arenaBytes, terminal: null, logTo: null });
    this.disk = new FaultDisk(this.world.disk, this.world.turn);
    Object.defineProperty(this.world, "disk", { value: this.disk });
    if (this.rebooted) this.#boot++;
    this.rebooted = false;
    (this.world as { bootId: Uint8Array }).bootId = new Uint8Array(16).fill(this.#boot);
    this.store.world = this.world;
    this.requests = new TestRequests(this.world);
    const kv = { cacheBytes: MIB, writeBufferBytes: MIB, create: true };
    this.kv = await this.world.kv.open(`${this.dir}/map`, kv);
    this.thread = await VolumeThread.create(this.world, this.requests, this.kv, {
      memoryCacheBytes: MIB,
      diskCache: null,
      pageCacheBytes: MIB,
      journalBytes: 256 * MIB,
      destageBytes: 24 * MIB,
      readPatienceMs: 2000,
      ...this.options.thread,
    });
  }

  async open(change: Partial<VolumeConfig> = {}): Promise<Volume> {
    this.epoch++;
    const volume = await openVolume(this.thread, this.config(change), this.store, {
      dirty: async () => {
        if (this.marksFail) throw this.marksFail;
        this.wasDirty = true;
      },
      clean: async (tlog) => {
        if (this.marksFail) throw this.marksFail;
        this.wasDirty = false;
        this.cleanTlog = tlog;
      },
    });
    this.isNew = false;
    this.volume = volume;
    this.client = new Client(this.world, this.requests, volume);
    return volume;
  }

  config(change: Partial<VolumeConfig>): VolumeConfig {
    return {
      vdiskId: VDISK_ID,
      name: "vd0",
      sizeBytes: 64 * MIB,
      namespace: NAMESPACE,
      epoch: this.epoch,
      clusterUuid: CLUSTER_ID,
      routerUuid: new Uint8Array(16).fill(3),
      incarnation: 1,
      dir: this.dir,
      journalBytes: 32 * MIB,
      scoBytes: MIB,
      isNew: this.isNew,
      wasDirty: this.wasDirty,
      acceptLoss: false,
      batchBytes: null,
      batchAgeMs: 600_000,
      segmentBytes: null,
      ...this.options.config,
      ...change,
    };
  }

  /** Clean stop of the vDisk and its thread. */
  async stop(): Promise<void> {
    await this.volume.stop();
    await this.stopThread();
  }

  /** The process dies: nothing is synced or written any more; what was written stays. */
  async crash(): Promise<void> {
    this.world.turn.begin();
    this.volume.halt("closed", "the test crashes it");
    this.world.turn.end();
    await this.stop();
  }

  async stopThread(): Promise<void> {
    await this.thread.close();
    await this.kv.close();
    await this.world.stop();
  }

  /** The store of maps as it is now, to be put back later: what a power loss does to it. */
  async copyMap(target: string): Promise<void> {
    await this.kv.checkpoint(target);
  }

  /** Between stop and start: the store of maps is what was copied, or gone. */
  putMapBack(source: string | null): void {
    rmSync(`${this.dir}/map`, { recursive: true, force: true });
    if (source !== null) renameSync(source, `${this.dir}/map`);
  }

  destroy(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}
