// SPDX-License-Identifier: Apache-2.0
// The key-value store of the real world: RocksDB through the addon `kv`.
//
// Writes: one queue a store. While one write is on the pool the next ones gather; then all of
// them, in order, become one write with one sync (group commit). A write that failed may or may not
// be in the log, so it is the store's last: all later ones are refused until it is opened anew.
// Reads: answered at once when memory has the blocks, else on the pool.
//
//   write() → [ waiting … ] → one group on the pool → settles its promises → next group

import { lstat } from "node:fs/promises";
import { assert } from "../../base/assert.js";
import { StorageError } from "../../base/errors.js";
import { KIB, MIB } from "../../base/units.js";
import {
  KV_MISSING,
  KV_NOT_FOUND,
  KV_OK,
  type KvAddon,
  type KvDone,
  kvError,
  loadKv,
} from "../../native/kv.js";
import type {
  KvBatch,
  KvEntry,
  KvFactory,
  KvOptions,
  KvRange,
  KvReader,
  KvSnapshot,
  KvStore,
} from "../kv.js";
import { checkKey, PackedBatch, WAITING_BATCHES_MAX, WAITING_BYTES_MAX } from "../kvbatch.js";

const GROUP_BATCHES_MAX = 512;
const GROUP_BYTES_MAX = 4 * MIB;
export const KV_KEYS_MAX = 65_536;

/** Makes stores in folders of the real file system. */
export class NodeKv implements KvFactory {
  readonly #addon: KvAddon;

  constructor() {
    this.#addon = loadKv();
  }

  /**
   * OVS_BUSY names who has it open; OVS_NOT_FOUND without `create`; OVS_CORRUPT says what is
   * damaged.
   */
  async open(path: string, options: KvOptions): Promise<KvStore> {
    if (!path.startsWith("/"))
      throw new StorageError("OVS_INVALID", `"${path}" is no absolute path`);
    assert(options.cacheBytes >= 64 * KIB, "a store has a cache of 64 KiB at least");
    assert(options.writeBufferBytes >= 64 * KIB, "a store has a write buffer of 64 KiB at least");
    const { cacheBytes, writeBufferBytes, create } = options;
    const addon = this.#addon;
    return await new Promise<KvStore>((resolve, reject) => {
      const id = addon.open(path, cacheBytes, writeBufferBytes, create, (code, message) => {
        if (code === KV_OK) resolve(new NodeKvStore(new Handle(addon, id, path)));
        else reject(kvError(code, message));
      });
    });
  }
}

/** An open store of the addon: counts what is in flight, so that closing can wait for it. */
class Handle {
  readonly addon: KvAddon;
  readonly id: number;
  readonly path: string;
  closed = false;
  damage: StorageError | null = null;
  #inFlight = 0;
  #whenIdle: (() => void) | null = null;

  constructor(addon: KvAddon, id: number, path: string) {
    this.addon = addon;
    this.id = id;
    this.path = path;
  }

  checkOpen(): void {
    if (this.closed) throw new StorageError("OVS_CLOSED", `the store in ${this.path} is closed`);
  }

  /** Runs one call of the addon; null when it found nothing. `start` answers undefined: later. */
  async ask(start: (done: KvDone) => ArrayBuffer | null | undefined): Promise<ArrayBuffer | null> {
    this.checkOpen();
    return await new Promise<ArrayBuffer | null>((resolve, reject) => {
      const now = start((code, message, answer) => {
        this.leave();
        if (code === KV_OK || code === KV_NOT_FOUND) resolve(answer);
        else reject(this.fail(code, message));
      });
      if (now === undefined) this.enter();
      else resolve(now);
    });
  }

  /** The error of a call; damage is remembered. */
  fail(code: number, message: string | null): StorageError {
    const error = kvError(code, message);
    if (error.code === "OVS_CORRUPT") this.damage ??= error;
    return error;
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

/** What stores and snapshots have in common. Snapshot 0 is the present. */
class Reader implements KvReader {
  protected readonly handle: Handle;
  protected snapshotId = 0;

  constructor(handle: Handle) {
    this.handle = handle;
  }

  async get(key: Uint8Array): Promise<Uint8Array | null> {
    checkKey(key);
    this.checkUsable();
    const { addon, id } = this.handle;
    const answer = await this.handle.ask((done) => addon.get(id, this.snapshotId, key, done));
    return answer && new Uint8Array(answer);
  }

  async getMany(keys: ReadonlyArray<Uint8Array>): Promise<Array<Uint8Array | null>> {
    if (keys.length === 0) return [];
    this.checkUsable();
    const packed = packKeys(keys);
    const { addon, id } = this.handle;
    const answer = await this.handle.ask((done) =>
      addon.getMany(id, this.snapshotId, packed, keys.length, done),
    );
    assert(answer !== null, "many keys always have an answer");
    return sliceValues(answer, keys.length);
  }

  async range(range: KvRange): Promise<KvEntry[]> {
    const { first, end, reverse, limit } = range;
    assert(Number.isSafeInteger(limit) && limit >= 0 && limit < 2 ** 32, "a limit is a count");
    this.checkUsable();
    if (first) checkKey(first);
    if (end) checkKey(end);
    if (limit === 0 || (first && end && Buffer.compare(first, end) >= 0)) return [];
    const { addon, id } = this.handle;
    const answer = await this.handle.ask((done) =>
      addon.range(id, this.snapshotId, first, end, reverse, limit, done),
    );
    assert(answer !== null, "a range always has an answer");
    return sliceEntries(answer, limit);
  }

  protected checkUsable(): void {
    this.handle.checkOpen();
  }
}

class NodeKvSnapshot extends Reader implements KvSnapshot {
  readonly #released: (snapshot: NodeKvSnapshot) => void;

  constructor(handle: Handle, released: (snapshot: NodeKvSnapshot) => void) {
    super(handle);
    this.#released = released;
    this.snapshotId = handle.addon.snapshot(handle.id);
    assert(this.snapshotId > 0, "0 is the present");
  }

  release(): void {
    if (this.snapshotId === 0) return;
    this.handle.addon.release(this.handle.id, this.snapshotId);
    this.snapshotId = 0;
    this.#released(this);
  }

  protected override checkUsable(): void {
    super.checkUsable();
    if (this.snapshotId === 0) throw new StorageError("OVS_CLOSED", "the snapshot was released");
  }
}

interface Waiting {
  packed: Uint8Array;
  sync: boolean;
  resolve(): void;
  reject(error: unknown): void;
}

class NodeKvStore extends Reader implements KvStore {
  readonly #snapshots = new Set<NodeKvSnapshot>();
  #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #writing = false;
  #failure: StorageError | null = null;
  #closing: Promise<void> | null = null;

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
      throw new StorageError(
        "OVS_BUSY",
        `too many writes wait for the store in ${this.handle.path}`,
      );
    }
    const packed = batch.packed();
    this.#waitingBytes += packed.byteLength;
    this.handle.enter();
    const written = new Promise<void>((resolve, reject) => {
      this.#waiting.push({ packed, sync: options.sync, resolve, reject });
    });
    if (!this.#writing) this.#writeNext();
    await written;
  }

  snapshot(): KvSnapshot {
    this.handle.checkOpen();
    const snapshot = new NodeKvSnapshot(this.handle, (released) =>
      this.#snapshots.delete(released),
    );
    this.#snapshots.add(snapshot);
    return snapshot;
  }

  async checkpoint(path: string): Promise<void> {
    if (!path.startsWith("/"))
      throw new StorageError("OVS_INVALID", `"${path}" is no absolute path`);
    this.handle.checkOpen();
    const isThere = await lstat(path).then(
      () => true,
      () => false,
    );
    if (isThere) throw new StorageError("OVS_EXISTS", `${path} exists`);
    const { addon, id } = this.handle;
    await this.handle.ask((done) => addon.checkpoint(id, path, done));
  }

  async stats(): Promise<{ diskBytes: number; memoryBytes: number; keysEstimate: number }> {
    const { addon, id } = this.handle;
    const answer = await this.handle.ask((done) => addon.stats(id, done));
    assert(answer !== null, "statistics always have an answer");
    const numbers = new Float64Array(answer);
    assert(numbers.length === 3, "three numbers were asked for");
    return { diskBytes: numbers[0]!, memoryBytes: numbers[1]!, keysEstimate: numbers[2]! };
  }

  /** Finishes what was called before, ends the snapshots, syncs. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.handle.closed = true;
    await this.handle.idle();
    for (const snapshot of [...this.#snapshots]) snapshot.release();
    const { addon, id } = this.handle;
    await new Promise<void>((resolve, reject) => {
      addon.close(id, (code, message) => {
        if (code === KV_OK || this.#failure) resolve();
        else reject(kvError(code, message));
      });
    });
  }

  /** Sends the batches that wait, up to a group's bounds, as one write. */
  #writeNext(): void {
    let count = 0;
    let bytes = 0;
    let sync = false;
    const buffers: Uint8Array[] = [];
    for (const waiting of this.#waiting) {
      bytes += waiting.packed.byteLength;
      if (count === GROUP_BATCHES_MAX || (count > 0 && bytes > GROUP_BYTES_MAX)) break;
      buffers.push(waiting.packed);
      sync ||= waiting.sync;
      count++;
    }
    const group = this.#waiting.splice(0, count);
    assert(group.length > 0, "somebody waits");
    this.#writing = true;
    const wrong = this.handle.addon.write(this.handle.id, buffers, count, sync, (code, message) => {
      this.#written(group, code === KV_OK ? null : this.handle.fail(code, message));
    });
    assert(wrong === null, `a packed batch is well formed: ${wrong}`);
  }

  #written(group: Waiting[], failure: StorageError | null): void {
    this.#writing = false;
    if (failure) {
      const text = `${failure.message}; the store in ${this.handle.path} takes no more writes`;
      this.#failure = new StorageError(failure.code, text, { cause: failure });
    }
    const settled = failure ? group.concat(this.#waiting.splice(0)) : group;
    if (this.#waiting.length > 0) this.#writeNext();
    for (const waiting of settled) {
      this.#waitingBytes -= waiting.packed.byteLength;
      if (this.#failure) waiting.reject(this.#failure);
      else waiting.resolve();
      this.handle.leave();
    }
  }
}

/** u32 bytes and key, again and again. */
function packKeys(keys: ReadonlyArray<Uint8Array>): Uint8Array {
  if (keys.length > KV_KEYS_MAX) {
    throw new StorageError("OVS_INVALID", `${keys.length} keys in one read exceed ${KV_KEYS_MAX}`);
  }
  let bytes = 0;
  for (const key of keys) {
    checkKey(key);
    bytes += 4 + key.byteLength;
  }
  const packed = new Uint8Array(bytes);
  const view = new DataView(packed.buffer);
  let at = 0;
  for (const key of keys) {
    view.setUint32(at, key.byteLength, true);
    packed.set(key, at + 4);
    at += 4 + key.byteLength;
  }
  assert(at === bytes, "every key was packed");
  return packed;
}

function sliceValues(answer: ArrayBuffer, count: number): Array<Uint8Array | null> {
  const view = new DataView(answer);
  const values: Array<Uint8Array | null> = [];
  let at = count * 4;
  for (let i = 0; i < count; i++) {
    const bytes = view.getUint32(i * 4, true);
    values.push(bytes === KV_MISSING ? null : new Uint8Array(answer, at, bytes));
    if (bytes !== KV_MISSING) at += bytes;
  }
  assert(at === answer.byteLength, "the answer ends with the last value");
  return values;
}

function sliceEntries(answer: ArrayBuffer, limit: number): KvEntry[] {
  const view = new DataView(answer);
  const entries: KvEntry[] = [];
  let at = 0;
  while (at < answer.byteLength) {
    const keyBytes = view.getUint32(at, true);
    const valueBytes = view.getUint32(at + 4, true);
    const key = new Uint8Array(answer, at + 8, keyBytes);
    entries.push({ key, value: new Uint8Array(answer, at + 8 + keyBytes, valueBytes) });
    at += 8 + keyBytes + valueBytes;
  }
  assert(at === answer.byteLength && entries.length <= limit, "the answer is whole entries");
  return entries;
}
