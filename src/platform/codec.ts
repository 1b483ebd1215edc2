// SPDX-License-Identifier: Apache-2.0
// Long arithmetic on arena memory: checksums and erasure coding. `crc32c` and friends are
// synchronous (small); the rest runs on the addon's worker pool when it is large and inline when it
// is small. Memory is borrowed until the promise settles.

import type { Segments } from "./network.js";

/**
 * How an object's bytes lie in its fragments: stripes of k units; unit i of a stripe belongs to
 * data fragment i.
 */
export interface StripeLayout {
  k: number;
  m: number;
  /** Bytes of one unit; a multiple of 4 KiB. */
  unitBytes: number;
  /** Stripes of the object: its bytes, padded with zeroes, are stripes × k × unitBytes. */
  stripes: number;
}

export interface Codec {
  /** CRC-32C (Castagnoli) of an arena range; `seed` continues an earlier one (0 to begin). */
  crc32c(arena: number, bytes: number, seed: number): number;
  /** CRC-32C of any bytes. */
  crc32cOf(bytes: Uint8Array, seed: number): number;
  /** CRC-32C of each 4 KiB of a range of whole clusters into target[targetIndex…]. */
  crc32cClusters(arena: number, clusters: number, target: Uint32Array, targetIndex: number): void;
  /** First i in [0, clusters) whose CRC differs from expected[expectedIndex + i], or -1. */
  crc32cVerify(
    arena: number,
    clusters: number,
    expected: Uint32Array,
    expectedIndex: number,
  ): number;
  /** As crc32cVerify, of pieces of whole clusters, one after the other, in one call. */
  crc32cVerifyPieces(pieces: Segments, expected: Uint32Array, expectedIndex: number): number;

  /**
   * Encodes an object that lies at `data`, contiguous, into m parity fragments at `parity` (each
   * stripes × unitBytes, one after the other), and writes the CRC-32C of every 4 KiB of all k + m
   * fragments, in fragment order, to `crcs` (fragment f, page p at index f × pages + p).
   * `dataBytes` is whole 4 KiB; what it lacks up to stripes × k × unitBytes counts as zeroes.
   */
  encode(
    layout: StripeLayout,
    data: number,
    dataBytes: number,
    parity: number,
    crcs: Uint32Array,
  ): Promise<void>;

  /**
   * Rebuilds fragments from k others, `bytes` each (any equal range of whole 4 KiB). `have[i]` is
   * the index of the fragment at arena offset `haveAt[i]` (k of them), `want[j]` the index wanted
   * at `wantAt[j]`; indexes below k are data, the rest parity. Sources and targets do not overlap.
   */
  rebuild(
    code: { k: number; m: number },
    have: readonly number[],
    haveAt: readonly number[],
    want: readonly number[],
    wantAt: readonly number[],
    bytes: number,
  ): Promise<void>;
}
