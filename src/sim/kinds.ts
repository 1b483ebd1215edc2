// SPDX-License-Identifier: Apache-2.0
// The kinds of trouble that there are, and how often each happens in a seed.

import type { Dice } from "./dice.js";

/** Mean time between two troubles where some kinds are asked for. */
const MORE_EVERY_MS = 2000;
/** And where a seed has had too few. */
const PRESSED_EVERY_MS = 1000;

export interface NemesisOptions {
  /** Mean time between two troubles in milliseconds. */
  everyMs: number;
  /** Mean time that a trouble goes on. */
  lastMs: number;
  /** Weight of each kind; a kind with 0 is off. */
  weights: Record<TroubleKind, number>;
  /** Troubles that would happen and do not: all of a kind, or single ones by their number. */
  omit: (number: number, kind: TroubleKind) => boolean;
}

export const TROUBLES = [
  "kill router",
  "kill asd",
  "kill proxy",
  "kill registry",
  "freeze process",
  "freeze host",
  "power of another host",
  "power of the router's host",
  "partition",
  "one way",
  "slow link",
  "lossy link",
  "reset connections",
  "slow disk",
  "read errors",
  "full disk",
  "bit rot",
  "lost writes",
  "misdirected writes",
  "clock jump",
] as const;
/** Drawn apart from the others, so that what those do in a seed stays what it was. */
export const FURTHER_TROUBLES = [
  "wiped disk",
  "replaced disk",
  "stop process",
  "half-open connection",
  "late frames",
  "refused connections",
  "hanging connections",
  "narrow link",
  "write errors",
  "sync errors",
  "dead disk",
  "slow front disk",
] as const;
/** Drawn apart once more, for the same reason. */
export const LATER_TROUBLES = [
  "kill at a step",
  "freeze at a step",
  "power at a step",
  "full front disk",
  "damaged index",
  "damaged map",
  "rot of the read cache",
  "changed address",
  "drained disk",
  "restart of all",
  "most disks away",
  "hanging operation",
] as const;
/** As those. */
export const LATEST_TROUBLES = ["slow reads"] as const;
export const ALL_TROUBLES = [
  ...TROUBLES,
  ...FURTHER_TROUBLES,
  ...LATER_TROUBLES,
  ...LATEST_TROUBLES,
] as const;
export type TroubleKind = (typeof ALL_TROUBLES)[number];

/** Weights of a seed: about half of the kinds, some of them wild. */
export function someTroubles(dice: Dice): NemesisOptions {
  const weights = Object.fromEntries(
    TROUBLES.map((kind) => [kind, dice.chance(0.5) ? dice.around(1) : 0]),
  ) as Record<TroubleKind, number>;
  // A seed without a crash says little.
  weights["kill router"] += 0.3;
  const everyMs = dice.pick([500, 1000, 2000, 4000]);
  const more = dice.fork("further");
  for (const kind of FURTHER_TROUBLES) weights[kind] = more.chance(0.4) ? more.around(0.7) : 0;
  const later = dice.fork("later");
  for (const kind of LATER_TROUBLES) weights[kind] = later.chance(0.3) ? later.around(0.7) : 0;
  const latest = dice.fork("latest");
  for (const kind of LATEST_TROUBLES) weights[kind] = latest.chance(0.4) ? latest.around(0.7) : 0;
  // What hangs makes room for all others between two steps.
  const hanging = dice.fork("hanging");
  weights["hanging operation"] = hanging.chance(0.5) ? hanging.around(2) : 0;
  const lastMs = dice.fork("lasting").pick([1000, 3000, 3000, 10_000]);
  return { everyMs, lastMs, weights, omit: () => false };
}

/** The same with more of some kinds: together they are as likely as all others. */
export function withMore(options: NemesisOptions, kinds: readonly TroubleKind[]): NemesisOptions {
  if (kinds.length === 0) return options;
  const weights = { ...options.weights };
  const sum = ALL_TROUBLES.reduce((total, kind) => total + weights[kind], 0);
  for (const kind of kinds) weights[kind] += sum / kinds.length;
  return { ...options, everyMs: Math.min(options.everyMs, MORE_EVERY_MS), weights };
}

/** Of a seed that has had too few: kinds that have an effect whatever else the seed is like. */
export function pressed(options: NemesisOptions): NemesisOptions {
  const weights = Object.fromEntries(ALL_TROUBLES.map((kind) => [kind, 0])) as Record<
    TroubleKind,
    number
  >;
  const sure = ["kill router", "kill asd", "freeze process", "partition", "slow disk"] as const;
  for (const kind of sure) weights[kind] = 1;
  return { ...options, everyMs: Math.min(options.everyMs, PRESSED_EVERY_MS), weights };
}
