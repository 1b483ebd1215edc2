// SPDX-License-Identifier: Apache-2.0
// What the backend asks of anything that stores fragments. An ASD is one (asdosd.ts); another
// backend will be one too (P-E3). Values lie under keys and never change under them; an apply is
// atomic and durable when it resolves.

import type { StorageError } from "../base/errors.js";
import type { Segments } from "../platform/network.js";
import { SegmentList } from "../platform/segments.js";
import { DATA_KEY_BYTES } from "./keys.js";

export const Priority = { Client: 0, Background: 1 } as const;
export type Priority = (typeof Priority)[keyof typeof Priority];

export interface CallOptions {
  timeoutMs: number;
  priority: Priority;
}

/** A fragment: whole pages. */
export interface OsdData {
  key: Uint8Array;
  /** Borrowed until the apply settles. */
  payload: Segments;
  bytes: number;
  /** CRC-32C of each page: checked by the OSD before it acknowledges. */
  crcs: Uint32Array;
}

export interface OsdChange {
  /** Keys that must exist, else nothing is done and OVS_CONFLICT is thrown. */
  present: readonly Uint8Array[];
  data: OsdData | null;
  /** Values of at most 4 KiB. */
  small: ReadonlyArray<{ key: Uint8Array; value: Uint8Array }>;
  /** Missing ones are fine. */
  deletes: readonly Uint8Array[];
}

/** Outcome of one part of a read. */
export const ReadStatus = { Ok: 0, Missing: 1, Corrupt: 2, Failed: 3, Outside: 4 } as const;

export const READ_PARTS_MAX = 1024;
export const READ_PAGES_MAX = 4096;

/** The parts of one read of one OSD: consecutive pages of fragments. Used again and again. */
export class OsdReads {
  readonly keyBytes = DATA_KEY_BYTES;
  count = 0;
  pagesTotal = 0;
  /** DATA_KEY_BYTES a part. */
  keys = new Uint8Array(16 * DATA_KEY_BYTES);
  page = new Uint32Array(16);
  pages = new Uint32Array(16);
  /** Where the pages of all parts go, in order. */
  readonly into = new SegmentList(16);

  /** Empties it for its next use; its memory is kept. */
  clear(): void {
    this.count = 0;
    this.pagesTotal = 0;
    this.into.clear();
  }

  /** Begins a part; its pages follow by `grow`. */
  add(keys: Uint8Array, keyAt: number, page: number): void {
    if (this.count === this.page.length) this.#double();
    const at = this.count * DATA_KEY_BYTES;
    for (let i = 0; i < DATA_KEY_BYTES; i++) this.keys[at + i] = keys[keyAt + i]!;
    this.page[this.count] = page;
    this.pages[this.count] = 0;
    this.count++;
  }

  /** Adds pages to the last part, and where they go. */
  grow(pages: number, into: number): void {
    this.pages[this.count - 1]! += pages;
    this.pagesTotal += pages;
    this.into.add(into, pages * 4096);
  }

  #double(): void {
    const size = 2 * this.page.length;
    const keys = new Uint8Array(size * DATA_KEY_BYTES);
    const page = new Uint32Array(size);
    const pages = new Uint32Array(size);
    keys.set(this.keys);
    page.set(this.page);
    pages.set(this.pages);
    this.keys = keys;
    this.page = page;
    this.pages = pages;
  }
}

export interface OsdReadHandler {
  /**
   * Once per read, never inside `read`. Without an error statuses[i] is a ReadStatus for each part;
   * pages of Ok parts are in their place and agree with their checksums. The memory is free.
   * `statuses` is valid during the call only. Must not throw.
   */
  onRead(token: number, error: StorageError | null, statuses: Uint8Array): void;
}

export interface KeyPage {
  keys: Uint8Array[];
  /** Bytes of each key's value. */
  lengths: number[];
  /** More keys lie behind the last one. */
  more: boolean;
}

export interface Osd {
  readonly id: number;
  /** Answers are to be expected; false while there is no connection. */
  readonly up: boolean;
  /** The first attempt to connect has not ended. */
  readonly connecting: boolean;
  /** Takes no new data. */
  readonly full: boolean;
  /** It said so itself, or is much slower than the others. */
  readonly slow: boolean;
  /** As far as it is known. */
  readonly freeBytes: number;
  /** Requests in work. */
  readonly load: number;
  /** Borrows the reads and the memory that they name until the handler runs. */
  read(
    reads: OsdReads,
    timeoutMs: number,
    priority: Priority,
    handler: OsdReadHandler,
    token: number,
  ): void;
  /**
   * Durable when it resolves. OVS_FULL, OVS_CONFLICT (an assert), OVS_CORRUPT (a checksum), or
   * unavailable: it may or may not have been done.
   */
  apply(change: OsdChange, options: CallOptions): Promise<void>;
  /** Keys in [first, end), in order, at most `limit` of them. */
  range(first: Uint8Array, end: Uint8Array, limit: number, options: CallOptions): Promise<KeyPage>;
  /** Values of at most 4 KiB; null where there is none. At most 256 keys. */
  getSmall(keys: readonly Uint8Array[], options: CallOptions): Promise<Array<Uint8Array | null>>;
  /** Ends the connection; what is in flight fails. Idempotent. */
  close(): Promise<void>;
}

/** A change that does nothing; copy and fill. */
export const NO_CHANGE: OsdChange = { present: [], data: null, small: [], deletes: [] };
