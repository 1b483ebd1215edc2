// SPDX-License-Identifier: Apache-2.0
// Chance under a seed: xoshiro128** (Blackman and Vigna, 2018), seeded by SplitMix32. `fork` gives
// an independent stream by name, so that one part drawing more does not change what others draw.

import { assert } from "../base/assert.js";
import type { Random } from "../platform/world.js";

export class Dice implements Random {
  readonly #seed: number;
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  /** `seed`: any whole number; its low 32 bits count. */
  constructor(seed: number) {
    this.#seed = seed >>> 0;
    let state = this.#seed;
    const next = (): number => {
      state = (state + 0x9e3779b9) >>> 0;
      let mixed = state;
      mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
      mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
      return (mixed ^ (mixed >>> 15)) >>> 0;
    };
    this.#a = next();
    this.#b = next();
    this.#c = next();
    this.#d = next() | 1; // Never all zero.
  }

  /** A stream of its own for `name`: the same for the same seed, whatever was drawn before. */
  fork(name: string): Dice {
    let hash = (this.#seed ^ 0x811c9dc5) >>> 0;
    for (let i = 0; i < name.length; i++) {
      hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193) >>> 0;
    }
    return new Dice(hash ^ (this.#seed << 7));
  }

  /** 32 random bits. */
  u32(): number {
    const mixed = Math.imul(rotate(Math.imul(this.#b, 5), 7), 9) >>> 0;
    const shifted = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= shifted;
    this.#d = rotate(this.#d, 11);
    return mixed;
  }

  /** In [0, 1), 32 bits fine. */
  share(): number {
    return this.u32() / 2 ** 32;
  }

  below(limit: number): number {
    assert(Number.isSafeInteger(limit) && limit > 0, "a limit is a positive whole number");
    if (limit <= 2 ** 32) return Math.floor(this.share() * limit);
    const fine = this.below(2 ** 21) * 2 ** 32 + this.u32();
    return Math.floor((fine / 2 ** 53) * limit);
  }

  bytes(count: number): Uint8Array {
    const bytes = new Uint8Array(count);
    for (let i = 0; i < count; i++) bytes[i] = this.u32() >>> 24;
    return bytes;
  }

  /** A whole number in [low, high]. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  /** True with this probability. */
  chance(probability: number): boolean {
    return this.share() < probability;
  }

  /** One of a list that has some. */
  pick<T>(list: readonly T[]): T {
    assert(list.length > 0, "there is something to pick");
    return list[this.below(list.length)]!;
  }

  /** One of the kinds by their weights; null: all are 0. */
  weighted<T extends string>(kinds: readonly T[], weights: Record<T, number>): T | null {
    const sum = kinds.reduce((total, kind) => total + weights[kind], 0);
    let at = this.share() * sum;
    for (const kind of kinds) {
      at -= weights[kind];
      if (at < 0) return kind;
    }
    return null;
  }

  /** Exponentially distributed, with this mean; at most twenty times it. */
  around(mean: number): number {
    return Math.min(-Math.log(1 - this.share()), 20) * mean;
  }

  /** In place. */
  shuffle<T>(list: T[]): T[] {
    for (let i = list.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [list[i], list[j]] = [list[j]!, list[i]!];
    }
    return list;
  }
}

function rotate(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}
