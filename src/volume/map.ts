// SPDX-License-Identifier: Apache-2.0
// The map of one vDisk in the key-value store (P-F4): a tree of pages, the live clusters of every
// SCO, and the mark that says which TLogs are in it (P-A9). It changes by TLogs only; each TLog's
// last batch writes the mark, and applying a TLog twice changes nothing, so that a crash in the
// middle is healed by applying it again.
//
//   level 0   leaf pages, 256 entries each: cluster → SCO id, index, CRC
//   level n   256 bits per node: everything absent below that child is zero

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { Semaphore } from "../base/sync.js";
import type { Codec } from "../platform/codec.js";
import type { KvBatch, KvEntry, KvStore } from "../platform/kv.js";
import type { MapMark } from "../wire/generated/map.js";
import { decodeMapMark, packMapMark } from "../wire/generated/map.js";
import type { Tlog, TlogData, TlogRelocation } from "../wire/generated/tlog.js";
import { setNodeBits } from "./nodes.js";
import type { PageView } from "./page.js";
import {
  BITS_WORDS,
  type CrcOf,
  DELTA_BASE,
  DELTA_CHANGES,
  decodePage,
  ENTRY_WORDS,
  encodePage,
  markKey,
  PAGE_ENTRIES,
  PAGE_WORDS,
  pageKey,
  parsePageKey,
  parseScoKey,
  SCO_ABSENT,
  SCO_ZERO,
  scoKey,
  treeRange,
} from "./page.js";
import type { PageCache } from "./pagecache.js";
import { wipeMap } from "./remove.js";
import { ScoTable } from "./scos.js";

/** Pages that are changed in one batch of the store. */
const CHUNK_PAGES = 128;
const RANGE_LIMIT = 512;
const TWO_32 = 2 ** 32;

/** Where some clusters lie: SCO (0 absent, 1 zero), index in it, and CRC of each. */
export interface Located {
  scoIds: Float64Array;
  indexes: Uint32Array;
  crcs: Uint32Array;
}

const NO_WORDS = new Uint32Array(0);

/** The changes of some entries, in order of clusters; the common form of all TLog entries. */
interface Changes {
  count: number;
  cluster(i: number): number;
  scoId: number;
  /** Index in the SCO of change i. */
  index(i: number): number;
  crc(i: number): number;
  /** Relocations apply only where this stands; null: always. */
  from: { scoId: number; index(i: number): number } | null;
}

export class VolumeMap {
  readonly #kv: KvStore;
  readonly #pages: PageCache;
  readonly #tree: Uint8Array;
  readonly #owner: number;
  /** Held by whoever stores a new mark. */
  readonly #changing = new Semaphore(1);
  #isCondemned = false;
  readonly scos = new ScoTable();
  mark: MapMark;
  readonly #crcOf: CrcOf;
  /** Pages that are being changed or looked at; there only while one of these goes on. */
  #work = NO_WORDS;
  #workBits = NO_WORDS;

  /** `owner`: number of this volume in the thread's page cache. */
  constructor(
    parts: { kv: KvStore; pages: PageCache; codec: Codec },
    owner: number,
    empty: MapMark,
  ) {
    this.#kv = parts.kv;
    this.#pages = parts.pages;
    this.#crcOf = (bytes, seed) => parts.codec.crc32cOf(bytes, seed);
    this.#owner = owner;
    this.#tree = empty.vdiskUuid;
    this.mark = empty;
  }

  /** Reads the mark and the SCOs. False when the store has no map of this vDisk. */
  async load(): Promise<boolean> {
    const stored = await this.#kv.get(markKey(this.#tree));
    if (stored === null) return false;
    this.mark = decodeMapMark(stored);
    let { first, end } = treeRange("sco", this.#tree);
    for (;;) {
      const entries = await this.#kv.range({ first, end, reverse: false, limit: RANGE_LIMIT });
      for (const entry of entries) this.#loadSco(entry);
      if (entries.length < RANGE_LIMIT) return true;
      first = successor(entries[entries.length - 1]!.key);
    }
  }

  /** Removes all that the store has of this vDisk. */
  async wipe(): Promise<void> {
    await wipeMap(this.#kv, this.#tree);
    this.scos.clear();
    this.#pages.forgetAll(this.#owner);
  }

  /** The stored map cannot be trusted: without its mark the next start rebuilds it. */
  async condemn(): Promise<void> {
    this.#isCondemned = true;
    const batch = this.#kv.batch();
    batch.delete(markKey(this.#tree));
    await this.#kv.write(batch, { sync: true });
  }

  async #putMark(batch: KvBatch, mark: MapMark, options: { sync: boolean }): Promise<void> {
    if (this.#isCondemned) throw new StorageError("OVS_CORRUPT", "the map has to be rebuilt");
    batch.put(markKey(this.#tree), packMapMark(mark));
    await this.#kv.write(batch, options);
  }

  /** Stores the number of the last checkpoint; `sync`: with everything before it, durably. */
  async writeMark(change: { checkpointNumber: number }, options: { sync: boolean }): Promise<void> {
    await this.#changing.with(async () => {
      this.mark = { ...this.mark, ...change };
      await this.#putMark(this.#kv.batch(), this.mark, options);
    });
  }

  /**
   * Where the clusters (in order) lie now according to the map: SCO ids (0, 1: none), indexes,
   * CRCs.
   */
  async locate(clusters: Float64Array): Promise<Located> {
    return await this.#working(() => this.#locate(clusters));
  }

  async #locate(clusters: Float64Array): Promise<Located> {
    const scoIds = new Float64Array(clusters.length);
    const indexes = new Uint32Array(clusters.length);
    const crcs = new Uint32Array(clusters.length);
    for (let from = 0; from < clusters.length; ) {
      const { pages, to } = pagesOf((i) => clusters[i], from, clusters.length);
      await this.#loadWork(pages);
      for (let i = from, at = 0; i < to; i++) {
        while (pages[at] !== Math.floor(clusters[i] / PAGE_ENTRIES)) at++;
        const word = at * PAGE_WORDS + (clusters[i] % PAGE_ENTRIES) * ENTRY_WORDS;
        scoIds[i] = this.#work[word] + this.#work[word + 1] * TWO_32;
        indexes[i] = this.#work[word + 2];
        crcs[i] = this.#work[word + 3];
      }
      from = to;
    }
    return { scoIds, indexes, crcs };
  }

  /** Runs `work` with the work area, alone. */
  async #working<T>(work: () => Promise<T>): Promise<T> {
    return await this.#changing.with(async () => {
      this.#work = new Uint32Array(CHUNK_PAGES * PAGE_WORDS);
      this.#workBits = new Uint32Array(CHUNK_PAGES * BITS_WORDS);
      try {
        return await work();
      } finally {
        this.#work = NO_WORDS;
        this.#workBits = NO_WORDS;
      }
    });
  }

  /** Applies a TLog; the map is at it when this resolves. */
  async apply(tlog: Tlog): Promise<void> {
    await this.#working(() => this.#apply(tlog));
  }

  async #apply(tlog: Tlog): Promise<void> {
    assert(tlog.number === this.mark.tlogNumber + 1, "TLogs are applied in order");
    let scoIdLast = this.mark.scoIdLast;
    for (const entry of tlog.entries) {
      if (entry.kind === "data") {
        await this.#applyChanges(dataChanges(entry));
        scoIdLast = Math.max(scoIdLast, entry.scoId);
      } else if (entry.kind === "relocation") {
        await this.#applyChanges(relocationChanges(entry));
        scoIdLast = Math.max(scoIdLast, entry.toScoId);
      } else if (entry.kind === "zero") {
        await this.#applyZero(entry.cluster, entry.cluster + entry.count);
      }
    }
    const mark: MapMark = {
      ...this.mark,
      tlogNumber: tlog.number,
      tlogEpoch: tlog.ownerEpoch,
      sequence: tlog.lastSequence,
      sequenceEpoch: tlog.lastEpoch,
      sizeBytes: tlog.sizeBytes,
      scoIdLast,
    };
    const batch = this.#kv.batch();
    this.#putScos(batch);
    await this.#putMark(batch, mark, { sync: false });
    this.mark = mark;
  }

  /** Removes SCOs, whose objects are gone, from the table. */
  async forgetScos(ids: readonly number[]): Promise<void> {
    const batch = this.#kv.batch();
    for (const id of ids) {
      assert(this.scos.live(id) === 0, "a SCO that is named stays");
      batch.delete(scoKey(this.#tree, id));
      this.scos.remove(id);
    }
    await this.#kv.write(batch, { sync: false });
  }

  /** Loads pages into frames of the page cache. Throws OVS_CORRUPT for a damaged one. */
  async loadFrames(frames: readonly number[]): Promise<void> {
    const pages = frames.map((frame) => this.#pages.pageOf(frame));
    const stored = await this.#kv.getMany(this.#keysOf(pages));
    for (let i = 0; i < frames.length; i++) {
      decodePage(stored[2 * i]!, stored[2 * i + 1]!, this.#pages.view(frames[i]!), this.#crcOf);
    }
  }

  /**
   * Leaf pages from `page` on, in order, at most `limit`, into `view` one after the other; calls
   * `visit` for each. Answers the page to continue with, or -1 at the end. Reads from `reader`.
   */
  async scan(
    options: { page: number; endPage: number; limit: number },
    visit: (page: number, view: PageView) => void,
    reader: Pick<KvStore, "range"> = this.#kv,
  ): Promise<number> {
    const first = pageKey(this.#tree, 0, options.page, DELTA_BASE);
    const end = pageKey(this.#tree, 0, options.endPage, DELTA_BASE);
    const limit = 2 * options.limit;
    const entries = await reader.range({ first, end, reverse: false, limit });
    const view = scratchView();
    for (let i = 0; i < entries.length; ) {
      const { page, base, delta, next } = pageParts(entries, i);
      // The last page of a full answer may have a delta behind it that is not here.
      if (next === entries.length && entries.length === limit) return page;
      decodePage(base, delta, view, this.#crcOf);
      visit(page, view);
      i = next;
    }
    return -1;
  }

  /** Puts a page of a checkpoint into a batch and counts its entries; for rebuilding. */
  restorePage(batch: KvBatch, level: number, page: number, content: Uint8Array): void {
    batch.put(pageKey(this.#tree, level, page, DELTA_BASE), content);
    if (level !== 0) return;
    const view = scratchView();
    decodePage(content, null, view, this.#crcOf);
    for (let word = 0; word < PAGE_WORDS; word += ENTRY_WORDS) {
      const id = view.words[word]! + view.words[word + 1]! * TWO_32;
      if (id > SCO_ZERO) this.#count(id, 1);
    }
  }

  /** Ends rebuilding from a checkpoint: stores the counts and the mark. */
  async restored(mark: MapMark): Promise<void> {
    const batch = this.#kv.batch();
    this.#putScos(batch);
    await this.#putMark(batch, mark, { sync: true });
    this.mark = mark;
  }

  /** Nodes above the leaves, all of them (few), for checkpoints. */
  async nodes(
    reader: Pick<KvStore, "range">,
  ): Promise<Array<{ level: number; page: number; content: Uint8Array }>> {
    const nodes: Array<{ level: number; page: number; content: Uint8Array }> = [];
    let first = pageKey(this.#tree, 1, 0, DELTA_BASE);
    const { end } = treeRange("page", this.#tree);
    for (;;) {
      const entries = await reader.range({ first, end, reverse: false, limit: RANGE_LIMIT });
      for (const { key, value } of entries) {
        const { level, page } = parsePageKey(key);
        nodes.push({ level, page, content: value });
      }
      if (entries.length < RANGE_LIMIT) return nodes;
      first = successor(entries[entries.length - 1]!.key);
    }
  }

  #loadSco(entry: KvEntry): void {
    const view = new DataView(entry.value.buffer, entry.value.byteOffset, entry.value.byteLength);
    if (entry.value.byteLength !== 8)
      throw new StorageError("OVS_CORRUPT", "a SCO's counts are damaged");
    this.scos.load(parseScoKey(entry.key), view.getUint32(0, true), view.getUint32(4, true));
  }

  #putScos(batch: KvBatch): void {
    for (const id of this.scos.takeTouched()) {
      if (!this.scos.has(id)) continue;
      const value = new Uint8Array(8);
      const view = new DataView(value.buffer);
      view.setUint32(0, this.scos.live(id), true);
      view.setUint32(4, this.scos.total(id), true);
      batch.put(scoKey(this.#tree, id), value);
    }
  }

  #count(id: number, difference: number): void {
    if (!this.scos.add(id, difference)) {
      throw new StorageError("OVS_CORRUPT", `the map and the counts of SCO ${id} disagree`);
    }
  }

  async #applyChanges(changes: Changes): Promise<void> {
    if (changes.scoId > SCO_ZERO && changes.count > 0) {
      this.scos.extend(changes.scoId, changes.index(changes.count - 1) + 1);
    }
    for (let from = 0; from < changes.count; ) {
      const { pages, to } = pagesOf(changes.cluster, from, changes.count);
      await this.#applyChunk(changes, from, to, pages);
      from = to;
    }
  }

  async #applyChunk(
    changes: Changes,
    from: number,
    to: number,
    pages: readonly number[],
  ): Promise<void> {
    await this.#loadWork(pages);
    // Bits that are set now are those of a stored delta.
    const hadDelta = pages.map((_, i) => hasBits(this.#workBits, i * BITS_WORDS));
    let at = 0;
    for (let i = from; i < to; i++) {
      const cluster = changes.cluster(i);
      while (pages[at] !== Math.floor(cluster / PAGE_ENTRIES)) at++;
      this.#change(at, cluster % PAGE_ENTRIES, changes, i);
    }
    const batch = this.#kv.batch();
    for (let i = 0; i < pages.length; i++)
      this.#store(batch, pages[i]!, this.#workView(i), hadDelta[i]!);
    this.#putScos(batch);
    await this.#kv.write(batch, { sync: false });
    for (let i = 0; i < pages.length; i++) this.#publish(pages[i]!, i);
  }

  /** Changes entry `entry` of work page `at`. */
  #change(at: number, entry: number, changes: Changes, i: number): void {
    const word = at * PAGE_WORDS + entry * ENTRY_WORDS;
    const words = this.#work;
    const oldId = words[word] + words[word + 1] * TWO_32;
    const index = changes.index(i);
    if (changes.from !== null) {
      // P-F2: a relocation applies only where the old location still stands.
      if (oldId !== changes.from.scoId || words[word + 2] !== changes.from.index(i)) return;
    }
    if (oldId === changes.scoId && words[word + 2] === index) return;
    if (oldId > SCO_ZERO) this.#count(oldId, -1);
    if (changes.scoId > SCO_ZERO) this.#count(changes.scoId, 1);
    words[word] = changes.scoId >>> 0;
    words[word + 1] = (changes.scoId / TWO_32) >>> 0;
    words[word + 2] = index;
    words[word + 3] = changes.crc(i);
    this.#workBits[at * BITS_WORDS + (entry >>> 5)] |= 1 << (entry & 31);
  }

  /** Reads pages into the work area, from the page cache where they are. */
  async #loadWork(pages: readonly number[]): Promise<void> {
    const missing: number[] = [];
    for (let i = 0; i < pages.length; i++) {
      const frame = this.#pages.changing(this.#owner, pages[i]!);
      if (frame < 0) {
        missing.push(i);
        continue;
      }
      const { words, at, bits, bitsAt } = this.#pages.view(frame);
      this.#work.set(words.subarray(at, at + PAGE_WORDS), i * PAGE_WORDS);
      this.#workBits.set(bits.subarray(bitsAt, bitsAt + BITS_WORDS), i * BITS_WORDS);
    }
    if (missing.length === 0) return;
    const stored = await this.#kv.getMany(this.#keysOf(missing.map((i) => pages[i]!)));
    for (let j = 0; j < missing.length; j++) {
      decodePage(stored[2 * j]!, stored[2 * j + 1]!, this.#workView(missing[j]!), this.#crcOf);
    }
  }

  #workView(i: number): PageView {
    return { words: this.#work, at: i * PAGE_WORDS, bits: this.#workBits, bitsAt: i * BITS_WORDS };
  }

  #store(batch: KvBatch, page: number, view: PageView, hadDelta: boolean): void {
    const stored = encodePage(view, this.#crcOf);
    const changesKey = pageKey(this.#tree, 0, page, DELTA_CHANGES);
    if (stored.keepBase) {
      assert(stored.delta !== null, "a page that keeps its base has changes");
      batch.put(changesKey, stored.delta);
      return;
    }
    const baseKey = pageKey(this.#tree, 0, page, DELTA_BASE);
    if (stored.base === null) batch.delete(baseKey);
    else batch.put(baseKey, stored.base);
    if (hadDelta) batch.delete(changesKey);
  }

  /** The page cache sees a page as it is stored now. */
  #publish(page: number, i: number): void {
    const frame = this.#pages.changing(this.#owner, page);
    if (frame < 0) return;
    const { words, at, bits, bitsAt } = this.#pages.view(frame);
    words.set(this.#work.subarray(i * PAGE_WORDS, (i + 1) * PAGE_WORDS), at);
    bits.set(this.#workBits.subarray(i * BITS_WORDS, (i + 1) * BITS_WORDS), bitsAt);
  }

  async #applyZero(first: number, end: number): Promise<void> {
    const pageFirst = Math.ceil(first / PAGE_ENTRIES);
    const pageEnd = Math.floor(end / PAGE_ENTRIES);
    if (pageFirst >= pageEnd) {
      await this.#applyChanges(zeroChanges(first, end));
      return;
    }
    await this.#applyChanges(zeroChanges(first, pageFirst * PAGE_ENTRIES));
    await this.#applyChanges(zeroChanges(pageEnd * PAGE_ENTRIES, end));
    await this.#zeroPages(pageFirst, pageEnd);
  }

  /** P-A7: whole pages become zero: what exists is deleted, marks above say that absent is zero. */
  async #zeroPages(pageFirst: number, pageEnd: number): Promise<void> {
    // Marks first: a crash after them leaves entries that applying again will remove.
    const marks = this.#kv.batch();
    await setNodeBits(this.#kv, marks, this.#tree, pageFirst, pageEnd);
    await this.#kv.write(marks, { sync: false });
    for (let page = pageFirst; page >= 0 && page < pageEnd; ) {
      const ids: number[] = [];
      const options = { page, endPage: pageEnd, limit: RANGE_LIMIT / 2 };
      const next = await this.scan(options, (_page, view) => collectIds(view, ids));
      const done = next < 0 ? pageEnd : next;
      for (const id of ids) this.#count(id, -1);
      const batch = this.#kv.batch();
      batch.deleteRange(
        pageKey(this.#tree, 0, page, DELTA_BASE),
        pageKey(this.#tree, 0, done, DELTA_BASE),
      );
      this.#putScos(batch);
      await this.#kv.write(batch, { sync: false });
      this.#pages.emptied(this.#owner, page, done);
      page = next;
    }
  }

  #keysOf(pages: readonly number[]): Uint8Array[] {
    const keys: Uint8Array[] = [];
    for (const page of pages) {
      keys.push(pageKey(this.#tree, 0, page, DELTA_BASE));
      keys.push(pageKey(this.#tree, 0, page, DELTA_CHANGES));
    }
    return keys;
  }
}

/**
 * Pages of the clusters from `from` on, in order, at most a chunk; `to` is behind the last of them.
 */
function pagesOf(
  cluster: (i: number) => number,
  from: number,
  end: number,
): { pages: number[]; to: number } {
  const pages: number[] = [];
  let to = from;
  for (; to < end; to++) {
    const page = Math.floor(cluster(to) / PAGE_ENTRIES);
    const last = pages[pages.length - 1];
    if (page === last) continue;
    assert(last === undefined || page > last, "clusters are in order");
    if (pages.length === CHUNK_PAGES) break;
    pages.push(page);
  }
  return { pages, to };
}

function dataChanges(entry: TlogData): Changes {
  return {
    count: entry.offsets.length,
    cluster: (i) => entry.baseCluster + entry.offsets[i]!,
    scoId: entry.scoId,
    index: (i) => entry.scoIndex + i,
    crc: (i) => entry.crcs[i]!,
    from: null,
  };
}

function relocationChanges(entry: TlogRelocation): Changes {
  return {
    count: entry.offsets.length,
    cluster: (i) => entry.baseCluster + entry.offsets[i]!,
    scoId: entry.toScoId,
    index: (i) => entry.toScoIndex + i,
    crc: (i) => entry.crcs[i]!,
    from: { scoId: entry.fromScoId, index: (i) => entry.fromIndexes[i]! },
  };
}

function zeroChanges(first: number, end: number): Changes {
  return {
    count: end - first,
    cluster: (i) => first + i,
    scoId: SCO_ZERO,
    index: () => 0,
    crc: () => 0,
    from: null,
  };
}

function hasBits(bits: Uint32Array, at: number): boolean {
  for (let i = 0; i < BITS_WORDS; i++) if (bits[at + i] !== 0) return true;
  return false;
}

function collectIds(view: PageView, ids: number[]): void {
  for (let word = view.at; word < view.at + PAGE_WORDS; word += ENTRY_WORDS) {
    const id = view.words[word]! + view.words[word + 1]! * TWO_32;
    if (id > SCO_ZERO) ids.push(id);
  }
}

/** The parts of the page that begins at entries[i]. */
function pageParts(entries: readonly KvEntry[], i: number) {
  const { page, delta } = parsePageKey(entries[i]!.key);
  if (delta === DELTA_CHANGES) return { page, base: null, delta: entries[i]!.value, next: i + 1 };
  const after = entries[i + 1];
  const other = after ? parsePageKey(after.key) : null;
  if (after && other && other.page === page && other.level === 0) {
    return { page, base: entries[i]!.value, delta: after.value, next: i + 2 };
  }
  return { page, base: entries[i]!.value, delta: null, next: i + 1 };
}

function scratchView(): PageView {
  return {
    words: new Uint32Array(PAGE_WORDS),
    at: 0,
    bits: new Uint32Array(BITS_WORDS),
    bitsAt: 0,
  };
}

function successor(key: Uint8Array): Uint8Array {
  const next = new Uint8Array(key.byteLength + 1);
  next.set(key);
  return next;
}

assert(SCO_ABSENT === 0, "a zeroed page is an absent one");
