// SPDX-License-Identifier: Apache-2.0
// A process for kv.test.ts to kill: node kv.child.js MODE PATH. It prints what it has done.

import { writeSync } from "node:fs";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { loadKv } from "../../src/native/kv.js";
import { NodeKv } from "../../src/platform/node/kv.js";
import { bytes, KV_OPTIONS } from "./kv.contract.js";

const [mode, path] = isMainThread ? process.argv.slice(2) : (workerData as [string, string]);
const say = (line: string) => {
  if (parentPort) parentPort.postMessage(line);
  else writeSync(1, `${line}\n`);
};

/**
 * Writes counters in several chains at once, half of them synced, and says which are acknowledged.
 */
async function writeForever(): Promise<void> {
  const store = await new NodeKv().open(path!, { ...KV_OPTIONS, writeBufferBytes: 2 ** 18 });
  const chain = async (name: number) => {
    for (let i = 1; ; i++) {
      const batch = store.batch();
      batch.put(
        bytes(`${name}/${String(i).padStart(8, "0")}`),
        bytes("v".repeat(1 + ((i * 37) % 900))),
      );
      batch.put(bytes(`${name}`), bytes(String(i)));
      await store.write(batch, { sync: (name + i) % 2 === 0 });
      say(`${name} ${i}`);
    }
  };
  await Promise.all([0, 1, 2, 3, 4].map(chain));
}

/** Leaves the process at the named step of a store's life, with everything in flight. */
async function leaveAt(step: string): Promise<void> {
  const kv = new NodeKv();
  const opening = kv.open(path!, KV_OPTIONS);
  if (step === "opening") process.exit(0);
  const store = await opening;
  if (step === "open") process.exit(0);
  const batch = store.batch();
  for (let i = 0; i < 2000; i++) batch.put(bytes(`k${i}`), bytes("x".repeat(500)));
  await store.write(batch, { sync: true });
  const all = { first: null, end: null, reverse: false, limit: 100_000 };
  const snapshot = store.snapshot();
  const pending = [store.write(batch, { sync: true }), snapshot.range(all), store.stats()];
  if (step === "working") process.exit(0);
  if (step === "checkpoint") {
    void store.checkpoint(`${path}.copy`);
    process.exit(0);
  }
  await Promise.all(pending);
  const closing = store.close();
  if (step === "closing") process.exit(0);
  if (step === "end") return;
  await closing;
  process.exit(step === "closed" ? 0 : 9);
}

/** Writes until the file system is full, and says what was acknowledged, and how it ended. */
async function untilFull(): Promise<void> {
  const store = await new NodeKv().open(path!, { ...KV_OPTIONS, writeBufferBytes: 2 ** 20 });
  const put = async (i: number) => {
    const batch = store.batch();
    batch.put(bytes(`k${String(i).padStart(6, "0")}`), new Uint8Array(16 * 1024).fill(i));
    await store.write(batch, { sync: true });
    say(String(i));
  };
  const codeOf = (error: unknown) => (error as { code?: string }).code;
  let i = 0;
  const code = await (async () => {
    for (;;) await put(i++);
  })().catch(codeOf);
  const again = await put(i).catch(codeOf);
  const first = await store.get(bytes("k000000"));
  say(`failed ${code} ${store.failure?.code} ${again} ${first?.byteLength}`);
  await store.close();
}

async function inWorker(step: string): Promise<void> {
  const worker = new Worker(new URL(import.meta.url), { workerData: [`leave:${step}`, path] });
  const code = await new Promise<number>((resolve, reject) => {
    worker.on("exit", resolve);
    worker.on("error", reject);
  });
  // The thread is gone, and with it its hold on the store.
  const store = await new NodeKv().open(path!, KV_OPTIONS);
  await store.close();
  process.exitCode = code;
}

/** Ends workers in the middle of what they do; where exactly is chance, so it is done often. */
async function terminated(): Promise<void> {
  for (let i = 0; i < 40; i++) {
    const worker = new Worker(new URL(import.meta.url), { workerData: ["write", path] });
    await new Promise<void>((resolve) => worker.once("message", () => resolve()));
    await worker.terminate();
  }
}

/** A worker that calls the addon when its end has been asked for and it has not noticed yet. */
async function late(): Promise<void> {
  if (isMainThread) {
    const worker = new Worker(new URL(import.meta.url), { workerData: ["late", path] });
    await new Promise<void>((resolve) => worker.once("message", () => resolve()));
    await worker.terminate();
    return;
  }
  const addon = loadKv();
  const id = await new Promise<number>((resolve) => {
    const opened = addon.open(path!, 2 ** 20, 2 ** 20, true, () => resolve(opened));
  });
  const batch = new Uint8Array([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 97]);
  const large = new Uint8Array(2 ** 29);
  const batches = [batch];
  const { write, range } = addon;
  const done = () => undefined;
  say("ready");
  // A search in the engine's own code: it looks for no end, and neither does what comes after it
  // until the next function is entered.
  large.indexOf(1);
  write.call(addon, id, batches, 1, true, done);
  range.call(addon, id, 0, null, null, false, 1, done);
}

if (mode === "write") await writeForever();
else if (mode === "full") await untilFull();
else if (mode === "terminate") await terminated();
else if (mode === "late") await late();
else if (mode!.startsWith("leave:")) await leaveAt(mode!.slice(6));
else if (mode!.startsWith("worker:")) await inWorker(mode!.slice(7));
else process.exitCode = 2;
