// SPDX-License-Identifier: Apache-2.0
// Nodes of the map above its leaves (P-F4): one bit per child that says "what is absent below is
// zero". A TRIM of terabytes sets bits in a few nodes: at most two nodes of each level are covered
// in part, and the ones covered whole are one bit of the level above.

import { crc32c } from "../base/crc32c.js";
import type { KvBatch, KvStore } from "../platform/kv.js";
import { DELTA_BASE, pageKey } from "./page.js";

const CHILDREN = 256;
const NODE_BYTES = CHILDREN / 8;
const CRC_BYTES = 4;
/** Leaves × 256^LEVELS_MAX cover every vDisk. */
export const LEVELS_MAX = 4;

/** Marks the leaf pages [first, end) as zero where absent; puts the changed nodes into `batch`. */
export async function setNodeBits(
  kv: Pick<KvStore, "get">,
  batch: KvBatch,
  tree: Uint8Array,
  first: number,
  end: number,
): Promise<void> {
  let from = first;
  let to = end;
  for (let level = 1; level <= LEVELS_MAX && from < to; level++) {
    const isTop = level === LEVELS_MAX;
    const wholeFirst = isTop ? Math.floor(to / CHILDREN) + 1 : Math.ceil(from / CHILDREN);
    const wholeEnd = isTop ? wholeFirst : Math.floor(to / CHILDREN);
    if (wholeFirst >= wholeEnd) {
      await setRange(kv, batch, tree, level, from, to);
      return;
    }
    await setRange(kv, batch, tree, level, from, wholeFirst * CHILDREN);
    await setRange(kv, batch, tree, level, wholeEnd * CHILDREN, to);
    // What the nodes below a set bit say does not matter any more.
    batch.deleteRange(
      pageKey(tree, level, wholeFirst, DELTA_BASE),
      pageKey(tree, level, wholeEnd, DELTA_BASE),
    );
    from = wholeFirst;
    to = wholeEnd;
  }
}

/**
 * Sets the bits of the children [from, to) in the nodes of one level; these are at most two nodes.
 */
async function setRange(
  kv: Pick<KvStore, "get">,
  batch: KvBatch,
  tree: Uint8Array,
  level: number,
  from: number,
  to: number,
): Promise<void> {
  for (let child = from; child < to; ) {
    const node = Math.floor(child / CHILDREN);
    const key = pageKey(tree, level, node, DELTA_BASE);
    const stored = await kv.get(key);
    const value = new Uint8Array(NODE_BYTES + CRC_BYTES);
    if (stored !== null && stored.byteLength === value.byteLength) value.set(stored);
    const nodeEnd = Math.min(to, (node + 1) * CHILDREN);
    for (; child < nodeEnd; child++) {
      const bit = child % CHILDREN;
      value[bit >>> 3]! |= 1 << (bit & 7);
    }
    new DataView(value.buffer).setUint32(NODE_BYTES, crc32c(value, 0, NODE_BYTES), true);
    batch.put(key, value);
  }
}
