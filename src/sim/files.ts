// SPDX-License-Identifier: Apache-2.0
// The control part of the simulated disk: paths, small files, folders, locks. Each step that a
// real process would do in a system call of its own is one here, and may be the last.

import { StorageError } from "../base/errors.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { FileStat, Files, OpenOptions } from "../platform/disk.js";
import type { Descriptor, Descriptors } from "../platform/openfiles.js";
import { temporaryOf } from "../platform/smallfile.js";
import type { Device } from "./device.js";
import { PathError } from "./device.js";
import { FaultKind } from "./faults.js";
import type { CallInfo, Kernel } from "./kernel.js";
import type { TreeFile } from "./names.js";

const EAGAIN = 11;
const EFBIG = 27;
const EIO = 5;
const EISDIR = 21;
const ENOENT = 2;
const BUSY_MS = 10_000;
const BUSY_LOOK_MS = 5;
/** Files end before this byte. */
export const FILE_BYTES_MAX = 2 ** 52;

/** An open file of a process. */
export interface SimOpenFile {
  readonly file: TreeFile;
  readonly device: Device;
  readonly path: string;
  readonly writes: boolean;
}

function reading(what: string, path: string): CallInfo {
  return { what, path, weight: "name", mutates: false };
}

function changing(what: string, path: string): CallInfo {
  return { what, path, weight: "name", mutates: true };
}

/** The open files of one process, by descriptor. */
export class SimDescriptors implements Descriptors {
  readonly #kernel: Kernel;
  readonly #open: Array<SimOpenFile | null> = [];
  readonly #free: number[] = [];

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  /** What a number stands for; it must be open. */
  at(fd: number): SimOpenFile {
    return this.#open[fd]!;
  }

  async open(path: string, options: OpenOptions): Promise<Descriptor> {
    const { life } = this.#kernel;
    const endMs = life.timeline.nowMs + BUSY_MS;
    for (;;) {
      const fd = await this.#attempt(path, options);
      if (fd >= 0) return { fd, direct: options.direct, blockBytes: 0 };
      if (life.timeline.nowMs > endMs) {
        throw new StorageError("OVS_BUSY", `${path} is being written by another process`);
      }
      await new Promise<void>((resolve) => void life.after(BUSY_LOOK_MS, resolve));
    }
  }

  /** The descriptor; negative while somebody else writes. */
  async #attempt(path: string, options: OpenOptions): Promise<number> {
    const info = options.create ? changing("open", path) : reading("open", path);
    return await this.#kernel.call(info, (device) => {
      const file = device.open(path, options);
      if (file === "folder") {
        throw new StorageError("OVS_INVALID", `${path} is neither a file nor a block device`);
      }
      if (!options.write || (!file.isWritten && file.late === 0)) {
        return this.#take({ file, device, path, writes: options.write });
      }
      device.close(file);
      return -1;
    });
  }

  async close(fd: number, path: string): Promise<void> {
    const info = { ...reading("close", path) };
    await this.#kernel.call(info, () => undefined).catch(() => undefined);
    const open = this.at(fd);
    this.#open[fd] = null;
    this.#free.push(fd);
    close(open);
  }

  async size(fd: number, path: string): Promise<number> {
    return await this.#kernel.call(reading("stat", path), () => this.at(fd).file.content.sizeBytes);
  }

  truncate(fd: number, bytes: number, done: (result: number) => void): void {
    const { device, file, path } = this.at(fd);
    const record = { completed: Infinity };
    let result = 0;
    const work = () => {
      if (device.faults.isDead) result = -EIO;
      else if (bytes > FILE_BYTES_MAX) result = -EFBIG;
      else if (device.faults.strikes(FaultKind.WriteError, path)) result = -EIO;
      if (result < 0) return;
      const before = file.content.allocatedBytes;
      file.content.truncate(bytes, record);
      device.account(file.content.allocatedBytes - before);
      file.content.complete(record);
    };
    this.#kernel.start(device, changing("truncate", path), work, () => done(result));
  }

  /** The process has ended. */
  closeAll(): void {
    for (const open of this.#open) if (open) close(open);
    this.#open.length = 0;
  }

  #take(open: SimOpenFile): number {
    // The life may have ended with this call: then nobody closes it but this.
    if (this.#kernel.life.state === "dead") {
      open.device.close(open.file);
      return 0;
    }
    if (open.writes) open.file.isWritten = true;
    const fd = this.#free.pop() ?? this.#open.length;
    this.#open[fd] = open;
    return fd;
  }
}

/** Paths, small files, folders and locks of one process. */
export class SimFiles implements Files {
  readonly #kernel: Kernel;
  readonly #locked = new Set<TreeFile>();
  #temporaries = 0;

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
    kernel.life.atEnd(() => {
      for (const file of this.#locked) file.lockedBy = null;
    });
  }

  async makeFolder(path: string): Promise<void> {
    const there = await this.#kernel.call(reading("make", path), (device) => device.find(path));
    const parent = path.slice(0, path.lastIndexOf("/")) || "/";
    if (there?.kind !== "folder") {
      if (parent !== "/") await this.makeFolder(parent);
      await this.#kernel.call(changing("make", path), (device) => device.makeFolder(path));
    }
    if (path !== this.#kernel.storage.deviceOf(path).mount) await this.syncFolder(parent);
  }

  async list(path: string): Promise<string[]> {
    const call = this.#kernel.call(reading("list", path), (device) => [
      ...device.folder(path).entries.keys(),
    ]);
    return (await call).sort();
  }

  async stat(path: string): Promise<FileStat | null> {
    return await this.#kernel.call(reading("stat", path), (device) => {
      const node = device.find(path);
      if (node === null) return null;
      if (node.kind === "folder") {
        return { sizeBytes: CLUSTER_BYTES, allocatedBytes: CLUSTER_BYTES, kind: "folder" };
      }
      const { sizeBytes, allocatedBytes } = node.content;
      return { sizeBytes, allocatedBytes, kind: "file" };
    });
  }

  async remove(path: string): Promise<void> {
    const node = await this.#kernel.call(reading("remove", path), (device) => device.find(path));
    if (node === null) return;
    if (node.kind === "folder" && node.store === null) {
      for (const name of [...node.entries.keys()]) await this.remove(`${path}/${name}`);
    }
    await this.#kernel.call(changing("remove", path), (device) => device.removeOne(path));
  }

  async rename(source: string, target: string): Promise<void> {
    await this.#kernel.call(changing("rename", source), (device) => {
      if (this.#kernel.storage.deviceOf(target) !== device) {
        throw new StorageError("OVS_DISK_FAILED", `cannot rename ${source} to ${target}: EXDEV`);
      }
      device.rename(source, target);
    });
  }

  async readSmall(path: string, bytesMax: number): Promise<Uint8Array | null> {
    return await this.#kernel.call(reading("read", path), (device) => {
      const node = device.find(path);
      if (node === null) return null;
      if (node.kind === "folder") throw new PathError(EISDIR);
      const { content } = node;
      const bytes = content.sizeBytes;
      if (bytes > bytesMax) {
        const message = `${path} has ${bytes} bytes, more than the ${bytesMax} that are allowed`;
        throw new StorageError("OVS_INVALID", message);
      }
      const isBad = content.isBad(0, bytes);
      if (isBad || device.faults.strikes(FaultKind.ReadError, path)) throw new PathError(EIO);
      const small = new Uint8Array(bytes);
      content.read(0, small, 0, bytes);
      return small;
    });
  }

  async writeSmall(path: string, content: Uint8Array): Promise<void> {
    const temporary = temporaryOf(path, this.#kernel.pid, ++this.#temporaries);
    const options = { create: true, exclusive: true, write: true };
    const kernel = this.#kernel;
    await kernel.call(changing("open", temporary), (device) => {
      const file = device.open(temporary, options);
      if (file !== "folder") device.close(file);
    });
    try {
      await kernel.call(changing("write", temporary), (device) => {
        if (content.byteLength > 0) writeWhole(device, temporary, content);
      });
      await kernel.call({ ...changing("sync", temporary), weight: "sync" }, (device) => {
        if (device.faults.strikes(FaultKind.SyncError, temporary)) throw new PathError(EIO);
        fileAt(device, temporary).content.sync(Infinity, true);
      });
      await this.rename(temporary, path);
    } catch (error) {
      await this.remove(temporary).catch(() => undefined);
      throw error;
    }
    await this.syncFolder(path.slice(0, path.lastIndexOf("/")) || "/");
  }

  async syncFolder(path: string): Promise<void> {
    await this.#kernel.call({ ...changing("sync", path), weight: "sync" }, (device) => {
      if (device.faults.strikes(FaultKind.SyncError, path)) throw new PathError(EIO);
      device.folder(path).sync();
    });
  }

  async space(path: string): Promise<{ freeBytes: number; totalBytes: number }> {
    return await this.#kernel.call(reading("stat", path), (device) => {
      if (device.find(path) === null) throw new PathError(ENOENT);
      return { freeBytes: device.freeBytes, totalBytes: device.capacityBytes };
    });
  }

  async lock(path: string): Promise<{ release(): Promise<void> }> {
    const lockPath = `${path}/lock`;
    const kernel = this.#kernel;
    const file = await kernel.call(changing("lock", lockPath), (device) => {
      const file = device.open(lockPath, { create: true, exclusive: false, write: true });
      if (file === "folder") throw new PathError(EAGAIN);
      device.close(file);
      if (file.lockedBy !== null) {
        throw new StorageError("OVS_BUSY", `${path} is in use by ${file.lockedBy}`);
      }
      if (kernel.life.state === "dead") return file;
      file.lockedBy = `the process with pid ${kernel.pid}`;
      this.#locked.add(file);
      return file;
    });
    return {
      release: async () => {
        if (!this.#locked.delete(file)) return;
        file.lockedBy = null;
        await kernel.call(reading("close", lockPath), () => undefined).catch(() => undefined);
      },
    };
  }
}

function close({ file, device, writes }: SimOpenFile): void {
  if (writes) file.isWritten = false;
  device.close(file);
}

function fileAt(device: Device, path: string): TreeFile {
  const node = device.find(path);
  if (node?.kind !== "file") throw new PathError(ENOENT);
  return node;
}

function writeWhole(device: Device, path: string, bytes: Uint8Array): void {
  if (device.faults.strikes(FaultKind.WriteError, path)) throw new PathError(EIO);
  const { content } = fileAt(device, path);
  device.occupy(content.missingBytes(0, bytes.byteLength));
  const record = { completed: Infinity };
  content.write(0, bytes, 0, bytes.byteLength, record);
  content.complete(record);
}
