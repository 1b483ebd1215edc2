// SPDX-License-Identifier: Apache-2.0
// Opening of real files and block devices, with or without O_DIRECT, over node:fs.

import * as fs from "node:fs";
import { StorageError } from "../../base/errors.js";
import type { OpenOptions } from "../disk.js";
import type { Log } from "../log.js";
import type { Descriptor, Descriptors } from "../openfiles.js";
import { blockDeviceBytes, call } from "./files.js";

const EINVAL = 22;

export class NodeDescriptors implements Descriptors {
  readonly #log: Log;
  #warned = false;

  constructor(log: Log) {
    this.#log = log;
  }

  async open(path: string, options: OpenOptions): Promise<Descriptor> {
    const { fd, direct } = await this.#openFd(path, options);
    try {
      const stat = await call<fs.Stats>((done) => fs.fstat(fd, done), path);
      if (!stat.isFile() && !stat.isBlockDevice()) {
        throw new StorageError("OVS_INVALID", `${path} is neither a file nor a block device`);
      }
      const blockBytes = stat.isBlockDevice() ? await blockDeviceBytes(stat.rdev) : 0;
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

function isInvalid(error: unknown): boolean {
  const cause = error instanceof StorageError ? error.cause : null;
  return cause instanceof Error && (cause as NodeJS.ErrnoException).code === "EINVAL";
}
