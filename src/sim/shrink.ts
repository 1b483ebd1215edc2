// SPDX-License-Identifier: Apache-2.0
// Makes a failing seed smaller: leaves out seconds, clients, kinds of trouble and single troubles
// as long as it fails in the same way, until nothing more can be left out. Every step depends on
// the seed only, so that shrinking it again ends in the same place.
//
//   fewer seconds ─► only the first troubles ─► clients ─► kinds ─► single troubles, in halves
//         ▲                                                                  │ something went
//         └──────────────────────────────────────────────────────────────────┘

import { assert } from "../base/assert.js";
import type { Cuts } from "./cuts.js";
import type { TroubleKind } from "./kinds.js";
import type { RunResult } from "./run.js";

/** Rounds until it is enough; two or three are common. */
const ROUNDS_MAX = 10;
const SECONDS_MIN = 1;
/** Halves, then eighths, then less: a whole second at least. */
const SECONDS_PARTS = [2, 8, 64];

export interface ShrinkOptions {
  /** Where it begins: with these cuts the seed fails. */
  cuts: Cuts;
  clients: number;
  /** Runs the seed with some cuts. */
  run: (cuts: Cuts) => Promise<RunResult>;
  /** Told after each run: what was tried, whether it still fails, and the smallest cuts so far. */
  onTry?: (what: string, fails: boolean, cuts: Cuts) => void;
}

export interface Shrunk {
  cuts: Cuts;
  result: RunResult;
  runs: number;
}

/** The smallest cuts found; null when the seed does not fail at all. */
export async function shrink(options: ShrinkOptions): Promise<Shrunk | null> {
  const result = await options.run(options.cuts);
  if (result.failure === "") return null;
  const shrinker = new Shrinker(options, result);
  for (let round = 0; round < ROUNDS_MAX && (await shrinker.round()); round++);
  return shrinker.shrunk;
}

/** What kind of failure it is: its first line without numbers. */
export function failureKind(failure: string): string {
  const [line] = failure.split("\n", 1);
  return line!.replace(/allowed: .*/, "").replace(/[0-9a-f]*\d[0-9a-f]*/g, "N");
}

class Shrinker {
  readonly #options: ShrinkOptions;
  readonly #kind: string;
  #cuts: Cuts;
  #result: RunResult;
  #runs = 1;

  constructor(options: ShrinkOptions, result: RunResult) {
    this.#options = options;
    this.#kind = failureKind(result.failure);
    this.#cuts = options.cuts;
    this.#result = result;
  }

  get shrunk(): Shrunk {
    return { cuts: this.#cuts, result: this.#result, runs: this.#runs };
  }

  /** One of each; true when something could be left out. */
  async round(): Promise<boolean> {
    const before = this.#cuts;
    await this.#seconds();
    await this.#first();
    await this.#clients();
    await this.#kinds();
    await this.#singles();
    return this.#cuts !== before;
  }

  async #tries(what: string, change: Partial<Cuts>): Promise<boolean> {
    const cuts = { ...this.#cuts, ...change };
    const result = await this.#options.run(cuts);
    this.#runs++;
    const fails = result.failure !== "" && failureKind(result.failure) === this.#kind;
    if (fails) {
      this.#cuts = cuts;
      this.#result = result;
    }
    this.#options.onTry?.(what, fails, this.#cuts);
    return fails;
  }

  async #seconds(): Promise<void> {
    for (const part of SECONDS_PARTS) {
      const fewer = () => this.#cuts.seconds - Math.ceil(this.#cuts.seconds / part);
      while (fewer() >= SECONDS_MIN) {
        if (!(await this.#tries(`${fewer()} seconds`, { seconds: fewer() }))) break;
      }
    }
  }

  /** The fewest first troubles, found by halves. */
  async #first(): Promise<void> {
    const last = () => this.#result.troubles.at(-1)?.number ?? 0;
    let low = 0;
    while (low < Math.min(last(), this.#cuts.firstTroubles)) {
      const high = Math.min(last(), this.#cuts.firstTroubles);
      const middle = Math.floor((low + high) / 2);
      if (await this.#tries(`first ${middle} troubles`, { firstTroubles: middle })) continue;
      low = middle + 1;
    }
  }

  async #clients(): Promise<void> {
    for (let i = 0; i < this.#options.clients; i++) {
      const { idle } = this.#cuts;
      if (idle.includes(i) || idle.length === this.#options.clients - 1) continue;
      await this.#tries(`client ${i} idle`, { idle: [...idle, i] });
    }
  }

  async #kinds(): Promise<void> {
    const kinds = new Set<TroubleKind>(this.#result.troubles.map(({ kind }) => kind));
    for (const kind of kinds) {
      await this.#tries(`without ${kind}`, { without: [...this.#cuts.without, kind] });
    }
  }

  /** Halves of what is left, quarters, and so on to single ones. */
  async #singles(): Promise<void> {
    const left = () => this.#result.troubles.map(({ number }) => number);
    for (let size = Math.ceil(left().length / 2); size >= 1; size = Math.floor(size / 2)) {
      for (let end = left().length; end > 0; end -= size) {
        const some = left().slice(Math.max(0, end - size), end);
        if (some.length === 0) continue;
        assert(some.length <= size, "not more than it was to be");
        const skip = [...this.#cuts.skip, ...some];
        await this.#tries(`without troubles ${some.join(" ")}`, { skip });
      }
    }
  }
}
