// SPDX-License-Identifier: Apache-2.0
// Sizes of the NBD server: slots, and what a client may ask for at once.

import { assert } from "../base/assert.js";
import { CLUSTER_BYTES, KIB, MIB } from "../base/units.js";
import { SLOT_CLUSTERS } from "../platform/nbd.js";
import { SLOT_CLUSTERS_MAX } from "./target.js";

assert(SLOT_CLUSTERS === SLOT_CLUSTERS_MAX, "the addon cuts requests as targets expect");

export const SLOT_BYTES = SLOT_CLUSTERS_MAX * CLUSTER_BYTES;
export const SLOTS_DEFAULT = 480;
/**
 * Most extents of a block status: they fit the slot when the client's descriptors have 16 bytes.
 */
export const STATUS_EXTENTS_MAX = SLOT_BYTES / 16;

const PART_BYTES = 128 * KIB;
const REQUEST_BYTES_MAX = 32 * MIB;

/** The largest READ or WRITE with that many slots: one part more than whole parts must fit. */
export function requestBytesMax(slots: number): number {
  let bytes = PART_BYTES;
  while (bytes < REQUEST_BYTES_MAX && (bytes * 2) / PART_BYTES + 1 <= slots) bytes *= 2;
  return bytes;
}
