// SPDX-License-Identifier: Apache-2.0
// The client of one ASD. It keeps one connection (made at the first call, made again when it is
// lost), refuses a disk that is not the one wanted, verifies every page that arrives against the
// CRCs that the disk returns, and keeps the marks of slowness that hedging goes by.
//
// Memory: pages go out from and come into the arena. What a call borrows is free when its promise
// settles, whatever the outcome; a hedged second read therefore needs memory of its own.

import type { ZodType } from "zod";
import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { META_BYTES_MAX, type Segments } from "../platform/network.js";
import { SegmentList } from "../platform/segments.js";
import type { World } from "../platform/world.js";
import { type Answer, type CallOptions, RpcClient } from "../rpc/client.js";
import type { Identity } from "../rpc/hello.js";
import {
  ASD_PAGE_BYTES,
  type AsdAssert,
  AsdPartStatus,
  type AsdPut,
  bytesAsdApply,
  decodeAsdMultiGetReply,
  encodeAsdApply,
} from "../wire/generated/asd.js";
import { type AsdReadHandler, type AsdReads, FastReads, type ReadNotes } from "./fastreads.js";
import { inlineCrc } from "./index.js";
import {
  ASD_ROLE,
  AsdFlag,
  AsdOperation,
  type AsdStats,
  existsReplySchema,
  KEYS_MAX,
  type RangeReply,
  rangeReplySchema,
  type ScrubReply,
  scrubReplySchema,
  smallReplySchema,
  statsSchema,
} from "./protocol.js";

export type { AsdAssert } from "../wire/generated/asd.js";
export { AsdPartStatus } from "../wire/generated/asd.js";
export type { AsdReadHandler, AsdReads } from "./fastreads.js";
export type { AsdStats, RangeReply, ScrubReply } from "./protocol.js";

const LATENCY_WEIGHT = 1 / 16;
const HEDGE_MS_MIN = 2;
const HEDGE_MS_MAX = 1000;
/** Before anything was measured. */
const HEDGE_MS_FIRST = 50;

/** A value of whole pages in the arena. */
export interface AsdValue {
  key: Uint8Array;
  /** Bytes; the last page is padded with zeroes in memory. */
  length: number;
  /** CRC-32C of each page. */
  crcs: Uint32Array;
  /** Pieces of whole pages. Borrowed until the apply settles. */
  pieces: Segments;
}

/** A value of at most 4096 bytes, which lies in the disk's index. */
export interface AsdSmallValue {
  key: Uint8Array;
  value: Uint8Array;
}

/** All asserts hold, and all puts and deletes are done; or nothing is. */
export interface AsdApplyRequest {
  asserts?: readonly AsdAssert[];
  values?: readonly AsdValue[];
  small?: readonly AsdSmallValue[];
  deletes?: readonly Uint8Array[];
}

/** Consecutive pages of one value, and where they go. `offset` and `bytes` are whole pages. */
export interface AsdReadPart {
  key: Uint8Array;
  offset: number;
  bytes: number;
  /** Arena offset. */
  into: number;
}

export interface AsdReadResult {
  /** An AsdPartStatus for each part; the memory of one that is not ok holds zeroes or garbage. */
  statuses: Uint8Array;
  /** CRC-32C of each page, all parts one after the other; verified against what arrived. */
  crcs: Uint32Array;
  /** All parts are ok. */
  isComplete: boolean;
}

export interface AsdClientOptions {
  address: string;
  /** Uuid texts. */
  clusterUuid: string;
  /** null: whichever disk answers (to learn who it is, by `stats`). */
  diskUuid: string | null;
  /** Who calls. */
  self: Identity;
  callsMax?: number;
  /** After each connection to the right disk is up. */
  onUp?: () => void;
  /** After a connection that was up is lost. */
  onDown?: (reason: string) => void;
}

export class AsdClient {
  readonly address: string;
  readonly diskUuid: string | null;
  readonly #world: World;
  readonly #rpc: RpcClient;
  readonly #fast: FastReads;
  readonly #into = new SegmentList(64);
  readonly #out = new SegmentList(64);
  readonly #meta = new Uint8Array(META_BYTES_MAX);
  readonly #metaView = new DataView(this.#meta.buffer);
  /** Averages over the last calls that succeeded, in milliseconds. */
  readLatencyMs = 0;
  readDeviationMs = 0;
  applyLatencyMs = 0;
  /** Calls that failed because of the disk or the way to it, since the last that did not. */
  failures = 0;
  /** What the disk said of itself last. */
  isNearlyFull = false;
  isSlow = false;
  /** Pages that did not arrive as the disk sent them, or that the disk found damaged. */
  corruptPages = 0;

  constructor(world: World, options: AsdClientOptions) {
    this.#world = world;
    this.address = options.address;
    this.diskUuid = options.diskUuid;
    this.#rpc = new RpcClient(world, {
      address: options.address,
      self: options.self,
      wants: { role: ASD_ROLE, id: options.diskUuid, cluster: options.clusterUuid },
      callsMax: options.callsMax ?? 4096,
      whileDown: "fail",
      ...(options.onUp ? { onUp: options.onUp } : {}),
      ...(options.onDown ? { onDown: options.onDown } : {}),
    });
    const notes: ReadNotes = {
      flags: (flags) => this.#noteFlags(flags),
      took: (ms) => {
        this.failures = 0;
        this.#noteRead(ms);
      },
      failed: (error) => this.#noteFailure(error),
      corrupt: () => {
        this.corruptPages++;
      },
    };
    this.#fast = new FastReads(world, this.#rpc, notes, this.#meta);
  }

  /** Begins to connect without waiting for a call. */
  start(): void {
    this.#rpc.start();
  }

  /** True while a greeted connection is up. */
  get isConnected(): boolean {
    return this.#rpc.connected;
  }

  /** Calls that have not ended. */
  get pending(): number {
    return this.#rpc.pending;
  }

  /** Why there is no connection, for people. */
  get downReason(): string {
    return this.#rpc.downReason;
  }

  /** After this long without an answer a read is worth asking for elsewhere. */
  get hedgeAfterMs(): number {
    if (this.readLatencyMs === 0) return HEDGE_MS_FIRST;
    const limit = this.readLatencyMs + 4 * this.readDeviationMs;
    return Math.min(HEDGE_MS_MAX, Math.max(HEDGE_MS_MIN, limit));
  }

  /**
   * Stores and deletes, atomically; durable when it resolves. Rejects with OVS_CONFLICT (an assert
   * does not hold), OVS_FULL, OVS_CORRUPT (damaged on the way), OVS_INVALID, OVS_DISK_FAILED; with
   * OVS_TIMEOUT or OVS_UNAVAILABLE it may have been done. Borrows the pieces until it settles.
   */
  async apply(request: AsdApplyRequest, options: CallOptions): Promise<void> {
    const puts: AsdPut[] = [];
    const out = this.#out.clear();
    for (const { key, value } of request.small ?? []) {
      puts.push({ kind: "small", key, value, crc: inlineCrc(value) });
    }
    for (const { key, length, crcs, pieces } of request.values ?? []) {
      puts.push({ kind: "pages", key, length, crcs });
      for (let i = 0; i < pieces.count; i++) out.add(pieces.list[2 * i]!, pieces.list[2 * i + 1]!);
    }
    const deletes = (request.deletes ?? []).map((key) => ({ key }));
    const body = { asserts: [...(request.asserts ?? [])], puts, deletes };
    const bytes = bytesAsdApply(body);
    if (bytes > META_BYTES_MAX) {
      throw new StorageError(
        "OVS_INVALID",
        `an apply of ${bytes} bytes beside its pages is too big`,
      );
    }
    const end = encodeAsdApply(body, this.#meta, 0);
    const payload = out.count === 0 ? null : out;
    const startMs = this.#world.clock.nowMs();
    const meta = this.#meta.subarray(0, end);
    const answer = await this.#call(AsdOperation.apply, meta, payload, null, options);
    this.#noteFlags(answer.meta[0] ?? 0);
    const tookMs = this.#world.clock.nowMs() - startMs;
    this.applyLatencyMs += (tookMs - this.applyLatencyMs) * LATENCY_WEIGHT;
  }

  /**
   * Reads parts, each with a status of its own; a part that is `ok` was verified here. Rejects only
   * when there is no answer at all. Lends the parts' memory until it settles.
   */
  async multiGet(parts: readonly AsdReadPart[], options: CallOptions): Promise<AsdReadResult> {
    const end = this.#encodeParts(parts);
    const into = this.#into.clear();
    for (const part of parts) into.add(part.into, part.bytes);
    const startMs = this.#world.clock.nowMs();
    const meta = this.#meta.subarray(0, end);
    const answer = await this.#call(AsdOperation.multiGet, meta, null, into, options);
    this.#noteRead(this.#world.clock.nowMs() - startMs);
    const { flags, statuses, crcs } = decodeAsdMultiGetReply(answer.meta);
    this.#noteFlags(flags);
    return this.#verified(parts, statuses, crcs);
  }

  /** The hot form of `multiGet`: no promise, no objects; `handler` tells the end, later. */
  readWith(
    reads: AsdReads,
    timeoutMs: number,
    priority: number,
    handler: AsdReadHandler,
    token: number,
  ): void {
    this.#fast.readWith(reads, timeoutMs, priority, handler, token);
  }

  #encodeParts(parts: readonly AsdReadPart[]): number {
    assert(parts.length > 0, "a read has parts");
    const view = this.#metaView;
    view.setUint16(0, parts.length, true);
    let at = 2;
    for (const { key, offset, bytes } of parts) {
      assert(
        offset % ASD_PAGE_BYTES === 0 && bytes % ASD_PAGE_BYTES === 0,
        "parts are whole pages",
      );
      if (at + key.byteLength + 9 > META_BYTES_MAX) {
        throw new StorageError("OVS_INVALID", `a read of ${parts.length} parts is too big`);
      }
      this.#meta[at++] = key.byteLength;
      this.#meta.set(key, at);
      at += key.byteLength;
      view.setUint32(at, offset / ASD_PAGE_BYTES, true);
      view.setUint32(at + 4, bytes / ASD_PAGE_BYTES, true);
      at += 8;
    }
    return at;
  }

  #verified(parts: readonly AsdReadPart[], statuses: Uint8Array, crcs: Uint32Array): AsdReadResult {
    let page = 0;
    let isComplete = true;
    if (statuses.length !== parts.length) throw wrongAnswer();
    for (let i = 0; i < parts.length; i++) {
      const { into, bytes } = parts[i]!;
      const pages = bytes / ASD_PAGE_BYTES;
      if (page + pages > crcs.length) throw wrongAnswer();
      if (statuses[i] === AsdPartStatus.ok) {
        const bad = this.#world.codec.crc32cVerify(into, pages, crcs, page);
        if (bad >= 0) statuses[i] = AsdPartStatus.corrupt;
      }
      if (statuses[i] === AsdPartStatus.corrupt) this.corruptPages++;
      if (statuses[i] !== AsdPartStatus.ok) isComplete = false;
      page += pages;
    }
    return { statuses, crcs, isComplete };
  }

  /** Small values of keys, null for missing ones. */
  async getSmall(
    keys: readonly Uint8Array[],
    options: CallOptions,
  ): Promise<Array<Uint8Array | null>> {
    const values: Array<Uint8Array | null> = [];
    // The disk answers as many as fit a frame, at least one: ask for the rest again.
    while (values.length < keys.length) {
      const message = { keys: keys.slice(values.length, values.length + KEYS_MAX) };
      const reply = await this.#control(AsdOperation.getSmall, message, smallReplySchema, options);
      if (reply.values.length === 0) throw wrongAnswer();
      values.push(...reply.values);
    }
    return values;
  }

  /** Whether each key has a value, in their order; whether it is intact is not looked at. */
  async exists(keys: readonly Uint8Array[], options: CallOptions): Promise<boolean[]> {
    const exist: boolean[] = [];
    while (exist.length < keys.length) {
      const some = keys.slice(exist.length, exist.length + KEYS_MAX);
      const message = { keys: some };
      const reply = await this.#control(AsdOperation.exists, message, existsReplySchema, options);
      if (reply.exist.length !== some.length) throw wrongAnswer();
      exist.push(...reply.exist);
    }
    return exist;
  }

  /**
   * Keys in [first, end), bytewise, with the lengths of their values: at most `limit` (≤ 1000), or
   * fewer when they do not fit an answer; `more` says that there are further ones.
   */
  async range(
    range: {
      first: Uint8Array | null;
      end: Uint8Array | null;
      limit: number;
      reverse?: boolean;
    },
    options: CallOptions,
  ): Promise<RangeReply> {
    const message = { ...range, reverse: range.reverse ?? false };
    return await this.#control(AsdOperation.range, message, rangeReplySchema, options);
  }

  /** The disk's identity, room and counters. */
  async stats(options: CallOptions): Promise<AsdStats> {
    const stats = await this.#control(AsdOperation.stats, {}, statsSchema, options);
    // A disk that is called full or slow is spared requests whose answers would tell otherwise.
    this.isNearlyFull = stats.full;
    this.isSlow = stats.slow;
    return stats;
  }

  /** Reads and verifies about `pagesMax` pages of the keys behind `after`; `next` continues it. */
  async scrub(
    after: Uint8Array | null,
    pagesMax: number,
    options: CallOptions,
  ): Promise<ScrubReply> {
    const message = { after, pagesMax };
    return await this.#control(AsdOperation.scrub, message, scrubReplySchema, options);
  }

  /** Makes the disk forget cached index entries. */
  async dropCache(options: CallOptions): Promise<void> {
    await this.#call(AsdOperation.dropCache, null, null, null, options);
  }

  /** Ends all calls; resolves when no lent memory is in use. */
  async close(): Promise<void> {
    await this.#rpc.close();
  }

  async #control<T>(
    operation: number,
    message: unknown,
    schema: ZodType<T>,
    options: CallOptions,
  ): Promise<T> {
    try {
      const reply = await this.#rpc.callControl(operation, message, schema, options);
      this.failures = 0;
      return reply;
    } catch (error) {
      this.#noteFailure(error);
      throw error;
    }
  }

  async #call(
    operation: number,
    meta: Uint8Array | null,
    payload: Segments | null,
    into: Segments | null,
    options: CallOptions,
  ): Promise<Answer> {
    try {
      const answer = await this.#rpc.call(operation, meta, payload, into, options);
      if (answer.payload !== 0) this.#world.network.release(answer.payload);
      this.failures = 0;
      return answer;
    } catch (error) {
      this.#noteFailure(error);
      throw error;
    }
  }

  #noteFailure(error: unknown): void {
    if (error instanceof StorageError && error.kind === "unavailable") this.failures++;
  }

  #noteRead(tookMs: number): void {
    if (this.readLatencyMs === 0) this.readLatencyMs = tookMs;
    const error = tookMs - this.readLatencyMs;
    this.readLatencyMs += error * LATENCY_WEIGHT;
    this.readDeviationMs += (Math.abs(error) - this.readDeviationMs) * LATENCY_WEIGHT;
  }

  #noteFlags(flags: number): void {
    this.isNearlyFull = (flags & AsdFlag.NearlyFull) !== 0;
    this.isSlow = (flags & AsdFlag.Slow) !== 0;
  }
}

function wrongAnswer(): StorageError {
  return new StorageError("OVS_PROTOCOL", "the disk's answer does not fit the request");
}
