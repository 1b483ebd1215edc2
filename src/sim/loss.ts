// SPDX-License-Identifier: Apache-2.0
// What is left of the unsynced at a power loss: who decides it, by chance or one by one.

import type { Dice } from "./dice.js";

/**
 * Decides what survives. Each answer is a number in [0, count]; what was synced is not asked about.
 */
export interface LossChooser {
  /** Content of a 512-byte sector: 0 what was synced, i that of the i-th write since. */
  sector(path: string, page: number, sector: number, count: number): number;
  /** Changes of a file's size, holes and allocation: how many, from the first. */
  sizes(path: string, count: number): number;
  /** Names made, renamed and removed in a folder: how many, from the first. */
  names(path: string, count: number): number;
  /** Batches of a store: how many, from the first. */
  batches(path: string, count: number): number;
}

/** What a power loss would decide about now; see LossChooser. */
export interface Unsynced {
  /** `records`: the operation that wrote each of the versions. */
  readonly pages: Array<{ path: string; page: number; count: number; records: object[] }>;
  readonly sizes: Array<{ path: string; count: number }>;
  readonly names: Array<{ path: string; count: number }>;
  readonly batches: Array<{ path: string; count: number }>;
}

const Mood = { Nothing: 0, Everything: 1, Whole: 2, Torn: 3 } as const;
const MOODS = 4;

/** By chance: nothing, everything, whole pages or single sectors; each kind has its mood. */
export class ChanceLoss implements LossChooser {
  readonly #dice: Dice;
  readonly #content: number;
  readonly #order: number;
  readonly #batches: number;

  constructor(dice: Dice) {
    this.#dice = dice;
    this.#content = dice.below(MOODS);
    this.#order = dice.below(MOODS);
    this.#batches = dice.below(MOODS);
  }

  #page = -1;
  #pick = 0;

  sector(_path: string, page: number, sector: number, count: number): number {
    if (this.#content === Mood.Torn) return this.#dice.between(0, count);
    if (this.#content !== Mood.Whole) return this.#content === Mood.Nothing ? 0 : count;
    if (sector === 0 || page !== this.#page) this.#pick = this.#dice.between(0, count);
    this.#page = page;
    return Math.min(this.#pick, count);
  }

  sizes(_path: string, count: number): number {
    return this.#prefix(this.#order, count);
  }

  names(_path: string, count: number): number {
    return this.#prefix(this.#order, count);
  }

  batches(_path: string, count: number): number {
    return this.#prefix(this.#batches, count);
  }

  #prefix(mood: number, count: number): number {
    if (mood === Mood.Nothing) return 0;
    return mood === Mood.Everything ? count : this.#dice.between(0, count);
  }
}

/** Nothing that was not synced survives, or all of it. */
export class PlainLoss implements LossChooser {
  readonly #keep: boolean;

  constructor(keep: "nothing" | "everything") {
    this.#keep = keep === "everything";
  }

  sector(_path: string, _page: number, _sector: number, count: number): number {
    return this.#keep ? count : 0;
  }

  sizes(_path: string, count: number): number {
    return this.#keep ? count : 0;
  }

  names(_path: string, count: number): number {
    return this.#keep ? count : 0;
  }

  batches(_path: string, count: number): number {
    return this.#keep ? count : 0;
  }
}
