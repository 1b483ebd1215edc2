// SPDX-License-Identifier: Apache-2.0
// The open files of a disk, by number: opening with or without O_DIRECT, and closing after what is
// in flight. A number is not given out again before all others were, so that a number kept by
// mistake meets an assertion and not somebody else's file.

import * as fs from "node:fs";
import { assert } from "../../base/assert.js";
import { StorageError } from "../../base/errors.js";
import { type Deferred, deferred } from "../../base/sync.js";
import type { FileId, OpenOptions } from "../disk.js";
import type { Log } from "../log.js";
import { blockDeviceBytes, call } from "./files.js";

const FILES_MAX = 65_536;

export interface OpenFile {
  readonly path: string;
  readonly fd: number;
  readonly direct: boolean;
  readonly writable: boolean;
  /** Size of a block device, which is fixed; 0 for files. */
  readonly blockBytes: number;
  /** Operations that were staged or are under way. */
  inFlight: number;
  /** Resolves when nothing is in flight; null while the file is open. */
  closing: Deferred<void> | null;
}

export class OpenFiles {
  readonly #log: Log;
  readonly #files: Array<OpenFile | null> = [];
  readonly #freeIds: FileId[] = [];
  #opening = 0;
  #stopped = false;
  #warned = false;

  constructor(log: Log) {
    this.#log = log;
  }

  /** The file of a number that is open; anything else is our own mistake. */
  at(file: FileId): OpenFile {
    const open = this.#files[file];
    assert(open !== null && open !== undefined && open.closing === null, "the file is open");
    return open;
  }

  /** Counts an operation on the file. */
  begin(file: FileId): OpenFile {
    const open = this.at(file);
    open.inFlight++;
    return open;
  }

  /** Takes that back: the operation is finished. */
  end(file: FileId): void {
    const open = this.#files[file];
    assert(open !== null && open !== undefined, "a file stays open for its operations");
    assert(open.inFlight > 0, "operations end once");
    open.inFlight--;
    if (open.closing !== null && open.inFlight === 0) open.closing.resolve();
  }

  /** Errors: OVS_NOT_FOUND, OVS_EXISTS, OVS_FULL, OVS_BUSY, OVS_CLOSED, else OVS_DISK_FAILED. */
  async open(path: string, options: OpenOptions): Promise<FileId> {
    assert(path.startsWith("/"), "paths are absolute");
    if (this.#files.length - this.#freeIds.length + this.#opening >= FILES_MAX) {
      throw new StorageError("OVS_BUSY", `cannot open ${path}: ${FILES_MAX} files are open`);
    }
    this.#opening++;
    try {
      const { fd, direct } = await this.#openFd(path, options);
      try {
        return await this.#register({ path, fd, direct, writable: options.write });
      } catch (error) {
        await closeFd(fd, path);
        throw error;
      }
    } finally {
      this.#opening--;
    }
  }

  /** Waits for the file's operations, then closes it. */
  async close(file: FileId): Promise<void> {
    const open = this.at(file);
    open.closing = deferred<void>();
    if (open.inFlight === 0) open.closing.resolve();
    await open.closing.promise;
    this.#files[file] = null;
    this.#freeIds.push(file);
    await closeFd(open.fd, open.path);
  }

  /** Closes all files; those that are being opened right now are refused. */
  async stop(): Promise<void> {
    this.#stopped = true;
    const ends: Array<Promise<void>> = [];
    for (let file = 0; file < this.#files.length; file++) {
      const open = this.#files[file];
      if (open) ends.push(open.closing === null ? this.close(file) : open.closing.promise);
    }
    await Promise.all(ends);
  }

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
      if (!isInvalid(error)) throw error;
    }
    // The name was made all the same, so that `exclusive` must not be asked for again.
    flags &= ~O_EXCL;
    const fd = await attempt(0);
    if (!this.#warned) {
      this.#log.warn("this file system has no O_DIRECT: its page cache is used", { path });
      this.#warned = true;
    }
    return { fd, direct: false };
  }

  async #register(file: Pick<OpenFile, "path" | "fd" | "direct" | "writable">): Promise<FileId> {
    const { path, fd } = file;
    const stat = await call<fs.Stats>((done) => fs.fstat(fd, done), path);
    if (!stat.isFile() && !stat.isBlockDevice()) {
      throw new StorageError("OVS_INVALID", `${path} is neither a file nor a block device`);
    }
    const blockBytes = stat.isBlockDevice() ? await blockDeviceBytes(stat.rdev) : 0;
    if (this.#stopped) throw new StorageError("OVS_CLOSED", "the disk is stopped");
    const id = this.#files.length < FILES_MAX ? this.#files.length : this.#freeIds.shift();
    assert(id !== undefined, "there is room for the file");
    this.#files[id] = { ...file, blockBytes, inFlight: 0, closing: null };
    return id;
  }
}

async function closeFd(fd: number, path: string): Promise<void> {
  await call((done) => fs.close(fd, done), path);
}

function isInvalid(error: unknown): boolean {
  const cause = error instanceof StorageError ? error.cause : null;
  return cause instanceof Error && (cause as NodeJS.ErrnoException).code === "EINVAL";
}
