// SPDX-License-Identifier: Apache-2.0
// The process of the sim row: runs the seeds that it is told to and answers how long that took.

import { KIB, MIB } from "../src/base/units.js";
import { MemoryPool } from "../src/sim/memory.js";
import { type Plan, planOf, runSeed } from "../src/sim/run.js";
import { FailureDomain } from "../src/wire/generated/manifest.js";
import { ASDS, type Ran, REQUESTS_PER_SECOND, SECONDS } from "./sim.js";

async function runSeeds(pool: MemoryPool, first: number, count: number): Promise<Ran> {
  const before = process.cpuUsage();
  const beginMs = performance.now();
  let simulatedMs = 0;
  let failure = "";
  for (let seed = first; seed < first + count && failure === ""; seed++) {
    const options = { seed, seconds: SECONDS, traceAll: false, pool };
    const result = await runSeed(options, planOfTwelve(seed));
    if (result.failure !== "") failure = `seed ${seed}: ${result.failure}`;
    simulatedMs += result.simulatedMs;
  }
  const { user, system } = process.cpuUsage(before);
  const tookMs = performance.now() - beginMs;
  return { simulatedMs, tookMs, cpuSeconds: (user + system) / 1e6, failure };
}

/** A seed's plan with a cluster that is the same for all. */
function planOfTwelve(seed: number): Plan {
  const plan = planOf(seed);
  const name = plan.cluster.vdisks[0]!.name;
  return {
    ...plan,
    habits: [{ ...plan.habits[0]!, perSecond: REQUESTS_PER_SECOND }],
    cluster: {
      ...plan.cluster,
      asds: ASDS,
      diskHosts: ASDS,
      domain: FailureDomain.disk,
      proxies: 2,
      apart: "none",
      threads: 2,
      policy: { k: 4, m: 2, c: 5, x: 6 },
      vdisks: [{ name, sizeBytes: 4 * MIB }],
      scoBytes: 256 * KIB,
    },
  };
}

const pool = new MemoryPool();
process.on("message", ({ first, count }: { first: number; count: number }) => {
  void runSeeds(pool, first, count).then((ran) => process.send?.(ran));
});
process.on("disconnect", () => process.exit());
