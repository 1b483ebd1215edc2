// SPDX-License-Identifier: Apache-2.0
// Opening of real files and block devices, with or without O_DIRECT, over node:fs.
//
// Whoever writes to a file has its flock, taken on the descriptor that the writes go through. The
// kernel lets go of it when the last request on that descriptor is over: writes of a killed process
// may reach the disk long after it is gone, and until then nobody else may open the file to write.

import * as fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { StorageError } from "../../base/errors.js";
import type { OpenOptions } from "../disk.js";
import { diskError } from "../diskerror.js";
import type { Log } from "../log.js";
import type { Descriptor, Descriptors } from "../openfiles.js";
import { blockDeviceBytes, call } from "./files.js";

const EAGAIN = 11;
const EINVAL = 22;
/** Requests of a process that has ended take as long as the disk needs for them. */
const BUSY_MS = 10_000;
const BUSY_LOOK_MS = 5;

export class NodeDescriptors implements Descriptors {
  readonly #log: Log;
  readonly #flock: (fd: number) => number;
  readonly #busyMs: number;
  #warned = false;

  /** `flock` takes the exclusive lock of an open file without waiting: 0 or -errno. */
  constructor(log: Log, flock: (fd: number) => number, busyMs = BUSY_MS) {
    this.#log = log;
    this.#flock = flock;
    this.#busyMs = busyMs;
  }

  async open(path: string, options: OpenOptions): Promise<Descriptor> {
    const { fd, direct } = await this.#openFd(path, options);
    try {
      const stat = await call<fs.Stats>((done) => fs.fstat(fd, done), path);
      if (!stat.isFile() && !stat.isBlockDevice()) {
        throw new StorageError("OVS_INVALID", `${path} is neither a file nor a block device`);
      }
      const blockBytes = stat.isBlockDevice() ? await blockDeviceBytes(stat.rdev) : 0;
      if (options.write) await this.#own(fd, path);
      return { fd, direct, blockBytes };
    } catch (error) {
      await this.close(fd, path);
      throw error;
    }
  }

  async close(fd: number, path: string): Promise<void> {
    await call((done) => fs.close(fd, done), path);
  }

  async size(fd: number, path: string): Promise<number> {
    const stat = await call<fs.Stats>((done) => fs.fstat(fd, done), path);
    return stat.size;
  }

  truncate(fd: number, bytes: number, done: (result: number) => void): void {
    fs.ftruncate(fd, bytes, (error) => done(error ? (error.errno ?? -EINVAL) : 0));
  }

  /** Takes the file's lock; waits while requests of an ended process are under way on it. */
  async #own(fd: number, path: string): Promise<void> {
    const endMs = performance.now() + this.#busyMs;
    for (let isFirst = true; ; isFirst = false) {
      const result = this.#flock(fd);
      if (result >= 0) return;
      if (result !== -EAGAIN) throw diskError("lock", path, result);
      if (performance.now() > endMs) throw busy(path);
      if (isFirst) this.#log.info("waiting for the writes of another process", { path });
      await sleep(BUSY_LOOK_MS);
    }
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
}

function busy(path: string): StorageError {
  return new StorageError(
    "OVS_BUSY",
    `${path} is being written by another process, or writes of one that has ended are not over`,
  );
}

function isInvalid(error: unknown): boolean {
  const cause = error instanceof StorageError ? error.cause : null;
  return cause instanceof Error && (cause as NodeJS.ErrnoException).code === "EINVAL";
}
