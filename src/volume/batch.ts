// SPDX-License-Identifier: Apache-2.0
// The content of a closed batch, as destage wants it: the newest version within the batch of each
// cluster, sorted by address, and the ranges that read zeroes (P-A1).

import type { Clock } from "../platform/world.js";
import type { Layer } from "./dirty.js";
import { LOCATION_ZERO } from "./dirty.js";

/** Entries looked at between two looks at the loop. */
const SLICE = 4096;
/** Clusters of a run, on average, for a batch to count as written in order. */
const RUN_CLUSTERS_MIN = 64;
/** Blocks from one cluster of a run to the next: the header of a record may lie between. */
const RUN_STEP_MAX = 2;

export interface BatchContent {
  /** Sorted; location and CRC of each. */
  clusters: Float64Array;
  locations: Uint32Array;
  crcs: Uint32Array;
  /** Disjoint from `clusters` or to be applied before them. */
  zeroes: Array<{ cluster: number; count: number }>;
}

/** Lists a closed layer, which nobody changes meanwhile. */
export async function layerContent(layer: Layer, clock: Clock): Promise<BatchContent> {
  const sorted = layer.sortedClusters();
  const content: BatchContent = {
    clusters: new Float64Array(sorted.length),
    locations: new Uint32Array(sorted.length),
    crcs: new Uint32Array(sorted.length),
    zeroes: [],
  };
  for (let i = 0; i < layer.zeroes.count; i++) {
    const first = layer.zeroes.first(i);
    content.zeroes.push({ cluster: first, count: layer.zeroes.end(i) - first });
  }
  let count = 0;
  for (let i = 0; i < sorted.length; i++) {
    const cluster = sorted[i];
    const place = layer.find(cluster);
    const location = layer.locationAt(place);
    if (location === LOCATION_ZERO) addZero(content, layer, cluster);
    else {
      content.clusters[count] = cluster;
      content.locations[count] = location;
      content.crcs[count] = layer.crcAt(place);
      count++;
    }
    if (i % SLICE === SLICE - 1) await new Promise<void>((resolve) => clock.immediate(resolve));
  }
  content.clusters = content.clusters.subarray(0, count);
  content.locations = content.locations.subarray(0, count);
  content.crcs = content.crcs.subarray(0, count);
  return content;
}

/**
 * True when clusters that follow each other in the vDisk do so in the journal too, most of them:
 * a part of the batch is then read as fast as all of it.
 */
export function liesInRuns(content: BatchContent): boolean {
  const { locations } = content;
  let runs = 1;
  for (let i = 1; i < locations.length; i++) {
    const step = locations[i] - locations[i - 1];
    if (step < 1 || step > RUN_STEP_MAX) runs++;
  }
  return runs * RUN_CLUSTERS_MIN <= locations.length;
}

function addZero(content: BatchContent, layer: Layer, cluster: number): void {
  if (layer.zeroes.contains(cluster)) return;
  const last = content.zeroes[content.zeroes.length - 1];
  if (last && last.cluster + last.count === cluster) last.count++;
  else content.zeroes.push({ cluster, count: 1 });
}
