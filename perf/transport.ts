// SPDX-License-Identifier: Apache-2.0
// The transport row: requests between two processes over a unix socket, through rpc and the addon,
// against plain node:net without checksums. The frames of cold reads and of uploads.

import { existsSync, rmSync } from "node:fs";
import { CLUSTER_BYTES, MIB } from "../src/base/units.js";
import { cpuSecondsOf, runLoad, startServer } from "./lib/process.js";
import type { Row, RowContext } from "./lib/row.js";
import type { Line, Round } from "./lib/stats.js";
import { alternate } from "./lib/stats.js";

const OURS = new URL("./transport-load.js", import.meta.url).pathname;
const PEER = new URL("./transport-peer.js", import.meta.url).pathname;

const WORKS = [
  { work: "get", bytes: CLUSTER_BYTES, depth: 32, label: "4 KiB answers, QD 32", target: null },
  { work: "get", bytes: CLUSTER_BYTES, depth: 1, label: "4 KiB answers, QD 1", target: null },
  { work: "put", bytes: MIB, depth: 8, label: "1 MiB uploads, QD 8", target: 1 },
  { work: "get", bytes: MIB, depth: 8, label: "1 MiB answers, QD 8", target: 1 },
] as const;

export const transportRow: Row = {
  name: "transport",
  target: "1 MiB payloads over a unix socket, checksummed: ≥ 1 × plain node:net without",
  async run(context: RowContext): Promise<Line[]> {
    const lines: Line[] = [];
    for (const { work, bytes, depth, label, target } of WORKS) {
      context.say(`${context.rounds} rounds of ${label}`);
      const side = (program: string) => () => round(context, program, work, bytes, depth);
      const rounds = await alternate(context.rounds, side(OURS), side(PEER));
      lines.push({
        label,
        unit: "requests/s",
        better: "higher",
        peer: "node:net",
        target,
        ...rounds,
      });
    }
    return lines;
  },
};

async function round(
  context: RowContext,
  program: string,
  work: string,
  bytes: number,
  depth: number,
): Promise<Round> {
  const socket = `${context.folder}/transport.sock`;
  rmSync(socket, { force: true });
  const server = await startServer(
    process.execPath,
    [program, "serve", socket],
    () => existsSync(socket),
    { timeoutMs: 10_000 },
  );
  try {
    const before = cpuSecondsOf([server.pid]);
    const args = [work, socket, bytes, depth, context.seconds / 2];
    const timeoutMs = (context.seconds + 30) * 1000;
    const result = await runLoad<Round>(program, args, { timeoutMs });
    if (program === PEER) result.cpuSeconds += cpuSecondsOf([server.pid]) - before;
    return result;
  } finally {
    await server.stop();
  }
}
