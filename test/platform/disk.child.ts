// SPDX-License-Identifier: Apache-2.0
// A process for disk.test.ts: node --expose-gc disk.child.js STEP ENGINE FOLDER leaves at the
// named step of a disk's life. It must end with code 0 by itself, whatever is in flight.

import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { CLUSTER_BYTES, MIB } from "../../src/base/units.js";
import type { DiskEngineName } from "../../src/platform/node/engine.js";
import { createWorld } from "../../src/platform/node/world.js";

const [step, engine, folder] = (isMainThread ? process.argv.slice(2) : workerData) as string[];
const collect = () => (globalThis as { gc?: () => void }).gc?.();

function makeWorld() {
  const world = createWorld({
    name: "child",
    arenaBytes: 32 * MIB,
    disk: engine as DiskEngineName,
    terminal: null,
  });
  return { world, memory: world.arena.region(16 * MIB, "child") };
}

/** Opens a file and fills the ring with operations, also long ones. */
async function startWork() {
  const { world, memory } = makeWorld();
  const { disk } = world;
  const path = `${folder}/${step}-${process.pid}`;
  const file = await disk.open(path, { create: true, exclusive: false, write: true, direct: true });
  let done = 0;
  const handler = disk.handler(() => void done++);
  world.turn.begin();
  disk.allocate(handler, 0, file, 0, 64 * MIB);
  for (let i = 0; i < 2000; i++) {
    disk.write(handler, i, file, i * CLUSTER_BYTES, memory + i * CLUSTER_BYTES, CLUSTER_BYTES);
    if (i % 100 === 0) disk.sync(handler, i, file);
  }
  disk.write(handler, 0, file, 16 * MIB, memory, 16 * MIB);
  disk.truncate(handler, 0, file, 128 * MIB);
  world.turn.end();
  return { world, file, started: disk.inFlight, done: () => done };
}

async function leave(): Promise<void> {
  switch (step) {
    case "arena":
      makeWorld();
      break;
    case "idle":
      void makeWorld().world.disk.engine;
      break;
    case "idle-exit":
      void makeWorld().world.disk.engine;
      process.exit(0);
      break;
    case "in-flight": {
      // The loop stays alive until all of it is done.
      const work = await startWork();
      process.on("exit", () => {
        if (work.done() !== work.started) process.exitCode = 1;
      });
      break;
    }
    case "in-flight-exit":
      await startWork();
      process.exit(0);
      break;
    case "stop": {
      const work = await startWork();
      await work.world.stop();
      await work.world.stop();
      if (work.done() !== work.started) process.exitCode = 1;
      break;
    }
    case "garbage":
      for (let i = 0; i < 8; i++) {
        const { world } = makeWorld();
        void world.disk.engine;
        if (i % 2 === 0) await world.stop();
        collect();
      }
      break;
    case "handler-throws": {
      const { world } = await startWork();
      process.on("uncaughtException", (error) => process.exit(error.message === "boom" ? 0 : 1));
      const handler = world.disk.handler(() => {
        throw new Error("boom");
      });
      world.disk.sync(handler, 0, 0);
      break;
    }
    case "write-device": {
      // `folder` is the device; the write may take for ever.
      const { world, memory } = makeWorld();
      const old = { create: false, exclusive: false, write: true, direct: true };
      const file = await world.disk.open(folder!, old);
      world.arena.bytes.fill(1, memory, memory + CLUSTER_BYTES);
      void world.disk.writeAsync(file, 0, memory, CLUSTER_BYTES);
      setTimeout(() => process.stdout.write("under way\n"), 0);
      break;
    }
    case "hold-lock":
      await makeWorld().world.disk.files.lock(folder!);
      process.stdout.write("held\n");
      setInterval(() => {}, 1000);
      break;
    default:
      throw new Error(`no step ${step}`);
  }
  collect();
}

/** The same inside a worker; it is terminated, exits, or ends by itself. */
async function inWorker(inner: string, terminate: boolean): Promise<void> {
  for (let i = 0; i < 2; i++) {
    const options = { workerData: [inner, engine, folder] };
    const worker = new Worker(new URL(import.meta.url), options);
    const ended = new Promise<number>((resolve, reject) => {
      worker.on("exit", resolve);
      worker.on("error", reject);
    });
    if (terminate) {
      await new Promise((resolve) => worker.once("message", resolve));
      await worker.terminate();
    }
    const code = await ended;
    if (code !== 0 && !(terminate && code === 1)) throw new Error(`worker ended with ${code}`);
    collect();
  }
}

if (isMainThread && step!.startsWith("worker-")) {
  await inWorker(step!.slice("worker-".length), false);
} else if (isMainThread && step!.startsWith("terminate-")) {
  await inWorker(step!.slice("terminate-".length), true);
} else {
  await leave();
  parentPort?.postMessage("ready");
}
