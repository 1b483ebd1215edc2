// SPDX-License-Identifier: Apache-2.0
// Key-value stores of a simulated process. As in the real ones the writes that wait become one
// group with one sync, in the order of their calls; a killed process leaves a prefix of its group.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import type {
  KvBatch,
  KvEntry,
  KvFactory,
  KvOptions,
  KvRange,
  KvReader,
  KvSnapshot,
  KvStore,
} from "../platform/kv.js";
import {
  checkKey,
  PackedBatch,
  WAITING_BATCHES_MAX,
  WAITING_BYTES_MAX,
} from "../platform/kvbatch.js";
import type { Device } from "./device.js";
import { deadError, PathError } from "./device.js";
import type { Dice } from "./dice.js";
import { FaultKind } from "./faults.js";
import type { Kernel } from "./kernel.js";
import { KvContent } from "./kvcontent.js";
import type { Folder, TreeNode } from "./names.js";
import { compareKeys, type SortedMap } from "./sortedmap.js";
import type { KillPolicy } from "./storage.js";

const GROUP_BATCHES_MAX = 512;
const KEYS_MAX = 65_536;
const READ_BYTES = 4096;
/** Reads that memory answers. */
const CACHED_CHANCE = 0.5;
const EARLY_CHANCE = 0.5;

export class SimKv implements KvFactory {
  readonly #kernel: Kernel;

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  async open(path: string, options: KvOptions): Promise<KvStore> {
    checkAbsolute(path);
    const kernel = this.#kernel;
    const info = { what: "open", path, weight: "sync", mutates: true } as const;
    return await kernel.call(info, (device) => {
      const content = contentAt(device, path, options.create);
      if (content.openBy !== null) {
        throw new StorageError("OVS_BUSY", `${path} is already open in ${content.openBy}`);
      }
      if (content.isLogDamaged) {
        throw new StorageError("OVS_CORRUPT", `the log of the store in ${path} is damaged`);
      }
      const store = new SimKvStore(new Handle(kernel, device, path, content));
      if (kernel.life.state !== "dead") {
        content.openBy = `the process with pid ${kernel.pid}`;
        kernel.life.atEnd(() => store.killed());
      }
      return store;
    });
  }
}

function checkAbsolute(path: string): void {
  if (!path.startsWith("/")) throw new StorageError("OVS_INVALID", `"${path}" is no absolute path`);
}

/** The store at the path; with `create` it is made. */
function contentAt(device: Device, path: string, create: boolean): KvContent {
  const node = findNode(device, path);
  if (node?.kind === "folder" && node.store !== null) {
    if (node.entries.has("CURRENT")) return node.store;
    if (create) throw new StorageError("OVS_CORRUPT", `${path} has lost its file CURRENT`);
  }
  if (!create) throw new StorageError("OVS_NOT_FOUND", `no store is in ${path}`);
  makeFolder(device, path);
  return putStore(device, path, new KvContent());
}

/** The folder of a store; where none can be made RocksDB says that it has failed. */
function makeFolder(device: Device, path: string): void {
  try {
    device.makeFolder(path);
  } catch (error) {
    if (!(error instanceof PathError)) throw error;
    throw new StorageError("OVS_DISK_FAILED", `no store can be made in ${path}`, { cause: error });
  }
}

/** What is at the path; behind a file is nothing. */
function findNode(device: Device, path: string): TreeNode | null {
  try {
    return device.find(path);
  } catch (error) {
    if (error instanceof PathError) return null;
    throw error;
  }
}

/** Puts a store into a folder that has none; its own names are durable. */
function putStore(device: Device, path: string, content: KvContent): KvContent {
  const folder: Folder = device.folder(path);
  const options = { create: true, exclusive: false, write: true };
  const current = device.open(path === "/" ? "/CURRENT" : `${path}/CURRENT`, options);
  if (current !== "folder") device.close(current);
  folder.store = content;
  folder.sync();
  return content;
}

/** What a store and its snapshots share: counts what is in flight, so that closing can wait. */
class Handle {
  readonly kernel: Kernel;
  readonly device: Device;
  readonly path: string;
  readonly content: KvContent;
  closed = false;
  damage: StorageError | null = null;
  #inFlight = 0;
  #whenIdle: (() => void) | null = null;

  constructor(kernel: Kernel, device: Device, path: string, content: KvContent) {
    this.kernel = kernel;
    this.device = device;
    this.path = path;
    this.content = content;
  }

  checkOpen(): void {
    if (this.closed) throw new StorageError("OVS_CLOSED", `the store in ${this.path} is closed`);
  }

  /** Runs a read, now or later. */
  async ask<T>(work: () => T): Promise<T> {
    this.checkOpen();
    const { device, kernel } = this;
    const run = () => {
      if (device.faults.isDead || device.faults.strikes(FaultKind.ReadError, this.path)) {
        throw deadError("read", this.path);
      }
      return work();
    };
    if (kernel.dice.chance(CACHED_CHANCE)) return run();
    this.enter();
    return await new Promise<T>((resolve, reject) => {
      kernel.life.after(device.latencyMs("transfer", READ_BYTES), () => {
        this.leave();
        try {
          resolve(run());
        } catch (error) {
          reject(error);
        }
      });
    });
  }

  /** The key's block is read; throws OVS_CORRUPT when it is damaged, which is remembered. */
  checkBlock(key: Uint8Array): void {
    if (!this.content.isDamaged(key)) return;
    const error = new StorageError(
      "OVS_CORRUPT",
      `a table of the store in ${this.path} is damaged`,
    );
    this.damage ??= error;
    throw error;
  }

  enter(): void {
    this.#inFlight++;
  }

  leave(): void {
    assert(this.#inFlight > 0, "what ends has begun");
    this.#inFlight--;
    if (this.#inFlight > 0 || !this.#whenIdle) return;
    this.#whenIdle();
    this.#whenIdle = null;
  }

  async idle(): Promise<void> {
    if (this.#inFlight === 0) return;
    await new Promise<void>((resolve) => {
      this.#whenIdle = resolve;
    });
  }
}

/** What stores and snapshots have in common. */
abstract class Reader implements KvReader {
  protected readonly handle: Handle;

  constructor(handle: Handle) {
    this.handle = handle;
  }

  async get(key: Uint8Array): Promise<Uint8Array | null> {
    checkKey(key);
    this.checkUsable();
    const wanted = key.slice();
    const map = this.source();
    return await this.handle.ask(() => this.#value(map(), wanted));
  }

  async getMany(keys: ReadonlyArray<Uint8Array>): Promise<Array<Uint8Array | null>> {
    if (keys.length === 0) return [];
    this.checkUsable();
    if (keys.length > KEYS_MAX) {
      throw new StorageError("OVS_INVALID", `${keys.length} keys in one read exceed ${KEYS_MAX}`);
    }
    for (const key of keys) checkKey(key);
    const wanted = keys.map((key) => key.slice());
    const map = this.source();
    return await this.handle.ask(() => wanted.map((key) => this.#value(map(), key)));
  }

  async range(range: KvRange): Promise<KvEntry[]> {
    const { first, end, reverse, limit } = range;
    assert(Number.isSafeInteger(limit) && limit >= 0 && limit < 2 ** 32, "a limit is a count");
    this.checkUsable();
    if (first) checkKey(first);
    if (end) checkKey(end);
    if (limit === 0 || (first && end && compareKeys(first, end) >= 0)) return [];
    const from = first?.slice() ?? null;
    const to = end?.slice() ?? null;
    const map = this.source();
    return await this.handle.ask(() => {
      const entries = map().range(from, to, reverse, limit);
      return entries.map(({ key, value }) => {
        this.handle.checkBlock(key);
        return { key: key.slice(), value: value.slice() };
      });
    });
  }

  #value(map: SortedMap, key: Uint8Array): Uint8Array | null {
    this.handle.checkBlock(key);
    return map.get(key)?.slice() ?? null;
  }

  /** What a read that is asked now reads when it is carried out. */
  protected abstract source(): () => SortedMap;

  protected checkUsable(): void {
    this.handle.checkOpen();
  }
}

class SimKvSnapshot extends Reader implements KvSnapshot {
  #map: SortedMap | null;

  constructor(handle: Handle) {
    super(handle);
    this.#map = handle.content.map.view();
  }

  release(): void {
    this.#map = null;
  }

  /** Also of a snapshot that is released before the read is over. */
  protected source(): () => SortedMap {
    const map = this.#map;
    if (map === null) throw new StorageError("OVS_CLOSED", "the snapshot was released");
    return () => map;
  }

  protected override checkUsable(): void {
    super.checkUsable();
    this.source();
  }
}

interface Waiting {
  packed: Uint8Array;
  sync: boolean;
  resolve(): void;
  reject(error: unknown): void;
}

/** Batches that are written together. */
interface Group {
  readonly batches: Waiting[];
  /** Batches that took effect. */
  applied: number;
  isSynced: boolean;
  /** Nothing of it happens any more. */
  isOver: boolean;
  failure: unknown;
}

class SimKvStore extends Reader implements KvStore {
  #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #group: Group | null = null;
  #failure: StorageError | null = null;
  #closing: Promise<void> | null = null;
  #isEnded = false;

  get damage(): StorageError | null {
    return this.handle.damage;
  }

  get failure(): StorageError | null {
    return this.#failure;
  }

  batch(): KvBatch {
    return new PackedBatch();
  }

  async write(batch: KvBatch, options: { sync: boolean }): Promise<void> {
    assert(batch instanceof PackedBatch, "the batch is one of this kind of store");
    this.handle.checkOpen();
    if (this.#failure) throw this.#failure;
    if (this.#waiting.length >= WAITING_BATCHES_MAX || this.#waitingBytes >= WAITING_BYTES_MAX) {
      const text = `too many writes wait for the store in ${this.handle.path}`;
      throw new StorageError("OVS_BUSY", text);
    }
    const packed = batch.packed();
    this.#waitingBytes += packed.byteLength;
    this.handle.enter();
    const written = new Promise<void>((resolve, reject) => {
      this.#waiting.push({ packed, sync: options.sync, resolve, reject });
    });
    if (this.#group === null) this.#writeNext();
    await written;
  }

  snapshot(): KvSnapshot {
    this.handle.checkOpen();
    return new SimKvSnapshot(this.handle);
  }

  async checkpoint(path: string): Promise<void> {
    checkAbsolute(path);
    this.handle.checkOpen();
    const { kernel, content } = this.handle;
    this.handle.enter();
    try {
      const info = { what: "checkpoint", path, weight: "sync", mutates: true } as const;
      await kernel.call(info, (device) => {
        if (findNode(device, path)) throw new StorageError("OVS_EXISTS", `${path} exists`);
        makeFolder(device, path);
        device.occupy(content.diskBytes);
        putStore(device, path, content.copy());
      });
    } finally {
      this.handle.leave();
    }
  }

  async stats(): Promise<{ diskBytes: number; memoryBytes: number; keysEstimate: number }> {
    const { content } = this.handle;
    return await this.handle.ask(() => ({
      diskBytes: content.diskBytes,
      memoryBytes: content.diskBytes,
      keysEstimate: content.map.count,
    }));
  }

  /** Finishes what was called before, ends the snapshots, syncs. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** The process has ended: of the group that was being written the first few batches are left. */
  killed(): void {
    const group = this.#group;
    if (group && !group.isOver) {
      group.isOver = true;
      const { storage, dice } = this.handle.kernel;
      const left = group.batches.length - group.applied;
      const count = this.#doneOf(left, storage.killPolicy, dice);
      for (let i = 0; i < count; i++) this.#apply(group);
    }
    this.#end();
  }

  protected source(): () => SortedMap {
    return () => this.handle.content.map;
  }

  /** Batches that a killed process leaves done, of those that were left of its group. */
  #doneOf(left: number, policy: KillPolicy, dice: Dice): number {
    if (typeof policy === "string") {
      return { none: 0, all: left, chance: dice.between(0, left) }[policy];
    }
    let count = 0;
    while (count < left && policy("write", this.handle.path) !== "not") count++;
    return count;
  }

  async #close(): Promise<void> {
    this.handle.closed = true;
    await this.handle.idle();
    const { kernel, path, content } = this.handle;
    const info = { what: "close", path, weight: "sync", mutates: true } as const;
    try {
      await kernel.call(info, () => content.sync());
    } catch (error) {
      if (!this.#failure) throw error;
    } finally {
      this.#end();
    }
  }

  #end(): void {
    if (!this.#isEnded) this.handle.content.openBy = null;
    this.#isEnded = true;
  }

  /** Begins to write what waits, as one group. */
  #writeNext(): void {
    const { kernel, device } = this.handle;
    if (kernel.life.state === "dead") return;
    const batches = this.#waiting.splice(0, GROUP_BATCHES_MAX);
    assert(batches.length > 0, "somebody waits");
    const group: Group = { batches, applied: 0, isSynced: false, isOver: false, failure: null };
    this.#group = group;
    let bytes = 0;
    for (const { packed } of batches) bytes += packed.byteLength;
    const isSync = batches.some(({ sync }) => sync);
    const totalMs = device.latencyMs(isSync ? "sync" : "transfer", bytes);
    const { timeline } = kernel.life;
    if (kernel.dice.chance(EARLY_CHANCE)) {
      timeline.after(totalMs * kernel.dice.share(), null, () => this.#affect(group));
    }
    timeline.after(totalMs, null, () => {
      this.#affect(group);
      if (isSync) this.#sync(group);
      if (group.isOver) return;
      group.isOver = true;
      kernel.deliver(() => this.#written(group));
    });
  }

  #affect(group: Group): void {
    const { kernel, device, path } = this.handle;
    const isOff = () => group.isOver;
    while (!group.isOver && group.failure === null && group.applied < group.batches.length) {
      const bytes = group.batches[group.applied]!.packed.byteLength;
      if (device.faults.isDead || device.faults.strikes(FaultKind.WriteError, path)) {
        group.failure = deadError("write", path);
      } else if (bytes > device.freeBytes) {
        device.faults.onFault(FaultKind.Full, path);
        group.failure = new StorageError("OVS_FULL", `cannot write ${path}: ENOSPC`);
      } else {
        kernel.storage.effect("write", path, isOff, () => this.#apply(group));
      }
    }
  }

  #sync(group: Group): void {
    const { kernel, device, path, content } = this.handle;
    if (group.isOver || group.isSynced || group.failure !== null) return;
    if (device.faults.isDead || device.faults.strikes(FaultKind.SyncError, path)) {
      group.failure = deadError("sync", path);
      return;
    }
    kernel.storage.effect(
      "sync",
      path,
      () => group.isOver,
      () => {
        content.sync();
        group.isSynced = true;
      },
    );
  }

  #apply(group: Group): void {
    const { device, content } = this.handle;
    const before = content.diskBytes;
    content.apply(group.batches[group.applied++]!.packed);
    if (content.isNamed) device.account(content.diskBytes - before);
  }

  #written(group: Group): void {
    const { failure } = group;
    this.#group = null;
    if (failure instanceof StorageError) {
      const text = `${failure.message}; the store in ${this.handle.path} takes no more writes`;
      this.#failure = new StorageError(failure.code, text, { cause: failure });
    }
    const settled = failure ? group.batches.concat(this.#waiting.splice(0)) : group.batches;
    if (this.#waiting.length > 0) this.#writeNext();
    for (const waiting of settled) {
      this.#waitingBytes -= waiting.packed.byteLength;
      if (this.#failure) waiting.reject(this.#failure);
      else waiting.resolve();
      this.handle.leave();
    }
  }
}
