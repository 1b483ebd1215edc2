// SPDX-License-Identifier: Apache-2.0
// Random stories of one process with a disk: names, small files, open files, in an order that makes
// little sense. What comes of each step is a line of text. Told to two disks, a story has the same
// lines; where it has not, one of them is kinder than the other, or stricter.

import { messageOf, StorageError } from "../../src/base/errors.js";
import { CLUSTER_BYTES } from "../../src/base/units.js";
import type { Arena } from "../../src/platform/arena.js";
import type { Disk, FileId, OpenOptions } from "../../src/platform/disk.js";
import { seeded } from "./disk.contract.js";

type Random = (limit: number) => number;

/** One step; `a` and `b` are paths below the story's folder. */
interface Step {
  kind: (typeof KINDS)[number];
  a: string;
  b: string;
  /** Which of the open files. */
  nth: number;
  options: OpenOptions;
  offset: number;
  bytes: number;
  fill: number;
}

const NAME_KINDS = [
  ...["makeFolder", "makeFolder", "list", "stat", "stat", "remove", "rename", "rename"],
  ...["readSmall", "writeSmall", "writeSmall", "syncFolder", "space", "lock", "release"],
] as const;
const FILE_KINDS = [
  ...["open", "open", "open", "close", "size", "write", "write", "write", "read", "read"],
  ...["sync", "truncate", "allocate", "punch"],
] as const;
const KINDS = [...NAME_KINDS, ...FILE_KINDS] as string[];
const OPEN_MAX = 4;
/** Bytes of arena that a story uses. */
export const STORY_BYTES = 64 * CLUSTER_BYTES;

/** The steps of a story. */
export function diskStory(seed: number, count: number): Step[] {
  const random = seeded(seed);
  return Array.from({ length: count }, () => someStep(random));
}

function someStep(random: Random): Step {
  const direct = random(2) === 0;
  const unit = direct ? CLUSTER_BYTES : 1 + random(CLUSTER_BYTES);
  const far = random(20) === 0 ? 2 ** 40 : 0;
  return {
    kind: KINDS[random(KINDS.length)]!,
    a: somePath(random),
    b: somePath(random),
    nth: random(OPEN_MAX),
    options: {
      create: random(3) > 0,
      exclusive: random(4) === 0,
      write: random(3) > 0,
      direct,
    },
    offset: far + unit * random(20),
    bytes: unit * (1 + random(8)),
    fill: 1 + random(255),
  };
}

function somePath(random: Random): string {
  const names = Array.from({ length: 1 + random(3) }, () => "ab"[random(2)]!);
  return names.join("/");
}

/** Tells the story to a disk, in a folder that is there; `at` is memory of the arena. */
export class DiskTeller {
  readonly #disk: Disk;
  readonly #arena: Arena;
  readonly #root: string;
  readonly #at: number;
  readonly #open: Array<{ file: FileId; options: OpenOptions }> = [];
  #locks: Array<{ release(): Promise<void> }> = [];

  constructor(disk: Disk, arena: Arena, root: string, at: number) {
    this.#disk = disk;
    this.#arena = arena;
    this.#root = root;
    this.#at = at;
  }

  async tell(steps: readonly Step[]): Promise<string[]> {
    const lines: string[] = [];
    for (const step of steps) lines.push(`${wordsOf(step)}: ${await this.#outcome(step)}`);
    for (const { file } of this.#open) await this.#disk.close(file);
    for (const lock of this.#locks) await lock.release();
    return lines;
  }

  async #outcome(step: Step): Promise<string> {
    try {
      const isName = (NAME_KINDS as readonly string[]).includes(step.kind);
      return await (isName ? this.#name(step) : this.#file(step));
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      const errno = /\bE[A-Z]{2,}\b/.exec(messageOf(error))?.[0] ?? "";
      return `${error.code} ${errno}`;
    }
  }

  async #name({ kind, a, b, bytes, fill }: Step): Promise<string> {
    const { files } = this.#disk;
    const [first, second] = [`${this.#root}/${a}`, `${this.#root}/${b}`];
    switch (kind) {
      case "makeFolder":
        return told(await files.makeFolder(first));
      case "list":
        return (await files.list(first)).join(" ");
      case "stat": {
        const stat = await files.stat(first);
        return stat?.kind === "file" ? `file of ${stat.sizeBytes}` : (stat?.kind ?? "nothing");
      }
      case "remove":
        return told(await files.remove(first));
      case "rename":
        return told(await files.rename(first, second));
      case "readSmall": {
        const small = await files.readSmall(first, bytes);
        return small === null ? "nothing" : digest(small);
      }
      case "writeSmall":
        return told(await files.writeSmall(first, new Uint8Array(bytes % 5000).fill(fill)));
      case "syncFolder":
        return told(await files.syncFolder(first));
      case "space":
        return (await files.space(first)).totalBytes > 0 ? "space" : "none";
      case "lock":
        this.#locks.push(await files.lock(first));
        return "locked";
      default:
        return told(await this.#locks.pop()?.release());
    }
  }

  async #file(step: Step): Promise<string> {
    const { kind, nth, options, a } = step;
    const disk = this.#disk;
    if (kind === "open") {
      // A second writer would wait for the first one.
      const isCrowded = (options.write && this.#open.length > 0) || this.#open.length === OPEN_MAX;
      for (const { file } of isCrowded ? this.#open.splice(0) : []) await disk.close(file);
      const file = await disk.open(`${this.#root}/${a}`, options);
      this.#open.push({ file, options });
      return "opened";
    }
    const open = this.#open[nth];
    if (open === undefined) return "none";
    if (kind === "close") {
      this.#open.splice(nth, 1);
      return told(await disk.close(open.file));
    }
    if (kind === "size") return `${await disk.size(open.file)}`;
    if (kind === "read") return await this.#read(open, step);
    if (!open.options.write) return "reads only";
    return told(await this.#change(open, step));
  }

  async #read({ file, options }: { file: FileId; options: OpenOptions }, step: Step) {
    const { offset, bytes } = placeOf(options, step);
    this.#arena.bytes.fill(0xee, this.#at, this.#at + bytes);
    const got = await this.#disk.readAsync(file, offset, this.#at, bytes);
    return `${got} ${digest(this.#arena.slice(this.#at, got))}`;
  }

  async #change({ file, options }: { file: FileId; options: OpenOptions }, step: Step) {
    const { offset, bytes } = placeOf(options, step);
    const disk = this.#disk;
    switch (step.kind) {
      case "write":
        this.#arena.bytes.fill(step.fill, this.#at, this.#at + bytes);
        return await disk.writeAsync(file, offset, this.#at, bytes);
      case "sync":
        return await disk.syncAsync(file);
      case "truncate":
        return await disk.truncateAsync(file, offset);
      case "allocate":
        return await disk.allocateAsync(file, offset % 2 ** 40, bytes);
      default:
        return await disk.punchAsync(file, offset, bytes);
    }
  }
}

/** Where O_DIRECT wants it. */
function placeOf({ direct }: OpenOptions, { offset, bytes }: Step) {
  if (!direct) return { offset, bytes };
  const up = (value: number) => Math.ceil(value / CLUSTER_BYTES) * CLUSTER_BYTES;
  return { offset: up(offset), bytes: up(bytes) };
}

function told(_nothing: unknown): string {
  return "done";
}

function digest(bytes: Uint8Array): string {
  let sum = bytes.byteLength;
  for (const byte of bytes) sum = (Math.imul(sum, 31) + byte) >>> 0;
  return sum.toString(16);
}

function wordsOf({ kind, a, b, nth, options, offset, bytes }: Step): string {
  const how = Object.entries(options)
    .filter(([, is]) => is)
    .map(([name]) => name);
  return `${kind} ${a} ${b} #${nth} ${how.join("+")} ${offset}+${bytes}`;
}
