// SPDX-License-Identifier: Apache-2.0
// A `Disk` over a table of slots: staging, dispatch of completions, promises. What executes the
// slots is an `Engine`: io_uring, node:fs or the simulator's; what opens files are `Descriptors`.
//
//   read()… ──► row of a slot ──► staged ──turn's end──► engine.submit ──► … ──► done ──► handler
//
// Invariants: a slot is free, staged, or the engine's. The hot path makes no object: an operation
// is a row of numbers.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { deferred, Semaphore } from "../base/sync.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { CompletionHandler, Disk, FileId, Files, HandlerId, OpenOptions } from "./disk.js";
import { DISK_PIECES_MAX, DISK_TAG_MAX } from "./disk.js";
import { diskError } from "./diskerror.js";
import type { Descriptors } from "./openfiles.js";
import { OpenFiles } from "./openfiles.js";
import type { SlotTable } from "./slots.js";
import { DISK_SLOTS, DiskKind } from "./slots.js";
import type { Turn } from "./turn.js";
import { FlushStage } from "./turn.js";

const HANDLERS_MAX = 2 ** 24;
/** Bytes of one operation: the kernel's limit, whole clusters. */
const OPERATION_BYTES_MAX = 2 ** 31 - CLUSTER_BYTES;
/** Slots that promises may hold; the others stay for the hot path. */
const PROMISES_MAX = 512;
const ENOSPC = 28;

/**
 * Executes slots. `submit` takes staged[0…count), later `onDone` tells that done[0…count) are
 * finished.
 */
export interface Engine {
  readonly name: string;
  readonly table: SlotTable;
  /** Copies the `count` pieces (arena offset, bytes) of a slot that is being staged. */
  putPieces(slot: number, pieces: Uint32Array, count: number): void;
  /** Takes the slots staged[0…count), once a turn. */
  submit(count: number): void;
  /** Frees what the engine holds; nothing is in flight any more. */
  close(): void;
}

/** Makes the engine; `onDone(count)` is called outside any turn. */
export type EngineFactory = (onDone: (count: number) => void) => Engine;

export class RingDisk implements Disk {
  readonly files: Files;
  readonly engine: string;
  readonly #engine: Engine;
  readonly #table: SlotTable;
  readonly #turn: Turn;
  readonly #arenaBytes: number;
  readonly #descriptors: Descriptors;
  readonly #immediate: (work: () => void) => void;
  readonly #detach: () => void;

  readonly #open: OpenFiles;
  readonly #handlers: CompletionHandler[] = [];

  readonly #free = new Uint32Array(DISK_SLOTS);
  #freeCount = DISK_SLOTS;
  #stagedCount = 0;
  readonly #handlerOf = new Uint32Array(DISK_SLOTS);
  readonly #tagOf = new Uint32Array(DISK_SLOTS);
  readonly #fileOf = new Uint32Array(DISK_SLOTS);

  readonly #promises: Array<((result: number) => void) | null> = [];
  readonly #freePromises: number[] = [];
  readonly #permits = new Semaphore(PROMISES_MAX);
  readonly #promiseHandler: HandlerId;
  #stopped: Promise<void> | null = null;

  /** `immediate` runs its argument once, soon, outside any turn. */
  constructor(options: {
    engine: EngineFactory;
    descriptors: Descriptors;
    files: Files;
    turn: Turn;
    immediate: (work: () => void) => void;
    arenaBytes: number;
  }) {
    this.#turn = options.turn;
    this.#immediate = options.immediate;
    this.files = options.files;
    this.#descriptors = options.descriptors;
    this.#open = new OpenFiles(options.descriptors);
    this.#arenaBytes = options.arenaBytes;
    this.#engine = options.engine((count) => this.#onDone(count));
    this.#table = this.#engine.table;
    this.engine = this.#engine.name;
    // The last slot freed is the first taken: the rows in use stay few and in the cache.
    for (let i = 0; i < DISK_SLOTS; i++) this.#free[i] = DISK_SLOTS - 1 - i;
    this.#detach = this.#turn.atEnd(FlushStage.Disk, () => this.#submit());
    this.#promiseHandler = this.handler((tag, result) => this.#settle(tag, result));
  }

  get inFlight(): number {
    return DISK_SLOTS - this.#freeCount;
  }

  async open(path: string, options: OpenOptions): Promise<FileId> {
    if (this.#stopped) throw new StorageError("OVS_CLOSED", "the disk is stopped");
    return await this.#open.open(path, options);
  }

  async close(file: FileId): Promise<void> {
    await this.#open.close(file);
  }

  async size(file: FileId): Promise<number> {
    const open = this.#open.at(file);
    if (open.blockBytes > 0) return open.blockBytes;
    return await this.#descriptors.size(open.fd, open.path);
  }

  handler(handler: CompletionHandler): HandlerId {
    assert(this.#handlers.length < HANDLERS_MAX, "handlers are made once, not per request");
    return this.#handlers.push(handler) - 1;
  }

  read(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    arena: number,
    bytes: number,
  ): void {
    this.#transfer(DiskKind.Read, handler, tag, file, offset, arena, bytes);
  }

  readTogether(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    arena: number,
    bytes: number,
  ): void {
    this.#transfer(DiskKind.ReadTogether, handler, tag, file, offset, arena, bytes);
  }

  write(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    arena: number,
    bytes: number,
  ): void {
    this.#transfer(DiskKind.Write, handler, tag, file, offset, arena, bytes);
  }

  writeGather(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    pieces: Uint32Array,
    count: number,
  ): void {
    this.#transferPieces(DiskKind.WriteGather, handler, tag, file, offset, pieces, count);
  }

  readScatter(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    pieces: Uint32Array,
    count: number,
  ): void {
    this.#transferPieces(DiskKind.ReadScatter, handler, tag, file, offset, pieces, count);
  }

  sync(handler: HandlerId, tag: number, file: FileId): void {
    this.#stage(this.#take(DiskKind.Sync, handler, tag, file, 0, 0));
  }

  allocate(handler: HandlerId, tag: number, file: FileId, offset: number, bytes: number): void {
    const slot = this.#take(DiskKind.Allocate, handler, tag, file, offset, bytes);
    const blockBytes = this.#open.at(file).blockBytes;
    if (blockBytes === 0) {
      this.#stage(slot);
      return;
    }
    // A device has all its blocks already.
    const result = offset + bytes <= blockBytes ? 0 : -ENOSPC;
    this.#immediate(() => this.#finishOutside(slot, result));
  }

  punch(handler: HandlerId, tag: number, file: FileId, offset: number, bytes: number): void {
    this.#stage(this.#take(DiskKind.Punch, handler, tag, file, offset, bytes));
  }

  truncate(handler: HandlerId, tag: number, file: FileId, bytes: number): void {
    const slot = this.#take(DiskKind.Truncate, handler, tag, file, 0, bytes);
    this.#descriptors.truncate(this.#table.fd[slot]!, bytes, (result) => {
      this.#finishOutside(slot, result);
    });
  }

  async readAsync(file: FileId, offset: number, arena: number, bytes: number): Promise<number> {
    return await this.#promised(file, "read", (tag) =>
      this.read(this.#promiseHandler, tag, file, offset, arena, bytes),
    );
  }

  async writeAsync(file: FileId, offset: number, arena: number, bytes: number): Promise<void> {
    await this.#promised(file, "write", (tag) =>
      this.write(this.#promiseHandler, tag, file, offset, arena, bytes),
    );
  }

  async syncAsync(file: FileId): Promise<void> {
    await this.#promised(file, "sync", (tag) => this.sync(this.#promiseHandler, tag, file));
  }

  async allocateAsync(file: FileId, offset: number, bytes: number): Promise<void> {
    await this.#promised(file, "allocate", (tag) =>
      this.allocate(this.#promiseHandler, tag, file, offset, bytes),
    );
  }

  async punchAsync(file: FileId, offset: number, bytes: number): Promise<void> {
    await this.#promised(file, "punch", (tag) =>
      this.punch(this.#promiseHandler, tag, file, offset, bytes),
    );
  }

  async truncateAsync(file: FileId, bytes: number): Promise<void> {
    await this.#promised(file, "truncate", (tag) =>
      this.truncate(this.#promiseHandler, tag, file, bytes),
    );
  }

  async stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    await this.#stopped;
  }

  async #stop(): Promise<void> {
    await this.#open.stop();
    assert(this.inFlight === 0, "closed files have nothing in flight");
    this.#detach();
    this.#engine.close();
  }

  // Staging

  // All is checked before a slot is taken: what asserts has staged nothing.

  #transfer(
    kind: DiskKind,
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    arena: number,
    bytes: number,
  ): void {
    assert(bytes > 0 && bytes <= OPERATION_BYTES_MAX, "an operation moves something");
    assert(arena > 0 && arena + bytes <= this.#arenaBytes, "the memory lies in the arena");
    this.#checkAligned(file, offset | arena | bytes);
    const slot = this.#take(kind, handler, tag, file, offset, bytes);
    this.#table.memory[slot] = arena;
    this.#stage(slot);
  }

  #transferPieces(
    kind: DiskKind,
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    pieces: Uint32Array,
    count: number,
  ): void {
    assert(count > 0 && count <= DISK_PIECES_MAX, "a list has 1 to 1024 pieces");
    assert(count * 2 <= pieces.length, "the list has that many pieces");
    let sum = 0;
    let bits = offset;
    for (let i = 0; i < count; i++) {
      const arena = pieces[2 * i]!;
      const bytes = pieces[2 * i + 1]!;
      assert(arena > 0 && bytes > 0, "a piece is somewhere and something");
      assert(arena + bytes <= this.#arenaBytes, "pieces lie in the arena");
      bits |= arena | bytes;
      sum += bytes;
    }
    assert(sum <= OPERATION_BYTES_MAX, "an operation moves less than 2 GiB");
    this.#checkAligned(file, bits);
    const slot = this.#take(kind, handler, tag, file, offset, sum);
    this.#engine.putPieces(slot, pieces, count);
    this.#stage(slot);
  }

  /** `bits`: all places and lengths of an operation, or-ed. */
  #checkAligned(file: FileId, bits: number): void {
    const aligned = (bits & (CLUSTER_BYTES - 1)) === 0;
    assert(aligned || !this.#open.at(file).direct, "direct I/O is whole clusters");
  }

  #stage(slot: number): void {
    this.#table.staged[this.#stagedCount++] = slot;
    if (this.#stagedCount === 1) this.#turn.request();
  }

  #take(
    kind: DiskKind,
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    bytes: number,
  ): number {
    assert(
      offset >= 0 && bytes >= 0 && Number.isSafeInteger(offset + bytes),
      "places are whole numbers",
    );
    assert(
      tag >= 0 && tag <= DISK_TAG_MAX && handler < this.#handlers.length,
      "the handler and its tag exist",
    );
    if (this.#freeCount === 0) {
      throw new StorageError("OVS_BUSY", `${DISK_SLOTS} disk operations are in flight`);
    }
    const isOne = kind === DiskKind.Read || kind === DiskKind.ReadTogether;
    const isRead = isOne || kind === DiskKind.ReadScatter;
    assert(isRead || this.#open.at(file).writable, "the file is open for writing");
    const open = this.#open.begin(file);
    const slot = this.#free[--this.#freeCount]!;
    const table = this.#table;
    table.kind[slot] = kind;
    table.fd[slot] = open.fd;
    table.offset[slot] = offset;
    table.length[slot] = bytes;
    this.#handlerOf[slot] = handler;
    this.#tagOf[slot] = tag;
    this.#fileOf[slot] = file;
    return slot;
  }

  #submit(): void {
    const count = this.#stagedCount;
    if (count === 0) return;
    this.#stagedCount = 0;
    this.#engine.submit(count);
  }

  // Completions

  #onDone(count: number): void {
    const table = this.#table;
    this.#turn.begin();
    for (let i = 0; i < count; i++) {
      const slot = table.done[i]!;
      this.#finish(slot, table.result[slot]!);
    }
    this.#turn.end();
  }

  #finishOutside(slot: number, result: number): void {
    this.#turn.begin();
    this.#finish(slot, result);
    this.#turn.end();
  }

  #finish(slot: number, result: number): void {
    this.#open.end(this.#fileOf[slot]!);
    const handler = this.#handlers[this.#handlerOf[slot]!]!;
    const tag = this.#tagOf[slot]!;
    this.#free[this.#freeCount++] = slot;
    handler(tag, result);
  }

  // Promises

  async #promised(file: FileId, what: string, stage: (tag: number) => void): Promise<number> {
    const path = this.#open.at(file).path;
    await this.#permits.acquire();
    try {
      const tag = this.#freePromises.pop() ?? this.#promises.length;
      const { promise, resolve } = deferred<number>();
      this.#promises[tag] = resolve;
      try {
        stage(tag);
      } catch (error) {
        this.#settle(tag, 0);
        throw error;
      }
      const result = await promise;
      if (result < 0) throw diskError(what, path, result);
      return result;
    } finally {
      this.#permits.release();
    }
  }

  #settle(tag: number, result: number): void {
    const resolve = this.#promises[tag];
    assert(resolve !== null && resolve !== undefined, "somebody waits for this operation");
    this.#promises[tag] = null;
    this.#freePromises.push(tag);
    resolve(result);
  }
}
