// SPDX-License-Identifier: Apache-2.0
// Every way in which a loss of power can end, for a sweep: which of the unsynced operations are
// left. A write is whole or not there; each change of a file's size, of a folder's names and each
// batch of a store only after those before it. Where that gives few ways, all of them are tried,
// else chosen ones; and always each write by itself torn, at sectors.

import { assert } from "../base/assert.js";
import { CLUSTER_BYTES } from "../base/units.js";
import { Dice } from "./dice.js";
import type { LossChooser, Unsynced } from "./loss.js";

/** Ways of whole operations up to which all are tried. */
const ALL_MAX = 64;
/** Of what is more: so many at random, beside the chosen ones. */
const RANDOM = 6;
const SECTORS = CLUSTER_BYTES / 512;

/** Which sectors of a torn write are left; `at` is the sector's place in it, of `count`. */
const TEARS: ReadonlyArray<(at: number, count: number) => boolean> = [
  (at) => at === 0,
  (at) => at > 0,
  (at, count) => at < count / 2,
  (at) => at % 2 === 1,
];

/** What is decided about at once: 0 is nothing, `most` all of it. */
interface Item {
  readonly most: number;
  /** Pages of a write, by key; null: no write. */
  readonly pages: Map<string, number> | null;
}

/** One way: of each item so many; of one write only the sectors of a tear. */
interface Way {
  readonly picks: readonly number[];
  readonly torn: { item: number; tear: (at: number, count: number) => boolean } | null;
}

/** The ways in which a host that loses its power now may find its disks. */
export class Losses {
  readonly #items: Item[] = [];
  readonly #ways: Way[] = [];
  /** Items of the writes of a page in their order, and of sizes, names and batches. */
  readonly #writesOf = new Map<string, number[]>();
  readonly #itemOf = new Map<string, number>();

  /** `unsynced`: of each disk of the host. Way 0 is that nothing is left, way 1 that all is. */
  constructor(unsynced: readonly Unsynced[]) {
    for (const each of unsynced) this.#list(each);
    const all = this.#items.map(({ most }) => most);
    const none = all.map(() => 0);
    this.#add(none);
    if (all.length === 0) return;
    this.#add(all);
    const product = all.reduce((ways, most) => Math.min(ways * (most + 1), ALL_MAX + 1), 1);
    if (product <= ALL_MAX) this.#addAll(all);
    else this.#addSome(all, none);
    for (const [item, { pages }] of this.#items.entries()) {
      if (pages === null) continue;
      for (const tear of TEARS) this.#ways.push({ picks: all, torn: { item, tear } });
    }
  }

  /** Ways that are tried. */
  get count(): number {
    return this.#ways.length;
  }

  /** Decides for the n-th way; one that is not there for one that is. */
  chooser(n: number): LossChooser {
    const { picks, torn } = this.#ways[n % this.#ways.length]!;
    const picked = (key: string, count: number) => {
      const item = this.#itemOf.get(key);
      return item === undefined ? 0 : Math.min(picks[item]!, count);
    };
    return {
      sector: (path, page, sector, count) => {
        const key = `${page} ${path}`;
        const writes = this.#writesOf.get(key) ?? [];
        for (let i = writes.length - 1; i >= 0; i--) {
          const item = writes[i]!;
          const isTorn = torn?.item === item;
          const isLeft = isTorn ? this.#isLeft(torn, key, sector) : picks[item]! > 0;
          if (isLeft) return Math.min(i + 1, count);
        }
        return 0;
      },
      sizes: (path, count) => picked(`sizes ${path}`, count),
      names: (path, count) => picked(`names ${path}`, count),
      batches: (path, count) => picked(`batches ${path}`, count),
    };
  }

  #isLeft(torn: NonNullable<Way["torn"]>, key: string, sector: number): boolean {
    const pages = this.#items[torn.item]!.pages!;
    const place = pages.get(key);
    assert(place !== undefined, "the write wrote this page");
    return torn.tear(place * SECTORS + sector, pages.size * SECTORS);
  }

  #list({ pages, sizes, names, batches }: Unsynced): void {
    const writes = new Map<object, number>();
    const byPage = [...pages].sort((a, b) => a.page - b.page);
    for (const { path, page, records } of byPage) {
      const key = `${page} ${path}`;
      const list = records.map((record) => {
        const item = writes.get(record) ?? this.#items.push({ most: 1, pages: new Map() }) - 1;
        writes.set(record, item);
        const own = this.#items[item]!.pages!;
        if (!own.has(key)) own.set(key, own.size);
        return item;
      });
      this.#writesOf.set(key, list);
    }
    const add = (key: string, most: number) => {
      this.#itemOf.set(key, this.#items.push({ most, pages: null }) - 1);
    };
    for (const { path, count } of sizes) add(`sizes ${path}`, count);
    for (const { path, count } of names) add(`names ${path}`, count);
    for (const { path, count } of batches) add(`batches ${path}`, count);
  }

  #addAll(all: readonly number[]): void {
    const picks = all.map(() => 0);
    for (;;) {
      let i = 0;
      while (i < all.length && picks[i] === all[i]) picks[i++] = 0;
      if (i === all.length) return;
      picks[i]!++;
      if (picks.some((pick, item) => pick < all[item]!)) this.#add([...picks]);
    }
  }

  /** The first few items, each alone, each alone missing, and some by chance. */
  #addSome(all: readonly number[], none: readonly number[]): void {
    for (const [item, most] of all.entries()) {
      if (item > 0) this.#add(all.map((count, i) => (i < item ? count : 0)));
      for (let pick = 0; pick <= most; pick++) {
        if (pick > 0) this.#add(none.with(item, pick));
        if (pick < most) this.#add(all.with(item, pick));
      }
    }
    const dice = new Dice(all.length);
    for (let i = 0; i < RANDOM; i++) this.#add(all.map((most) => dice.between(0, most)));
  }

  #add(picks: readonly number[]): void {
    const words = picks.join();
    if (this.#ways.some((way) => way.picks.join() === words)) return;
    this.#ways.push({ picks, torn: null });
  }
}

/** Ways in which the changes that are under way when a process is killed can end. */
export class Kills {
  readonly #way: number;
  #asked = 0;

  /**
   * `way`: 0 nothing is done, 1 all of it; then of each change three: only it, all but it, only it
   * and that in part.
   */
  constructor(way: number) {
    this.#way = way;
  }

  /** The next change under way. */
  readonly fate = (): "not" | "done" | "part" => {
    const i = this.#asked++;
    if (this.#way < 2) return this.#way === 0 ? "not" : "done";
    const isMeant = Math.floor((this.#way - 2) / 3) === i;
    const how = (this.#way - 2) % 3;
    if (how === 1) return isMeant ? "not" : "done";
    if (!isMeant) return "not";
    return how === 0 ? "done" : "part";
  };

  /** Ways that there were, with as many changes as were under way. */
  get ways(): number[] {
    const n = this.#asked;
    if (n === 0) return [0];
    if (n === 1) return [0, 1, 4];
    return Array.from({ length: 2 + 3 * n }, (_, way) => way);
  }
}

/** What a loss of power takes first: all under way is written, nothing of it is synced. */
export function unsyncedFate(what: string): "not" | "done" {
  return what === "sync" || what === "close" ? "not" : "done";
}
