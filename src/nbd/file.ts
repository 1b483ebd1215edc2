// SPDX-License-Identifier: Apache-2.0
// A raw file or block device behind the NBD server. Works through the page cache, so that any
// offset and length goes; FLUSH and FUA sync the file.
//
// A request is a few disk operations one after the other, its place in that chain kept per slot:
//
//   Read ─► done      Write ─┐                          ┌─(FUA)─► Sync ─► done
//   Trim, WriteZeroes ─► Punch ─(cannot)─► Zero, Zero … ┴────────► done

import { assert } from "../base/assert.js";
import type { ErrorKind } from "../base/errors.js";
import { MIB } from "../base/units.js";
import type { FileId, HandlerId } from "../platform/disk.js";
import type { World } from "../platform/world.js";
import type { BlockTarget, Requests } from "./target.js";
import { RequestFlag, RequestKind } from "./target.js";

const Step = { Idle: 0, Read: 1, Write: 2, Punch: 3, Zero: 4, Sync: 5 } as const;

const ZERO_BYTES = MIB;
const ENOSPC = 28;
const EDQUOT = 122;
const EFBIG = 27;

function kindOf(result: number): ErrorKind {
  return result === -ENOSPC || result === -EDQUOT || result === -EFBIG ? "full" : "unavailable";
}

export class FileTarget implements BlockTarget {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly #world: Pick<World, "arena" | "disk">;
  readonly #requests: Requests;
  readonly #file: FileId;
  readonly #handler: HandlerId;
  /** Arena offset of ZERO_BYTES zeroes. */
  readonly #zeroes: number;
  readonly #step: Uint8Array;
  /** Zero: bytes of the request that are zeroed. */
  readonly #done: Float64Array;

  private constructor(
    world: Pick<World, "arena" | "disk">,
    requests: Requests,
    file: FileId,
    sizeBytes: number,
    readOnly: boolean,
  ) {
    this.#world = world;
    this.#requests = requests;
    this.#file = file;
    this.sizeBytes = sizeBytes;
    this.readOnly = readOnly;
    this.#handler = world.disk.handler((tag, result) => this.#onDone(tag, result));
    this.#zeroes = world.arena.region(ZERO_BYTES, "zeroes");
    this.#step = new Uint8Array(requests.slots);
    this.#done = new Float64Array(requests.slots);
  }

  /** Opens the file, which must exist; its size is the disk's. Rejects in words. */
  static async open(
    world: Pick<World, "arena" | "disk">,
    requests: Requests,
    path: string,
    readOnly: boolean,
  ): Promise<FileTarget> {
    const options = { create: false, exclusive: false, write: !readOnly, direct: false };
    const file = await world.disk.open(path, options);
    const sizeBytes = await world.disk.size(file);
    return new FileTarget(world, requests, file, sizeBytes, readOnly);
  }

  /** Waits for what is in flight. The server must have dropped this target. */
  async close(): Promise<void> {
    await this.#world.disk.close(this.#file);
  }

  admit(slot: number): void {
    const { disk } = this.#world;
    const requests = this.#requests;
    const offset = requests.offset[slot]!;
    const bytes = requests.length[slot]!;
    assert(this.#step[slot] === Step.Idle, "a slot does one thing at a time");
    assert(offset + bytes <= this.sizeBytes, "the server checks ranges");
    switch (requests.kind[slot]) {
      case RequestKind.Read:
        this.#step[slot] = Step.Read;
        disk.read(this.#handler, slot, this.#file, offset, requests.memory[slot]!, bytes);
        break;
      case RequestKind.Write:
        this.#step[slot] = Step.Write;
        disk.write(this.#handler, slot, this.#file, offset, requests.memory[slot]!, bytes);
        break;
      case RequestKind.Flush:
        this.#sync(slot);
        break;
      case RequestKind.Trim:
        this.#punch(slot);
        break;
      case RequestKind.WriteZeroes:
        if ((requests.flags[slot]! & RequestFlag.NoHole) === 0) this.#punch(slot);
        else this.#zero(slot);
        break;
      case RequestKind.BlockStatus:
        this.#status(slot, bytes);
        break;
      default:
        this.#finish(slot, null);
    }
  }

  #onDone(slot: number, result: number): void {
    switch (this.#step[slot]) {
      case Step.Read:
        this.#readDone(slot, result);
        break;
      case Step.Punch:
        if (result < 0) this.#notPunched(slot, result);
        else this.#changed(slot);
        break;
      case Step.Write:
        if (result < 0) this.#finish(slot, kindOf(result));
        else this.#changed(slot);
        break;
      case Step.Zero:
        if (result < 0) this.#finish(slot, kindOf(result));
        else this.#zeroMore(slot, this.#done[slot]! + result);
        break;
      default:
        assert(this.#step[slot] === Step.Sync, "a completion belongs to a step");
        this.#finish(slot, result < 0 ? "unavailable" : null);
    }
  }

  #readDone(slot: number, result: number): void {
    const memory = this.#requests.memory[slot]!;
    const bytes = this.#requests.length[slot]!;
    // Somebody has cut the file shorter: what is missing reads as zeroes, like a hole.
    if (result >= 0 && result < bytes)
      this.#world.arena.bytes.fill(0, memory + result, memory + bytes);
    this.#finish(slot, result < 0 ? kindOf(result) : null);
  }

  #punch(slot: number): void {
    const { offset, length } = this.#requests;
    this.#step[slot] = Step.Punch;
    this.#world.disk.punch(this.#handler, slot, this.#file, offset[slot]!, length[slot]!);
  }

  /** The file system cannot punch: a hint may be ignored, zeroes must be written. */
  #notPunched(slot: number, result: number): void {
    if (this.#requests.kind[slot] === RequestKind.Trim) this.#finish(slot, null);
    else if (kindOf(result) === "full") this.#finish(slot, "full");
    else this.#zero(slot);
  }

  #zero(slot: number): void {
    if ((this.#requests.flags[slot]! & RequestFlag.FastZero) !== 0) {
      this.#step[slot] = Step.Idle;
      this.#requests.completeNotFast(slot);
      return;
    }
    this.#zeroMore(slot, 0);
  }

  #zeroMore(slot: number, done: number): void {
    const { offset, length } = this.#requests;
    this.#step[slot] = Step.Zero;
    this.#done[slot] = done;
    const take = Math.min(length[slot]! - done, ZERO_BYTES);
    if (take === 0) {
      this.#changed(slot);
      return;
    }
    const at = offset[slot]! + done;
    this.#world.disk.write(this.#handler, slot, this.#file, at, this.#zeroes, take);
  }

  /** The change is in the page cache; FUA wants it on the medium. */
  #changed(slot: number): void {
    if ((this.#requests.flags[slot]! & RequestFlag.Fua) !== 0) this.#sync(slot);
    else this.#finish(slot, null);
  }

  #sync(slot: number): void {
    this.#step[slot] = Step.Sync;
    this.#world.disk.sync(this.#handler, slot, this.#file);
  }

  /** One extent of which nothing is known: always allowed. */
  #status(slot: number, bytes: number): void {
    const word = this.#requests.memory[slot]! / 4;
    const { u32 } = this.#world.arena;
    u32[word] = bytes % 2 ** 32;
    u32[word + 1] = Math.floor(bytes / 2 ** 32);
    u32[word + 2] = 0;
    this.#requests.completeStatus(slot, 1);
  }

  #finish(slot: number, error: ErrorKind | null): void {
    this.#step[slot] = Step.Idle;
    this.#requests.complete(slot, error);
  }
}
