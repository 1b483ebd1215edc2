// SPDX-License-Identifier: Apache-2.0
// Run as a process and as a worker thread: brings a server to the stage that its argument names
// and leaves there, with everything open that is open then.

import { isMainThread, workerData } from "node:worker_threads";
import { loadNbdAddon } from "../../src/native/nbd.js";
import { makeBench } from "./bench.js";
import { Client, Cmd } from "./client.js";

export const STAGES = [
  "loaded",
  "made",
  "negotiating",
  "connected",
  "held",
  "collected",
  "closing",
  "stopped",
] as const;

async function reach(stage: string): Promise<void> {
  loadNbdAddon();
  if (stage === "loaded") return;
  const bench = makeBench({ slots: 4 });
  const target = bench.hold("vd0");
  if (stage === "made") return;
  const silent = await Client.connect(bench.address);
  await silent.read(18);
  if (stage === "negotiating") return;
  const client = await Client.open(bench.address);
  if (stage === "connected") return;
  for (let i = 0; i < 10; i++) client.write(BigInt(i), i * 4096, Buffer.alloc(4096));
  await target.holding(4);
  if (stage === "held") return;
  if (stage === "collected") {
    globalThis.gc?.();
    target.completeAll();
    await client.reply(0);
    globalThis.gc?.();
    return;
  }
  const [slot] = target.held;
  const stopping = bench.stop();
  if (stage === "closing") return;
  target.completeAll();
  await client.rest();
  await stopping;
  if (slot === undefined || Cmd.Write !== 1) throw new Error("unreachable");
}

const stage: string = isMainThread ? process.argv[2]! : workerData;
await reach(stage);
process.exit(0);
