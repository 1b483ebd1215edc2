// SPDX-License-Identifier: Apache-2.0
// Times of things that are done now and then. All that share a period are done in the same wake of
// the process: on multiples of it by the process's own clock.

import { assert } from "./assert.js";

/** A timer may ring a little early; that is the tick that it was set for. */
const EARLY_MS = 5;

/** Milliseconds to the next multiple of `periodMs`; one less than EARLY_MS away is skipped. */
export function untilTickMs(nowMs: number, periodMs: number): number {
  assert(periodMs > 0, "a period is positive");
  return (Math.floor((nowMs + EARLY_MS) / periodMs) + 1) * periodMs - nowMs;
}
