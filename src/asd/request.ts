// SPDX-License-Identifier: Apache-2.0
// What is asked of the store: the form of an apply, and the check of it before anything is done.

import { ceilDiv } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import {
  ASD_INLINE_BYTES_MAX,
  ASD_KEY_BYTES_MAX,
  ASD_PAGE_BYTES,
  ASD_VALUE_PAGES_MAX,
} from "../wire/generated/asd.js";
import type { StoreAssert } from "./commit.js";
import { printable } from "./index.js";

/** One value to store: `value`, or whole pages in the arena. */
export interface StorePut {
  key: string;
  /** Bytes; the last page is padded with zeroes. */
  length: number;
  /** CRC-32C of each page. */
  crcs: Uint32Array;
  /** The small value itself (copied); null: `pieces`. */
  value: Uint8Array | null;
  /** Arena offset and bytes of each piece; whole pages. Borrowed until the apply settles. */
  pieces: Uint32Array | null;
}

export interface StoreApply {
  asserts: readonly StoreAssert[];
  puts: readonly StorePut[];
  deletes: readonly string[];
}

/** The error of a page that arrived damaged. */
export function wrongPage(key: string, page: number): StorageError {
  return new StorageError(
    "OVS_CORRUPT",
    `page ${page} of ${printable(key)} does not match its checksum: it was damaged on the way here`,
  );
}

/** Checks a request's form; returns the pages that its puts need. */
export function checkApply(request: StoreApply): number {
  let pages = 0;
  const keys = new Set<string>();
  const refuse = (what: string): never => {
    throw new StorageError("OVS_INVALID", what);
  };
  for (const { key } of request.asserts) checkKey(key);
  for (const key of request.deletes) checkKey(key);
  for (const put of request.puts) {
    checkKey(put.key);
    if (keys.has(put.key)) refuse(`${printable(put.key)} is put twice`);
    keys.add(put.key);
    const count = put.crcs.length;
    if (put.value !== null) {
      if (put.value.byteLength > ASD_INLINE_BYTES_MAX)
        refuse("a small value has at most 4096 bytes");
      if (count !== 1 || put.length !== put.value.byteLength)
        refuse("a small value has one checksum");
      continue;
    }
    if (count > ASD_VALUE_PAGES_MAX) refuse(`a value has at most ${ASD_VALUE_PAGES_MAX} pages`);
    if (put.length === 0 || ceilDiv(put.length, ASD_PAGE_BYTES) !== count) {
      refuse(`${put.length} bytes are not ${count} pages`);
    }
    if (bytesOf(put.pieces!) !== count * ASD_PAGE_BYTES)
      refuse("the payload is not the pages of the puts");
    pages += count;
  }
  return pages;
}

function checkKey(key: string): void {
  if (key.length > 0 && key.length <= ASD_KEY_BYTES_MAX) return;
  throw new StorageError(
    "OVS_INVALID",
    `a key has 1 to ${ASD_KEY_BYTES_MAX} bytes, not ${key.length}`,
  );
}

function bytesOf(pieces: Uint32Array): number {
  let bytes = 0;
  for (let i = 1; i < pieces.length; i += 2) bytes += pieces[i]!;
  return bytes;
}
