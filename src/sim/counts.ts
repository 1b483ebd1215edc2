// SPDX-License-Identifier: Apache-2.0
// When a seed says something: it was long, clients were answered, and enough went wrong. Faults are
// counted where they have an effect (Scene.count); what an operator does in order is none.

import type { TroubleKind } from "./kinds.js";
import type { RunResult } from "./run.js";

/** What a seed must have to count; one of full length goes on for longer to have it. */
export const COUNTS = { seconds: 60, acknowledged: 500, crashes: 1, others: 5, troubles: 5 };

/** Faults that are only consequences of another. */
const CONSEQUENCES: readonly string[] = ["net power", "net freeze"];
/**
 * Counted with the faults, for people: calls of the operator, clean stops; and at which steps the
 * power failed, which is counted as a loss of power.
 */
const OPERATIONS =
  /^(vDisk |stop |disk (replaced|drained)|address|restart of all|power at |router's data lost)/;
const CRASHES = /^(kill |power)/;
const CALLS: readonly TroubleKind[] = [
  "stop process",
  "replaced disk",
  "changed address",
  "drained disk",
  "restart of all",
];

export interface FaultCounts {
  /** Processes that were killed, and hosts that lost their power. */
  crashes: number;
  /** Everything else that went wrong. */
  others: number;
  /** Troubles that others came from: each may have had many effects, or none. */
  troubles: number;
}

/** What went wrong, of a run's counted faults and of the troubles that began in it. */
export function countFaults({
  faults,
  troubles,
}: Pick<RunResult, "faults" | "troubles">): FaultCounts {
  let [crashes, others] = [0, 0];
  for (const [kind, count] of Object.entries(faults)) {
    if (OPERATIONS.test(kind) || CONSEQUENCES.includes(kind)) continue;
    if (CRASHES.test(kind)) crashes += count;
    else others += count;
  }
  const isOther = (kind: TroubleKind) => !CRASHES.test(kind) && !CALLS.includes(kind);
  return { crashes, others, troubles: troubles.filter(({ kind }) => isOther(kind)).length };
}

/** Words for what a run must have that this one lacks; none: it counts. */
export function lacks(
  result: Pick<RunResult, "failure" | "simulatedMs" | "acknowledged" | "faults" | "troubles">,
): string[] {
  if (result.failure !== "") return ["failed"];
  const { crashes, others, troubles } = countFaults(result);
  const found: Array<[words: string, has: number, needs: number]> = [
    ["simulated seconds", result.simulatedMs / 1000, COUNTS.seconds],
    ["requests answered", result.acknowledged, COUNTS.acknowledged],
    ["crash", crashes, COUNTS.crashes],
    ["other faults", others, COUNTS.others],
    ["other troubles", troubles, COUNTS.troubles],
  ];
  const lacking = found.filter(([, has, needs]) => has < needs);
  return lacking.map(([words, , needs]) => `fewer than ${needs} ${words}`);
}
