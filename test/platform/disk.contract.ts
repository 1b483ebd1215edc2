// SPDX-License-Identifier: Apache-2.0
// What every implementation of Disk must do. The ring, node:fs and the simulated disk run it.

import type { Test } from "tap";
import { AssertionError } from "../../src/base/assert.js";
import { equalBytes } from "../../src/base/bytes.js";
import type { ErrorCode } from "../../src/base/errors.js";
import { hasCode, messageOf } from "../../src/base/errors.js";
import { CLUSTER_BYTES, GIB, MIB } from "../../src/base/units.js";
import type { Arena } from "../../src/platform/arena.js";
import {
  DISK_DEPTH_MAX,
  type Disk,
  type FileId,
  type OpenOptions,
} from "../../src/platform/disk.js";
import type { Turn } from "../../src/platform/turn.js";

export interface DiskHarness {
  world: { disk: Disk; arena: Arena; turn: Turn };
  /** A path in a folder that exists, never the same twice; nothing lies there. */
  path(): string;
  seed: number;
}

const NEW: OpenOptions = { create: true, exclusive: true, write: true, direct: true };
const BUFFERED: OpenOptions = { ...NEW, direct: false };
const OLD: OpenOptions = { create: false, exclusive: false, write: true, direct: true };
/** Memory of one test; they run one after the other. */
const ARENA_BYTES = 24 * MIB;

/** Small, fast and repeatable. */
export function seeded(seed: number): (limit: number) => number {
  let state = (seed >>> 0) + 1;
  return (limit) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

/** Runs the contract as subtests of `t`. */
export async function diskContract(t: Test, harness: DiskHarness): Promise<void> {
  const memory = harness.world.arena.region(ARENA_BYTES, "disk contract");
  const suite = new Suite(harness, memory);
  await t.test("what was written is read, far apart and of any length", (t) => suite.transfer(t));
  await t.test("a read past the end gives what there is", (t) => suite.endOfFile(t));
  await t.test("lists of pieces are gathered and scattered in order", (t) => suite.pieces(t));
  await t.test("4096 operations are taken at once, one more is refused", (t) => suite.depth(t));
  await t.test("completions come in turns; handlers may stage more", (t) => suite.turns(t));
  await t.test("sizes: allocate, truncate, punch, sync", (t) => suite.sizes(t));
  await t.test("errors name the file and what is wrong with it", (t) => suite.errors(t));
  await t.test("a caller's mistake is an assertion", (t) => suite.assertions(t));
  await t.test("close waits for what is in flight", (t) => suite.closing(t));
  await t.test("a file is open for writing once at a time", (t) => suite.oneWriter(t));
  await t.test("random operations agree with a model", (t) => suite.model(t));
  await t.test("small files, folders and names", (t) => suite.names(t));
  await t.test("a folder has one owner", (t) => suite.lock(t));
}

class Suite {
  readonly #harness: DiskHarness;
  readonly #disk: Disk;
  readonly #arena: Arena;
  readonly #turn: Turn;
  readonly #at: number;

  constructor(harness: DiskHarness, memory: number) {
    this.#harness = harness;
    this.#disk = harness.world.disk;
    this.#arena = harness.world.arena;
    this.#turn = harness.world.turn;
    this.#at = memory;
  }

  async transfer(t: Test): Promise<void> {
    const [disk, at] = [this.#disk, this.#at];
    const random = seeded(this.#harness.seed);
    const file = await disk.open(this.#harness.path(), NEW);
    for (const offset of [0, CLUSTER_BYTES, 5 * GIB, 9 * 1024 * GIB]) {
      const bytes = CLUSTER_BYTES * (1 + random(64));
      this.#fill(at, bytes, random);
      await disk.writeAsync(file, offset, at, bytes);
      t.equal(await disk.readAsync(file, offset, at + 8 * MIB, bytes), bytes);
      t.ok(this.#same(at, at + 8 * MIB, bytes), `${bytes} bytes at ${offset}`);
    }
    t.equal(await disk.readAsync(file, GIB, at, CLUSTER_BYTES), CLUSTER_BYTES);
    t.ok(this.#zero(at, CLUSTER_BYTES), "between them it is zero");
    this.#fill(at, 8 * MIB, random);
    await disk.writeAsync(file, 0, at, 8 * MIB);
    t.equal(await disk.readAsync(file, 0, at + 8 * MIB, 8 * MIB), 8 * MIB);
    t.ok(this.#same(at, at + 8 * MIB, 8 * MIB), "8 MiB in one piece");
    await disk.close(file);
    const buffered = await disk.open(this.#harness.path(), BUFFERED);
    await disk.writeAsync(buffered, 3, at + 1, 10_001);
    t.equal(await disk.readAsync(buffered, 3, at + 8 * MIB + 7, 10_001), 10_001);
    t.ok(this.#same(at + 1, at + 8 * MIB + 7, 10_001), "buffered files take any alignment");
    t.equal(await disk.size(buffered), 10_004);
    await disk.close(buffered);
  }

  async endOfFile(t: Test): Promise<void> {
    const [disk, at] = [this.#disk, this.#at];
    const path = this.#harness.path();
    const file = await disk.open(path, NEW);
    t.equal(await disk.readAsync(file, 0, at, CLUSTER_BYTES), 0, "an empty file");
    await disk.writeAsync(file, 0, at, 2 * CLUSTER_BYTES);
    t.equal(await disk.readAsync(file, 0, at, 4 * CLUSTER_BYTES), 2 * CLUSTER_BYTES);
    t.equal(await disk.readAsync(file, CLUSTER_BYTES, at, MIB), CLUSTER_BYTES);
    t.equal(await disk.readAsync(file, 2 * CLUSTER_BYTES, at, CLUSTER_BYTES), 0, "at the end");
    t.equal(await disk.readAsync(file, GIB, at, CLUSTER_BYTES), 0, "far behind it");
    await disk.truncateAsync(file, CLUSTER_BYTES + 100);
    t.equal(await disk.readAsync(file, 0, at, 4 * CLUSTER_BYTES), CLUSTER_BYTES + 100);
    const pieces = Uint32Array.of(at, CLUSTER_BYTES, at + MIB, CLUSTER_BYTES, at, CLUSTER_BYTES);
    const [result] = await this.#batch(1, (handler) => {
      disk.readScatter(handler, 0, file, 0, pieces, 3);
    });
    t.equal(result, CLUSTER_BYTES + 100, "also scattered");
    await disk.close(file);
  }

  async pieces(t: Test): Promise<void> {
    const [disk, at] = [this.#disk, this.#at];
    const random = seeded(this.#harness.seed + 1);
    const file = await disk.open(this.#harness.path(), NEW);
    for (const count of [1, 2, 257, 1024]) {
      this.#fill(at, count * CLUSTER_BYTES, random);
      const order = shuffled(count, random);
      const list = new Uint32Array(2 * count + 2);
      for (let i = 0; i < count; i++)
        list.set([at + order[i]! * CLUSTER_BYTES, CLUSTER_BYTES], 2 * i);
      const offset = CLUSTER_BYTES * random(100);
      const [written] = await this.#batch(1, (handler) => {
        disk.writeGather(handler, 0, file, offset, list, count);
        list.fill(0); // The list was copied.
      });
      t.equal(written, count * CLUSTER_BYTES);
      for (let i = 0; i < count; i++) {
        list.set([at + 8 * MIB + order[i]! * CLUSTER_BYTES, CLUSTER_BYTES], 2 * i);
      }
      const [read] = await this.#batch(1, (handler) => {
        disk.readScatter(handler, 0, file, offset, list, count);
      });
      t.equal(read, count * CLUSTER_BYTES);
      t.ok(this.#same(at, at + 8 * MIB, count * CLUSTER_BYTES), `${count} pieces`);
      await disk.readAsync(file, offset, at + 16 * MIB, CLUSTER_BYTES);
      t.ok(this.#same(at + 16 * MIB, at + order[0]! * CLUSTER_BYTES, CLUSTER_BYTES), "in order");
    }
    await disk.close(file);
  }

  async depth(t: Test): Promise<void> {
    const [disk, at] = [this.#disk, this.#at];
    const file = await disk.open(this.#harness.path(), NEW);
    for (let i = 0; i < DISK_DEPTH_MAX; i++)
      this.#arena.view.setUint32(at + i * CLUSTER_BYTES, i + 1, true);
    t.equal(disk.inFlight, 0);
    const written = await this.#batch(DISK_DEPTH_MAX, (handler) => {
      for (let i = 0; i < DISK_DEPTH_MAX; i++) {
        disk.write(handler, i, file, i * CLUSTER_BYTES, at + i * CLUSTER_BYTES, CLUSTER_BYTES);
      }
      t.equal(disk.inFlight, DISK_DEPTH_MAX);
      const more = () => disk.write(handler, DISK_DEPTH_MAX, file, 0, at, CLUSTER_BYTES);
      t.throws(more, { code: "OVS_BUSY" });
    });
    t.ok(
      written.every((result) => result === CLUSTER_BYTES),
      "each completes once",
    );
    t.equal(disk.inFlight, 0);
    this.#arena.bytes.fill(0, at, at + DISK_DEPTH_MAX * CLUSTER_BYTES);
    await this.#batch(DISK_DEPTH_MAX, (handler) => {
      for (let i = DISK_DEPTH_MAX - 1; i >= 0; i--) {
        disk.read(handler, i, file, i * CLUSTER_BYTES, at + i * CLUSTER_BYTES, CLUSTER_BYTES);
      }
    });
    for (let i = 0; i < DISK_DEPTH_MAX; i++) {
      if (this.#arena.view.getUint32(at + i * CLUSTER_BYTES, true) !== i + 1) t.fail(`block ${i}`);
    }
    await disk.close(file);
  }

  async turns(t: Test): Promise<void> {
    const [disk, at] = [this.#disk, this.#at];
    const file = await disk.open(this.#harness.path(), NEW);
    const left = [300, 300, 300];
    let flushes = 0;
    const detach = this.#turn.atEnd(0, () => void flushes++);
    await new Promise<void>((resolve) => {
      const handler = disk.handler((tag, result) => {
        t.equal(result, CLUSTER_BYTES);
        left[tag]!--;
        if (left[tag]! > 0) write(tag);
        else if (left.every((count) => count === 0)) resolve();
      });
      const write = (tag: number) =>
        disk.write(handler, tag, file, tag * CLUSTER_BYTES, at, CLUSTER_BYTES);
      // Outside any turn: the disk asks for one by itself.
      for (let tag = 0; tag < 3; tag++) write(tag);
    });
    detach();
    t.ok(flushes >= 300, `${flushes} turns ended`);
    await disk.close(file);
  }

  async sizes(t: Test): Promise<void> {
    const [disk, at] = [this.#disk, this.#at];
    const path = this.#harness.path();
    const file = await disk.open(path, NEW);
    await disk.allocateAsync(file, 0, 4 * MIB);
    t.equal(await disk.size(file), 4 * MIB);
    await disk.syncAsync(file);
    t.ok((await disk.files.stat(path))!.allocatedBytes >= 4 * MIB, "its blocks are there");
    t.equal(await disk.readAsync(file, MIB, at, MIB), MIB);
    t.ok(this.#zero(at, MIB), "allocated blocks read zeroes");
    this.#fill(at, 4 * MIB, seeded(this.#harness.seed));
    await disk.writeAsync(file, 0, at, 4 * MIB);
    await disk.syncAsync(file);
    await disk.punchAsync(file, MIB, 2 * MIB);
    await disk.punchAsync(file, 4 * MIB - CLUSTER_BYTES, GIB);
    await disk.syncAsync(file);
    t.equal(await disk.size(file), 4 * MIB, "a hole behind the end adds nothing");
    t.ok((await disk.files.stat(path))!.allocatedBytes < 2.5 * MIB, "blocks are free again");
    await disk.readAsync(file, 0, at + 8 * MIB, 4 * MIB);
    t.ok(this.#same(at, at + 8 * MIB, MIB), "what lies before the hole stays");
    t.ok(this.#zero(at + 9 * MIB, 2 * MIB), "the hole reads zeroes");
    t.ok(this.#same(at + 3 * MIB, at + 11 * MIB, MIB - CLUSTER_BYTES), "and what lies behind it");
    await disk.truncateAsync(file, 3 * MIB);
    t.equal(await disk.size(file), 3 * MIB);
    await disk.truncateAsync(file, 8 * MIB);
    t.equal(await disk.readAsync(file, 4 * MIB, at, MIB), MIB);
    t.ok(this.#zero(at, MIB), "a file grows by zeroes");
    await disk.close(file);
  }

  async errors(t: Test): Promise<void> {
    const [disk, at] = [this.#disk, this.#at];
    const path = this.#harness.path();
    const refused = async (work: Promise<unknown>, code: ErrorCode, word: string) => {
      const error = await work.then(
        () => null,
        (thrown) => thrown,
      );
      t.ok(hasCode(error, code), `${code}: ${messageOf(error)}`);
      t.match(messageOf(error), path);
      t.match(messageOf(error), word);
    };
    await refused(disk.open(path, OLD), "OVS_NOT_FOUND", "ENOENT");
    const file = await disk.open(path, NEW);
    await refused(disk.open(path, NEW), "OVS_EXISTS", "EEXIST");
    await refused(disk.open(`${path}/below`, OLD), "OVS_DISK_FAILED", "ENOTDIR");
    await disk.files.makeFolder(`${path}.folder`);
    const reading = { ...OLD, write: false, direct: false };
    await refused(disk.open(`${path}.folder`, reading), "OVS_INVALID", "neither a file");
    await refused(disk.truncateAsync(file, 2 ** 53 - 4096), "OVS_DISK_FAILED", "EFBIG");
    await refused(disk.allocateAsync(file, 2 ** 52, CLUSTER_BYTES), "OVS_DISK_FAILED", "EFBIG");
    await refused(disk.writeAsync(file, 2 ** 52, at, CLUSTER_BYTES), "OVS_DISK_FAILED", "EFBIG");
    await refused(disk.files.list(`${path}.nothing`), "OVS_NOT_FOUND", "ENOENT");
    const results = await this.#batch(2, (handler) => {
      disk.write(handler, 0, file, 2 ** 52, at, CLUSTER_BYTES);
      disk.write(handler, 1, file, 0, at, CLUSTER_BYTES);
    });
    t.ok(results[0]! < 0 && results[1] === CLUSTER_BYTES, "one failure does not touch another");
    await disk.close(file);
  }

  async assertions(t: Test): Promise<void> {
    const [disk, at] = [this.#disk, this.#at];
    const file = await disk.open(this.#harness.path(), NEW);
    const wrong = async (name: string, work: () => Promise<unknown>) =>
      t.rejects(async () => await work(), AssertionError, name);
    await wrong("offset", () => disk.writeAsync(file, 512, at, CLUSTER_BYTES));
    await wrong("memory", () => disk.writeAsync(file, 0, at + 8, CLUSTER_BYTES));
    await wrong("length", () => disk.writeAsync(file, 0, at, 100));
    await wrong("nothing", () => disk.writeAsync(file, 0, at, 0));
    await wrong("negative", () => disk.readAsync(file, -CLUSTER_BYTES, at, CLUSTER_BYTES));
    await wrong("not whole", () => disk.readAsync(file, Number.NaN, at, CLUSTER_BYTES));
    const end = this.#arena.bytes.byteLength;
    await wrong("outside", () => disk.readAsync(file, 0, end - CLUSTER_BYTES, 2 * CLUSTER_BYTES));
    await wrong("none", () => disk.readAsync(file, 0, 0, CLUSTER_BYTES));
    await wrong("file", () => disk.readAsync(file + 1000, 0, at, CLUSTER_BYTES));
    t.equal(disk.inFlight, 0, "nothing of it was started");
    t.throws(() => disk.read(9_999_999, 0, file, 0, at, CLUSTER_BYTES), AssertionError);
    await disk.close(file);
    await wrong("closed", () => disk.readAsync(file, 0, at, CLUSTER_BYTES));
    const path = this.#harness.path();
    await disk.close(await disk.open(path, NEW));
    const reader = await disk.open(path, { ...OLD, write: false });
    await wrong("read only", () => disk.writeAsync(reader, 0, at, CLUSTER_BYTES));
    await disk.close(reader);
  }

  async closing(t: Test): Promise<void> {
    const [disk, at] = [this.#disk, this.#at];
    const file = await disk.open(this.#harness.path(), NEW);
    let done = 0;
    const handler = disk.handler(() => void done++);
    for (let i = 0; i < 100; i++) disk.write(handler, i, file, i * MIB, at, MIB);
    disk.truncate(handler, 100, file, 0);
    await disk.close(file);
    t.equal(done, 101);
    const other = await disk.open(this.#harness.path(), NEW);
    t.not(other, file, "a number is not used again at once");
    await disk.close(other);
  }

  async oneWriter(t: Test): Promise<void> {
    const disk = this.#disk;
    const path = this.#harness.path();
    const file = await disk.open(path, NEW);
    const reader = await disk.open(path, { ...OLD, write: false });
    let isOpen = false;
    const second = disk.open(path, OLD).then((opened) => {
      isOpen = true;
      return opened;
    });
    for (let i = 0; i < 20; i++) await disk.readAsync(reader, 0, this.#at, CLUSTER_BYTES);
    t.notOk(isOpen, "the second one waits; whoever reads does not");
    await disk.close(file);
    await disk.close(await second);
    await disk.close(reader);
  }

  /** One file of 64 clusters against plain memory; operations of a round do not overlap. */
  async model(t: Test): Promise<void> {
    const [disk, at] = [this.#disk, this.#at];
    const { seed } = this.#harness;
    const random = seeded(seed);
    const clusters = 64;
    const truth = new Uint8Array(clusters * CLUSTER_BYTES);
    const file = await disk.open(this.#harness.path(), NEW);
    await disk.allocateAsync(file, 0, truth.length);
    for (let round = 0; round < 150; round++) {
      const checks: Array<() => void> = [];
      const stages: Array<(handler: number, tag: number) => void> = [];
      for (let first = random(6); first < clusters; ) {
        const count = Math.min(1 + random(8), clusters - first);
        const memory = at + first * CLUSTER_BYTES;
        const range: Range = { file, first, count, memory };
        if (random(3) === 0) this.#stageRead(t, range, truth, { stages, checks }, random);
        else this.#stageChange(range, truth, stages, random);
        first += count + random(3);
      }
      const results = await this.#batch(stages.length, (handler) => {
        for (let tag = 0; tag < stages.length; tag++) stages[tag]!(handler, tag);
      });
      if (results.some((result) => result < 0)) t.fail(`round ${round}, SEED=${seed}: ${results}`);
      for (const check of checks) check();
    }
    await disk.readAsync(file, 0, at, truth.length);
    const end = this.#arena.slice(at, truth.length);
    t.ok(equalBytes(end, truth), `the file is the model, SEED=${seed}`);
    await disk.close(file);
  }

  #stageRead(
    t: Test,
    range: Range,
    truth: Uint8Array,
    out: { stages: Array<(handler: number, tag: number) => void>; checks: Array<() => void> },
    random: (limit: number) => number,
  ): void {
    const disk = this.#disk;
    const { file, first, count, memory } = range;
    const [offset, bytes] = [first * CLUSTER_BYTES, count * CLUSTER_BYTES];
    const expected = truth.slice(offset, offset + bytes);
    const list = piecesOf(memory, count);
    const form = random(3);
    out.stages.push((handler, tag) => {
      if (form === 0) disk.readScatter(handler, tag, file, offset, list, count);
      else if (form === 1) disk.readTogether(handler, tag, file, offset, memory, bytes);
      else disk.read(handler, tag, file, offset, memory, bytes);
    });
    out.checks.push(() => {
      const same = equalBytes(this.#arena.slice(memory, bytes), expected);
      if (!same) t.fail(`clusters ${first}+${count}, SEED=${this.#harness.seed}`);
    });
  }

  #stageChange(
    range: Range,
    truth: Uint8Array,
    stages: Array<(handler: number, tag: number) => void>,
    random: (limit: number) => number,
  ): void {
    const disk = this.#disk;
    const { file, first, count, memory } = range;
    const [offset, bytes] = [first * CLUSTER_BYTES, count * CLUSTER_BYTES];
    const kind = random(5);
    if (kind === 0) {
      truth.fill(0, offset, offset + bytes);
      stages.push((handler, tag) => disk.punch(handler, tag, file, offset, bytes));
      return;
    }
    this.#fill(memory, bytes, random);
    truth.set(this.#arena.slice(memory, bytes), offset);
    const list = piecesOf(memory, count);
    stages.push((handler, tag) => {
      if (kind < 3) disk.writeGather(handler, tag, file, offset, list, count);
      else disk.write(handler, tag, file, offset, memory, bytes);
    });
  }

  async names(t: Test): Promise<void> {
    const { files } = this.#disk;
    const folder = this.#harness.path();
    const bytes = (text: string) => new Uint8Array(Buffer.from(text));
    await files.makeFolder(`${folder}/a/b`);
    await files.makeFolder(`${folder}/a/b`);
    t.equal((await files.stat(`${folder}/a`))!.kind, "folder");
    t.equal(await files.stat(`${folder}/none`), null);
    t.equal(await files.readSmall(`${folder}/none`, 100), null);
    await files.writeSmall(`${folder}/z`, bytes("first"));
    await files.writeSmall(`${folder}/z`, bytes("second, longer"));
    t.same(Buffer.from((await files.readSmall(`${folder}/z`, 100))!).toString(), "second, longer");
    await files.writeSmall(`${folder}/empty`, new Uint8Array(0));
    t.equal((await files.readSmall(`${folder}/empty`, 0))!.length, 0);
    t.same(await files.list(folder), ["a", "empty", "z"], "no temporary is left");
    t.match(await files.stat(`${folder}/z`), { kind: "file", sizeBytes: 14 });
    await t.rejects(files.readSmall(`${folder}/z`, 13), { code: "OVS_INVALID" });
    await t.rejects(files.writeSmall(`${folder}/none/z`, bytes("x")), { code: "OVS_NOT_FOUND" });
    await files.rename(`${folder}/z`, `${folder}/empty`);
    await files.syncFolder(folder);
    t.same(await files.list(folder), ["a", "empty"]);
    await t.rejects(files.rename(`${folder}/z`, `${folder}/y`), { code: "OVS_NOT_FOUND" });
    const space = await files.space(folder);
    t.ok(space.freeBytes > 0 && space.totalBytes >= space.freeBytes, "space is told");
    await files.remove(`${folder}/empty`);
    await files.remove(`${folder}/empty`);
    await files.remove(folder);
    t.equal(await files.stat(folder), null);
  }

  async lock(t: Test): Promise<void> {
    const { files } = this.#disk;
    const folder = this.#harness.path();
    await files.makeFolder(folder);
    const lock = await files.lock(folder);
    await t.rejects(files.lock(folder), { code: "OVS_BUSY", message: /\d+/ });
    await lock.release();
    await lock.release();
    const again = await files.lock(folder);
    await again.release();
    await t.rejects(files.lock(`${folder}/none`), { code: "OVS_NOT_FOUND" });
  }

  /** Stages a batch in one turn; resolves with the results by tag. */
  async #batch(count: number, stage: (handler: number) => void): Promise<Int32Array> {
    const results = new Int32Array(count);
    const seen = new Uint8Array(count);
    let left = count;
    await new Promise<void>((resolve, reject) => {
      const handler = this.#disk.handler((tag, result) => {
        if (seen[tag] !== 0) reject(new Error(`operation ${tag} completed twice`));
        seen[tag] = 1;
        results[tag] = result;
        if (--left === 0) resolve();
      });
      this.#turn.begin();
      stage(handler);
      this.#turn.end();
      if (count === 0) resolve();
    });
    return results;
  }

  #fill(at: number, bytes: number, random: (limit: number) => number): void {
    const base = random(2 ** 30);
    for (let i = 0; i < bytes; i += 4) {
      this.#arena.view.setUint32(at + i, Math.imul(base + i, 2_654_435_761), true);
    }
  }

  #same(a: number, b: number, bytes: number): boolean {
    return equalBytes(this.#arena.slice(a, bytes), this.#arena.slice(b, bytes));
  }

  #zero(at: number, bytes: number): boolean {
    return this.#arena.slice(at, bytes).every((byte) => byte === 0);
  }
}

interface Range {
  file: FileId;
  first: number;
  count: number;
  memory: number;
}

function piecesOf(memory: number, clusters: number): Uint32Array {
  const list = new Uint32Array(2 * clusters);
  for (let i = 0; i < clusters; i++) list.set([memory + i * CLUSTER_BYTES, CLUSTER_BYTES], 2 * i);
  return list;
}

function shuffled(count: number, random: (limit: number) => number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = random(i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}
