// SPDX-License-Identifier: Apache-2.0
// The TypeScript face of the addon `erasure` (native/erasure/binding.cc, same names and order):
// CRC-32C and erasure coding by ISA-L on the memory of one arena. Arguments are checked here;
// a wrong one is our own mistake and asserts.

import { assert } from "../base/assert.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { StripeLayout } from "../platform/codec.js";
import type { Segments } from "../platform/network.js";
import { loadAddon } from "./load.js";

/** Most fragments (k + m) of one code. */
export const ERASURE_FRAGMENTS_MAX = 64;

/**
 * Jobs that touch no more than this run inline: they hold the loop for up to 1 ms, 1.3 ms with
 * checksums. A trip through the pool wakes two sleeping threads, which is 45 to 80 µs of CPU.
 */
export const ERASURE_INLINE_BYTES_MAX = 12 * 1024 * 1024;

type Session = object;

interface Addon {
  open(arena: ArrayBuffer): Session;
  crc32c(session: Session, arena: number, bytes: number, seed: number): number;
  crc32cOf(bytes: Uint8Array, seed: number): number;
  crc32cClusters(
    session: Session,
    arena: number,
    clusters: number,
    target: Uint32Array,
    targetIndex: number,
  ): void;
  crc32cVerify(
    session: Session,
    arena: number,
    clusters: number,
    expected: Uint32Array,
    expectedIndex: number,
  ): number;
  crc32cVerifyPieces(
    session: Session,
    pieces: Uint32Array,
    count: number,
    expected: Uint32Array,
    expectedIndex: number,
  ): number;
  encode(
    session: Session,
    shape: Uint32Array,
    data: number,
    dataBytes: number,
    parity: number,
    crcs: Uint32Array | null,
    now: boolean,
  ): Promise<void> | undefined;
  rebuild(
    session: Session,
    code: Uint8Array,
    memory: Uint32Array,
    bytes: number,
    now: boolean,
  ): Promise<void> | undefined;
}

/** One arena's session with the addon. Lives as long as anyone holds it or a job is in flight. */
export class ErasureSession {
  readonly #addon: Addon;
  readonly #session: Session;
  readonly #bytes: number;
  readonly #inlineBytesMax: number;
  readonly #done = Promise.resolve();
  readonly #shape = new Uint32Array(4);

  /** Larger jobs than `inlineBytesMax` run on the worker pool. */
  constructor(arena: ArrayBuffer, inlineBytesMax = ERASURE_INLINE_BYTES_MAX) {
    this.#addon = loadAddon<Addon>("erasure");
    this.#inlineBytesMax = inlineBytesMax;
    this.#bytes = arena.byteLength;
    this.#session = this.#addon.open(arena);
  }

  /** As Codec.crc32c. */
  crc32c(arena: number, bytes: number, seed: number): number {
    this.#checkRange(arena, bytes);
    return this.#addon.crc32c(this.#session, arena, bytes, seed);
  }

  /** As Codec.crc32cOf. */
  crc32cOf(bytes: Uint8Array, seed: number): number {
    return this.#addon.crc32cOf(bytes, seed);
  }

  /** As Codec.crc32cClusters. */
  crc32cClusters(arena: number, clusters: number, target: Uint32Array, targetIndex: number): void {
    this.#checkClusters(arena, clusters, target, targetIndex);
    this.#addon.crc32cClusters(this.#session, arena, clusters, target, targetIndex);
  }

  /** As Codec.crc32cVerify. */
  crc32cVerify(arena: number, clusters: number, expected: Uint32Array, index: number): number {
    this.#checkClusters(arena, clusters, expected, index);
    return this.#addon.crc32cVerify(this.#session, arena, clusters, expected, index);
  }

  /** As Codec.crc32cVerifyPieces. */
  crc32cVerifyPieces(pieces: Segments, expected: Uint32Array, index: number): number {
    const { list, count } = pieces;
    assert(2 * count <= list.length, "the list has that many pieces");
    let pages = 0;
    for (let i = 0; i < 2 * count; i += 2) {
      assert(list[i]! + list[i + 1]! <= this.#bytes, "a piece lies in the arena");
      assert(list[i + 1]! % CLUSTER_BYTES === 0, "a piece is whole clusters");
      pages += list[i + 1]! / CLUSTER_BYTES;
    }
    assert(index >= 0 && index + pages <= expected.length, "there is a checksum for each page");
    return this.#addon.crc32cVerifyPieces(this.#session, list, count, expected, index);
  }

  /**
   * As Codec.encode; without `crcs` only the parity is made. Borrows the memory until it settles.
   */
  encode(
    layout: StripeLayout,
    data: number,
    dataBytes: number,
    parity: number,
    crcs: Uint32Array | null,
  ): Promise<void> {
    const { k, m, unitBytes, stripes } = layout;
    checkCode(k, m);
    assert(isPages(unitBytes) && unitBytes > 0, "a stripe unit is whole 4 KiB");
    assert(Number.isSafeInteger(stripes) && stripes >= 0, "stripes are counted");
    const fragmentBytes = unitBytes * stripes;
    assert(isPages(dataBytes), "the data are whole 4 KiB");
    assert(dataBytes <= fragmentBytes * k, "the data fit the stripes");
    this.#checkRange(data, dataBytes);
    this.#checkRange(parity, fragmentBytes * m);
    const apart = data + dataBytes <= parity || parity + fragmentBytes * m <= data;
    assert(apart, "data and parity do not overlap");
    const pages = fragmentBytes / CLUSTER_BYTES;
    assert(crcs === null || crcs.length === (k + m) * pages, "one checksum for each page");
    const now = fragmentBytes * (k + m) <= this.#inlineBytesMax;
    const shape = this.#shape;
    shape[0] = k;
    shape[1] = m;
    shape[2] = unitBytes;
    shape[3] = stripes;
    const work = this.#addon.encode(this.#session, shape, data, dataBytes, parity, crcs, now);
    return work ?? this.#done;
  }

  /** As Codec.rebuild. Borrows the memory until it settles. */
  rebuild(
    code: { k: number; m: number },
    have: readonly number[],
    haveAt: readonly number[],
    want: readonly number[],
    wantAt: readonly number[],
    bytes: number,
  ): Promise<void> {
    const { k, m } = code;
    checkCode(k, m);
    assert(have.length === k && haveAt.length === k, "k fragments are given");
    assert(want.length > 0 && want.length <= k + m, "at least one fragment is wanted");
    assert(wantAt.length === want.length, "each wanted fragment has its place");
    assert(isPages(bytes), "the range is whole 4 KiB");
    const indexes = new Uint8Array(2 + k + want.length);
    const memory = new Uint32Array(k + want.length);
    indexes[0] = k;
    indexes[1] = m;
    let seen = 0n;
    for (let i = 0; i < k; i++) {
      this.#place(indexes, memory, i, have[i]!, haveAt[i]!, bytes);
      seen |= 1n << BigInt(have[i]!);
    }
    assert(bitCount(seen) === k, "the given fragments are distinct");
    for (let j = 0; j < want.length; j++) {
      this.#place(indexes, memory, k + j, want[j]!, wantAt[j]!, bytes);
    }
    const now = bytes * (k + want.length) <= this.#inlineBytesMax;
    return this.#addon.rebuild(this.#session, indexes, memory, bytes, now) ?? this.#done;
  }

  #place(
    indexes: Uint8Array,
    memory: Uint32Array,
    slot: number,
    fragment: number,
    at: number,
    bytes: number,
  ): void {
    const fragments = indexes[0]! + indexes[1]!;
    const known = Number.isInteger(fragment) && fragment >= 0 && fragment < fragments;
    assert(known, "a fragment's index is below k + m");
    this.#checkRange(at, bytes);
    indexes[2 + slot] = fragment;
    memory[slot] = at;
  }

  #checkClusters(arena: number, clusters: number, list: Uint32Array, index: number): void {
    assert(Number.isSafeInteger(clusters) && clusters >= 0, "clusters are counted");
    this.#checkRange(arena, clusters * CLUSTER_BYTES);
    const fits = Number.isSafeInteger(index) && index >= 0 && index + clusters <= list.length;
    assert(fits, "the list has room for every checksum");
  }

  #checkRange(arena: number, bytes: number): void {
    assert(Number.isSafeInteger(arena) && arena >= 0, "an arena offset is a whole number");
    assert(Number.isSafeInteger(bytes) && bytes >= 0, "a length is a whole number");
    assert(arena + bytes <= this.#bytes, "the range lies in the arena");
  }
}

function checkCode(k: number, m: number): void {
  assert(Number.isInteger(k) && k >= 1, "k is at least 1");
  assert(Number.isInteger(m) && m >= 0, "m is at least 0");
  assert(k + m <= ERASURE_FRAGMENTS_MAX, `k + m is at most ${ERASURE_FRAGMENTS_MAX}`);
}

function isPages(bytes: number): boolean {
  return Number.isSafeInteger(bytes) && bytes >= 0 && bytes % CLUSTER_BYTES === 0;
}

function bitCount(bits: bigint): number {
  return bits.toString(2).replaceAll("0", "").length;
}
