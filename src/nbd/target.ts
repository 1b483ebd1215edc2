// SPDX-License-Identifier: Apache-2.0
// What the NBD server asks of whoever stores the bytes: the `BlockTarget` batch interface. The
// router's volumes, a raw file and plain memory implement it.
//
// A client's request becomes one or more parts, each in a slot. A part touches at most
// SLOT_CLUSTERS_MAX clusters, is cut at cluster borders, and its memory lies in the arena so that
// it is aligned like the vDisk: byte `offset` of the vDisk is at memory[slot], and
// memory[slot] % 4096 == offset % 4096. TRIM, WRITE_ZEROES, CACHE, FLUSH and BLOCK_STATUS are
// never cut. The reply leaves when all parts are complete; replies of a turn leave in one send.
//
//   NBD socket ──parse──► slots ──admit(slot)──► target … ──complete(slot, 0)──► reply

import type { ErrorKind } from "../base/errors.js";

export const RequestKind = {
  Read: 0,
  Write: 1,
  Disconnect: 2,
  Flush: 3,
  Trim: 4,
  Cache: 5,
  WriteZeroes: 6,
  BlockStatus: 7,
} as const;

/** Bits of `flags[slot]`, as in the NBD protocol. */
export const RequestFlag = {
  Fua: 1,
  NoHole: 2,
  Df: 4,
  ReqOne: 8,
  FastZero: 16,
  PayloadLen: 32,
} as const;

/** 128 KiB of payload, aligned, plus one cluster for a request that begins inside a cluster. */
export const SLOT_CLUSTERS_MAX = 33;

/** The requests in flight of one thread: typed arrays indexed by slot. Written by the addon. */
export interface Requests {
  readonly slots: number;
  readonly kind: Uint8Array;
  readonly flags: Uint16Array;
  /** Byte offset in the vDisk. */
  readonly offset: Float64Array;
  /** Length in bytes: of this part; of the whole request for those that are never cut. */
  readonly length: Float64Array;
  /** Arena offset of the byte at `offset` (Read: where to put it; Write: where it is). */
  readonly memory: Uint32Array;
  /**
   * Write: CRC-32C of each whole cluster of the part, at crcs[slot × SLOT_CLUSTERS_MAX + i]; 0 for
   * partial ones.
   */
  readonly crcs: Uint32Array;
  /** The client's cookie, low and high word: part of the request's identity in journal records. */
  readonly cookieLow: Uint32Array;
  readonly cookieHigh: Uint32Array;
  /** Number of the connection, for tracing and fairness. */
  readonly connection: Uint32Array;

  /** Ends a part; `error` null for success. The slot's memory is the addon's again. */
  complete(slot: number, error: ErrorKind | null): void;
  /**
   * Ends a BLOCK_STATUS: `count` extents lie in the slot's memory as triples of u32
   * (length low, length high, base:allocation flags: 1 hole, 2 zero).
   */
  completeStatus(slot: number, count: number): void;
  /** Ends a WRITE_ZEROES with FAST_ZERO that cannot be fast (ENOTSUP). */
  completeNotFast(slot: number): void;
}

export interface BlockTarget {
  /** Size of the vDisk; after a change tell the server by `resize`. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /**
   * Takes the request in `slot`, inside a turn. Offsets and lengths are already checked against the
   * size; lengths are > 0 but for Flush. Must complete every slot exactly once, now or later.
   */
  admit(slot: number): void;
}
