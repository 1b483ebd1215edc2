// SPDX-License-Identifier: Apache-2.0
// Builds SCOs in memory: the clusters of a batch, sorted by address, are read from the journal in
// large pieces, and every block lands at once at its place in its SCO; then the trailer.
//
//   journal:  h c7 h c2 c9 h c1 …   ──scatter──►   SCO:  c1 c2 c7 c9 … trailer
//
// The CRC of every cluster is checked against the dirty map before anything leaves (P-A5).

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import type { Deferred } from "../base/sync.js";
import { deferred, settleAll } from "../base/sync.js";
import { CLUSTER_BYTES, MIB } from "../base/units.js";
import type { HandlerId } from "../platform/disk.js";
import { bytesScoTrailer, encodeScoTrailer } from "../wire/generated/map.js";
import type { TlogData } from "../wire/generated/tlog.js";
import type { BatchContent } from "./batch.js";
import { breathe } from "./destage.js";
import { blockOf, segmentSlotOf } from "./dirty.js";
import type { Volume } from "./volume.js";

/**
 * How the journal is read: blocks of one read, and reads at a time. Gently as a rule: a record that
 * is written meanwhile waits behind them in the disk's queue. When the journal gets full clients
 * are about to wait for destage itself, and it hurries.
 */
const GENTLY = { blocks: 64, atOnce: 2 } as const;
const HURRIED = { blocks: 256, atOnce: 8 } as const;
/** Unwanted blocks in a row that are read rather than skipped. */
const GAP_BLOCKS_MAX = 8;
const VERIFY_SLICE = 512;
/** An offset in a trailer or TLog entry has 32 bits. */
const OFFSET_MAX = 2 ** 32 - 1;

export interface BuiltSco {
  entry: TlogData;
  /** Run of the destage pool. */
  memory: number;
  /** Clusters and trailer. */
  bytes: number;
  /** CRC of every 4 KiB, trailer included. */
  crcs: Uint32Array;
}

/** Blocks that one read brings: piece i goes to pieces[2i], pieces[2i+1] bytes. */
interface JournalRead {
  file: number;
  offset: number;
  bytes: number;
  pieces: Uint32Array;
  count: number;
}

export class ScoBuilder {
  readonly #volume: Volume;
  readonly #handler: HandlerId;
  readonly #waiting: Array<Deferred<number> | null> = new Array<Deferred<number> | null>(
    HURRIED.atOnce,
  ).fill(null);

  constructor(volume: Volume) {
    this.#volume = volume;
    this.#handler = volume.thread.world.disk.handler((tag, result) => {
      const waiter = this.#waiting[tag]!;
      this.#waiting[tag] = null;
      waiter.resolve(result);
    });
  }

  /** Clusters of a full SCO: with its trailer it has no more than the configured bytes. */
  get clustersPerSco(): number {
    const blocks = this.#volume.config.scoBytes / CLUSTER_BYTES;
    return blocks - trailerBlocks(blocks);
  }

  /** SCOs that the destage pool has memory for at a time; at least one. */
  get scosPerGroup(): number {
    return Math.max(
      1,
      Math.floor(this.#volume.thread.destagePool.bytes / (this.#volume.config.scoBytes + MIB)),
    );
  }

  /** SCOs for content[from, to). Gives: the caller must `release` them. */
  async build(content: BatchContent, from: number, to: number): Promise<BuiltSco[]> {
    const built = await this.#take(content, from, to);
    try {
      await this.#fill(content, from, to, built);
      for (const sco of built) await this.finish(sco);
      return built;
    } catch (error) {
      this.release(built);
      throw error;
    }
  }

  /** Gives the memory of SCOs back to the destage pool. */
  release(built: readonly BuiltSco[]): void {
    for (const sco of built) this.#volume.thread.destagePool.give(sco.memory);
  }

  /** An empty SCO for clusters at these addresses, with memory. */
  async takeOne(clusters: Float64Array, crcs: Uint32Array): Promise<BuiltSco> {
    const count = clusters.length;
    assert(count > 0 && count <= this.clustersPerSco, "a SCO has a bounded number of clusters");
    const base = clusters.reduce((least, cluster) => Math.min(least, cluster));
    const blocks = count + trailerBlocks(count);
    const memory = await this.#volume.thread.destagePool.take(blocks * CLUSTER_BYTES);
    const entry: TlogData = {
      scoId: this.#volume.destager.nextScoId(),
      scoIndex: 0,
      baseCluster: base,
      offsets: Uint32Array.from(clusters, (cluster) => cluster - base),
      crcs: crcs.slice(),
    };
    return { entry, memory, bytes: blocks * CLUSTER_BYTES, crcs: new Uint32Array(blocks) };
  }

  /** Checks the clusters in memory against the entry's CRCs and writes the trailer. */
  async finish(sco: BuiltSco): Promise<void> {
    const { world } = this.#volume.thread;
    const count = sco.entry.crcs.length;
    for (let i = 0; i < count; i += VERIFY_SLICE) {
      const n = Math.min(VERIFY_SLICE, count - i);
      const bad = world.codec.crc32cVerify(sco.memory + i * CLUSTER_BYTES, n, sco.entry.crcs, i);
      if (bad >= 0) {
        const cluster = sco.entry.baseCluster + sco.entry.offsets[i + bad]!;
        throw new StorageError(
          "OVS_CORRUPT",
          `cluster ${cluster} of ${this.#volume.name} is not what was acknowledged`,
        );
      }
      await breathe(world.clock);
    }
    sco.crcs.set(sco.entry.crcs);
    const at = sco.memory + count * CLUSTER_BYTES;
    world.arena.bytes.fill(0, at, sco.memory + sco.bytes);
    const { config } = this.#volume;
    encodeScoTrailer(
      {
        clusterUuid: config.clusterUuid,
        vdiskUuid: config.vdiskId,
        ownerEpoch: config.epoch,
        scoId: sco.entry.scoId,
        baseCluster: sco.entry.baseCluster,
        keyId: 0,
        offsets: sco.entry.offsets,
      },
      world.arena.bytes,
      at,
    );
    world.codec.crc32cClusters(at, sco.bytes / CLUSTER_BYTES - count, sco.crcs, count);
  }

  async #take(content: BatchContent, from: number, to: number): Promise<BuiltSco[]> {
    const { destageTaking } = this.#volume.thread;
    const built: BuiltSco[] = [];
    // One taker at a time: two that each have half of what they need would wait for ever.
    await destageTaking.with(async () => {
      for (let i = from; i < to; ) {
        const end = this.#endOfSco(content, i, to);
        built.push(
          await this.takeOne(content.clusters.subarray(i, end), content.crcs.subarray(i, end)),
        );
        i = end;
      }
    });
    return built;
  }

  #endOfSco(content: BatchContent, from: number, to: number): number {
    let end = Math.min(from + this.clustersPerSco, to);
    while (content.clusters[end - 1] - content.clusters[from] > OFFSET_MAX) end--;
    return end;
  }

  /** Reads the blocks in the journal's order, each to its place. */
  async #fill(
    content: BatchContent,
    from: number,
    to: number,
    built: readonly BuiltSco[],
  ): Promise<void> {
    const targets = new Uint32Array(to - from);
    let n = 0;
    for (const sco of built) {
      for (let i = 0; i < sco.entry.crcs.length; i++) targets[n++] = sco.memory + i * CLUSTER_BYTES;
    }
    assert(n === to - from, "every cluster has a place");
    // Sorted by location; the low 20 bits say which cluster.
    const order = new Float64Array(to - from);
    for (let i = 0; i < order.length; i++) order[i] = content.locations[from + i] * 2 ** 20 + i;
    order.sort();
    const way = this.#volume.journal.isCrowded ? HURRIED : GENTLY;
    const reads = this.#plan(order, targets, way.blocks);
    let next = 0;
    const readers = Array.from({ length: way.atOnce }, async (_, tag) => {
      while (next < reads.length) await this.#read(reads[next++]!, tag);
    });
    await settleAll(readers);
  }

  #plan(order: Float64Array, targets: Uint32Array, blocksMax: number): JournalRead[] {
    const { journal, thread } = this.#volume;
    const reads: JournalRead[] = [];
    for (let i = 0; i < order.length; ) {
      const first = Math.floor(order[i] / 2 ** 20);
      const read: JournalRead = {
        file: journal.segmentAt(segmentSlotOf(first)).file,
        offset: blockOf(first) * CLUSTER_BYTES,
        bytes: 0,
        pieces: new Uint32Array(2 * blocksMax),
        count: 0,
      };
      let next = first;
      for (; i < order.length; i++) {
        const location = Math.floor(order[i] / 2 ** 20);
        const gap = location - next;
        if (gap > GAP_BLOCKS_MAX || location - first >= blocksMax) break;
        if (segmentSlotOf(location) !== segmentSlotOf(first)) break;
        for (let skipped = 0; skipped < gap; skipped++) addPiece(read, thread.junk);
        addPiece(read, targets[order[i] % 2 ** 20]);
        next = location + 1;
      }
      reads.push(read);
    }
    return reads;
  }

  async #read(read: JournalRead, tag: number): Promise<void> {
    const waiter = deferred<number>();
    this.#waiting[tag] = waiter;
    const { disk } = this.#volume.thread.world;
    disk.readScatter(this.#handler, tag, read.file, read.offset, read.pieces, read.count);
    const result = await waiter.promise;
    if (result === read.bytes) return;
    throw new StorageError(
      "OVS_CORRUPT",
      `the journal of ${this.#volume.name} cannot be read (${result})`,
    );
  }
}

function addPiece(read: JournalRead, target: number): void {
  read.bytes += CLUSTER_BYTES;
  read.pieces[2 * read.count] = target;
  read.pieces[2 * read.count + 1] = CLUSTER_BYTES;
  read.count++;
}

/** Blocks of the trailer of a SCO with so many clusters. */
export function trailerBlocks(clusters: number): number {
  const bytes = bytesScoTrailer(EMPTY_TRAILER) + 4 * clusters;
  return Math.ceil(bytes / CLUSTER_BYTES);
}

const EMPTY_TRAILER = {
  clusterUuid: new Uint8Array(16),
  vdiskUuid: new Uint8Array(16),
  ownerEpoch: 0,
  scoId: 0,
  baseCluster: 0,
  keyId: 0,
  offsets: new Uint32Array(0),
};
