// SPDX-License-Identifier: Apache-2.0
// A simulated disk with its file system, mounted at a path of a host. It is there before and after
// the lives of the processes that use it: what they leave is what the next ones find.
//
// The calls here take effect at once; that they happen some time after they were asked for is the
// kernel's matter (kernel.ts), that they go wrong that of `faults`.

import { assert } from "../base/assert.js";
import { GIB } from "../base/units.js";
import { diskError } from "../platform/diskerror.js";
import type { Dice } from "./dice.js";
import { Faults, lies } from "./faults.js";
import { PagePool } from "./file.js";
import type { KvContent } from "./kvcontent.js";
import { ChanceLoss, type LossChooser, type Unsynced } from "./loss.js";
import { Memory } from "./memory.js";
import { Folder, TreeFile, type TreeNode } from "./names.js";

const CAPACITY_BYTES = 64 * GIB;
const LATENCY_MEAN_MS = 0.08;
const SYNC_MEAN_MS = 0.3;
const BYTES_PER_MS = 500_000;
/** Of an operation that takes much longer than others: each disk has its own. */
const SPIKE_CHANCES = [0.001, 0.005, 0.05];
const EEXIST = 17;
const EIO = 5;
const EISDIR = 21;
const ENOENT = 2;
const ENOSPC = 28;
const ENOTDIR = 20;
const ENOTEMPTY = 39;
const EINVAL = 22;

/** A result of an operation on a path, as an error. */
export class PathError extends Error {
  readonly errno: number;

  constructor(errno: number) {
    super(`errno ${errno}`);
    this.errno = errno;
  }
}

/** What an operation is, for its latency. */
export type Weight = "transfer" | "sync" | "name";

/** The disk of a host; its calls borrow nothing and throw a PathError or a StorageError. */
export class Device {
  /** Where it is mounted: "/" or an absolute path without a slash at its end. */
  readonly mount: string;
  readonly faults: Faults;
  capacityBytes = CAPACITY_BYTES;
  readonly #dice: Dice;
  readonly #spikeChance: number;
  readonly #pool: PagePool;
  #root = new Folder();
  #usedBytes = 0;

  constructor(mount: string, dice: Dice, memory = new Memory()) {
    assert(mount === "/" || /^(\/[^/]+)+$/.test(mount), "a mount point is an absolute path");
    this.mount = mount;
    this.#pool = new PagePool(memory);
    this.#dice = dice;
    this.#spikeChance = dice.fork("spikes").pick(SPIKE_CHANCES);
    this.faults = new Faults(this, dice.fork("faults"));
  }

  /** Whole pages of files and the stores' bytes, named or still open. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** 0 also when the capacity was set below what is used. */
  get freeBytes(): number {
    return Math.max(0, this.capacityBytes - this.#usedBytes);
  }

  /** How long an operation takes from its submission to its completion. */
  latencyMs(weight: Weight, bytes: number): number {
    const mean = weight === "sync" ? SYNC_MEAN_MS : LATENCY_MEAN_MS;
    const spike = this.#dice.chance(this.#spikeChance) ? 5 + this.#dice.share() * 45 : 0;
    const base = 0.02 + this.#dice.around(mean) + bytes / BYTES_PER_MS + spike;
    return base * this.faults.slowFactor;
  }

  /** Throws ENOSPC unless so many bytes are free; they are used then. */
  occupy(bytes: number): void {
    if (bytes > this.freeBytes) throw new PathError(ENOSPC);
    this.#usedBytes += bytes;
  }

  /** The file occupies so many bytes more (or fewer). */
  account(bytes: number): void {
    this.#usedBytes += bytes;
    assert(this.#usedBytes >= 0, "no more is freed than was used");
  }

  // Names. `path` is absolute and lies under the mount point.

  /** What is at the path; null when nothing is. ENOTDIR when a file is in the way. */
  find(path: string): TreeNode | null {
    let node: TreeNode = this.#root;
    for (const name of this.#parts(path)) {
      if (node.kind !== "folder") throw new PathError(ENOTDIR);
      const next: TreeNode | undefined = node.entries.get(name);
      if (next === undefined) return null;
      node = next;
    }
    return node;
  }

  /** The folder at the path; ENOENT, ENOTDIR. */
  folder(path: string): Folder {
    const node = this.find(path);
    if (node === null) throw new PathError(ENOENT);
    if (node.kind !== "folder") throw new PathError(ENOTDIR);
    return node;
  }

  /** Opens a file; the caller closes it. ENOENT, EEXIST, ENOTDIR, EISDIR. */
  open(
    path: string,
    options: { create: boolean; exclusive: boolean; write: boolean },
  ): TreeFile | "folder" {
    let node = this.find(path);
    if (node === null) {
      if (!options.create) throw new PathError(ENOENT);
      node = new TreeFile(this.#pool);
      this.parent(path).put(nameOf(path), node);
    } else if (options.create && options.exclusive) {
      throw new PathError(EEXIST);
    }
    if (node.kind === "folder") {
      if (options.write || options.create) throw new PathError(EISDIR);
      return "folder";
    }
    node.opens++;
    return node;
  }

  /** Gives a descriptor back; a file without descriptors and names is gone. */
  close(file: TreeFile): void {
    assert(file.opens > 0, "what is closed was open");
    file.opens--;
    if (file.opens === 0 && !file.isNamed) this.account(-file.content.allocatedBytes);
  }

  /** Makes one folder; true when it was not there. ENOENT when its parent is missing. */
  makeFolder(path: string): boolean {
    const node = this.find(path);
    if (node?.kind === "folder") return false;
    if (node !== null) throw new PathError(EEXIST);
    this.parent(path).put(nameOf(path), new Folder());
    return true;
  }

  /** Removes a file or an empty folder, and the store in it. */
  removeOne(path: string): void {
    const node = this.find(path);
    if (node === null) return;
    if (node === this.#root) throw new PathError(EINVAL);
    if (node.kind === "folder" && node.store === null && node.entries.size > 0) {
      throw new PathError(ENOTEMPTY);
    }
    this.parent(path).remove(nameOf(path));
    this.#unname(node);
  }

  /**
   * As rename(2): replaces what has the target's name. Throws PathError; what is looked at first
   * is what the kernel looks at first.
   */
  rename(source: string, target: string): void {
    const from = this.parent(source);
    const folder = this.parent(target);
    const node = from.entries.get(nameOf(source));
    if (node === undefined) throw new PathError(ENOENT);
    const old = folder.entries.get(nameOf(target)) ?? null;
    if (old === node) return;
    if (lies(target, source)) throw new PathError(EINVAL);
    if (lies(source, target)) throw new PathError(ENOTEMPTY);
    if (old !== null && old.kind !== node.kind) {
      throw new PathError(old.kind === "folder" ? EISDIR : ENOTDIR);
    }
    if (old?.kind === "folder" && old.entries.size > 0) throw new PathError(ENOTEMPTY);
    from.move(nameOf(source), folder, nameOf(target));
    if (old !== null) this.#unname(old);
  }

  /** The folder that holds the name. */
  parent(path: string): Folder {
    assert(path !== this.mount, "a mount point has no name of its own");
    const end = path.lastIndexOf("/");
    return this.folder(end === 0 ? "/" : path.slice(0, end));
  }

  /** All files under a prefix (all of the device when that is shorter than its mount point). */
  filesUnder(prefix: string): Array<{ path: string; file: TreeFile }> {
    const found: Array<{ path: string; file: TreeFile }> = [];
    this.#walk((path, node) => {
      if (node.kind === "file" && lies(path, prefix)) found.push({ path, file: node });
    });
    return found;
  }

  /** All key-value stores at or below a path. */
  storesUnder(prefix: string): Array<{ path: string; store: KvContent }> {
    const found: Array<{ path: string; store: KvContent }> = [];
    this.#walk((path, node) => {
      if (node.kind === "folder" && node.store !== null && lies(path, prefix)) {
        found.push({ path, store: node.store });
      }
    });
    return found;
  }

  // Ends

  /** What a power loss would decide about. */
  unsynced(): Unsynced {
    const list: Unsynced = { pages: [], sizes: [], names: [], batches: [] };
    this.#walk((path, node) => {
      if (node.kind === "file") {
        const records = node.content.unsynced((page, records) => {
          list.pages.push({ path, page, count: records.length, records });
        });
        const count = records.length;
        if (count > 0) list.sizes.push({ path, count });
        return;
      }
      if (node.unsynced > 0) list.names.push({ path, count: node.unsynced });
      const count = node.store?.unsynced ?? 0;
      if (count > 0) list.batches.push({ path, count });
    });
    return list;
  }

  /**
   * The host has lost its power: all its processes are dead. Of what was not synced that is left
   * which `chooser` keeps; by chance without one.
   */
  losePower(chooser: LossChooser = new ChanceLoss(this.#dice.fork(`loss ${this.#dice.u32()}`))) {
    const folders = new Map<Folder, string>();
    const visit = (path: string, folder: Folder) => {
      if (folders.has(folder)) return;
      folders.set(folder, path);
      for (const [name, node] of folder.reachable()) {
        if (node.kind === "folder") visit(join(path, name), node);
      }
    };
    visit(this.mount, this.#root);
    Folder.lose(folders, chooser);
    this.#usedBytes = 0;
    this.#walk((path, node) => {
      if (node.kind === "folder") {
        node.store?.lose(path, chooser);
        this.#usedBytes += node.store?.diskBytes ?? 0;
        return;
      }
      node.content.lose(path, chooser);
      node.opens = 0;
      node.isWritten = false;
      node.late = 0;
      node.isNamed = true;
      node.lockedBy = null;
      this.#usedBytes += node.content.allocatedBytes;
    });
  }

  /** An empty disk in the place of this one. Files that are open stay readable to who has them. */
  wipe(): void {
    this.#walk((_path, node) => this.#unname(node));
    this.#root = new Folder();
  }

  /** A folder, all below it and its name are gone, for good. */
  loseFolder(path: string): void {
    const node = this.find(path);
    if (node === null) return;
    this.#walk((at, each) => {
      if (lies(at, path)) this.#unname(each);
    });
    const parent = this.parent(path);
    parent.remove(nameOf(path));
    parent.sync();
  }

  #unname(node: TreeNode): void {
    if (node.kind === "folder") {
      if (node.store?.isNamed) this.account(-node.store.diskBytes);
      if (node.store) node.store.isNamed = false;
      return;
    }
    node.isNamed = false;
    if (node.opens === 0) this.account(-node.content.allocatedBytes);
  }

  #walk(visit: (path: string, node: TreeNode) => void): void {
    const into = (path: string, folder: Folder): void => {
      visit(path, folder);
      for (const [name, node] of folder.entries) {
        if (node.kind === "folder") into(join(path, name), node);
        else visit(join(path, name), node);
      }
    };
    into(this.mount, this.#root);
  }

  #parts(path: string): string[] {
    assert(lies(path, this.mount), "the path lies on this device");
    return path
      .slice(this.mount === "/" ? 0 : this.mount.length)
      .split("/")
      .filter(Boolean);
  }
}

/** Turns the errno of a path into the error that a caller sees; passes on all else. */
export function asDiskError(error: unknown, what: string, path: string): unknown {
  return error instanceof PathError ? diskError(what, path, -error.errno) : error;
}

/** The error of a device that is dead. */
export function deadError(what: string, path: string): unknown {
  return diskError(what, path, -EIO);
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

function join(path: string, name: string): string {
  return path === "/" ? `/${name}` : `${path}/${name}`;
}
