// SPDX-License-Identifier: Apache-2.0
// Which pages of the extent files are free: one bit a page, set when used. Nothing of it is on
// disk. It is made from the index at start-up, so a page that no key names is free by construction
// and no crash can leak one.
//
// First fit from the first file on: used space stays compact and blocks that the file system has
// already initialized are used again before new ones. `#longest` is an upper bound of a file's
// longest free run, so that full files are skipped without a look.

import { assert } from "../base/assert.js";
import { ceilDiv } from "../base/bytes.js";
import { ASD_EXTENT_BYTES, ASD_PAGE_BYTES, ASD_RUNS_MAX } from "../wire/generated/asd.js";

export const EXTENT_PAGES = ASD_EXTENT_BYTES / ASD_PAGE_BYTES;
const WORD_PAGES = 32;

/** Runs of pages as triples: file, first page, pages. */
export type Runs = Uint32Array;

interface ExtentMap {
  readonly pages: number;
  /** Bit set: used. Bits past `pages` are set. */
  readonly words: Uint32Array;
  free: number;
  /** No free run is longer. */
  longest: number;
}

export class Allocator {
  readonly #files: ExtentMap[] = [];
  /** Pages that two keys claim (a damaged index): never freed, so neither can hurt the other. */
  readonly #disputed = new Set<number>();
  #pagesMax: number;
  #usedPages = 0;

  /** `pagesMax`: pages that may be used together. */
  constructor(pagesMax: number) {
    this.#pagesMax = pagesMax;
  }

  /** Pages that may be used together. */
  get pagesMax(): number {
    return this.#pagesMax;
  }

  /** Pages that are taken, disputed ones counted once. */
  get usedPages(): number {
    return this.#usedPages;
  }

  /** Pages that may still be taken; a file for them may have to be made first. */
  get freePages(): number {
    return Math.max(0, this.#pagesMax - this.#usedPages);
  }

  /** Pages that several keys claim; more than 0 tells of a damaged index. */
  get disputedPages(): number {
    return this.#disputed.size;
  }

  /** Extent files that exist. */
  get files(): number {
    return this.#files.length;
  }

  /** Pages of the extent file with this number. */
  pagesOf(file: number): number {
    return this.#files[file]!.pages;
  }

  /** Pages of all files together. */
  get filePages(): number {
    return this.#files.reduce((sum, file) => sum + file.pages, 0);
  }

  /** The next extent file exists, all free. */
  addFile(pages: number): void {
    assert(pages > 0 && pages <= EXTENT_PAGES, "an extent file has at most 256 MiB");
    const words = new Uint32Array(ceilDiv(pages, WORD_PAGES));
    if (pages % WORD_PAGES !== 0) words[words.length - 1] = 0xffffffff << (pages % WORD_PAGES);
    this.#files.push({ pages, words, free: pages, longest: pages });
  }

  /** Start-up: the index names these pages. False when they lie outside every file. */
  claim(runs: Runs): boolean {
    if (!this.#inside(runs)) return false;
    for (let i = 0; i < runs.length; i += 3) {
      const [file, first, pages] = [runs[i]!, runs[i + 1]!, runs[i + 2]!];
      if (this.#isFree(file, first, pages)) {
        this.#mark(file, first, pages);
        continue;
      }
      for (let page = first; page < first + pages; page++) {
        if (this.#isFree(file, page, 1)) this.#mark(file, page, 1);
        else this.#disputed.add(file * EXTENT_PAGES + page);
      }
    }
    return true;
  }

  #inside(runs: Runs): boolean {
    for (let i = 0; i < runs.length; i += 3) {
      const file = this.#files[runs[i]!];
      if (!file || runs[i + 2] === 0 || runs[i + 1]! + runs[i + 2]! > file.pages) return false;
    }
    return true;
  }

  /**
   * Takes `pages` pages, as one run where there is one. null: there is not enough room in the files
   * (`freePages` tells whether another file would help) or it is cut into too many runs.
   */
  take(pages: number): Runs | null {
    assert(pages > 0, "at least one page is taken");
    if (pages > this.freePages) return null;
    return this.#takeOne(pages) ?? null;
  }

  /** As take, but gathers many runs: for a disk that is full and cannot grow. */
  takeScattered(pages: number): Runs | null {
    if (pages > this.freePages) return null;
    const runs: number[] = [];
    let missing = pages;
    for (let file = 0; file < this.#files.length && missing > 0; file++) {
      missing = this.#gather(file, missing, runs);
    }
    if (missing > 0) {
      for (let i = 0; i < runs.length; i += 3) this.#mark(runs[i]!, runs[i + 1]!, -runs[i + 2]!);
      return null;
    }
    return Uint32Array.from(runs);
  }

  /** Gives pages back. Runs that `claim` refused are left alone. */
  free(runs: Runs): void {
    if (!this.#inside(runs)) return;
    for (let i = 0; i < runs.length; i += 3) {
      const [file, first, pages] = [runs[i]!, runs[i + 1]!, runs[i + 2]!];
      if (this.#disputed.size === 0) {
        this.#mark(file, first, -pages);
        continue;
      }
      for (let page = first; page < first + pages; page++) {
        if (!this.#disputed.has(file * EXTENT_PAGES + page)) this.#mark(file, page, -1);
      }
    }
  }

  #takeOne(pages: number): Runs | undefined {
    for (let index = 0; index < this.#files.length; index++) {
      const file = this.#files[index]!;
      if (file.free < pages || file.longest < pages) continue;
      const page = findRun(file, pages);
      if (page < 0) continue;
      this.#mark(index, page, pages);
      return Uint32Array.of(index, page, pages);
    }
    return undefined;
  }

  #gather(index: number, missing: number, runs: number[]): number {
    const file = this.#files[index]!;
    let page = 0;
    while (missing > 0 && file.free > 0 && runs.length < 3 * ASD_RUNS_MAX) {
      page = nextFree(file, page);
      if (page < 0) break;
      const pages = Math.min(freeFrom(file, page), missing);
      this.#mark(index, page, pages);
      runs.push(index, page, pages);
      missing -= pages;
      page += pages;
      if (page >= file.pages) break;
    }
    return missing;
  }

  #isFree(index: number, first: number, pages: number): boolean {
    const file = this.#files[index]!;
    const bit = file.words[first >>> 5]! & (1 << (first & 31));
    return bit === 0 && freeFrom(file, first) >= pages;
  }

  /** Marks pages used (count > 0) or free (count < 0); asserts that they were not so before. */
  #mark(index: number, first: number, count: number): void {
    const file = this.#files[index]!;
    const isUse = count > 0;
    const end = first + Math.abs(count);
    assert(end <= file.pages, "the run lies in its file");
    for (let page = first; page < end; ) {
      const bit = page & 31;
      const width = Math.min(WORD_PAGES - bit, end - page);
      const mask = width === WORD_PAGES ? 0xffffffff : ((1 << width) - 1) << bit;
      const word = file.words[page >>> 5]!;
      assert(
        ((isUse ? word : ~word) & mask) === 0,
        "a page is taken when free and freed when taken",
      );
      file.words[page >>> 5] = isUse ? word | mask : word & ~mask;
      page += width;
    }
    file.free -= count;
    this.#usedPages += count;
    if (!isUse) file.longest = file.free;
  }
}

/** First page of a free run of at least `pages`, or -1; then `longest` is exact. */
function findRun(file: ExtentMap, pages: number): number {
  let longest = 0;
  for (let page = nextFree(file, 0); page >= 0; ) {
    const run = freeFrom(file, page);
    if (run >= pages) return page;
    longest = Math.max(longest, run);
    page = page + run < file.pages ? nextFree(file, page + run) : -1;
  }
  file.longest = longest;
  return -1;
}

/** First free page at or after `from`, or -1. */
function nextFree(file: ExtentMap, from: number): number {
  let word = from >>> 5;
  let free = ~file.words[word]! & (0xffffffff << (from & 31));
  while (free === 0) {
    if (++word >= file.words.length) return -1;
    free = ~file.words[word]!;
  }
  return word * WORD_PAGES + lowestBit(free);
}

/** Free pages from a free one on. */
function freeFrom(file: ExtentMap, from: number): number {
  let word = from >>> 5;
  let used = file.words[word]! & (0xffffffff << (from & 31));
  while (used === 0) {
    if (++word >= file.words.length) return file.pages - from;
    used = file.words[word]!;
  }
  return word * WORD_PAGES + lowestBit(used) - from;
}

function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}
