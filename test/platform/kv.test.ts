// SPDX-License-Identifier: Apache-2.0
// RocksDB behind the contract, and what only a real store can be put through: kills, damage,
// threads.

import { spawn } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import os from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import t, { type Test } from "tap";
import { assert } from "../../src/base/assert.js";
import { hasCode } from "../../src/base/errors.js";
import { MIB } from "../../src/base/units.js";
import { loadKv } from "../../src/native/kv.js";
import type { KvStore } from "../../src/platform/kv.js";
import { NodeKv } from "../../src/platform/node/kv.js";
import { bytes, KV_OPTIONS, kvContract, seeded, text } from "./kv.contract.js";
import { mountSmall } from "./smallfs.js";

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
const root = fs.mkdtempSync(join(os.tmpdir(), "ovs-kv-"));
t.teardown(() => fs.rmSync(root, { recursive: true, force: true }));
let folders = 0;
const path = () => join(root, `store-${++folders}`);
const factory = new NodeKv();
const CHILD = new URL("./kv.child.js", import.meta.url).pathname;

t.test("the contract", async (t) => kvContract(t, { factory, path, seed }));

async function fill(store: KvStore, from: number, to: number, sync: boolean): Promise<void> {
  for (let i = from; i < to; i++) {
    const batch = store.batch();
    batch.put(bytes(`key ${String(i).padStart(6, "0")}`), bytes(`value ${i} `.repeat(10)));
    await store.write(batch, { sync });
  }
}

const count = async (store: KvStore) =>
  (await store.range({ first: null, end: null, reverse: false, limit: 1e6 })).length;

t.test("the addon refuses a batch that is not well formed", async (t) => {
  const addon = loadKv();
  const folder = path();
  let id = 0;
  await new Promise<void>((resolve, reject) => {
    id = addon.open(folder, 2 ** 20, 2 ** 20, true, (code, message) =>
      code === 0 ? resolve() : reject(new Error(message ?? "")),
    );
  });
  const header = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
  const never = () => t.fail("done must not run");
  const bad: Record<string, number[]> = {
    empty: [],
    "short header": header.slice(0, 11),
    "a sequence number": [9, ...header.slice(1), 0, 1, 97],
    "no record": header,
    "unknown tag": [...header, 2, 1, 97, 1, 98],
    "log data": [...header, 3, 1, 97],
    "cut in the key": [...header, 1, 5, 97],
    "no value": [...header, 1, 1, 97],
    "cut in the value": [...header, 1, 1, 97, 2, 98],
    "endless varint": [...header, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
    "length beyond": [...header, 0, 0xff, 0xff, 0xff, 0xff, 0x0f],
    "one record too many": [...header, 0, 1, 97, 0, 1, 98],
  };
  for (const [name, list] of Object.entries(bad)) {
    const wrong = addon.write(id, [new Uint8Array(list)], 1, false, never);
    t.type(wrong, "string", name);
  }
  await new Promise<void>((resolve) => addon.close(id, () => resolve()));
});

async function untilKilled(folder: string, lines: number): Promise<Map<string, number>> {
  const child = spawn(process.execPath, [CHILD, "write", folder], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const acknowledged = new Map<string, number>();
  let seen = 0;
  for await (const line of createInterface({ input: child.stdout! })) {
    const [name, i] = line.split(" ");
    if (Number(i) > 0) acknowledged.set(name!, Number(i));
    if (++seen === lines) child.kill("SIGKILL");
  }
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  return acknowledged;
}

t.test(`what was acknowledged survives SIGKILL (SEED=${seed})`, async (t) => {
  const below = seeded(seed);
  for (let round = 0; round < 4; round++) {
    const folder = path();
    const acknowledged = await untilKilled(folder, 200 + below(3000));
    const store = await factory.open(folder, { ...KV_OPTIONS, create: false });
    for (const [name, i] of acknowledged) {
      const last = Number(text(await store.get(bytes(name))));
      t.ok(last >= i, `chain ${name}: ${last} ≥ ${i}`);
      const entries = await store.range({
        first: bytes(`${name}/`),
        end: bytes(`${name}0`),
        reverse: false,
        limit: 1e6,
      });
      t.equal(entries.length, last, `chain ${name} has no hole`);
    }
    await store.close();
  }
});

t.test("a process may leave at any step of a store's life", async (t) => {
  const leave = async (mode: string, folder: string) => {
    const stdio = ["ignore", "ignore", "pipe"] as const;
    const child = spawn(process.execPath, [CHILD, mode, folder], { stdio: [...stdio] });
    let said = "";
    child.stderr!.on("data", (chunk: Buffer) => {
      said += chunk.toString();
    });
    const [code, signal] = (await once(child, "close")) as [number | null, string | null];
    if (code !== 0) t.comment(`${mode}: ${said}`);
    return `${code} ${signal}`;
  };
  for (const step of ["opening", "open", "working", "checkpoint", "closing", "end", "closed"]) {
    for (const where of ["leave", "worker"]) {
      const folder = path();
      t.equal(await leave(`${where}:${step}`, folder), "0 null", `${where} at ${step}`);
      const store = await factory.open(folder, KV_OPTIONS);
      if (step !== "opening" && step !== "open")
        t.ok((await count(store)) >= 2000, "nothing is lost");
      await store.close();
    }
  }
  t.equal(await leave("terminate", path()), "0 null", "a worker terminated while it writes");
  t.equal(await leave("late", path()), "0 null", "a worker that calls after it was terminated");
});

t.test("who has it open is named, across processes", async (t) => {
  const folder = path();
  const child = spawn(process.execPath, [CHILD, "write", folder], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout!, "data");
  child.stdout!.resume();
  await t.rejects(factory.open(folder, KV_OPTIONS), {
    code: "OVS_BUSY",
    message: `${folder} is already open in the process with pid ${child.pid}`,
  });
  child.kill("SIGKILL");
  await once(child, "exit");
  await (await factory.open(folder, KV_OPTIONS)).close();
});

/** A store with `synced` synced entries of which none is in a table yet; its log file. */
async function logOf(
  folder: string,
  options: { entries: number; clean: boolean },
): Promise<string> {
  const store = await factory.open(folder, KV_OPTIONS);
  await fill(store, 0, options.entries, true);
  if (options.clean) await store.close();
  else fs.cpSync(folder, `${folder}.crash`, { recursive: true });
  if (!options.clean) await store.close();
  const home = options.clean ? folder : `${folder}.crash`;
  const logs = fs.readdirSync(home).filter((name) => name.endsWith(".log"));
  return join(home, logs.sort().at(-1)!);
}

async function reopened(folder: string): Promise<number | string> {
  let store: KvStore | null = null;
  try {
    store = await factory.open(folder, { ...KV_OPTIONS, create: false });
    return await count(store);
  } catch (error) {
    if (hasCode(error, "OVS_CORRUPT")) return "corrupt";
    throw error;
  } finally {
    // A damaged table that compaction met fails the writes, and so the mark of a clean end.
    await store?.close().catch((error) => {
      if (!hasCode(error, "OVS_CORRUPT")) throw error;
    });
  }
}

async function damaged(
  t: Test,
  log: string,
  damage: (content: Buffer) => Buffer,
): Promise<number | string> {
  const folder = path();
  fs.cpSync(join(log, ".."), folder, { recursive: true });
  const copy = join(folder, log.split("/").at(-1)!);
  const content = damage(Buffer.from(fs.readFileSync(copy)));
  fs.writeFileSync(copy, content);
  const outcome = await reopened(folder);
  if (outcome === "corrupt") {
    t.ok(fs.readFileSync(copy).equals(content), "a refused store is left as it is");
    t.equal(await reopened(folder), "corrupt", "and stays refused");
  }
  return outcome;
}

t.test(`a byte flipped in the log is told from a torn tail (SEED=${seed})`, async (t) => {
  const below = seeded(seed);
  const flip = (at: number) => (content: Buffer) => {
    content[at]! ^= 1 << below(8);
    return content;
  };
  const log = await logOf(path(), { entries: 1000, clean: false });
  const size = fs.statSync(log).size;
  const record = Math.ceil(size / 1000);
  t.equal(await damaged(t, log, (content) => content), 1000, "undamaged");
  for (let i = 0; i < 25; i++) {
    const at = below(size - 2 * record - 40);
    t.equal(await damaged(t, log, flip(at)), "corrupt", `byte ${at} of ${size}`);
  }
  // The last record has nobody behind it that vouches for it: it is a torn tail.
  t.equal(await damaged(t, log, flip(size - 10)), 999);
  t.equal(await damaged(t, log, (content) => content.subarray(0, size - 3)), 999);
  t.equal(await damaged(t, log, (content) => Buffer.concat([content, Buffer.alloc(5000)])), 1000);
  t.equal(
    await damaged(t, log, (content) => Buffer.concat([content, Buffer.alloc(70_000, 9)])),
    1000,
  );
  // A block that reads as zeroes, and a whole one that is gone.
  t.equal(await damaged(t, log, (content) => content.fill(0, 32_768, 65_536)), "corrupt");
  t.equal(await damaged(t, log, (content) => content.fill(0, 0, 4096)), "corrupt");
  const cut = (content: Buffer) =>
    Buffer.concat([content.subarray(0, 32_768), content.subarray(65_536)]);
  t.equal(await damaged(t, log, cut), "corrupt");
});

t.test("after a clean end every record of the log is vouched for", async (t) => {
  const log = await logOf(path(), { entries: 50, clean: true });
  const size = fs.statSync(log).size;
  for (let at = 3; at < size - 60; at += 397) {
    const outcome = await damaged(t, log, (content) => {
      content[at]! ^= 0x10;
      return content;
    });
    t.equal(outcome, "corrupt", `byte ${at}`);
  }
});

t.test(
  "unsynced writes that a power cut tore out of order are cut, what was synced stays",
  async (t) => {
    const folder = path();
    const store = await factory.open(folder, KV_OPTIONS);
    await fill(store, 0, 100, true);
    await fill(store, 100, 900, false);
    fs.cpSync(folder, `${folder}.crash`, { recursive: true });
    await store.close();
    const log = join(
      `${folder}.crash`,
      fs.readdirSync(`${folder}.crash`).find((n) => n.endsWith(".log"))!,
    );
    const size = fs.statSync(log).size;
    for (const at of [Math.floor(size * 0.3), Math.floor(size * 0.6)]) {
      const outcome = await damaged(t, log, (content) => content.fill(0, at, at + 4096));
      t.ok(Number(outcome) >= 100 && Number(outcome) < 900, `${outcome} of 900 entries`);
    }
  },
);

t.test("a damaged table is refused at opening or when it is read, never served", async (t) => {
  const folder = path();
  const store = await factory.open(folder, { ...KV_OPTIONS, writeBufferBytes: 2 ** 16 });
  await fill(store, 0, 3000, false);
  await store.close();
  const table = fs
    .readdirSync(folder)
    .filter((name) => name.endsWith(".sst"))
    .sort()[0]!;
  const size = fs.statSync(join(folder, table)).size;
  for (const at of [100, size >> 1, size - 60, size - 3, size]) {
    const copy = path();
    fs.cpSync(folder, copy, { recursive: true });
    const content = fs.readFileSync(join(copy, table));
    content[at]! ^= 4;
    if (at === size) fs.rmSync(join(copy, table));
    else fs.writeFileSync(join(copy, table), content);
    const outcome = await reopened(copy);
    // Bytes that pad the footer may differ: then every entry must be there.
    t.ok(outcome === "corrupt" || (outcome === 3000 && size - at < 60), `byte ${at}: ${outcome}`);
  }
  t.equal(await reopened(folder), 3000);
  fs.rmSync(join(folder, "CURRENT"));
  t.equal(await reopened(folder).catch((error) => error.code), "OVS_NOT_FOUND");
  await t.rejects(
    factory.open(folder, KV_OPTIONS),
    { code: "OVS_CORRUPT" },
    "nothing is made anew",
  );
});

const mounted = mountSmall(root, 24 * MIB);
const skip = mounted === null ? "no right to mount" : false;

t.test("on a full file system nothing that was acknowledged is lost", { skip }, async (t) => {
  assert(mounted !== null, "the file system is mounted");
  t.teardown(mounted.unmount);
  const folder = join(mounted.path, "store");
  const child = spawn(process.execPath, [CHILD, "full", folder], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const closed = once(child, "close");
  const said: string[] = [];
  for await (const line of createInterface({ input: child.stdout })) said.push(line);
  const end = (await closed).map(String).join(" ");
  const acknowledged = said.filter((line) => /^[0-9]+$/.test(line)).length;
  t.ok(acknowledged > 100, `${acknowledged} writes of 16 KiB`);
  // RocksDB with its assertions ends the process where it cannot write a table to its end.
  if (end !== "null SIGABRT") t.equal(end, "0 null");
  const words = said.slice(acknowledged).join();
  if (words !== "") t.equal(words, "failed OVS_FULL OVS_FULL OVS_FULL 16384");
  const copy = path();
  fs.cpSync(folder, copy, { recursive: true });
  const store = await factory.open(copy, { ...KV_OPTIONS, create: false });
  t.equal(store.failure, null);
  const left = await count(store);
  t.ok(left >= acknowledged && left <= acknowledged + 1, `${left} of ${acknowledged}`);
  await fill(store, 0, 20, true);
  await store.close();
});

t.test("a folder that cannot be used is refused in words", async (t) => {
  fs.writeFileSync(join(root, "file"), "x");
  await t.rejects(factory.open(join(root, "file"), KV_OPTIONS), { message: /file/ });
  await t.rejects(factory.open("relative", KV_OPTIONS), { code: "OVS_INVALID" });
  await t.rejects(factory.open(join(root, "no", "such", "parent"), KV_OPTIONS), {
    message: /no.such/,
  });
});
