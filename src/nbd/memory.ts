// SPDX-License-Identifier: Apache-2.0
// A disk in memory, for tests and benchmarks. Its bytes lie in chunks outside the arena that are
// made when they are first written: a chunk that is missing reads as zeroes and is a hole. Chunks
// hang in groups, so that terabytes of nothing cost nothing.

import { assert } from "../base/assert.js";
import { ceilDiv } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { formatSize, KIB, VDISK_BYTES_MAX } from "../base/units.js";
import type { Arena } from "../platform/arena.js";
import { STATUS_EXTENTS_MAX } from "./limits.js";
import type { BlockTarget, Requests } from "./target.js";
import { RequestFlag, RequestKind } from "./target.js";

const CHUNK_BYTES = 256 * KIB;
const GROUP_CHUNKS = 4096;
const GROUP_BYTES = GROUP_CHUNKS * CHUNK_BYTES;
const HOLE_ZERO = 3;

type Group = Array<Uint8Array | null>;

export class MemoryTarget implements BlockTarget {
  readonly readOnly: boolean;
  readonly #arena: Arena;
  readonly #requests: Requests;
  #sizeBytes: number;
  readonly #groups: Array<Group | null>;

  /** Nothing is allocated yet; OVS_INVALID for a size that no vDisk can have. */
  constructor(arena: Arena, requests: Requests, sizeBytes: number, readOnly: boolean) {
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || sizeBytes > VDISK_BYTES_MAX) {
      throw new StorageError(
        "OVS_INVALID",
        `a disk in memory has at most ${formatSize(VDISK_BYTES_MAX)}, not ${sizeBytes} bytes`,
      );
    }
    this.#arena = arena;
    this.#requests = requests;
    this.#sizeBytes = sizeBytes;
    this.readOnly = readOnly;
    this.#groups = new Array<Group | null>(ceilDiv(sizeBytes, GROUP_BYTES)).fill(null);
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  admit(slot: number): void {
    const requests = this.#requests;
    const offset = requests.offset[slot]!;
    const bytes = requests.length[slot]!;
    assert(offset + bytes <= this.#sizeBytes, "the server checks ranges");
    switch (requests.kind[slot]) {
      case RequestKind.Read:
        this.#read(offset, requests.memory[slot]!, bytes);
        break;
      case RequestKind.Write:
        this.#write(offset, requests.memory[slot]!, bytes);
        break;
      case RequestKind.Trim:
        this.#zero(offset, bytes, false);
        break;
      case RequestKind.WriteZeroes:
        this.#zero(offset, bytes, (requests.flags[slot]! & RequestFlag.NoHole) !== 0);
        break;
      case RequestKind.BlockStatus:
        requests.completeStatus(slot, this.#status(offset, bytes, requests.memory[slot]!));
        return;
      default:
        // Flush and cache have nothing to do here.
        break;
    }
    requests.complete(slot, null);
  }

  #read(offset: number, memory: number, bytes: number): void {
    const arena = this.#arena.bytes;
    for (let done = 0; done < bytes; ) {
      const at = (offset + done) % CHUNK_BYTES;
      const take = Math.min(bytes - done, CHUNK_BYTES - at);
      const chunk = this.#find(offset + done);
      const target = memory + done;
      if (chunk) arena.set(chunk.subarray(at, at + take), target);
      else arena.fill(0, target, target + take);
      done += take;
    }
  }

  #write(offset: number, memory: number, bytes: number): void {
    const arena = this.#arena.bytes;
    for (let done = 0; done < bytes; ) {
      const at = (offset + done) % CHUNK_BYTES;
      const take = Math.min(bytes - done, CHUNK_BYTES - at);
      const source = memory + done;
      const chunk = this.#find(offset + done) ?? this.#make(offset + done);
      chunk.set(arena.subarray(source, source + take), at);
      done += take;
    }
  }

  /** The chunk that holds a byte, or null. */
  #find(offset: number): Uint8Array | null {
    const group = this.#groups[Math.floor(offset / GROUP_BYTES)];
    return group ? group[Math.floor((offset % GROUP_BYTES) / CHUNK_BYTES)]! : null;
  }

  #make(offset: number): Uint8Array {
    const index = Math.floor(offset / GROUP_BYTES);
    this.#groups[index] ??= new Array<Uint8Array | null>(GROUP_CHUNKS).fill(null);
    const place = Math.floor((offset % GROUP_BYTES) / CHUNK_BYTES);
    const group = this.#groups[index]!;
    group[place] ??= new Uint8Array(CHUNK_BYTES);
    return group[place]!;
  }

  /** Bytes from `offset` to the end of what is known at once: a missing group, or a chunk. */
  #unit(offset: number): number {
    const group = this.#groups[Math.floor(offset / GROUP_BYTES)];
    const unit = group ? CHUNK_BYTES : GROUP_BYTES;
    return unit - (offset % unit);
  }

  /** Zeroes a range; whole chunks go away, unless they must stay allocated. */
  #zero(offset: number, bytes: number, keep: boolean): void {
    for (let done = 0; done < bytes; ) {
      const from = offset + done;
      const at = from % CHUNK_BYTES;
      const unit = keep ? CHUNK_BYTES - at : this.#unit(from);
      const take = Math.min(bytes - done, unit);
      const chunk = keep ? this.#make(from) : this.#find(from);
      if (chunk !== null && take === CHUNK_BYTES && !keep) this.#drop(from);
      else chunk?.fill(0, at, at + take);
      done += take;
    }
  }

  #drop(offset: number): void {
    const group = this.#groups[Math.floor(offset / GROUP_BYTES)]!;
    group[Math.floor((offset % GROUP_BYTES) / CHUNK_BYTES)] = null;
  }

  /** Writes extents to arena memory, neighbours joined; answers how many. */
  #status(offset: number, bytes: number, memory: number): number {
    const end = offset + bytes;
    let count = 0;
    for (let from = offset; from < end && count < STATUS_EXTENTS_MAX; ) {
      const hole = this.#find(from) === null;
      let to = from;
      while (to < end && (this.#find(to) === null) === hole) to += this.#unit(to);
      const length = Math.min(to, end) - from;
      const word = memory / 4 + 3 * count++;
      this.#arena.u32[word] = length % 2 ** 32;
      this.#arena.u32[word + 1] = Math.floor(length / 2 ** 32);
      this.#arena.u32[word + 2] = hole ? HOLE_ZERO : 0;
      from += length;
    }
    return count;
  }
}
