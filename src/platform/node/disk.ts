// SPDX-License-Identifier: Apache-2.0
// The real `Disk`: staging, slots, files and dispatch. What executes the slots is an `Engine`: the
// addon's io_uring (engine.ts) or node:fs (fsdisk.ts); both work on the same table of rows.
//
//   read()… ──► row of a slot ──► staged ──turn's end──► engine.submit ──► … ──► done ──► handler
//
// Invariants: a slot is free, staged, or the engine's. A file's number is not given out again
// before all other numbers were, and never while an operation on the file is in flight. The hot
// path makes no object: an operation is a row of numbers.

import * as fs from "node:fs";
import { assert } from "../../base/assert.js";
import { messageOf, StorageError } from "../../base/errors.js";
import type { Deferred } from "../../base/sync.js";
import { deferred, Semaphore } from "../../base/sync.js";
import { CLUSTER_BYTES } from "../../base/units.js";
import type { DiskTable } from "../../native/disk.js";
import { DISK_SLOTS, DiskKind, PIECE_WORDS } from "../../native/disk.js";
import type { CompletionHandler, Disk, FileId, Files, HandlerId, OpenOptions } from "../disk.js";
import { DISK_TAG_MAX } from "../disk.js";
import type { Log } from "../log.js";
import type { Turn } from "../turn.js";
import { FlushStage } from "../turn.js";
import { blockDeviceBytes, call, diskError } from "./files.js";

const FILES_MAX = 65_536;
const HANDLERS_MAX = 2 ** 24;
/** Bytes of one operation: the kernel's limit, whole clusters. */
const OPERATION_BYTES_MAX = 2 ** 31 - CLUSTER_BYTES;
/** Slots that promises may hold; the others stay for the hot path. */
const PROMISES_MAX = 512;
const EINVAL = 22;
const ENOSPC = 28;

/**
 * Executes slots. `submit` takes staged[0…count), later `onDone` tells that done[0…count) are
 * finished.
 */
export interface Engine {
  readonly name: string;
  readonly table: DiskTable;
  submit(count: number): void;
  /** Frees what the engine holds; nothing is in flight any more. */
  close(): void;
}

/** Makes the engine; `onDone(count)` is called outside any turn. */
export type EngineFactory = (onDone: (count: number) => void) => Engine;

interface OpenFile {
  readonly path: string;
  readonly fd: number;
  readonly direct: boolean;
  readonly writable: boolean;
  /** Size of a block device, which is fixed; 0 for files. */
  readonly blockBytes: number;
  inFlight: number;
  closing: Deferred<void> | null;
}

export class NodeDisk implements Disk {
  readonly files: Files;
  readonly engine: string;
  readonly #engine: Engine;
  readonly #table: DiskTable;
  readonly #turn: Turn;
  readonly #log: Log;
  readonly #arenaBytes: number;
  readonly #detach: () => void;

  readonly #open: Array<OpenFile | null> = [];
  readonly #freeFiles: number[] = [];
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
  #opening = 0;
  #stopped: Promise<void> | null = null;

  constructor(options: {
    engine: EngineFactory;
    files: Files;
    turn: Turn;
    log: Log;
    arenaBytes: number;
  }) {
    this.#turn = options.turn;
    this.#log = options.log;
    this.files = options.files;
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
    assert(path.startsWith("/"), "paths are absolute");
    if (this.#stopped) throw new StorageError("OVS_CLOSED", "the disk is stopped");
    if (this.#open.length >= FILES_MAX && this.#freeFiles.length === 0) {
      throw new StorageError("OVS_BUSY", `cannot open ${path}: ${FILES_MAX} files are open`);
    }
    this.#opening++;
    try {
      const { fd, direct } = await this.#openFd(path, options);
      return await this.#register(path, fd, direct, options.write);
    } finally {
      this.#opening--;
    }
  }

  async close(file: FileId): Promise<void> {
    const open = this.#fileAt(file);
    open.closing = deferred<void>();
    if (open.inFlight === 0) open.closing.resolve();
    await open.closing.promise;
    this.#open[file] = null;
    this.#freeFiles.push(file);
    await call((done) => fs.close(open.fd, done), open.path);
  }

  async size(file: FileId): Promise<number> {
    const open = this.#fileAt(file);
    if (open.blockBytes > 0) return open.blockBytes;
    const stat = await call<fs.Stats>((done) => fs.fstat(open.fd, done), open.path);
    return stat.size;
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
    this.#stage(DiskKind.Sync, handler, tag, file, 0, 0);
  }

  allocate(handler: HandlerId, tag: number, file: FileId, offset: number, bytes: number): void {
    const blockBytes = this.#fileAt(file).blockBytes;
    if (blockBytes === 0) {
      this.#stage(DiskKind.Allocate, handler, tag, file, offset, bytes);
      return;
    }
    // A device has all its blocks already.
    const slot = this.#take(DiskKind.Allocate, handler, tag, file, offset, bytes);
    const result = offset + bytes <= blockBytes ? 0 : -ENOSPC;
    setImmediate(() => this.#finishOutside(slot, result));
  }

  punch(handler: HandlerId, tag: number, file: FileId, offset: number, bytes: number): void {
    this.#stage(DiskKind.Punch, handler, tag, file, offset, bytes);
  }

  truncate(handler: HandlerId, tag: number, file: FileId, bytes: number): void {
    const slot = this.#take(DiskKind.Truncate, handler, tag, file, 0, bytes);
    fs.ftruncate(this.#table.fd[slot]!, bytes, (error) => {
      this.#finishOutside(slot, error ? (error.errno ?? -EINVAL) : 0);
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
    assert(this.#opening === 0, "no file is being opened when the disk stops");
    const closing: Array<Promise<void>> = [];
    for (let file = 0; file < this.#open.length; file++) {
      const open = this.#open[file];
      if (open && open.closing === null) closing.push(this.close(file));
      else if (open?.closing) closing.push(open.closing.promise);
    }
    await Promise.all(closing);
    assert(this.inFlight === 0, "closed files have nothing in flight");
    this.#detach();
    this.#engine.close();
  }

  // Opening

  async #openFd(path: string, options: OpenOptions): Promise<{ fd: number; direct: boolean }> {
    const { O_CREAT, O_EXCL, O_RDWR, O_RDONLY, O_DIRECT } = fs.constants;
    let flags = options.write ? O_RDWR : O_RDONLY;
    if (options.create) flags |= O_CREAT;
    if (options.exclusive) flags |= O_EXCL;
    const attempt = (extra: number) =>
      call<number>((done) => fs.open(path, flags | extra, 0o600, done), path);
    if (!options.direct) return { fd: await attempt(0), direct: false };
    try {
      return { fd: await attempt(O_DIRECT), direct: true };
    } catch (error) {
      if (!isErrno(error, "EINVAL")) throw error;
      // The name was made all the same, so that `exclusive` must not be asked again.
      flags &= ~O_EXCL;
      const fd = await attempt(0);
      this.#log.warn("no O_DIRECT on this file system: the page cache is used instead", { path });
      return { fd, direct: false };
    }
  }

  async #register(path: string, fd: number, direct: boolean, writable: boolean): Promise<FileId> {
    const stat = await call<fs.Stats>((done) => fs.fstat(fd, done), path);
    if (!stat.isFile() && !stat.isBlockDevice()) {
      await call((done) => fs.close(fd, done), path);
      throw new StorageError("OVS_INVALID", `${path} is neither a file nor a block device`);
    }
    const blockBytes = stat.isBlockDevice() ? await blockDeviceBytes(stat.rdev) : 0;
    const open: OpenFile = { path, fd, direct, writable, blockBytes, inFlight: 0, closing: null };
    const file = this.#open.length < FILES_MAX ? this.#open.length : this.#freeFiles.shift();
    assert(file !== undefined, "there is room for the file");
    this.#open[file] = open;
    return file;
  }

  #fileAt(file: FileId): OpenFile {
    const open = this.#open[file];
    assert(open !== null && open !== undefined && open.closing === null, "the file is open");
    return open;
  }

  // Staging

  #transfer(
    kind: DiskKind,
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    arena: number,
    bytes: number,
  ): void {
    assert(arena > 0 && arena + bytes <= this.#arenaBytes, "the memory lies in the arena");
    const slot = this.#stage(kind, handler, tag, file, offset, bytes);
    assert(bytes > 0 && bytes <= OPERATION_BYTES_MAX, "an operation moves something");
    const unaligned = (offset | arena | bytes) & (CLUSTER_BYTES - 1);
    assert(unaligned === 0 || !this.#open[file]!.direct, "direct I/O is whole clusters");
    this.#table.memory[slot] = arena;
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
    const table = this.#table;
    assert(count > 0 && count <= table.piecesMax, "a gather list has 1 to 1024 pieces");
    assert(count * 2 <= pieces.length, "the list has that many pieces");
    const slot = this.#stage(kind, handler, tag, file, offset, 1);
    let sum = 0;
    let unaligned = offset;
    let word = slot * table.piecesMax * PIECE_WORDS;
    for (let i = 0; i < count; i++, word += PIECE_WORDS) {
      const arena = pieces[2 * i]!;
      const bytes = pieces[2 * i + 1]!;
      assert(
        arena > 0 && bytes > 0 && arena + bytes <= this.#arenaBytes,
        "pieces lie in the arena",
      );
      table.pieces[word] = arena;
      table.pieces[word + 1] = 0;
      table.pieces[word + 2] = bytes;
      table.pieces[word + 3] = 0;
      unaligned |= arena | bytes;
      sum += bytes;
    }
    assert(sum <= OPERATION_BYTES_MAX, "an operation moves less than 2 GiB");
    assert(
      (unaligned & (CLUSTER_BYTES - 1)) === 0 || !this.#open[file]!.direct,
      "direct I/O is whole clusters",
    );
    table.count[slot] = count;
    table.length[slot] = sum;
  }

  #stage(
    kind: DiskKind,
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    bytes: number,
  ): number {
    const slot = this.#take(kind, handler, tag, file, offset, bytes);
    this.#table.staged[this.#stagedCount++] = slot;
    if (this.#stagedCount === 1) this.#turn.request();
    return slot;
  }

  #take(
    kind: DiskKind,
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    bytes: number,
  ): number {
    const open = this.#open[file];
    assert(open !== null && open !== undefined && open.closing === null, "the file is open");
    assert(
      kind === DiskKind.Read || kind === DiskKind.ReadScatter || open.writable,
      "the file is open for writing",
    );
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
    const slot = this.#free[--this.#freeCount]!;
    const table = this.#table;
    table.kind[slot] = kind;
    table.fd[slot] = open.fd;
    table.offset[slot] = offset;
    table.length[slot] = bytes;
    this.#handlerOf[slot] = handler;
    this.#tagOf[slot] = tag;
    this.#fileOf[slot] = file;
    open.inFlight++;
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
    const open = this.#open[this.#fileOf[slot]!];
    assert(
      open !== null && open !== undefined && open.inFlight > 0,
      "a file stays open for its operations",
    );
    open.inFlight--;
    if (open.closing !== null && open.inFlight === 0) open.closing.resolve();
    const handler = this.#handlers[this.#handlerOf[slot]!]!;
    const tag = this.#tagOf[slot]!;
    this.#free[this.#freeCount++] = slot;
    handler(tag, result);
  }

  // Promises

  async #promised(file: FileId, what: string, stage: (tag: number) => void): Promise<number> {
    const path = this.#fileAt(file).path;
    await this.#permits.acquire();
    try {
      const result = await new Promise<number>((resolve) => {
        const tag = this.#freePromises.pop() ?? this.#promises.length;
        this.#promises[tag] = resolve;
        stage(tag);
      });
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

function isErrno(error: unknown, code: string): boolean {
  return messageOf(error).includes(`${code}:`);
}
