// SPDX-License-Identifier: Apache-2.0
// The sim row: how much faster than the clock on the wall the simulator runs a cluster of 12 ASDs
// with all that goes wrong in it, one seed after the other in one process, which is one of those
// that `npm run sim` starts for each worker.

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { SEED_ENVIRONMENT } from "../src/bin/sim/pool.js";
import type { Row, RowContext } from "./lib/row.js";
import type { Line } from "./lib/stats.js";

const LOAD = new URL("./sim-load.js", import.meta.url).pathname;
const SEEDS = 4;
const TARGET = 50;

// The seeds of the process.
export const ASDS = 12;
export const SECONDS = 60;
/** Of the one client: enough for a seed that counts. */
export const REQUESTS_PER_SECOND = 12;

/** What a batch of seeds took. */
export interface Ran {
  simulatedMs: number;
  tookMs: number;
  cpuSeconds: number;
  /** Which seed failed and why; "": none. */
  failure: string;
}

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
    const env = { ...SEED_ENVIRONMENT, ...process.env };
    const load = fork(LOAD, [], { env });
    const ended = new AbortController();
    load.once("exit", () => ended.abort());
    try {
      const count = context.quick ? 1 : SEEDS;
      // The compiler's work is that of the first seeds only.
      await runSeeds(load, ended.signal, 1000, count);
      for (let round = 0; round < context.rounds; round++) {
        const first = 1 + round * SEEDS;
        const { simulatedMs, tookMs, cpuSeconds } = await runSeeds(
          load,
          ended.signal,
          first,
          count,
        );
        line.ours.push(simulatedMs / tookMs);
        line.oursCpuSeconds.push(cpuSeconds);
      }
    } finally {
      load.kill();
    }
    return [line];
  },
};

/** Rejects with an AbortError once the process has ended. */
async function runSeeds(
  load: ChildProcess,
  ended: AbortSignal,
  first: number,
  count: number,
): Promise<Ran> {
  load.send({ first, count });
  const [ran] = (await once(load, "message", { signal: ended })) as [Ran];
  if (ran.failure !== "") throw new Error(ran.failure);
  return ran;
}
