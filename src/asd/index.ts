// SPDX-License-Identifier: Apache-2.0
// The index: key → where its value is. Two records a key in the embedded store, so that start-up
// and listings pass over the small ones only:
//
//   `v` key → AsdEntry: length, runs of pages, checksum of the other record, own checksum
//   `d` key → the CRC-32C of each page, or the value itself when it has no runs
//
// Keys are latin1 texts in memory (one character a byte), byte strings on disk.

import { assert } from "../base/assert.js";
import { ceilDiv } from "../base/bytes.js";
import { crc32c } from "../base/crc32c.js";
import { hasCode, StorageError } from "../base/errors.js";
import type { Codec } from "../platform/codec.js";
import type { KvBatch, KvStore } from "../platform/kv.js";
import {
  ASD_KEY_BYTES_MAX,
  ASD_PAGE_BYTES,
  type AsdEntry,
  decodeAsdEntry,
  packAsdEntry,
} from "../wire/generated/asd.js";
import type { Runs } from "./allocator.js";
import { Entry } from "./cache.js";

const ENTRY = 0x76; // v
const DATA = 0x64; // d
const ENTRY_VERSION = 1;
const SCAN_LIMIT = 1000;
/** What RocksDB and its bookkeeping take beside keys and values, about. */
const RECORD_OVERHEAD_BYTES = 24;
const ZERO_PAGE = new Uint8Array(ASD_PAGE_BYTES);
const NO_RUNS: Runs = new Uint32Array(0);

/** What is known of a key: its entry, that there is none, or that the index record is damaged. */
export type Loaded = Entry | null | "corrupt";

/** The small record of a key, without CRCs. */
export interface Place {
  key: string;
  length: number;
  runs: Runs;
  indexBytes: number;
}

/** A key as text, one character a byte, so that it can be a key of a Map. */
export function keyText(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}

/** The key that `keyText` made this text from. */
export function keyBytes(text: string): Uint8Array {
  return Buffer.from(text, "latin1");
}

/** A key for people: as text when it is, else in hex. */
export function printable(key: string): string {
  return /^[\x20-\x7e]*$/.test(key) ? key : Buffer.from(key, "latin1").toString("hex");
}

/** The CRC-32C of a small value as a page padded with zeroes. */
export function inlineCrc(value: Uint8Array): number {
  assert(value.byteLength <= ASD_PAGE_BYTES, "a small value fits a page");
  return crc32c(ZERO_PAGE, value.byteLength, ASD_PAGE_BYTES, crc32c(value));
}

export class Index {
  readonly #kv: KvStore;
  readonly #codec: Codec;
  /** Raised by every commit: tells a torn pair of reads from damage. */
  changes = 0;

  constructor(kv: KvStore, codec: Codec) {
    this.#kv = kv;
    this.#codec = codec;
  }

  /** Entries of keys, in order. */
  async load(keys: readonly string[]): Promise<Loaded[]> {
    for (;;) {
      const { changes } = this;
      const records = await this.#get([
        ...keys.map((key) => storeKey(ENTRY, key)),
        ...keys.map((key) => storeKey(DATA, key)),
      ]);
      const loaded = keys.map((key, i) =>
        this.#entryOf(key, records[i]!, records[keys.length + i]!),
      );
      // Between the two reads a commit may have replaced one of them.
      if (changes === this.changes || !loaded.includes("corrupt")) return loaded;
    }
  }

  /** The small records of keys, in order; a damaged one names no pages. */
  async places(keys: readonly string[]): Promise<Array<Place | null | "corrupt">> {
    const records = await this.#get(keys.map((key) => storeKey(ENTRY, key)));
    return keys.map((key, i) => {
      const record = records[i]!;
      if (record === null) return null;
      return record === "corrupt" ? record : makePlace(key, record);
    });
  }

  /** Up to `limit` keys with their lengths, from `first` (inclusive) to `end` (exclusive). */
  async range(
    first: string | null,
    end: string | null,
    options: { limit: number; reverse: boolean },
  ): Promise<Array<{ key: string; length: number }>> {
    const entries = await this.#kv.range({
      first: storeKey(ENTRY, first ?? ""),
      end: end === null ? Uint8Array.of(ENTRY + 1) : storeKey(ENTRY, end),
      ...options,
    });
    return entries.map(({ key, value }) => {
      const text = keyText(key.subarray(1));
      const place = makePlace(text, value);
      return { key: text, length: place === "corrupt" ? 0 : place.length };
    });
  }

  /** Calls `visit` with every key's small record, once, in order. */
  async scan(visit: (key: string, place: Place | "corrupt") => void): Promise<void> {
    let first: Uint8Array = Uint8Array.of(ENTRY);
    for (;;) {
      const entries = await this.#kv.range({
        first,
        end: Uint8Array.of(ENTRY + 1),
        reverse: false,
        limit: SCAN_LIMIT,
      });
      for (const { key, value } of entries) {
        const text = keyText(key.subarray(1));
        visit(text, makePlace(text, value));
      }
      if (entries.length < SCAN_LIMIT) return;
      const last = entries.at(-1)!.key;
      first = new Uint8Array(last.byteLength + 1);
      first.set(last);
    }
  }

  /** An empty batch for `put`, `delete` and `write`. */
  batch(): KvBatch {
    return this.#kv.batch();
  }

  /** Adds a value to a batch; returns the bytes that it takes in the index. */
  put(batch: KvBatch, key: string, entry: Entry): number {
    const data = entry.inline ?? crcBytes(entry.crcs);
    batch.put(storeKey(ENTRY, key), packEntry(key, entry, this.#codec.crc32cOf(data, 0)));
    batch.put(storeKey(DATA, key), data);
    return indexBytesOf(key, entry.length, entry.runs);
  }

  /** Adds the deletion of a value to a batch; its pages are the caller's to retire. */
  delete(batch: KvBatch, key: string): void {
    batch.delete(storeKey(ENTRY, key));
    batch.delete(storeKey(DATA, key));
  }

  /** Durable on return. */
  async write(batch: KvBatch): Promise<void> {
    await this.#kv.write(batch, { sync: true });
    this.changes++;
  }

  #entryOf(key: string, record: Record, data: Record): Loaded {
    if (record === null) return null;
    if (record === "corrupt" || data === "corrupt" || data === null) return "corrupt";
    const entry = openRecord(key, record);
    if (entry === "corrupt" || this.#codec.crc32cOf(data, 0) !== entry.dataCrc) return "corrupt";
    const runs = runsOf(entry);
    if (runs.length === 0)
      return new Entry(entry.length, runs, Uint32Array.of(inlineCrc(data)), data);
    const crcs = new Uint32Array(data.slice().buffer);
    return new Entry(entry.length, runs, crcs, null);
  }

  /** Waits for what is in flight and closes the store. */
  async close(): Promise<void> {
    await this.#kv.close();
  }

  /** Reads records; one that the store finds damaged does not hide the others. */
  async #get(keys: Uint8Array[]): Promise<Array<Uint8Array | null | "corrupt">> {
    try {
      return await this.#kv.getMany(keys);
    } catch (error) {
      if (!hasCode(error, "OVS_CORRUPT")) throw error;
    }
    const records: Array<Uint8Array | null | "corrupt"> = [];
    for (const key of keys) records.push(await this.#getOne(key));
    return records;
  }

  async #getOne(key: Uint8Array): Promise<Uint8Array | null | "corrupt"> {
    try {
      return await this.#kv.get(key);
    } catch (error) {
      if (!hasCode(error, "OVS_CORRUPT")) throw error;
      return "corrupt";
    }
  }
}

function storeKey(prefix: number, key: string): Uint8Array {
  assert(key.length <= ASD_KEY_BYTES_MAX, "keys have at most 255 bytes");
  const bytes = new Uint8Array(1 + key.length);
  bytes[0] = prefix;
  for (let i = 0; i < key.length; i++) bytes[1 + i] = key.charCodeAt(i);
  return bytes;
}

function crcBytes(crcs: Uint32Array): Uint8Array {
  return new Uint8Array(crcs.buffer, crcs.byteOffset, crcs.byteLength);
}

function packEntry(key: string, entry: Entry, dataCrc: number): Uint8Array {
  const runs: AsdEntry["runs"] = [];
  for (let i = 0; i < entry.runs.length; i += 3) {
    runs.push({ file: entry.runs[i]!, page: entry.runs[i + 1]!, pages: entry.runs[i + 2]! });
  }
  const bytes = packAsdEntry({
    entryVersion: ENTRY_VERSION,
    flags: 0,
    length: entry.length,
    dataCrc,
    runs,
    entryCrc: 0,
  });
  const crcAt = bytes.byteLength - 4;
  const crc = crc32c(bytes, 0, crcAt, crc32c(keyBytes(key)));
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(crcAt, crc, true);
  return bytes;
}

/** The record when it is whole and this key's, else "corrupt". */
function openRecord(key: string, record: Uint8Array): AsdEntry | "corrupt" {
  let entry: AsdEntry;
  try {
    entry = decodeAsdEntry(record);
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    return "corrupt";
  }
  const crc = crc32c(record, 0, record.byteLength - 4, crc32c(keyBytes(key)));
  return entry.entryCrc === crc && entry.entryVersion === ENTRY_VERSION ? entry : "corrupt";
}

function runsOf(entry: AsdEntry): Runs {
  if (entry.runs.length === 0) return NO_RUNS;
  const runs = new Uint32Array(3 * entry.runs.length);
  for (const [i, run] of entry.runs.entries()) runs.set([run.file, run.page, run.pages], 3 * i);
  return runs;
}

function makePlace(key: string, record: Uint8Array): Place | "corrupt" {
  const entry = openRecord(key, record);
  if (entry === "corrupt") return "corrupt";
  const runs = runsOf(entry);
  return { key, length: entry.length, runs, indexBytes: indexBytesOf(key, entry.length, runs) };
}

function indexBytesOf(key: string, length: number, runs: Runs): number {
  const data = runs.length === 0 ? length : 4 * ceilDiv(length, ASD_PAGE_BYTES);
  return 2 * (key.length + RECORD_OVERHEAD_BYTES) + 4 * runs.length + data;
}

type Record = Uint8Array | null | "corrupt";
