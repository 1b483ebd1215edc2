// SPDX-License-Identifier: Apache-2.0
// The open files of a disk, by number: what is in flight on each is counted, and closing waits for
// it. A number is not given out again before all others were, so that a number kept by mistake
// meets an assertion and not somebody else's file.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { type Deferred, deferred } from "../base/sync.js";
import type { FileId, OpenOptions } from "./disk.js";

const FILES_MAX = 65_536;

/** A file that the system has opened. */
export interface Descriptor {
  readonly fd: number;
  readonly direct: boolean;
  /** Size of a block device, which is fixed; 0 for files. */
  readonly blockBytes: number;
}

/** The system's side of open files; paths are for its errors. */
export interface Descriptors {
  /** Errors as `Disk.open` has them. */
  open(path: string, options: OpenOptions): Promise<Descriptor>;
  /** Called once nothing is in flight on it. Its number may come again from the next `open`. */
  close(fd: number, path: string): Promise<void>;
  /** Of a file, in bytes, as it is now. */
  size(fd: number, path: string): Promise<number>;
  /** `done` gets 0 or -errno, later, outside any turn. */
  truncate(fd: number, bytes: number, done: (result: number) => void): void;
}

export interface OpenFile extends Descriptor {
  readonly path: string;
  readonly writable: boolean;
  /** Operations that were staged or are under way. */
  inFlight: number;
  /** Resolves when nothing is in flight; null while the file is open. */
  closing: Deferred<void> | null;
}

export class OpenFiles {
  readonly #descriptors: Descriptors;
  readonly #files: Array<OpenFile | null> = [];
  readonly #freeIds: FileId[] = [];
  #opening = 0;
  #stopped = false;

  constructor(descriptors: Descriptors) {
    this.#descriptors = descriptors;
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
      const descriptor = await this.#descriptors.open(path, options);
      if (this.#stopped) {
        await this.#descriptors.close(descriptor.fd, path);
        throw new StorageError("OVS_CLOSED", "the disk is stopped");
      }
      return this.#register(path, descriptor, options.write);
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
    await this.#descriptors.close(open.fd, open.path);
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

  #register(path: string, descriptor: Descriptor, writable: boolean): FileId {
    const { fd, direct, blockBytes } = descriptor;
    const id = this.#files.length < FILES_MAX ? this.#files.length : this.#freeIds.shift();
    assert(id !== undefined, "there is room for the file");
    this.#files[id] = { path, fd, direct, blockBytes, writable, inFlight: 0, closing: null };
    return id;
  }
}
