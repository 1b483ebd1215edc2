// SPDX-License-Identifier: Apache-2.0
// Pages of the map as they lie in memory and in the key-value store (P-F4).
//
//   memory:  256 entries × 4 words: SCO id low, SCO id high, cluster index, CRC-32C
//            + 8 words of bits: entries changed since the stored base
//   stored:  | form, 1 | entries … | CRC-32C, 4 |     form 1: (index u8, entry 16)*, 2: 256 entries
//
// A page is stored as a base and at most one delta, which holds all entries changed since the base;
// a long delta is folded into a new base. So a change in a full page costs tens of bytes, not 4
// KiB.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";

export const PAGE_ENTRIES = 256;
export const ENTRY_WORDS = 4;
export const PAGE_WORDS = PAGE_ENTRIES * ENTRY_WORDS;
export const BITS_WORDS = PAGE_ENTRIES / 32;

/** SCO ids that are no SCO. */
export const SCO_ABSENT = 0;
export const SCO_ZERO = 1;

const FORM_SPARSE = 1;
const FORM_DENSE = 2;
const ENTRY_BYTES = 16;
const SPARSE_ENTRY_BYTES = 17;
const CRC_BYTES = 4;
/** Above this many entries the dense form is shorter. */
const SPARSE_MAX = 240;
/** A page with no more entries is always stored whole; a delta never has more. */
const DELTA_MAX = 32;
const TWO_32 = 2 ** 32;

const KEY_BYTES = 28;
const KEY_PAGE = 0x10;
const KEY_SCO = 0x20;
const KEY_MARK = 0x30;
export const DELTA_BASE = 0;
export const DELTA_CHANGES = 1;

/** Key of a page's part. `delta`: DELTA_BASE or DELTA_CHANGES. Level 0 is the leaves. */
export function pageKey(tree: Uint8Array, level: number, page: number, delta: number): Uint8Array {
  assert(tree.byteLength === 16 && page < 2 ** 40, "a page is named by tree and index");
  const key = new Uint8Array(KEY_BYTES);
  key[0] = KEY_PAGE;
  key.set(tree, 1);
  key[17] = level;
  key[18] = (page / TWO_32) & 0xff;
  key[19] = (page >>> 24) & 0xff;
  key[20] = (page >>> 16) & 0xff;
  key[21] = (page >>> 8) & 0xff;
  key[22] = page & 0xff;
  // Bytes 23–26: birth generation, 0 until there are snapshots.
  key[27] = delta;
  return key;
}

/** Page index and delta of a key that `pageKey` made. */
export function parsePageKey(key: Uint8Array): { level: number; page: number; delta: number } {
  assert(key.byteLength === KEY_BYTES && key[0] === KEY_PAGE, "the key names a page");
  const low = ((key[19]! << 24) | (key[20]! << 16) | (key[21]! << 8) | key[22]!) >>> 0;
  return { level: key[17]!, page: key[18]! * TWO_32 + low, delta: key[27]! };
}

/** Key of a SCO's counts. */
export function scoKey(tree: Uint8Array, scoId: number): Uint8Array {
  const key = new Uint8Array(25);
  key[0] = KEY_SCO;
  key.set(tree, 1);
  const view = new DataView(key.buffer);
  view.setUint32(17, Math.floor(scoId / TWO_32), false);
  view.setUint32(21, scoId >>> 0, false);
  return key;
}

/** The SCO id that a stored SCO key names. */
export function parseScoKey(key: Uint8Array): number {
  const view = new DataView(key.buffer, key.byteOffset, key.byteLength);
  return view.getUint32(17, false) * TWO_32 + view.getUint32(21, false);
}

/** Key of the mark of a tree. */
export function markKey(tree: Uint8Array): Uint8Array {
  const key = new Uint8Array(17);
  key[0] = KEY_MARK;
  key.set(tree, 1);
  return key;
}

/**
 * First key, and the key behind the last, of all pages (0x10), SCOs (0x20) or the mark of a tree.
 */
export function treeRange(
  kind: "page" | "sco" | "mark",
  tree: Uint8Array,
): { first: Uint8Array; end: Uint8Array } {
  const first = new Uint8Array(17);
  first[0] = kind === "page" ? KEY_PAGE : kind === "sco" ? KEY_SCO : KEY_MARK;
  first.set(tree, 1);
  const end = first.slice();
  for (let i = 16; i >= 0; i--) {
    end[i] = (end[i]! + 1) & 0xff;
    if (end[i] !== 0) break;
  }
  return { first, end };
}

/** CRC-32C of bytes, as the codec has it. */
export type CrcOf = (bytes: Uint8Array, seed: number) => number;

/** Where the words of one page lie: entries at words[at…], change bits at bits[bitsAt…]. */
export interface PageView {
  words: Uint32Array;
  at: number;
  bits: Uint32Array;
  bitsAt: number;
}

/** Makes the page of its stored parts; null for a part that is not there. Throws OVS_CORRUPT. */
export function decodePage(
  base: Uint8Array | null,
  delta: Uint8Array | null,
  page: PageView,
  crcOf: CrcOf,
): void {
  page.words.fill(0, page.at, page.at + PAGE_WORDS);
  page.bits.fill(0, page.bitsAt, page.bitsAt + BITS_WORDS);
  if (base !== null) applyStored(base, page, false, crcOf);
  if (delta !== null) applyStored(delta, page, true, crcOf);
}

function applyStored(stored: Uint8Array, page: PageView, isDelta: boolean, crcOf: CrcOf): void {
  const end = stored.byteLength - CRC_BYTES;
  if (end < 1) throw new StorageError("OVS_CORRUPT", "a map page is cut short");
  const view = new DataView(stored.buffer, stored.byteOffset, stored.byteLength);
  if (view.getUint32(end, true) !== crcOf(stored.subarray(0, end), 0)) {
    throw new StorageError("OVS_CORRUPT", "a map page's checksum is wrong");
  }
  if (stored[0] === FORM_DENSE && end === 1 + PAGE_ENTRIES * ENTRY_BYTES && !isDelta) {
    for (let i = 0; i < PAGE_WORDS; i++) page.words[page.at + i] = view.getUint32(1 + 4 * i, true);
    return;
  }
  if (stored[0] !== FORM_SPARSE || (end - 1) % SPARSE_ENTRY_BYTES !== 0) {
    throw new StorageError("OVS_CORRUPT", "a map page has an unknown form");
  }
  for (let at = 1; at < end; at += SPARSE_ENTRY_BYTES) {
    const entry = stored[at]!;
    const word = page.at + entry * ENTRY_WORDS;
    for (let i = 0; i < ENTRY_WORDS; i++)
      page.words[word + i] = view.getUint32(at + 1 + 4 * i, true);
    if (isDelta) page.bits[page.bitsAt + (entry >>> 5)]! |= 1 << (entry & 31);
  }
}

/** What to store for a page whose changed entries have their bits set; empty pages have neither. */
export interface StoredPage {
  base: Uint8Array | null;
  /** The base in the store is to be left as it is. */
  keepBase: boolean;
  delta: Uint8Array | null;
}

/** Encodes a page after changes; clears its bits when everything went into the base. */
export function encodePage(page: PageView, crcOf: CrcOf): StoredPage {
  let present = 0;
  for (let word = page.at; word < page.at + PAGE_WORDS; word += ENTRY_WORDS) {
    if ((page.words[word]! | page.words[word + 1]!) !== 0) present++;
  }
  let changed = 0;
  for (let i = 0; i < BITS_WORDS; i++) changed += popCount(page.bits[page.bitsAt + i]!);
  if (present > DELTA_MAX && changed <= DELTA_MAX) {
    return { base: null, keepBase: true, delta: sparse(page, changed, true, crcOf) };
  }
  page.bits.fill(0, page.bitsAt, page.bitsAt + BITS_WORDS);
  if (present === 0) return { base: null, keepBase: false, delta: null };
  const base = present > SPARSE_MAX ? dense(page, crcOf) : sparse(page, present, false, crcOf);
  return { base, keepBase: false, delta: null };
}

/** The whole page in one stored part, for checkpoints; null when it is empty. Leaves the bits. */
export function packPage(page: PageView, crcOf: CrcOf): Uint8Array | null {
  const copy: PageView = { ...page, bits: new Uint32Array(BITS_WORDS).fill(0xffffffff), bitsAt: 0 };
  return encodePage(copy, crcOf).base;
}

function sparse(page: PageView, count: number, onlyChanged: boolean, crcOf: CrcOf): Uint8Array {
  const stored = new Uint8Array(1 + count * SPARSE_ENTRY_BYTES + CRC_BYTES);
  const view = new DataView(stored.buffer);
  stored[0] = FORM_SPARSE;
  let at = 1;
  for (let entry = 0; entry < PAGE_ENTRIES; entry++) {
    const word = page.at + entry * ENTRY_WORDS;
    const takes = onlyChanged
      ? (page.bits[page.bitsAt + (entry >>> 5)]! & (1 << (entry & 31))) !== 0
      : (page.words[word]! | page.words[word + 1]!) !== 0;
    if (!takes) continue;
    stored[at] = entry;
    for (let i = 0; i < ENTRY_WORDS; i++)
      view.setUint32(at + 1 + 4 * i, page.words[word + i]!, true);
    at += SPARSE_ENTRY_BYTES;
  }
  assert(at === stored.byteLength - CRC_BYTES, "as many entries as were counted");
  view.setUint32(at, crcOf(stored.subarray(0, at), 0), true);
  return stored;
}

function dense(page: PageView, crcOf: CrcOf): Uint8Array {
  const stored = new Uint8Array(1 + PAGE_ENTRIES * ENTRY_BYTES + CRC_BYTES);
  const view = new DataView(stored.buffer);
  stored[0] = FORM_DENSE;
  for (let i = 0; i < PAGE_WORDS; i++) view.setUint32(1 + 4 * i, page.words[page.at + i]!, true);
  const end = stored.byteLength - CRC_BYTES;
  view.setUint32(end, crcOf(stored.subarray(0, end), 0), true);
  return stored;
}

function popCount(value: number): number {
  let v = value - ((value >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
