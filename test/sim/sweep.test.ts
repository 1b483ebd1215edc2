// SPDX-License-Identifier: Apache-2.0
// The crash-point sweep, every so many points of it; `npm run sweep` runs all.

import t from "tap";
import { type CrashKind, type CrashPoint, sweepOnce } from "../../src/sim/sweep.js";

t.setTimeout(300_000);

const EVERY = process.env.OVS_LONG === "1" ? 5 : 40;
const KINDS: CrashKind[] = ["kill", "nothing", "everything", "chance"];
const FIRST = Number(process.env.SEED ?? Math.floor(Math.random() * EVERY));

t.test(`a crash at every ${EVERY}th operation of a story (SEED=${FIRST})`, async (t) => {
  const plain = await sweepOnce(1, null);
  t.equal(plain.failure, "", "without a crash it ends well");
  const points: CrashPoint[] = [];
  plain.effects.forEach((count, host) => {
    for (let number = 1 + (FIRST % EVERY); number <= count; number += EVERY) {
      points.push({ what: "disk", host, number });
    }
  });
  for (let number = 1 + (FIRST % EVERY); number <= plain.frames; number += 4 * EVERY) {
    points.push({ what: "frame", host: number % plain.effects.length, number });
  }
  t.ok(points.length >= 4, `${points.length} points`);
  let fired = 0;
  for (const [i, point] of points.entries()) {
    const kind = KINDS[i % KINDS.length]!;
    const result = await sweepOnce(1, { point, kind });
    if (result.fired) fired++;
    const last = result.trace.slice(-40).map(({ node, text }) => `${node}: ${text}`);
    t.equal(result.failure, "", `${JSON.stringify(point)}, ${kind}\n${last.join("\n")}`);
  }
  t.ok(fired > points.length / 2, `${fired} crashes happened`);
});
