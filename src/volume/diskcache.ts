// SPDX-License-Identifier: Apache-2.0
// The read cache on the local disk: one file, a ring of clusters by their immutable place (SCO id,
// index). New clusters are copied to a staging buffer and written in large pieces behind the last
// ones, over the oldest. Its index lives in memory only: a restart begins with an empty cache. What
// is read from it is checked by the reader against the map's CRC, so that a place that was
// overwritten meanwhile is a miss and never wrong data.
//
//   file:     … | newest written | being written | oldest … |
//   staging:  a ring of pieces in the arena: | being written | full | being filled | free … |

import { assert } from "../base/assert.js";
import { messageOf } from "../base/errors.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { FileId, HandlerId } from "../platform/disk.js";
import type { World } from "../platform/world.js";
import { PlaceIndex } from "./readcache.js";

/** Clusters of one write. */
const PIECE_CLUSTERS = 64;
/** Pieces of the staging ring; what comes when all are full is not kept. */
const PIECES = 16;
const PIECE_BYTES = PIECE_CLUSTERS * CLUSTER_BYTES;

/** Arena that a cache needs. */
export const DISK_CACHE_ARENA_BYTES = PIECES * PIECE_BYTES;

export class DiskCache {
  readonly file: FileId;
  readonly #world: World;
  readonly #handler: HandlerId;
  readonly #places: PlaceIndex;
  readonly #region: number;
  /** Piece that is being filled, and clusters in it. */
  #filling = 0;
  #filled = 0;
  /** Full pieces, the one being written included; they lie before the one being filled. */
  #full = 0;
  readonly #ids = new Float64Array(PIECES * PIECE_CLUSTERS);
  readonly #indexes = new Uint32Array(PIECES * PIECE_CLUSTERS);
  #writing = false;
  #failed = false;
  /** Block of the file that the next piece goes to. */
  #block = 0;
  hits = 0;
  misses = 0;

  private constructor(world: World, file: FileId, blocks: number) {
    this.#world = world;
    this.file = file;
    this.#places = new PlaceIndex(blocks);
    this.#region = world.arena.region(DISK_CACHE_ARENA_BYTES, "read cache staging");
    this.#handler = world.disk.handler((tag, result) => this.#onWritten(tag, result));
  }

  /** Makes the cache file anew. Null (with a warning) when there is no room for it. */
  static async create(world: World, path: string, bytes: number): Promise<DiskCache | null> {
    const blocks = Math.floor(bytes / CLUSTER_BYTES / PIECE_CLUSTERS) * PIECE_CLUSTERS;
    if (blocks === 0) return null;
    try {
      const file = await world.disk.open(path, {
        create: true,
        exclusive: false,
        write: true,
        direct: true,
      });
      await world.disk.allocateAsync(file, 0, blocks * CLUSTER_BYTES);
      return new DiskCache(world, file, blocks);
    } catch (error) {
      world.log.warn("no read cache on disk", { path, reason: messageOf(error) });
      return null;
    }
  }

  /** Size of the cache's file. */
  get bytes(): number {
    return this.#places.frames * CLUSTER_BYTES;
  }

  /** Block of the file that has the cluster, or -1. */
  find(scoId: number, index: number): number {
    const block = this.#places.find(scoId, index);
    if (block < 0) this.misses++;
    else this.hits++;
    return block;
  }

  /** True when the cluster's copy still stands: one that was overwritten meanwhile does not. */
  has(scoId: number, index: number): boolean {
    return this.#places.find(scoId, index) >= 0;
  }

  /** Forgets one cluster, whose copy turned out to be damaged. */
  forget(scoId: number, index: number): void {
    const block = this.#places.find(scoId, index);
    if (block >= 0) this.#places.leave(block);
  }

  /** Keeps a copy of a verified cluster, unless the disk is behind. */
  insert(scoId: number, index: number, from: number): void {
    if (this.#failed || this.#full === PIECES - 1) return;
    if (this.#places.find(scoId, index) >= 0) return;
    const at = this.#filling * PIECE_CLUSTERS + this.#filled;
    const target = this.#region + at * CLUSTER_BYTES;
    this.#world.arena.bytes.copyWithin(target, from, from + CLUSTER_BYTES);
    this.#ids[at] = scoId;
    this.#indexes[at] = index;
    this.#filled++;
    if (this.#filled < PIECE_CLUSTERS) return;
    this.#filling = (this.#filling + 1) % PIECES;
    this.#filled = 0;
    this.#full++;
    if (!this.#writing) this.#write();
  }

  /** Forgets everything that is in the file. */
  clear(): void {
    this.#places.clear();
    this.#filled = 0;
  }

  /** Keeps nothing any more; closes the file after what is in flight on it. */
  async close(): Promise<void> {
    this.#failed = true;
    await this.#world.disk.close(this.file);
  }

  /** Writes the oldest full piece. */
  #write(): void {
    assert(!this.#writing && this.#full > 0, "a full piece is written");
    this.#writing = true;
    const piece = (this.#filling + PIECES - this.#full) % PIECES;
    for (let i = 0; i < PIECE_CLUSTERS; i++) this.#places.leave(this.#block + i);
    const offset = this.#block * CLUSTER_BYTES;
    const at = this.#region + piece * PIECE_BYTES;
    this.#world.disk.write(this.#handler, piece, this.file, offset, at, PIECE_BYTES);
  }

  #onWritten(piece: number, result: number): void {
    this.#writing = false;
    this.#full--;
    if (result !== PIECE_BYTES) {
      // A broken cache device does not harm I/O: the cache ends.
      this.#failed = true;
      this.#places.clear();
      this.#world.log.warn("the read cache on disk failed and is not used any more", { result });
      return;
    }
    for (let i = 0; i < PIECE_CLUSTERS; i++) {
      const at = piece * PIECE_CLUSTERS + i;
      if (this.#places.find(this.#ids[at], this.#indexes[at]) >= 0) continue;
      this.#places.enter(this.#block + i, this.#ids[at], this.#indexes[at]);
    }
    const next = this.#block + PIECE_CLUSTERS;
    this.#block = next === this.#places.frames ? 0 : next;
    if (this.#full > 0 && !this.#failed) this.#write();
  }
}
