// SPDX-License-Identifier: Apache-2.0
// A disk in memory, for tests and benchmarks. Its bytes lie in chunks outside the arena that are
// made when they are first written: a chunk that is missing reads as zeroes and is a hole.

import { assert } from "../base/assert.js";
import { ceilDiv } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { formatSize, KIB, VDISK_BYTES_MAX } from "../base/units.js";
import type { Arena } from "../platform/arena.js";
import { STATUS_EXTENTS_MAX } from "./limits.js";
import type { BlockTarget, Requests } from "./target.js";
import { RequestFlag, RequestKind } from "./target.js";

const CHUNK_BYTES = 256 * KIB;
const HOLE_ZERO = 3;

export class MemoryTarget implements BlockTarget {
  readonly readOnly: boolean;
  readonly #arena: Arena;
  readonly #requests: Requests;
  #sizeBytes: number;
  #chunks: Array<Uint8Array | null>;

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
    this.#chunks = new Array<Uint8Array | null>(ceilDiv(sizeBytes, CHUNK_BYTES)).fill(null);
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
      const chunk = this.#chunks[(offset + done - at) / CHUNK_BYTES];
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
      this.#chunk(offset + done - at).set(arena.subarray(source, source + take), at);
      done += take;
    }
  }

  #chunk(offset: number): Uint8Array {
    const index = offset / CHUNK_BYTES;
    const found = this.#chunks[index];
    if (found) return found;
    const made = new Uint8Array(CHUNK_BYTES);
    this.#chunks[index] = made;
    return made;
  }

  /** Zeroes a range; whole chunks go away, unless they must stay allocated. */
  #zero(offset: number, bytes: number, keep: boolean): void {
    for (let done = 0; done < bytes; ) {
      const at = (offset + done) % CHUNK_BYTES;
      const take = Math.min(bytes - done, CHUNK_BYTES - at);
      const index = (offset + done - at) / CHUNK_BYTES;
      const chunk = this.#chunks[index];
      if (keep) this.#chunk(offset + done - at).fill(0, at, at + take);
      else if (take === CHUNK_BYTES) this.#chunks[index] = null;
      else chunk?.fill(0, at, at + take);
      done += take;
    }
  }

  /** Writes extents to arena memory, neighbours joined; answers how many. */
  #status(offset: number, bytes: number, memory: number): number {
    let count = 0;
    let done = 0;
    while (done < bytes && count < STATUS_EXTENTS_MAX) {
      const hole = this.#chunks[Math.floor((offset + done) / CHUNK_BYTES)] === null;
      let length = 0;
      do {
        const at = (offset + done + length) % CHUNK_BYTES;
        length += Math.min(bytes - done - length, CHUNK_BYTES - at);
      } while (
        done + length < bytes &&
        (this.#chunks[Math.floor((offset + done + length) / CHUNK_BYTES)] === null) === hole
      );
      const word = memory / 4 + 3 * count++;
      this.#arena.u32[word] = length % 2 ** 32;
      this.#arena.u32[word + 1] = Math.floor(length / 2 ** 32);
      this.#arena.u32[word + 2] = hole ? HOLE_ZERO : 0;
      done += length;
    }
    return count;
  }
}
