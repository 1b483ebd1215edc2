// SPDX-License-Identifier: Apache-2.0
// The raw file behind the NBD server, on a disk that fails as told: which operations a request
// becomes, and what its client hears when one of them does not work.

import t from "tap";
import type { ErrorKind } from "../../src/base/errors.js";
import { MIB } from "../../src/base/units.js";
import { FileTarget } from "../../src/nbd/file.js";
import type { Requests } from "../../src/nbd/target.js";
import { RequestFlag, RequestKind } from "../../src/nbd/target.js";
import { Arena } from "../../src/platform/arena.js";
import type { CompletionHandler, Disk } from "../../src/platform/disk.js";

const { Fua, NoHole, FastZero } = RequestFlag;
const MEMORY = 8192;

interface Operation {
  what: string;
  offset: number;
  bytes: number;
}

/** One slot, and a disk whose operations the test completes. */
async function makeBench() {
  const arena = new Arena(new ArrayBuffer(4 * MIB));
  arena.region(MIB, "slots");
  const staged: Operation[] = [];
  let done: CompletionHandler = () => {};
  const stage =
    (what: string) =>
    (_handler: number, _tag: number, _file: number, offset = 0, a = 0, b?: number) =>
      void staged.push({ what, offset, bytes: b ?? a });
  const disk = {
    open: async () => 1,
    size: async () => 64 * MIB,
    close: async () => {},
    handler: (handler: CompletionHandler) => {
      done = handler;
      return 1;
    },
    read: stage("read"),
    write: stage("write"),
    punch: stage("punch"),
    sync: stage("sync"),
  } as unknown as Disk;
  const ended: Array<ErrorKind | null | string> = [];
  const requests = {
    slots: 1,
    kind: new Uint8Array(1),
    flags: new Uint16Array(1),
    offset: new Float64Array(1),
    length: new Float64Array(1),
    memory: new Uint32Array([MEMORY]),
    complete: (_slot: number, error: ErrorKind | null) => void ended.push(error),
    completeStatus: (_slot: number, count: number) => void ended.push(`${count} extents`),
    completeNotFast: () => void ended.push("not fast"),
  } as unknown as Requests;
  const target = await FileTarget.open({ arena, disk }, requests, "/disk", false);
  /** Runs a request; each operation ends with the next of `results` (missing: all went well). */
  function run(kind: number, flags: number, bytes: number, results: number[]) {
    Object.assign(staged, { length: 0 });
    Object.assign(ended, { length: 0 });
    requests.kind[0] = kind;
    requests.flags[0] = flags;
    requests.offset[0] = kind === RequestKind.Flush ? 0 : 5000;
    requests.length[0] = bytes;
    target.admit(0);
    for (let i = 0; i < staged.length; i++) done(0, results[i] ?? staged[i]!.bytes);
    return { operations: staged.map((operation) => operation.what).join(" "), end: ended[0] };
  }
  return { arena, run, staged };
}

t.test("a request is the operations that it needs, and no others", async (t) => {
  const { run } = await makeBench();
  const { Read, Write, Flush, Trim, WriteZeroes, Cache, BlockStatus } = RequestKind;
  const cases: Array<[number, number, number, number[], string, unknown]> = [
    [Read, 0, 4096, [], "read", null],
    [Read, 0, 4096, [-5], "read", "unavailable"],
    [Write, 0, 4096, [], "write", null],
    [Write, Fua, 4096, [], "write sync", null],
    [Write, Fua, 4096, [4096, -5], "write sync", "unavailable"],
    [Write, Fua, 4096, [-28], "write", "full"],
    [Write, 0, 4096, [-122], "write", "full"],
    [Flush, 0, 0, [0], "sync", null],
    [Flush, 0, 0, [-5], "sync", "unavailable"],
    [Trim, 0, 4096, [0], "punch", null],
    [Trim, Fua, 4096, [0, 0], "punch sync", null],
    [Trim, 0, 4096, [-95], "punch", null],
    [WriteZeroes, 0, 4096, [0], "punch", null],
    [WriteZeroes, Fua, 4096, [-95], "punch write sync", null],
    [WriteZeroes, 0, 4096, [-28], "punch", "full"],
    [WriteZeroes, FastZero, 4096, [-95], "punch", "not fast"],
    [WriteZeroes, NoHole, 4096, [], "write", null],
    [WriteZeroes, NoHole, 2.5 * MIB, [], "write write write", null],
    [WriteZeroes, NoHole, 2.5 * MIB, [MIB, -28], "write write", "full"],
    [WriteZeroes, NoHole | FastZero, 4096, [], "", "not fast"],
    [Cache, 0, 4096, [], "", null],
    [BlockStatus, 0, 4096, [], "", "1 extents"],
  ];
  for (const [kind, flags, bytes, results, operations, end] of cases) {
    const found = run(kind, flags, bytes, results);
    t.same(found, { operations, end }, `kind ${kind}, flags ${flags}, results ${results}`);
  }
});

t.test("zeroes are written piece by piece at their places", async (t) => {
  const { run, staged } = await makeBench();
  run(RequestKind.WriteZeroes, NoHole, 2.5 * MIB, []);
  t.same(staged, [
    { what: "write", offset: 5000, bytes: MIB },
    { what: "write", offset: 5000 + MIB, bytes: MIB },
    { what: "write", offset: 5000 + 2 * MIB, bytes: MIB / 2 },
  ]);
});

t.test("what is missing of a file that was cut reads as zeroes", async (t) => {
  const { arena, run } = await makeBench();
  arena.bytes.fill(1, MEMORY, MEMORY + 5000);
  t.same(run(RequestKind.Read, 0, 4096, [1000]).end, null);
  t.equal(arena.bytes.subarray(MEMORY, MEMORY + 4096).filter((byte) => byte !== 0).length, 1000);
  t.equal(arena.bytes[MEMORY + 4096], 1, "and nothing behind it is touched");
});
