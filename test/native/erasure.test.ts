// SPDX-License-Identifier: Apache-2.0
// The erasure addon: every loss of small codes, checksums, bounds, threads and exits.

import { spawn } from "node:child_process";
import { once } from "node:events";
import t from "tap";
import { AssertionError } from "../../src/base/assert.js";
import { CLUSTER_BYTES, KIB, MIB } from "../../src/base/units.js";
import { ERASURE_INLINE_BYTES_MAX, ErasureSession } from "../../src/native/erasure.js";
import type { StripeLayout } from "../../src/platform/codec.js";

const ARENA_BYTES = 64 * MIB;
const DATA_AT = CLUSTER_BYTES;
const PARITY_AT = 24 * MIB;
const WANT_AT = 48 * MIB;

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
let state = seed;
function below(limit: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * limit);
}

const buffer = new ArrayBuffer(ARENA_BYTES);
const arena = new Uint8Array(buffer);
const session = new ErasureSession(buffer);

/** Encodes random data of `dataBytes` and gives copies of all fragments. */
async function encoded(layout: StripeLayout, dataBytes: number) {
  const { k, m, unitBytes, stripes } = layout;
  const words = new Uint32Array(buffer, DATA_AT, dataBytes / 4);
  for (let i = 0; i < words.length; i++) words[i] = below(2 ** 32);
  const fragmentBytes = unitBytes * stripes;
  const pages = fragmentBytes / CLUSTER_BYTES;
  const crcs = new Uint32Array((k + m) * pages);
  await session.encode(layout, DATA_AT, dataBytes, PARITY_AT, crcs);
  const fragments: Uint8Array[] = [];
  for (let f = 0; f < k + m; f++) {
    const fragment = new Uint8Array(fragmentBytes);
    for (let s = 0; s < stripes; s++) {
      const at = f < k ? (s * k + f) * unitBytes : (f - k) * fragmentBytes + s * unitBytes;
      const from = (f < k ? DATA_AT : PARITY_AT) + at;
      const end = f < k ? Math.min(from + unitBytes, DATA_AT + dataBytes) : from + unitBytes;
      if (end > from) fragment.set(arena.subarray(from, end), s * unitBytes);
    }
    fragments.push(fragment);
  }
  return { fragments, crcs, pages, fragmentBytes };
}

/** Fragments that are wanted from the first k that are left, or from k given ones. */
async function rebuilt(
  code: StripeLayout,
  fragments: Uint8Array[],
  lost: number[],
  have: number[],
) {
  const bytes = fragments[0]!.byteLength;
  const place = (at: number, i: number) => at + i * bytes;
  have.forEach((f, i) => void arena.set(fragments[f]!, place(DATA_AT, i)));
  arena.fill(0xaa, WANT_AT, place(WANT_AT, lost.length));
  await session.rebuild(
    code,
    have,
    have.map((_, i) => place(DATA_AT, i)),
    lost,
    lost.map((_, i) => place(WANT_AT, i)),
    bytes,
  );
  return lost.map((_, i) => arena.slice(place(WANT_AT, i), place(WANT_AT, i + 1)));
}

function subsets(count: number, sizeMax: number): number[][] {
  const all: number[][] = [];
  for (let bits = 1; bits < 2 ** count; bits++) {
    const list = Array.from({ length: count }, (_, i) => i).filter((i) => bits & (1 << i));
    if (list.length <= sizeMax) all.push(list);
  }
  return all;
}

t.test("CRC-32C has the standard's check values", async (t) => {
  const text = Buffer.from("123456789");
  t.equal(session.crc32cOf(text, 0), 0xe3069283);
  t.equal(session.crc32cOf(new Uint8Array(0), 0), 0);
  t.equal(session.crc32cOf(Buffer.alloc(32), 0), 0x8a9136aa);
  t.equal(session.crc32cOf(Buffer.alloc(32, 0xff), 0), 0x62a8ab43);
  t.equal(session.crc32cOf(Buffer.from(Array.from({ length: 32 }, (_, i) => i)), 0), 0x46dd794e);
  t.equal(session.crc32cOf(text.subarray(3), session.crc32cOf(text.subarray(0, 3), 0)), 0xe3069283);
  arena.set(text, DATA_AT + 7);
  t.equal(session.crc32c(DATA_AT + 7, 9, 0), 0xe3069283);
});

t.test("CRCs of clusters are verified and the first wrong one is named", async (t) => {
  const crcs = new Uint32Array(10);
  for (let i = 0; i < 8 * CLUSTER_BYTES; i++) arena[DATA_AT + i] = below(256);
  session.crc32cClusters(DATA_AT, 8, crcs, 2);
  t.equal(crcs[2 + 3], session.crc32c(DATA_AT + 3 * CLUSTER_BYTES, CLUSTER_BYTES, 0));
  t.same([crcs[0], crcs[1]], [0, 0]);
  t.equal(session.crc32cVerify(DATA_AT, 8, crcs, 2), -1);
  t.equal(session.crc32cVerify(DATA_AT, 0, crcs, 10), -1);
  for (let i = 7; i >= 0; i--) {
    arena[DATA_AT + i * CLUSTER_BYTES + below(CLUSTER_BYTES)]! ^= 1 << below(8);
    t.equal(session.crc32cVerify(DATA_AT, 8, crcs, 2), i);
  }
});

t.test("pieces are verified in their order, whatever their size", async (t) => {
  const crcs = new Uint32Array(1 + 6);
  const sizes = [1, 3, 2];
  const list = new Uint32Array(2 * sizes.length);
  for (let i = 0, page = 0; i < sizes.length; i++) {
    const at = DATA_AT + (10 - 4 * i) * CLUSTER_BYTES;
    const bytes = sizes[i]! * CLUSTER_BYTES;
    for (let j = 0; j < bytes; j++) arena[at + j] = below(256);
    session.crc32cClusters(at, sizes[i]!, crcs, 1 + page);
    list.set([at, bytes], 2 * i);
    page += sizes[i]!;
  }
  const pieces = { list, count: 3 };
  t.equal(session.crc32cVerifyPieces(pieces, crcs, 1), -1);
  t.equal(session.crc32cVerifyPieces({ list, count: 0 }, crcs, 7), -1);
  for (let page = 5; page >= 0; page--) {
    crcs[1 + page]! ^= 1 << below(31);
    t.equal(session.crc32cVerifyPieces(pieces, crcs, 1), page);
  }
});

for (const [k, m] of [
  [1, 1],
  [1, 3],
  [2, 1],
  [3, 2],
  [4, 2],
  [5, 3],
] as const) {
  t.test(`every loss of up to ${m} fragments of ${k}+${m} is rebuilt`, async (t) => {
    const layout = { k, m, unitBytes: 2 * CLUSTER_BYTES, stripes: 3 };
    const whole = k * 6 * CLUSTER_BYTES;
    const { fragments, crcs, pages } = await encoded(layout, whole - CLUSTER_BYTES);
    for (let f = 0; f < k + m; f++) {
      arena.set(fragments[f]!, DATA_AT);
      t.equal(session.crc32cVerify(DATA_AT, pages, crcs, f * pages), -1, `checksums of ${f}`);
    }
    for (const lost of subsets(k + m, m)) {
      const left = fragments.map((_, f) => f).filter((f) => !lost.includes(f));
      const back = await rebuilt(layout, fragments, lost, left.slice(-k));
      const equal = back.every((bytes, i) => Buffer.compare(bytes, fragments[lost[i]!]!) === 0);
      if (!equal) t.fail(`lost ${lost}`);
    }
  });
}

t.test(`random losses of larger codes are rebuilt (SEED=${seed})`, async (t) => {
  for (const [k, m, unit, stripes] of [
    [8, 3, 64 * KIB, 4],
    [20, 12, 16 * KIB, 2],
    [16, 4, 12 * KIB, 3],
    [32, 32, 4 * KIB, 2],
    [63, 1, 4 * KIB, 1],
  ] as const) {
    const layout = { k, m, unitBytes: unit, stripes };
    const missing = below((k * unit * stripes) / CLUSTER_BYTES) * CLUSTER_BYTES;
    const { fragments } = await encoded(layout, k * unit * stripes - missing);
    for (let round = 0; round < 12; round++) {
      const order = fragments.map((_, f) => f);
      for (let i = order.length - 1; i > 0; i--) {
        const j = below(i + 1);
        [order[i], order[j]] = [order[j]!, order[i]!];
      }
      const lost = order.slice(0, 1 + below(m));
      const back = await rebuilt(layout, fragments, lost, order.slice(m, m + k));
      const equal = back.every((bytes, i) => Buffer.compare(bytes, fragments[lost[i]!]!) === 0);
      t.ok(equal, `${k}+${m} lost ${lost}`);
    }
  }
});

t.test("large jobs are in flight at once and each gives its own result", async (t) => {
  const each = ERASURE_INLINE_BYTES_MAX / 4;
  const layout = { k: 4, m: 2, unitBytes: each, stripes: 1 };
  const pages = each / CLUSTER_BYTES;
  const arenaAt = (i: number) => DATA_AT + i * 7 * each;
  const jobs = [];
  const lists: Uint32Array[] = [];
  for (let i = 0; i < 3; i++) {
    arena.fill(i + 1, arenaAt(i), arenaAt(i) + 4 * each);
    const crcs = new Uint32Array(6 * pages);
    lists.push(crcs);
    jobs.push(session.encode(layout, arenaAt(i), 4 * each, arenaAt(i) + 4 * each, crcs));
  }
  await Promise.all(jobs);
  const rebuilds = lists.map((_, i) => {
    const haveAt = [0, 2, 3, 4].map((fragment) => arenaAt(i) + fragment * each);
    return session.rebuild(layout, [0, 2, 3, 4], haveAt, [1], [arenaAt(i) + 6 * each], each);
  });
  await Promise.all(rebuilds);
  for (let i = 0; i < 3; i++) {
    const at = arenaAt(i);
    t.equal(lists[i]![0], session.crc32c(at, CLUSTER_BYTES, 0));
    t.equal(session.crc32cVerify(at + 4 * each, 2 * pages, lists[i]!, 4 * pages), -1, `job ${i}`);
    t.equal(session.crc32cVerify(at + 6 * each, pages, lists[i]!, pages), -1, `rebuild ${i}`);
  }
});

t.test("wrong arguments are refused", async (t) => {
  const layout = { k: 4, m: 2, unitBytes: 4096, stripes: 1 };
  const crcs = new Uint32Array(6);
  const refuse = (what: string, work: () => unknown) => t.throws(work, AssertionError, what);
  const encode = (
    change: Partial<StripeLayout>,
    data = 4096,
    bytes = 16384,
    parity = 40960,
    list = crcs,
  ) => session.encode({ ...layout, ...change }, data, bytes, parity, list);
  refuse("k = 0", () => encode({ k: 0 }));
  refuse("m < 0", () => encode({ m: -1 }));
  refuse("k + m too large", () => encode({ k: 60, m: 5 }));
  refuse("a fraction", () => encode({ k: 1.5 }));
  refuse("unaligned unit", () => encode({ unitBytes: 4095 }));
  refuse("no unit", () => encode({ unitBytes: 0 }));
  refuse("data too long", () => encode({}, 4096, 20480, 40960));
  refuse("unaligned data", () => encode({}, 4096, 100, 40960));
  refuse("overlap", () => encode({}, 4096, 16384, 16384));
  refuse("behind the arena", () => encode({}, ARENA_BYTES - 4096, 16384, 40960));
  refuse("parity behind the arena", () => encode({}, 4096, 16384, ARENA_BYTES - 4096));
  refuse("short list", () => encode({}, 4096, 16384, 40960, new Uint32Array(5)));
  refuse("negative", () => encode({}, -4096, 16384, 40960));
  refuse("not a number", () => encode({}, Number.NaN));
  const rebuild = (have: number[], want: number[], bytes = 4096, at = 8192) =>
    session.rebuild(
      layout,
      have,
      have.map((_, i) => at + i * 4096),
      want,
      want.map(() => 65536),
      bytes,
    );
  refuse("too few", () => rebuild([0, 1, 2], [3]));
  refuse("twice the same", () => rebuild([0, 1, 2, 2], [3]));
  refuse("none wanted", () => rebuild([0, 1, 2, 3], []));
  refuse("no such fragment", () => rebuild([0, 1, 2, 6], [3]));
  refuse("no such wanted fragment", () => rebuild([0, 1, 2, 3], [-1]));
  refuse("unaligned range", () => rebuild([0, 1, 2, 3], [4], 100));
  refuse("range behind the arena", () => rebuild([0, 1, 2, 3], [4], 4096, ARENA_BYTES - 8192));
  refuse("crc behind the arena", () => session.crc32c(ARENA_BYTES, 1, 0));
  refuse("list too short", () => session.crc32cClusters(4096, 7, crcs, 0));
  refuse("index behind the list", () => session.crc32cVerify(4096, 2, crcs, 5));
  const piece = (at: number, bytes: number, index: number) =>
    session.crc32cVerifyPieces({ list: Uint32Array.of(at, bytes), count: 1 }, crcs, index);
  refuse("piece behind the arena", () => piece(ARENA_BYTES - 4096, 8192, 0));
  refuse("piece of half a cluster", () => piece(4096, 2048, 0));
  refuse("too few checksums for the pieces", () => piece(4096, 8192, crcs.length - 1));
  refuse("more pieces than the list has", () =>
    session.crc32cVerifyPieces({ list: Uint32Array.of(4096, 4096), count: 2 }, crcs, 0),
  );
  refuse("fraction of a byte", () => session.crc32c(4096, 1.5, 0));
});

const FACE = new URL("../../src/native/erasure.js", import.meta.url).href;

/** Source of a module that starts jobs of 24 MiB and then does `ending`. */
function program(ending: string): string {
  return `
    const { ErasureSession } = await import(${JSON.stringify(FACE)});
    const session = new ErasureSession(new ArrayBuffer(128 << 20));
    const jobs = [];
    for (let i = 0; i < 40; i++) {
      const layout = { k: 4, m: 2, unitBytes: 65536, stripes: 64 };
      jobs.push(session.encode(layout, 4096, 16 << 20, 32 << 20, new Uint32Array(6 * 1024)));
    }
    ${ending}`;
}

async function run(source: string): Promise<string> {
  const child = spawn(process.execPath, ["--expose-gc", "--input-type=module", "-e", source], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => (text += chunk.toString()));
  const [code, signal] = await once(child, "close");
  return `${text.trim()} ${code ?? signal}`.trim();
}

t.test("the process may end at every stage of a job", async (t) => {
  t.equal(await run(program("process.exit(7);")), "7", "jobs queued and running");
  t.equal(await run(program("setImmediate(() => process.exit(7));")), "7", "a turn later");
  t.equal(await run(program("await Promise.race(jobs); process.exit(7);")), "7", "one finished");
  t.equal(
    await run(program("await Promise.all(jobs); console.log('all');")),
    "all 0",
    "all finished",
  );
  t.equal(await run(program("jobs.length = 0; gc(); gc();")), "0", "nobody holds anything");
  t.equal(
    await run(
      program("await jobs[0]; throw 1;").replace("throw 1", "process.kill(process.pid, 'SIGKILL')"),
    ),
    "SIGKILL",
  );
});

t.test("a worker thread may end at every stage of a job", async (t) => {
  const thread = (ending: string) => `
    const { Worker } = await import("node:worker_threads");
    const source = ${JSON.stringify(program(ending))};
    for (let round = 0; round < 3; round++) {
      const worker = new Worker(new URL("data:text/javascript," + encodeURIComponent(source)));
      const ended = new Promise((resolve) => worker.once("exit", resolve));
      await new Promise((resolve) => worker.once("message", resolve));
      await worker.terminate();
      await ended;
    }
    console.log("ended");`;
  const post = `(await import("node:worker_threads")).parentPort.postMessage(1);`;
  const wait = "setInterval(() => {}, 1000);";
  t.equal(await run(thread(`${post} ${wait}`)), "ended 0", "terminated with jobs in flight");
  t.equal(await run(thread(`await jobs[0]; ${post} ${wait}`)), "ended 0", "one finished");
  t.equal(await run(thread(`${post} process.exit(0);`)), "ended 0", "the thread exits by itself");
  t.equal(await run(thread(`await Promise.all(jobs); ${post}`)), "ended 0", "all finished");
});
