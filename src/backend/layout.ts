// SPDX-License-Identifier: Apache-2.0
// How an object's bytes lie in its fragments: arithmetic only. The bytes, padded with zeroes, are
// stripes of k units; unit i of a stripe belongs to data fragment i, and a fragment is its units
// one after the other.
//
//   object      | u0 | u1 | … | u(k-1) | uk | u(k+1) | …
//   fragment 0  | u0 | uk | u(2k) | …
//   fragment k  | parity of stripe 0 | parity of stripe 1 | …

import { assert } from "../base/assert.js";
import { alignUp, ceilDiv } from "../base/bytes.js";
import { CLUSTER_BYTES, KIB, MIB } from "../base/units.js";
import type { Segments } from "../platform/network.js";

/** Units of large objects are of this size, or a little smaller where that wastes less. */
export const UNIT_BYTES_MAX = 64 * KIB;
const UNIT_BYTES_MIN = 32 * KIB;
/** Longest fragment: what an OSD takes as one value. */
export const FRAGMENT_BYTES_MAX = 32 * MIB;

export interface ObjectLayout {
  readonly k: number;
  readonly m: number;
  readonly unitBytes: number;
  readonly stripes: number;
}

/** The layout of a new object. A small one is a single stripe; waste is below one page a unit. */
export function layoutFor(bytes: number, k: number, m: number): ObjectLayout {
  assert(Number.isSafeInteger(bytes) && bytes > 0, "an object has bytes");
  const padded = alignUp(bytes, CLUSTER_BYTES);
  if (padded <= k * UNIT_BYTES_MAX) {
    return { k, m, unitBytes: alignUp(ceilDiv(padded, k), CLUSTER_BYTES), stripes: 1 };
  }
  let unitBytes = UNIT_BYTES_MAX;
  for (let unit = UNIT_BYTES_MAX; unit >= UNIT_BYTES_MIN; unit -= CLUSTER_BYTES) {
    if (alignUp(padded, k * unit) < alignUp(padded, k * unitBytes)) unitBytes = unit;
  }
  return { k, m, unitBytes, stripes: ceilDiv(padded, k * unitBytes) };
}

/** Bytes of each fragment of an object that is laid out so. */
export function fragmentBytes(layout: ObjectLayout): number {
  return layout.unitBytes * layout.stripes;
}

/** Data fragment that holds the byte. */
export function fragmentAt(layout: ObjectLayout, offset: number): number {
  return Math.floor(offset / layout.unitBytes) % layout.k;
}

/** Offset in its fragment of the object's byte. */
export function offsetInFragment(layout: ObjectLayout, offset: number): number {
  const unit = Math.floor(offset / layout.unitBytes);
  return Math.floor(unit / layout.k) * layout.unitBytes + (offset % layout.unitBytes);
}

/** Bytes from there to the end of the unit: what a read may take in one piece. */
export function bytesToUnitEnd(layout: ObjectLayout, offset: number): number {
  return layout.unitBytes - (offset % layout.unitBytes);
}

/** Index, in a list of all fragments' page checksums, of the object's page. */
export function crcIndex(layout: ObjectLayout, page: number): number {
  const offset = page * CLUSTER_BYTES;
  const pages = fragmentBytes(layout) / CLUSTER_BYTES;
  return fragmentAt(layout, offset) * pages + offsetInFragment(layout, offset) / CLUSTER_BYTES;
}

/**
 * The pieces of a data fragment of an object that lies contiguous at `data`; what the object lacks
 * (`dataBytes` is whole pages) comes from `zeroes`, UNIT_BYTES_MAX bytes of them.
 */
export function dataPieces(
  layout: ObjectLayout,
  fragment: number,
  data: number,
  dataBytes: number,
  zeroes: number,
): Segments {
  const { k, unitBytes, stripes } = layout;
  assert(fragment < k && unitBytes <= UNIT_BYTES_MAX, "a data fragment of a layout of ours");
  const list = new Uint32Array(4 * stripes);
  let count = 0;
  for (let stripe = 0; stripe < stripes; stripe++) {
    const at = (stripe * k + fragment) * unitBytes;
    const there = Math.min(unitBytes, Math.max(0, dataBytes - at));
    if (there > 0) {
      list[2 * count] = data + at;
      list[2 * count++ + 1] = there;
    }
    if (there < unitBytes) {
      list[2 * count] = zeroes;
      list[2 * count++ + 1] = unitBytes - there;
    }
  }
  return { list, count };
}

/** One piece. */
export function onePiece(at: number, bytes: number): Segments {
  return { list: Uint32Array.of(at, bytes), count: 1 };
}
