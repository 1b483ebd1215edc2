// SPDX-License-Identifier: Apache-2.0
// Multi-gets without a promise or an object for each part: the form that cold reads use. Parts and
// memory come as flat arrays; an answer is parsed where it lies and verified in one call.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { META_BYTES_MAX } from "../platform/network.js";
import type { SegmentList } from "../platform/segments.js";
import type { World } from "../platform/world.js";
import type { AnswerHandler, RpcClient } from "../rpc/client.js";
import { errorOf, STATUS_OK } from "../rpc/status.js";
import {
  ASD_PAGE_BYTES,
  ASD_PARTS_MAX,
  ASD_READ_PAGES_MAX,
  AsdPartStatus,
} from "../wire/generated/asd.js";
import { AsdOperation } from "./protocol.js";

/** Parts of one read. Kept as they are until the handler runs. */
export interface AsdReads {
  readonly count: number;
  /** `keyBytes` of each part, one after the other. */
  readonly keys: Uint8Array;
  readonly keyBytes: number;
  /** First page of each part, and how many. */
  readonly page: Uint32Array;
  readonly pages: Uint32Array;
  readonly pagesTotal: number;
  /** Where the pages of all parts go, in order; pieces of whole pages. */
  readonly into: SegmentList;
}

export interface AsdReadHandler {
  /**
   * Once per read, never inside `readWith`; the memory is free. Without an error `statuses[i]` is
   * an AsdPartStatus for each part, valid during the call only. Must not throw.
   */
  onRead(token: number, error: StorageError | null, statuses: Uint8Array): void;
}

/** What the client learns from reads. */
export interface ReadNotes {
  /** An answer brought these bits of AsdFlag: how the disk is. */
  flags(flags: number): void;
  /** A read was answered after so many milliseconds. */
  took(ms: number): void;
  /** A read failed as a whole. */
  failed(error: StorageError): void;
  /** A part of an answer was damaged, on the disk or on its way. */
  corrupt(): void;
}

/** A read on its way; used again and again. */
class Slot {
  reads: AsdReads | null = null;
  handler: AsdReadHandler | null = null;
  token = 0;
  sentMs = 0;
}

export class FastReads implements AnswerHandler {
  readonly #world: Pick<World, "clock" | "network" | "codec">;
  readonly #rpc: RpcClient;
  readonly #notes: ReadNotes;
  readonly #slots: Slot[] = [];
  readonly #free: number[] = [];
  readonly #meta: Uint8Array;
  readonly #view: DataView;
  readonly #statuses = new Uint8Array(ASD_PARTS_MAX);
  readonly #crcs = new Uint32Array(ASD_READ_PAGES_MAX);
  readonly #crcBytes = new Uint8Array(this.#crcs.buffer);

  /** `meta`: room for the meta of one request, for the duration of a call. */
  constructor(
    world: Pick<World, "clock" | "network" | "codec">,
    rpc: RpcClient,
    notes: ReadNotes,
    meta: Uint8Array,
  ) {
    this.#world = world;
    this.#meta = meta;
    this.#view = new DataView(meta.buffer, meta.byteOffset, meta.byteLength);
    this.#rpc = rpc;
    this.#notes = notes;
  }

  /**
   * Sends a read; `handler.onRead(token, …)` tells of its end. Borrows `reads` and the memory it
   * names until then.
   */
  readWith(
    reads: AsdReads,
    timeoutMs: number,
    priority: number,
    handler: AsdReadHandler,
    token: number,
  ): void {
    const index = this.#free.pop() ?? this.#slots.push(new Slot()) - 1;
    const slot = this.#slots[index]!;
    slot.reads = reads;
    slot.handler = handler;
    slot.token = token;
    slot.sentMs = this.#world.clock.nowMs();
    const meta = this.#meta.subarray(0, this.#encode(reads));
    this.#rpc.callWith(
      AsdOperation.multiGet,
      meta,
      null,
      reads.into,
      timeoutMs,
      priority,
      this,
      index,
    );
  }

  onAnswer(index: number, status: number, meta: Uint8Array, payload: number): void {
    const slot = this.#slots[index]!;
    const { handler, token } = slot;
    const reads = slot.reads!;
    if (payload !== 0) this.#world.network.release(payload);
    let error: StorageError | null = null;
    if (status !== STATUS_OK) error = errorOf(status, meta);
    else if (!this.#parse(reads, meta)) {
      error = new StorageError("OVS_PROTOCOL", "the disk's answer does not fit the request");
    }
    if (error !== null) this.#notes.failed(error);
    else this.#notes.took(this.#world.clock.nowMs() - slot.sentMs);
    slot.reads = null;
    slot.handler = null;
    this.#free.push(index);
    handler!.onRead(token, error, this.#statuses);
  }

  /** As AsdMultiGet: count, then for each part its key, first page and pages. */
  #encode(reads: AsdReads): number {
    const { count, keys, keyBytes, page, pages } = reads;
    assert(count > 0 && count <= ASD_PARTS_MAX, "a read has parts");
    assert(reads.pagesTotal <= ASD_READ_PAGES_MAX, "a read has a bounded number of pages");
    const meta = this.#meta;
    const view = this.#view;
    assert(2 + count * (keyBytes + 9) <= META_BYTES_MAX, "the parts fit a frame's meta");
    view.setUint16(0, count, true);
    let at = 2;
    let keyAt = 0;
    for (let i = 0; i < count; i++) {
      meta[at++] = keyBytes;
      for (let end = keyAt + keyBytes; keyAt < end; ) meta[at++] = keys[keyAt++]!;
      view.setUint32(at, page[i]!, true);
      view.setUint32(at + 4, pages[i]!, true);
      at += 8;
    }
    return at;
  }

  /** As AsdMultiGetReply: flags, statuses, CRCs. Verifies; false when the answer makes no sense. */
  #parse(reads: AsdReads, meta: Uint8Array): boolean {
    const { count, pagesTotal } = reads;
    const crcsAt = 3 + count + 2;
    if (meta.byteLength < crcsAt) return false;
    if (meta[1]! + 256 * meta[2]! !== count) return false;
    const crcs = meta[crcsAt - 2]! + 256 * meta[crcsAt - 1]!;
    if (crcs !== pagesTotal || meta.byteLength !== crcsAt + 4 * crcs) return false;
    this.#notes.flags(meta[0]!);
    // Little-endian on the wire and on every machine that this is built for (package.json, "cpu").
    for (let i = 0, at = crcsAt; i < 4 * crcs; i++) this.#crcBytes[i] = meta[at + i]!;
    for (let i = 0; i < count; i++) this.#statuses[i] = meta[3 + i]!;
    if (!this.#verifyWhole(reads)) this.#verify(reads);
    return true;
  }

  /** All parts in one call, which is nearly always enough; false: each must be looked at. */
  #verifyWhole(reads: AsdReads): boolean {
    assert(reads.into.bytes === reads.pagesTotal * ASD_PAGE_BYTES, "there is memory for each page");
    for (let i = 0; i < reads.count; i++) {
      if (this.#statuses[i] !== AsdPartStatus.ok) return false;
    }
    return this.#world.codec.crc32cVerifyPieces(reads.into, this.#crcs, 0) < 0;
  }

  #verify(reads: AsdReads): void {
    const { list } = reads.into;
    let piece = 0;
    let usedPages = 0;
    let crc = 0;
    for (let i = 0; i < reads.count; i++) {
      let left = reads.pages[i]!;
      while (left > 0) {
        const piecePages = list[2 * piece + 1]! / ASD_PAGE_BYTES;
        const run = Math.min(left, piecePages - usedPages);
        if (this.#statuses[i] === AsdPartStatus.ok) {
          const at = list[2 * piece]! + usedPages * ASD_PAGE_BYTES;
          const bad = this.#world.codec.crc32cVerify(at, run, this.#crcs, crc);
          if (bad >= 0) this.#statuses[i] = AsdPartStatus.corrupt;
        }
        crc += run;
        left -= run;
        usedPages += run;
        if (usedPages < piecePages) continue;
        piece++;
        usedPages = 0;
      }
      if (this.#statuses[i] === AsdPartStatus.corrupt) this.#notes.corrupt();
    }
  }
}
