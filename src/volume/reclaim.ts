// SPDX-License-Identifier: Apache-2.0
// Space comes back: clusters that are still named move from the emptiest SCOs to new ones with the
// next batch, as relocation entries of its TLog, which apply only where the old location still
// stands (P-F2). Their old SCOs then have no live clusters and are deleted.
//
//   when:   the backend has less than a quarter free │ more than half is garbage │ too many small
// SCOs
//   which:  fewest live clusters first; their addresses are in the SCO's trailer

import type { ReadPart } from "../backend/store.js";
import { StorageError } from "../base/errors.js";
import { CLUSTER_BYTES } from "../base/units.js";
import { decodeScoTrailer } from "../wire/generated/map.js";
import type { TlogRelocation } from "../wire/generated/tlog.js";
import { Found } from "./dirty.js";
import { scoName } from "./names.js";
import { type BuiltSco, type ScoBuilder, trailerBlocks } from "./scobuilder.js";
import type { Volume } from "./volume.js";

const READ_TIMEOUT_MS = 15_000;
const PARTS_MAX = 64;
const FREE_LOW = 0.25;
const FREE_VERY_LOW = 0.12;
/** SCOs fuller than this are not worth moving, unless space is very low. */
const LIVE_SHARE_MAX = 0.8;
const LIVE_SHARE_MAX_VERY_LOW = 0.95;
/** SCOs that are fine whatever their size. */
const SMALL_SCOS_MAX = 64;
const CANDIDATES_MAX = 64;

/** Clusters of one old SCO that are to move. */
interface Move {
  scoId: number;
  clusters: Float64Array;
  indexes: Uint32Array;
  crcs: Uint32Array;
}

export interface Relocated {
  sco: BuiltSco;
  entries: TlogRelocation[];
}

export class Reclaim {
  readonly #volume: Volume;
  readonly #builder: ScoBuilder;
  /** SCOs that cannot be read; not tried again by this service. */
  readonly #unreadable = new Set<number>();

  constructor(volume: Volume, builder: ScoBuilder) {
    this.#volume = volume;
    this.#builder = builder;
  }

  /** Whether clusters should move now. */
  get isWanted(): boolean {
    const most = this.#clustersWanted();
    return most > 0 && this.#candidates(most, new Set()).length > 0;
  }

  /** New SCOs to fill with one TLog: the less is free, the more, up to what a batch brings. */
  get rounds(): number {
    const free = this.#free;
    if (free < FREE_VERY_LOW) return 6;
    return free < FREE_LOW ? 3 : 1;
  }

  get #free(): number {
    return this.#volume.thread.options.backendFreeShare?.() ?? 1;
  }

  /**
   * Fills one SCO with clusters of the emptiest SCOs that are not in `taken`, and adds those to it;
   * null when there is nothing to do. Gives the SCO's memory. Throws OVS_UNAVAILABLE when they
   * cannot be read now.
   */
  async relocate(taken: Set<number>): Promise<Relocated | null> {
    const most = this.#clustersWanted();
    if (most === 0) return null;
    const moves: Move[] = [];
    let count = 0;
    for (const scoId of this.#candidates(most, taken)) {
      taken.add(scoId);
      const move = await this.#movesOf(scoId);
      if (move === null || move.clusters.length === 0) continue;
      if (count + move.clusters.length > most) continue;
      moves.push(move);
      count += move.clusters.length;
    }
    return count === 0 ? null : await this.#build(moves, count);
  }

  /** Most clusters to move with one batch: 0 while there is no need. */
  #clustersWanted(): number {
    const { liveClusters, totalClusters, count } = this.#volume.map.scos;
    const per = this.#builder.clustersPerSco;
    const ideal = Math.ceil(liveClusters / per);
    const isGarbage = totalClusters > 2 * liveClusters + 4 * per;
    const isSmall = count > SMALL_SCOS_MAX + 4 * ideal;
    return this.#free < FREE_LOW || isGarbage || isSmall ? per : 0;
  }

  /** The SCOs with the fewest live clusters, that together have about `most`. */
  #candidates(most: number, taken: ReadonlySet<number>): number[] {
    const { map } = this.#volume;
    const per = this.#builder.clustersPerSco;
    const shareMax = this.#free < FREE_VERY_LOW ? LIVE_SHARE_MAX_VERY_LOW : LIVE_SHARE_MAX;
    let list: Array<{ id: number; live: number }> = [];
    map.scos.forEach((id, live, total) => {
      const isSmall = total * 4 < per;
      if (
        live === 0 ||
        taken.has(id) ||
        this.#unreadable.has(id) ||
        (!isSmall && live > total * shareMax)
      )
        return;
      list.push({ id, live });
      if (list.length >= 4 * CANDIDATES_MAX) list = emptiest(list);
    });
    const ids: number[] = [];
    let count = 0;
    for (const { id, live } of emptiest(list)) {
      if (count + live > most) break;
      ids.push(id);
      count += live;
    }
    // One small SCO alone would only be copied.
    return ids.length === 1 && map.scos.total(ids[0]!) * 4 < per ? [] : ids;
  }

  /** Clusters of a SCO that the map still names and nothing in the journal replaces. */
  async #movesOf(scoId: number): Promise<Move | null> {
    const { map, dirty } = this.#volume;
    const addresses = await this.#addresses(scoId);
    if (addresses === null) return null;
    // A SCO of an earlier relocation is not in order of addresses.
    const order = Uint32Array.from(addresses, (_, i) => i).sort(
      (a, b) => addresses[a] - addresses[b],
    );
    const sorted = Float64Array.from(order, (i) => addresses[i]);
    const found = await map.locate(sorted);
    const keep: number[] = [];
    for (let n = 0; n < order.length; n++) {
      if (found.scoIds[n] !== scoId || found.indexes[n] !== order[n]) continue;
      if (dirty.find(sorted[n]) === Found.None) keep.push(n);
    }
    return {
      scoId,
      clusters: Float64Array.from(keep, (n) => sorted[n]),
      indexes: Uint32Array.from(keep, (n) => order[n]),
      crcs: Uint32Array.from(keep, (n) => found.crcs[n]),
    };
  }

  /** Address of each cluster of a SCO, from its trailer; null when that cannot be trusted. */
  async #addresses(scoId: number): Promise<Float64Array | null> {
    const { map, thread, store, namespace, name } = this.#volume;
    const total = map.scos.total(scoId);
    const bytes = trailerBlocks(total) * CLUSTER_BYTES;
    const memory = await thread.destagePool.take(bytes);
    try {
      const part = { name: scoName(scoId), offset: total * CLUSTER_BYTES, bytes, into: memory };
      await store.read(namespace, [part], READ_TIMEOUT_MS);
      const trailer = decodeScoTrailer(thread.world.arena.slice(memory, bytes));
      if (trailer.scoId !== scoId || trailer.offsets.length !== total) {
        throw new StorageError("OVS_CORRUPT", `the trailer of SCO ${scoId} is another's`);
      }
      return Float64Array.from(trailer.offsets, (offset) => trailer.baseCluster + offset);
    } catch (error) {
      if (!(error instanceof StorageError) || error.kind === "unavailable") throw error;
      this.#unreadable.add(scoId);
      const fields = { vdisk: name, sco: scoId, reason: error.message };
      thread.world.log.error("a SCO cannot be reclaimed", fields);
      return null;
    } finally {
      thread.destagePool.give(memory);
    }
  }

  async #build(moves: readonly Move[], count: number): Promise<Relocated> {
    const clusters = new Float64Array(count);
    const crcs = new Uint32Array(count);
    let n = 0;
    for (const move of moves) {
      clusters.set(move.clusters, n);
      crcs.set(move.crcs, n);
      n += move.clusters.length;
    }
    const sco = await this.#builder.takeOne(clusters, crcs);
    try {
      await this.#read(moves, sco);
      await this.#builder.finish(sco);
      return { sco, entries: entriesOf(moves, sco) };
    } catch (error) {
      this.#builder.release([sco]);
      throw error;
    }
  }

  async #read(moves: readonly Move[], sco: BuiltSco): Promise<void> {
    const { store, namespace } = this.#volume;
    let parts: ReadPart[] = [];
    let into = sco.memory;
    for (const move of moves) {
      for (let i = 0; i < move.indexes.length; ) {
        let run = 1;
        while (i + run < move.indexes.length && move.indexes[i + run] === move.indexes[i] + run)
          run++;
        const offset = move.indexes[i] * CLUSTER_BYTES;
        parts.push({ name: scoName(move.scoId), offset, bytes: run * CLUSTER_BYTES, into });
        into += run * CLUSTER_BYTES;
        i += run;
        if (parts.length < PARTS_MAX) continue;
        await store.read(namespace, parts, READ_TIMEOUT_MS);
        parts = [];
      }
    }
    if (parts.length > 0) await store.read(namespace, parts, READ_TIMEOUT_MS);
  }
}

function emptiest(list: Array<{ id: number; live: number }>): Array<{ id: number; live: number }> {
  return list.sort((a, b) => a.live - b.live).slice(0, CANDIDATES_MAX);
}

function entriesOf(moves: readonly Move[], sco: BuiltSco): TlogRelocation[] {
  const entries: TlogRelocation[] = [];
  let index = 0;
  for (const move of moves) {
    const base = move.clusters[0];
    entries.push({
      fromScoId: move.scoId,
      toScoId: sco.entry.scoId,
      toScoIndex: index,
      baseCluster: base,
      offsets: Uint32Array.from(move.clusters, (cluster) => cluster - base),
      fromIndexes: move.indexes,
      crcs: move.crcs,
    });
    index += move.clusters.length;
  }
  return entries;
}
