// SPDX-License-Identifier: Apache-2.0
// What is left out of the plan of a seed, so that less happens in it: whole kinds of trouble,
// single troubles by their number, clients, seconds. What is left does what it did before, as far
// as the rest of the cluster lets it. Also the kinds of which more is wanted: that is another
// plan. Written as options of the command line, and read from there.

import { type TroubleKind, withMore } from "./kinds.js";
import type { Plan } from "./run.js";

export interface Cuts {
  /** Kinds of trouble that happen often, whatever the seed says. */
  more: readonly TroubleKind[];
  /** Simulated seconds of trouble. */
  seconds: number;
  /** Kinds of trouble that do not happen. */
  without: readonly TroubleKind[];
  /** Troubles after this many do not happen; Infinity: all happen. */
  firstTroubles: number;
  /** Numbers of single troubles that do not happen; from 1. */
  skip: readonly number[];
  /** Clients that ask for nothing while things go wrong, by their index. */
  idle: readonly number[];
}

/** Nothing is left out. */
export function noCuts(seconds: number): Cuts {
  const firstTroubles = Number.POSITIVE_INFINITY;
  return { more: [], seconds, without: [], firstTroubles, skip: [], idle: [] };
}

/** The plan with less in it; its seconds are an option of the run. */
export function cutPlan(plan: Plan, cuts: Cuts): Plan {
  const without = new Set(cuts.without);
  const skip = new Set(cuts.skip);
  const before = plan.nemesis.omit;
  return {
    ...plan,
    habits: plan.habits.map((habits, i) =>
      cuts.idle.includes(i) ? { ...habits, depth: 0 } : habits,
    ),
    nemesis: {
      ...withMore(plan.nemesis, cuts.more),
      omit: (number, kind) =>
        number > cuts.firstTroubles ||
        without.has(kind) ||
        skip.has(number) ||
        before(number, kind),
    },
  };
}

/** The options that make these cuts. */
export function optionsOf(cuts: Cuts): string {
  const options = [`--seconds ${cuts.seconds}`];
  if (cuts.more.length > 0) options.push(`--more "${cuts.more.join(",")}"`);
  if (Number.isFinite(cuts.firstTroubles)) options.push(`--first-troubles ${cuts.firstTroubles}`);
  if (cuts.without.length > 0) options.push(`--without "${cuts.without.join(",")}"`);
  if (cuts.skip.length > 0) options.push(`--skip-troubles ${rangesOf(cuts.skip)}`);
  if (cuts.idle.length > 0) options.push(`--idle-clients ${rangesOf(cuts.idle)}`);
  return options.join(" ");
}

/** Numbers as "1,3-7"; `numbers` in any order. */
export function rangesOf(numbers: readonly number[]): string {
  const sorted = [...numbers].sort((a, b) => a - b);
  const parts: string[] = [];
  for (let at = 0; at < sorted.length; ) {
    let end = at;
    while (sorted[end + 1] === sorted[end]! + 1) end++;
    parts.push(end === at ? `${sorted[at]}` : `${sorted[at]}-${sorted[end]}`);
    at = end + 1;
  }
  return parts.join(",");
}

/** The numbers of "1,3-7"; null when it is none of that. */
export function numbersOf(words: string): number[] | null {
  const numbers: number[] = [];
  for (const part of words.split(",")) {
    const match = /^(\d{1,6})(?:-(\d{1,6}))?$/.exec(part.trim());
    if (match === null) return null;
    const [low, high] = [Number(match[1]), Number(match[2] ?? match[1])];
    if (high < low) return null;
    for (let number = low; number <= high; number++) numbers.push(number);
  }
  return numbers;
}
