// SPDX-License-Identifier: Apache-2.0
// The sim row: how much faster than the clock on the wall the simulator runs a cluster of 12 ASDs
// with all that goes wrong in it, one seed after the other in one process.

import { KIB, MIB } from "../src/base/units.js";
import { MemoryPool } from "../src/sim/memory.js";
import { type Plan, planOf, runSeed } from "../src/sim/run.js";
import { FailureDomain } from "../src/wire/generated/manifest.js";
import type { Row, RowContext } from "./lib/row.js";
import type { Line } from "./lib/stats.js";

const ASDS = 12;
const SEEDS = 4;
const SECONDS = 60;
const TARGET = 50;
/** Of the one client: enough for a seed that counts. */
const REQUESTS_PER_SECOND = 12;

export const simRow: Row = {
  name: "sim",
  target: `a simulated cluster of ${ASDS} ASDs and a router: ≥ ${TARGET} × real time`,
  run: async (context: RowContext): Promise<Line[]> => {
    const line: Line = {
      label: `${SEEDS} seeds of ${SECONDS} s, ${ASDS} ASDs, ${REQUESTS_PER_SECOND} requests/s`,
      unit: "× real time",
      better: "higher",
      peer: null,
      target: TARGET,
      ours: [],
      peers: [],
      oursCpuSeconds: [],
      peersCpuSeconds: [],
    };
    const pool = new MemoryPool();
    // The compiler's work is that of the first seeds only.
    await runSeeds(pool, 1000, context.quick ? 1 : SEEDS);
    for (let round = 0; round < context.rounds; round++) {
      const before = process.cpuUsage();
      const beginMs = performance.now();
      const simulatedMs = await runSeeds(pool, 1 + round * SEEDS, context.quick ? 1 : SEEDS);
      line.ours.push(simulatedMs / (performance.now() - beginMs));
      const { user, system } = process.cpuUsage(before);
      line.oursCpuSeconds.push((user + system) / 1e6);
    }
    return [line];
  },
};

/** Answers the milliseconds that were simulated. */
async function runSeeds(pool: MemoryPool, first: number, count: number): Promise<number> {
  let simulatedMs = 0;
  for (let seed = first; seed < first + count; seed++) {
    const options = { seed, seconds: SECONDS, traceAll: false, pool };
    const result = await runSeed(options, planOfTwelve(seed));
    if (result.failure !== "") throw new Error(`seed ${seed}: ${result.failure}`);
    simulatedMs += result.simulatedMs;
  }
  return simulatedMs;
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
