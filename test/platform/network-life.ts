// SPDX-License-Identifier: Apache-2.0
// node network-life.js main STEP SOCKET: goes through the life of a network up to a step, prints
// it, and ends there by process.exit. Step "idle" closes what it opened but does not stop the
// network: the process must then end by itself.
// node network-life.js workers STEPS SOCKET: the same in a worker for each step, which ends by
// process.exit, and in one that is terminated.

import { fileURLToPath } from "node:url";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import type { Connection } from "../../src/platform/network.js";
import { oneSegment } from "../../src/platform/segments.js";
import { socketWorld } from "./fixture.js";

const TIMEOUT_MS = 5000;

async function live(step: string, path: string, end: () => void): Promise<void> {
  const collect = () => (globalThis as { gc?: () => void }).gc?.();
  const reach = async (name: string) => {
    collect();
    if (name === step) {
      end();
      await new Promise(() => {});
    }
  };
  await reach("load");
  const world = socketWorld(72);
  await reach("open");
  let received = (): void => {};
  const receiving = new Promise<void>((resolve) => {
    received = resolve;
  });
  const listener = await world.network.listen(`unix:${path}`, () => ({
    onFrame: () => received(),
    onClose: () => {},
  }));
  await reach("listen");
  const handler = { onFrame: () => {}, onClose: () => {} };
  const made: Connection = await world.network.connect(listener.address, handler, TIMEOUT_MS);
  await reach("connect");
  const memory = world.arena.region(4096, "test");
  const frame = { kind: 0, operation: 1, status: 0, priority: 0, requestId: 1, timeoutMs: 0 };
  made.send(frame, new Uint8Array(10), oneSegment(memory, 4096), null);
  await reach("send");
  await receiving;
  await reach("receive");
  made.close("done");
  await listener.close();
  await reach("close");
  if (step === "idle") {
    end();
    return;
  }
  await world.network.stop();
  await reach("stop");
}

async function main(): Promise<void> {
  const [where, steps, path] = process.argv.slice(2) as [string, string, string];
  if (where === "main") {
    await live(steps, path, () => {
      console.log(steps);
      if (steps !== "idle") process.exit(0);
    });
    return;
  }
  const runs = steps.split(",").flatMap((step) => [step, `terminate ${step}`]);
  await Promise.all(runs.map((run, i) => runWorker(run, `${path}${i}`)));
  console.log(steps);
}

async function runWorker(run: string, path: string): Promise<void> {
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { run, path } });
  await new Promise<void>((resolve, reject) => {
    worker.on("error", reject);
    worker.on("message", () => {
      if (run.startsWith("terminate")) void worker.terminate();
    });
    worker.on("exit", () => resolve());
  });
}

if (isMainThread) await main();
else {
  const { run, path } = workerData as { run: string; path: string };
  await live(run.replace("terminate ", ""), path, () => {
    parentPort!.postMessage("here");
    if (!run.startsWith("terminate") && run !== "idle") process.exit(0);
  });
}
