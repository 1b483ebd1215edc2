// SPDX-License-Identifier: Apache-2.0
// BLOCK_STATUS: which parts of a range have data. A window of clusters is painted, oldest first:
// the map, then the layers of the dirty map. Empty stretches are jumped over, so that the status of
// an empty 16 TiB is one look. The answer may end before the range does, as the protocol allows.

import { StorageError } from "../base/errors.js";
import { CLUSTER_BYTES } from "../base/units.js";
import { RequestFlag, SLOT_CLUSTERS_MAX } from "../nbd/target.js";
import type { DirtyMap } from "./dirty.js";
import { Found } from "./dirty.js";
import type { PageView } from "./page.js";
import { ENTRY_WORDS, PAGE_ENTRIES, SCO_ZERO } from "./page.js";
import type { Volume } from "./volume.js";

const WINDOW_PAGES = 64;
const WINDOW_CLUSTERS = WINDOW_PAGES * PAGE_ENTRIES;
const WINDOWS_MAX = 16;
const EXTENTS_MAX = 512;
const EXTENT_WORDS = 3;
const FLAGS_HOLE = 3;
const FLAGS_DATA = 0;
/** An extent of the 32-bit protocol has at most this many clusters. */
const EXTENT_CLUSTERS_MAX = Math.floor((2 ** 32 - 1) / CLUSTER_BYTES);
const TWO_32 = 2 ** 32;

/** Extents under construction: runs of clusters with or without data. */
class Extents {
  readonly lengths: number[] = [];
  readonly hasData: boolean[] = [];

  add(clusters: number, data: boolean): void {
    const last = this.lengths.length - 1;
    if (
      last >= 0 &&
      this.hasData[last] === data &&
      this.lengths[last]! + clusters <= EXTENT_CLUSTERS_MAX
    ) {
      this.lengths[last]! += clusters;
      return;
    }
    this.lengths.push(clusters);
    this.hasData.push(data);
  }
}

/** Answers the BLOCK_STATUS in `slot`. */
export async function answerBlockStatus(volume: Volume, slot: number): Promise<void> {
  const { requests, world } = volume.thread;
  const offset = requests.offset[slot];
  const bytesEnd = offset + requests.length[slot];
  const limit = (requests.flags[slot] & RequestFlag.ReqOne) !== 0 ? 1 : EXTENTS_MAX;
  let extents: Extents;
  try {
    extents = await collect(
      volume,
      Math.floor(offset / CLUSTER_BYTES),
      Math.ceil(bytesEnd / CLUSTER_BYTES),
      limit,
    );
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    world.turn.begin();
    volume.complete(slot, error.kind);
    world.turn.end();
    return;
  }
  world.turn.begin();
  if (volume.failed !== null) volume.complete(slot, volume.failed);
  else volume.completeStatus(slot, write(volume, slot, extents, limit));
  world.turn.end();
}

/** Writes the extents, cut to the request's bytes, into the slot's memory. */
function write(volume: Volume, slot: number, extents: Extents, limit: number): number {
  const { requests, world } = volume.thread;
  const offset = requests.offset[slot];
  const bytesEnd = offset + requests.length[slot];
  const room = Math.floor(((SLOT_CLUSTERS_MAX - 1) * CLUSTER_BYTES) / (EXTENT_WORDS * 4));
  const count = Math.min(limit, room, extents.lengths.length);
  let at = requests.memory[slot];
  let byte = offset;
  let cluster = Math.floor(offset / CLUSTER_BYTES);
  let written = 0;
  for (; written < count && byte < bytesEnd; written++) {
    cluster += extents.lengths[written]!;
    const end = Math.min(cluster * CLUSTER_BYTES, bytesEnd);
    world.arena.view.setUint32(at, (end - byte) >>> 0, true);
    world.arena.view.setUint32(at + 4, Math.floor((end - byte) / TWO_32), true);
    world.arena.view.setUint32(at + 8, extents.hasData[written] ? FLAGS_DATA : FLAGS_HOLE, true);
    at += EXTENT_WORDS * 4;
    byte = end;
  }
  return written;
}

async function collect(
  volume: Volume,
  first: number,
  end: number,
  limit: number,
): Promise<Extents> {
  const extents = new Extents();
  const paint = new Uint8Array(WINDOW_CLUSTERS);
  let cluster = first;
  for (let windows = 0; windows < WINDOWS_MAX && cluster < end; windows++) {
    const windowEnd = Math.min(end, (Math.floor(cluster / WINDOW_CLUSTERS) + 1) * WINDOW_CLUSTERS);
    paint.fill(0);
    await paintMap(volume, paint, cluster, windowEnd);
    if (volume.failed !== null) break;
    const hasData = paintDirty(volume.dirty, paint, cluster, windowEnd);
    if (!hasData && !paint.includes(1)) {
      const next = Math.min(end, await nextData(volume, windowEnd));
      extents.add(next - cluster, false);
      cluster = next;
      continue;
    }
    for (let i = 0; i < windowEnd - cluster; ) {
      let run = 1;
      while (i + run < windowEnd - cluster && paint[i + run] === paint[i]) run++;
      extents.add(run, paint[i] === 1);
      i += run;
    }
    cluster = windowEnd;
    if (extents.lengths.length > limit) break;
  }
  return extents;
}

async function paintMap(
  volume: Volume,
  paint: Uint8Array,
  first: number,
  end: number,
): Promise<void> {
  const pages = {
    page: Math.floor(first / PAGE_ENTRIES),
    endPage: Math.ceil(end / PAGE_ENTRIES),
    limit: WINDOW_PAGES + 1,
  };
  await volume.map.scan(pages, (page, view) => paintPage(paint, page, view, first, end));
}

function paintPage(
  paint: Uint8Array,
  page: number,
  view: PageView,
  first: number,
  end: number,
): void {
  for (let entry = 0; entry < PAGE_ENTRIES; entry++) {
    const cluster = page * PAGE_ENTRIES + entry;
    if (cluster < first || cluster >= end) continue;
    const word = view.at + entry * ENTRY_WORDS;
    if (view.words[word]! + view.words[word + 1]! * TWO_32 > SCO_ZERO) paint[cluster - first] = 1;
  }
}

/** Paints the layers over the map; answers whether any has data there. */
function paintDirty(dirty: DirtyMap, paint: Uint8Array, first: number, end: number): boolean {
  if (dirty.empty) return false;
  let touched = false;
  for (const layer of dirty.layers) touched ||= !layer.empty;
  if (!touched) return false;
  let hasData = false;
  for (let cluster = first; cluster < end; cluster++) {
    const found = dirty.find(cluster);
    if (found === Found.None) continue;
    paint[cluster - first] = found === Found.Data ? 1 : 0;
    hasData ||= found === Found.Data;
  }
  return hasData;
}

/** First cluster from `from` on that may have data: in a page of the map, or in a layer. */
async function nextData(volume: Volume, from: number): Promise<number> {
  const sizeClusters = Math.ceil(volume.sizeBytes / CLUSTER_BYTES);
  let next = sizeClusters;
  for (const layer of volume.dirty.layers) {
    if (layer.entries > 0)
      next = Math.min(next, lowerBound(layer.sortedClusters(), from, sizeClusters));
  }
  const options = {
    page: Math.floor(from / PAGE_ENTRIES),
    endPage: Math.ceil(next / PAGE_ENTRIES),
    limit: 2,
  };
  if (options.page >= options.endPage) return next;
  let page = -1;
  await volume.map.scan(options, (found) => {
    if (page < 0) page = found;
  });
  return page < 0 ? next : Math.min(next, Math.max(from, page * PAGE_ENTRIES));
}

function lowerBound(sorted: Float64Array, from: number, none: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle] >= from) high = middle;
    else low = middle + 1;
  }
  return low < sorted.length ? sorted[low] : none;
}
