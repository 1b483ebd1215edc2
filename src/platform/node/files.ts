// SPDX-License-Identifier: Apache-2.0
// The control part of the real disk: paths, small files, folders, locks, over node:fs.

import * as fs from "node:fs";
import * as path from "node:path";
import { getSystemErrorName } from "node:util";
import { assert } from "../../base/assert.js";
import { StorageError } from "../../base/errors.js";
import type { FileStat, Files } from "../disk.js";
import { diskError, ERRNO_CODES } from "../diskerror.js";
import { temporaryOf } from "../smallfile.js";

/** Bytes of a sector in /sys, whatever the device says. */
const SYS_SECTOR_BYTES = 512;
const EISDIR = 21;

/** Wraps what node:fs throws; the errno's name stands in the message. */
export function wrapErrno(error: unknown, file: string): unknown {
  if (!(error instanceof Error) || !("code" in error) || error instanceof StorageError)
    return error;
  const code = ERRNO_CODES[String(error.code)] ?? "OVS_DISK_FAILED";
  return new StorageError(code, `${file}: ${error.message}`, { cause: error });
}

function isErrno(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}

/** Runs a function of node:fs with a callback; rejects with a StorageError that names the path. */
export function call<T = void>(
  start: (done: (error: NodeJS.ErrnoException | null, value?: T) => void) => void,
  file: string,
): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    start((error, value) => {
      if (error) reject(wrapErrno(error, file));
      else resolve(value as T);
    });
  });
}

/** Size of a block device by its number (from stat). */
export async function blockDeviceBytes(rdev: number): Promise<number> {
  // glibc's encoding of a device number; all of it fits below 2^53.
  const major = (Math.floor(rdev / 2 ** 8) & 0xfff) + Math.floor(rdev / 2 ** 44) * 2 ** 12;
  const minor = (rdev & 0xff) + (Math.floor(rdev / 2 ** 20) % 2 ** 24) * 2 ** 8;
  const file = `/sys/dev/block/${major}:${minor}/size`;
  const text = await call<string>((done) => fs.readFile(file, "utf8", done), file);
  const bytes = Number(text.trim()) * SYS_SECTOR_BYTES;
  assert(Number.isSafeInteger(bytes) && bytes > 0, "a block device has a size");
  return bytes;
}

/** Makes a folder in a folder that is there; one that exists is fine. */
async function makeOne(folder: string): Promise<"made" | "there" | "no parent"> {
  try {
    await fs.promises.mkdir(folder, { mode: 0o700 });
  } catch (error) {
    if (isErrno(error, "ENOENT")) return "no parent";
    const isThere = isErrno(error, "EEXIST") || isErrno(error, "EISDIR") || isErrno(error, "EROFS");
    const stat = isThere ? await fs.promises.stat(folder).catch(() => null) : null;
    if (!stat?.isDirectory()) throw wrapErrno(error, folder);
    return "there";
  }
  return "made";
}

function noFolder(folder: string): StorageError {
  return new StorageError("OVS_NOT_FOUND", `${folder}: no folder can be made there`);
}

export class NodeFiles implements Files {
  readonly #flock: (fd: number) => number;
  #temporaries = 0;

  /** `flock` takes the exclusive lock of an open file without waiting: 0 or -errno. */
  constructor(flock: (fd: number) => number) {
    this.#flock = flock;
  }

  async makeFolder(folder: string): Promise<void> {
    // Not mkdir's own `recursive`: where the parent is there and still nothing can be made in it
    // (/proc), it tries for ever.
    const parent = path.dirname(folder);
    let outcome = await makeOne(folder);
    if (outcome === "no parent") {
      if (parent === folder || (await this.stat(parent)) !== null) throw noFolder(folder);
      await this.makeFolder(parent);
      outcome = await makeOne(folder);
      if (outcome === "no parent") throw noFolder(folder);
    }
    // One that is there may have been made by a process that died before it synced the name; where
    // its parent may not be read, somebody else has made it.
    const synced = this.syncFolder(parent);
    await (outcome === "there" ? synced.catch(() => undefined) : synced);
  }

  async list(folder: string): Promise<string[]> {
    const names = await call<string[]>((done) => fs.readdir(folder, done), folder);
    return names.sort();
  }

  async stat(file: string): Promise<FileStat | null> {
    const stat = await missingIsNull(call<fs.Stats>((done) => fs.stat(file, done), file));
    if (stat === null) return null;
    if (stat.isBlockDevice()) {
      const sizeBytes = await blockDeviceBytes(stat.rdev);
      return { sizeBytes, allocatedBytes: sizeBytes, kind: "block" };
    }
    const kind = stat.isDirectory() ? "folder" : "file";
    return { sizeBytes: stat.size, allocatedBytes: stat.blocks * SYS_SECTOR_BYTES, kind };
  }

  async remove(file: string): Promise<void> {
    await call((done) => fs.rm(file, { recursive: true, force: true }, done), file);
  }

  async rename(source: string, target: string): Promise<void> {
    await call((done) => fs.rename(source, target, done), source);
  }

  async readSmall(file: string, bytesMax: number): Promise<Uint8Array | null> {
    try {
      const handle = await fs.promises.open(file, "r");
      try {
        const stat = await handle.stat();
        if (stat.isDirectory()) throw diskError("read", file, -EISDIR);
        const { size } = stat;
        if (size <= bytesMax) return new Uint8Array(await handle.readFile());
        const message = `${file} has ${size} bytes, more than the ${bytesMax} that are allowed`;
        throw new StorageError("OVS_INVALID", message);
      } finally {
        await handle.close();
      }
    } catch (error) {
      if (isErrno(error, "ENOENT")) return null;
      throw wrapErrno(error, file);
    }
  }

  async writeSmall(file: string, content: Uint8Array): Promise<void> {
    const temporary = temporaryOf(file, process.pid, ++this.#temporaries);
    try {
      const handle = await fs.promises.open(temporary, "wx", 0o600);
      try {
        await handle.writeFile(content);
        await handle.datasync();
      } finally {
        await handle.close();
      }
      await fs.promises.rename(temporary, file);
    } catch (error) {
      await fs.promises.rm(temporary, { force: true }).catch(() => undefined);
      throw wrapErrno(error, file);
    }
    await this.syncFolder(path.dirname(file));
  }

  async syncFolder(folder: string): Promise<void> {
    const flags = fs.constants.O_RDONLY | fs.constants.O_DIRECTORY;
    const fd = await call<number>((done) => fs.open(folder, flags, done), folder);
    try {
      await call((done) => fs.fsync(fd, done), folder);
    } finally {
      await call((done) => fs.close(fd, done), folder);
    }
  }

  async space(file: string): Promise<{ freeBytes: number; totalBytes: number }> {
    const stat = await call<fs.StatsFs>((done) => fs.statfs(file, done), file);
    return { freeBytes: stat.bavail * stat.bsize, totalBytes: stat.blocks * stat.bsize };
  }

  async lock(folder: string): Promise<{ release(): Promise<void> }> {
    const file = `${folder}/lock`;
    const { O_RDWR, O_CREAT } = fs.constants;
    const fd = await call<number>((done) => fs.open(file, O_RDWR | O_CREAT, 0o600, done), file);
    const close = () => call((done) => fs.close(fd, done), file);
    try {
      const result = this.#flock(fd);
      if (result < 0) throw refusedLock(folder, fd, result);
      const pid = Buffer.from(`${process.pid}\n`);
      await call((done) => fs.ftruncate(fd, 0, done), file);
      await call((done) => fs.write(fd, pid, 0, pid.length, 0, (error) => done(error)), file);
    } catch (error) {
      await close();
      throw error;
    }
    let released: Promise<void> | null = null;
    return {
      release: async () => {
        released ??= close();
        await released;
      },
    };
  }
}

function refusedLock(folder: string, fd: number, result: number): StorageError {
  if (getSystemErrorName(result) !== "EAGAIN") return diskError("lock", folder, result);
  const holder = fs.readFileSync(fd, "latin1").trim();
  const who = holder === "" ? "another process" : `the process with pid ${holder}`;
  return new StorageError("OVS_BUSY", `${folder} is in use by ${who}`);
}

async function missingIsNull<T>(promise: Promise<T>): Promise<T | null> {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof StorageError && error.code === "OVS_NOT_FOUND") return null;
    throw error;
  }
}
