// SPDX-License-Identifier: Apache-2.0
// The simulated disk behind the contract, and what only a simulated one can be put through: ends of
// processes and of the power at every instant, and every fault.

import t from "tap";
import { CLUSTER_BYTES, MIB } from "../../src/base/units.js";
import type { FileId, OpenOptions } from "../../src/platform/disk.js";
import type { Dice } from "../../src/sim/dice.js";
import { FaultKind } from "../../src/sim/faults.js";
import { type LossChooser, PlainLoss, type Unsynced } from "../../src/sim/loss.js";
import { Losses } from "../../src/sim/losses.js";
import { diskContract } from "../platform/disk.contract.js";
import { Host, type Process } from "./host.js";

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
const NEW: OpenOptions = { create: true, exclusive: true, write: true, direct: true };
const OLD: OpenOptions = { create: false, exclusive: false, write: true, direct: true };
const PAGES = 24;
const SECTOR_BYTES = 512;
const SEEDS = 150;

t.test(`the contract (SEED=${seed})`, async (t) => {
  const host = new Host(seed, 32 * MIB);
  const world = host.start();
  let names = 0;
  const path = () => `/disk0/file-${++names}`;
  await host.during(async () => {
    await diskContract(t, { world, path, seed });
    await world.disk.stop();
    t.equal(world.disk.engine, "simulated");
    const open = { create: true, exclusive: false, write: true, direct: true };
    await t.rejects(world.disk.open(path(), open), { code: "OVS_CLOSED" });
  });
});

t.test(
  `writes of a killed process that come late come before the next one (SEED=${seed})`,
  async (t) => {
    let late = 0;
    for (let i = 0; i < SEEDS; i++) {
      const host = new Host(seed + i);
      const [old, next] = [host.start(), host.start()];
      const fill = (number: number) => old.arena.bytes.fill(number, MIB, MIB + 2 * CLUSTER_BYTES);
      await host.during(async () => {
        const file = await old.disk.open("/disk0/file", NEW);
        await old.disk.writeAsync(file, 0, MIB, 2 * CLUSTER_BYTES);
        fill(1);
        void old.disk.writeAsync(file, 0, MIB, 2 * CLUSTER_BYTES);
        await host.timeline.pass(host.dice.share() * 0.1);
        old.life.end();
        const endMs = host.timeline.nowMs;
        const reader = await next.disk.open("/disk0/file", { ...OLD, write: false });
        await next.disk.close(reader);
        const readMs = host.timeline.nowMs - endMs;
        const again = await next.disk.open("/disk0/file", OLD);
        if (host.timeline.nowMs - endMs > 3 * readMs) late++;
        fill(2);
        await next.disk.writeAsync(again, 0, MIB, 2 * CLUSTER_BYTES);
        await host.timeline.pass(10_000);
        await next.disk.readAsync(again, 0, MIB, 2 * CLUSTER_BYTES);
        t.ok(next.arena.bytes.subarray(MIB, MIB + 2 * CLUSTER_BYTES).every((byte) => byte === 2));
        next.life.end();
      });
    }
    t.ok(late > 0, `${late} of ${SEEDS} had to wait`);
  },
);

/** What may be found in a page: each write of it fills the page with a number of its own. */
interface PageTruth {
  synced: number;
  /** Acknowledged since, in order. */
  acknowledged: number[];
  pending: number | null;
}

/** A process that writes pages of one file and syncs them, and what must be there afterwards. */
class Scribbler {
  readonly pages: PageTruth[] = [];
  syncs = 0;
  readonly #process: Process;
  readonly #dice: Dice;
  readonly #at: number;
  #number = 0;

  constructor(process: Process, dice: Dice, at: number) {
    this.#process = process;
    this.#dice = dice;
    this.#at = at;
    for (let i = 0; i < PAGES; i++) this.pages.push({ synced: 0, acknowledged: [], pending: null });
  }

  async run(path: string): Promise<void> {
    const { disk } = this.#process;
    const file = await disk.open(path, NEW);
    await disk.writeAsync(file, 0, this.#zero(), PAGES * CLUSTER_BYTES);
    await disk.syncAsync(file);
    await disk.files.syncFolder("/disk0");
    this.syncs++;
    await Promise.all([0, 1, 2].map(async (third) => await this.#write(file, third)));
  }

  /** Writes its third of the pages for ever, up to four at once. */
  async #write(file: FileId, third: number): Promise<void> {
    const { disk, arena } = this.#process;
    for (;;) {
      const first = third * 8 + this.#dice.below(5);
      const count = 1 + this.#dice.below(4);
      const at = this.#at + first * CLUSTER_BYTES;
      for (let page = first; page < first + count; page++) {
        this.pages[page]!.pending = ++this.#number;
        const word = (this.#at + page * CLUSTER_BYTES) / 4;
        arena.u32.fill(this.#number, word, word + CLUSTER_BYTES / 4);
      }
      await disk.writeAsync(file, first * CLUSTER_BYTES, at, count * CLUSTER_BYTES);
      for (let page = first; page < first + count; page++) {
        const truth = this.pages[page]!;
        truth.acknowledged.push(truth.pending!);
        truth.pending = null;
      }
      if (this.#dice.chance(0.1)) await this.#sync(file);
    }
  }

  async #sync(file: FileId): Promise<void> {
    const covered = this.pages.map((page) => page.acknowledged.at(-1) ?? page.synced);
    await this.#process.disk.syncAsync(file);
    this.syncs++;
    for (const [i, page] of this.pages.entries()) {
      const index = page.acknowledged.indexOf(covered[i]!);
      // Another sync may have covered it already.
      if (index < 0) continue;
      page.synced = covered[i]!;
      page.acknowledged.splice(0, index + 1);
    }
  }

  #zero(): number {
    this.#process.arena.bytes.fill(0, this.#at, this.#at + PAGES * CLUSTER_BYTES);
    return this.#at;
  }
}

/** Reads the file anew; the numbers of its sectors. */
async function sectorsOf(host: Host, path: string): Promise<number[]> {
  return await host.during(async () => {
    const { disk, arena, life } = host.start();
    const file = await disk.open(path, { ...OLD, write: false });
    const at = CLUSTER_BYTES;
    const bytes = await disk.readAsync(file, 0, at, PAGES * CLUSTER_BYTES);
    const numbers: number[] = [];
    for (let sector = 0; sector < bytes; sector += SECTOR_BYTES) {
      const number = arena.view.getUint32(at + sector, true);
      const isWhole = arena.u32
        .subarray((at + sector) / 4, (at + sector + SECTOR_BYTES) / 4)
        .every((word) => word === number);
      numbers.push(isWhole ? number : -1);
    }
    life.end();
    return numbers;
  });
}

/** A host where a process scribbles for a while; not yet ended. */
async function scribbled(seed: number): Promise<{ host: Host; scribbler: Scribbler }> {
  const host = new Host(seed);
  const process = host.start();
  const scribbler = new Scribbler(process, host.dice.fork("scribbler"), MIB);
  scribbler.run("/disk0/file").catch((error) => {
    throw error;
  });
  await host.timeline.run(() => scribbler.syncs > 0);
  await host.timeline.pass(1 + host.dice.share() * 30);
  return { host, scribbler };
}

t.test(
  `a killed process leaves what was acknowledged, and whole pages (SEED=${seed})`,
  async (t) => {
    const seen = { done: 0, undone: 0 };
    for (let i = 0; i < SEEDS; i++) {
      const { host, scribbler } = await scribbled(seed + i);
      host.storage.killPolicy = "chance";
      for (const life of host.lives) life.end();
      const sectors = await sectorsOf(host, "/disk0/file");
      for (const [page, truth] of scribbler.pages.entries()) {
        const found = new Set(sectors.slice(page * 8, page * 8 + 8));
        const [number] = found;
        const last = truth.acknowledged.at(-1) ?? truth.synced;
        const isRight = found.size === 1 && (number === last || number === truth.pending);
        if (!isRight) t.fail(`page ${page}: ${[...found]}, SEED=${seed + i}`);
        if (truth.pending !== null) seen[number === truth.pending ? "done" : "undone"]++;
      }
    }
    t.ok(seen.done > 20 && seen.undone > 20, JSON.stringify(seen));
  },
);

t.test(
  `a power loss leaves what was synced, and any sectors of the rest (SEED=${seed})`,
  async (t) => {
    const seen = { lost: 0, kept: 0, torn: 0 };
    for (let i = 0; i < SEEDS; i++) {
      const { host, scribbler } = await scribbled(seed + i);
      host.losePower();
      const sectors = await sectorsOf(host, "/disk0/file");
      t.equal(sectors.length, PAGES * 8, "its name and size were synced");
      for (const [page, truth] of scribbler.pages.entries()) {
        const allowed = [truth.synced, ...truth.acknowledged, truth.pending];
        const found = sectors.slice(page * 8, page * 8 + 8);
        if (!found.every((number) => allowed.includes(number))) {
          t.fail(`page ${page}: ${found} of ${allowed}, SEED=${seed + i}`);
        }
        const last = truth.acknowledged.at(-1);
        if (last === undefined) continue;
        if (new Set(found).size > 1) seen.torn++;
        else if (found[0] === truth.synced) seen.lost++;
        else seen.kept++;
      }
    }
    t.ok(seen.lost > 20 && seen.kept > 20 && seen.torn > 20, JSON.stringify(seen));
  },
);

t.test(`names are durable after a sync of their folder (SEED=${seed})`, async (t) => {
  const seen = { made: 0, unmade: 0, moved: 0, unmoved: 0 };
  for (let i = 0; i < SEEDS; i++) {
    const host = new Host(seed + i);
    await host.during(async () => {
      const { disk } = host.start();
      const { files } = disk;
      await files.makeFolder("/disk0/a");
      await files.makeFolder("/disk0/b");
      await files.writeSmall("/disk0/a/small", Uint8Array.of(1));
      await files.syncFolder("/disk0");
      await disk.open("/disk0/a/first", NEW);
      await disk.open("/disk0/a/second", NEW);
      await files.rename("/disk0/a/small", "/disk0/b/small");
    });
    host.losePower();
    await host.during(async () => {
      const { files } = host.start().disk;
      const names = [await files.list("/disk0/a"), await files.list("/disk0/b")].map(String);
      const [inA, inB] = names;
      const isMoved = inB === "small";
      t.equal(inA!.includes("small"), !isMoved, `SEED=${seed + i}: the file is in one place`);
      if (inA!.includes("second")) t.match(inA, "first", `SEED=${seed + i}: in order`);
      if (isMoved) t.match(inA, "second", `SEED=${seed + i}: all before it is there`);
      seen[inA!.includes("first") ? "made" : "unmade"]++;
      seen[isMoved ? "moved" : "unmoved"]++;
      const small = await files.readSmall(isMoved ? "/disk0/b/small" : "/disk0/a/small", 10);
      t.same(small, Uint8Array.of(1), "its content was synced");
    });
  }
  t.ok(
    Object.values(seen).every((count) => count > 5),
    JSON.stringify(seen),
  );
});

t.test("sizes, holes and allocation survive in their order, whole after a sync", async (t) => {
  const found = new Set<string>();
  for (let i = 0; i < SEEDS; i++) {
    const host = new Host(seed + i);
    const change = async (sync: boolean) => {
      const { disk, arena } = host.start();
      arena.bytes.fill(7, MIB, MIB + 4 * CLUSTER_BYTES);
      const file = await disk.open("/disk0/file", NEW);
      await disk.writeAsync(file, 0, MIB, 4 * CLUSTER_BYTES);
      await disk.syncAsync(file);
      await disk.files.syncFolder("/disk0");
      await disk.truncateAsync(file, CLUSTER_BYTES);
      await disk.allocateAsync(file, 0, 8 * CLUSTER_BYTES);
      if (sync) await disk.syncAsync(file);
    };
    await host.during(() => change(i % 2 === 0));
    host.losePower();
    await host.during(async () => {
      const { disk, arena } = host.start();
      const file = await disk.open("/disk0/file", OLD);
      const size = await disk.size(file);
      await disk.readAsync(file, 0, MIB, 8 * CLUSTER_BYTES);
      const second = size > CLUSTER_BYTES ? arena.bytes[MIB + CLUSTER_BYTES] : "none";
      const shown = `${size / CLUSTER_BYTES} ${second}`;
      if (i % 2 === 0) t.equal(shown, "8 0", `SEED=${seed + i}`);
      else found.add(shown);
      await disk.close(file);
    });
  }
  t.same([...found].sort(), ["1 none", "4 7", "8 0"]);
});

t.test("the same seed gives the same run, another seed another", async (t) => {
  const digestOf = async (seed: number) => {
    const { host } = await scribbled(seed);
    host.losePower();
    const sectors = await sectorsOf(host, "/disk0/file");
    return `${host.timeline.digest} ${host.timeline.nowMs} ${sectors}`;
  };
  t.equal(await digestOf(seed), await digestOf(seed));
  t.not(await digestOf(seed), await digestOf(seed + 1));
});

t.test("a process can be ended before and after every effect", async (t) => {
  const run = async (stopAt: number, when: "before" | "after") => {
    const host = new Host(seed);
    host.storage.killPolicy = "none";
    const { life, disk } = host.start();
    let isOver = false;
    const end = (number: number) => {
      if (number === stopAt) life.end();
    };
    if (when === "before") host.storage.beforeEffect = end;
    else host.storage.afterEffect = end;
    const work = async () => {
      await disk.files.makeFolder("/disk0/a");
      await disk.files.writeSmall("/disk0/a/small", Uint8Array.of(1, 2, 3));
      isOver = true;
    };
    work().catch((error) => t.fail(String(error)));
    await host.timeline.run(() => isOver);
    t.equal(isOver, stopAt === 0, `stopped ${when} ${stopAt}`);
    const effects = host.storage.effects;
    host.storage.beforeEffect = null;
    host.storage.afterEffect = null;
    const [names, small] = await host.during(async () => {
      const { files } = host.start().disk;
      if ((await files.stat("/disk0/a")) === null) return [null, null];
      return [await files.list("/disk0/a"), await files.readSmall("/disk0/a/small", 9)];
    });
    return { effects, shown: `${names === null ? "none" : names.length} ${small ?? ""}` };
  };
  const { effects } = await run(0, "before");
  const shown: string[] = [];
  for (let at = 1; at <= effects; at++) {
    shown.push((await run(at, "before")).shown);
    const after = (await run(at, "after")).shown;
    if (at < effects) t.equal((await run(at + 1, "before")).shown, after, "nothing between them");
  }
  // Before the folder, its sync, the temporary, its content, its sync, the rename, and the
  // sync of its folder.
  t.same(shown, ["none ", "0 ", "0 ", "1 ", "1 ", "1 ", "1 1,2,3"]);
});

t.test("what a killed process has written is covered by a sync of the next one", async (t) => {
  const killed = (policy: "none" | "all", stopAt: number) => async (seed: number) => {
    const host = new Host(seed);
    host.storage.killPolicy = policy;
    const { life, disk, arena } = host.start();
    await host.during(async () => {
      const file = await disk.open("/disk0/file", NEW);
      await disk.writeAsync(file, 0, MIB, CLUSTER_BYTES);
      await disk.syncAsync(file);
      await disk.files.syncFolder("/disk0");
      arena.u32.fill(7, MIB / 4, (MIB + CLUSTER_BYTES) / 4);
      void disk.writeAsync(file, 0, MIB, CLUSTER_BYTES);
    });
    const before = host.storage.effects;
    host.storage.afterEffect = (number) => {
      if (number === before + stopAt) life.end();
    };
    await host.timeline.pass(0.01);
    if (stopAt === 0) life.end();
    await host.timeline.pass(100);
    host.storage.afterEffect = null;
    const next = host.start();
    await host.during(async () => {
      const file = await next.disk.open("/disk0/file", OLD);
      await next.disk.readAsync(file, 0, CLUSTER_BYTES, CLUSTER_BYTES);
      await next.disk.syncAsync(file);
    });
    const found = next.arena.u32[CLUSTER_BYTES / 4]!;
    host.losePower(new PlainLoss("nothing"));
    const [sector] = await sectorsOf(host, "/disk0/file");
    return { found, sector };
  };
  for (let i = 0; i < 20; i++) {
    t.same(await killed("all", 0)(seed + i), { found: 7, sector: 7 }, "by the end of the process");
    t.same(await killed("none", 1)(seed + i), { found: 7, sector: 7 }, "before its end");
  }
});

t.test("the caller may choose what survives a power loss", async (t) => {
  const outcome = async (choose: (unsynced: Unsynced) => LossChooser) => {
    const host = new Host(seed);
    await host.during(async () => {
      const { disk, arena } = host.start();
      const file = await disk.open("/disk0/file", NEW);
      await disk.writeAsync(file, 0, MIB, PAGES * CLUSTER_BYTES);
      await disk.syncAsync(file);
      await disk.files.syncFolder("/disk0");
      for (const number of [1, 2]) {
        arena.u32.fill(number, MIB / 4, (MIB + 2 * CLUSTER_BYTES) / 4);
        await disk.writeAsync(file, 0, MIB, 2 * CLUSTER_BYTES);
      }
    });
    const unsynced = host.device.unsynced();
    const { pages, ...rest } = unsynced;
    t.same(rest, { sizes: [], names: [], batches: [] });
    const path = "/disk0/file";
    t.match(pages, [
      { path, page: 0, count: 2 },
      { path, page: 1, count: 2 },
    ]);
    t.equal(pages[0]!.records[0], pages[1]!.records[0], "pages of one write");
    t.not(pages[0]!.records[0], pages[0]!.records[1]);
    host.losePower(choose(unsynced));
    t.same(host.device.unsynced(), { pages: [], sizes: [], names: [], batches: [] });
    return (await sectorsOf(host, "/disk0/file")).slice(0, 16).join("");
  };
  t.equal(await outcome(() => new PlainLoss("nothing")), "0".repeat(16));
  t.equal(await outcome(() => new PlainLoss("everything")), "2".repeat(16));
  const chosen = new PlainLoss("nothing");
  chosen.sector = (_path, page, sector) => (page === 0 ? sector % 3 : 1);
  t.equal(await outcome(() => chosen), "0120120111111111");
  const ends = new Set<string>();
  let count = 1;
  for (let n = 0; n < count; n++) {
    const end = await outcome((unsynced) => {
      const losses = new Losses([unsynced]);
      count = losses.count;
      return losses.chooser(n);
    });
    if (n < 4) t.match(end, /^(0{16}|1{16}|2{16})$/, "whole writes");
    ends.add(end);
  }
  t.equal(count, 4 + 2 * 4, "each of two writes or not, or torn in four ways");
  t.ok(ends.has(`1${"2".repeat(15)}`) && ends.has("2".repeat(8) + "1".repeat(8)), "torn");
});

t.test("a frozen process finds its operations done when it goes on", async (t) => {
  const host = new Host(seed);
  const { life, disk, arena } = host.start();
  const steps: string[] = [];
  const work = async () => {
    const file = await disk.open("/disk0/file", NEW);
    arena.u32[MIB / 4] = 5;
    steps.push("open");
    await disk.writeAsync(file, 0, MIB, CLUSTER_BYTES);
    steps.push("written");
  };
  work().catch((error) => t.fail(String(error)));
  await host.timeline.run(() => steps.length === 1);
  await host.timeline.pass(0);
  life.freeze();
  await host.timeline.pass(1000);
  t.same(steps, ["open"], "it sees nothing");
  t.equal((await sectorsOf(host, "/disk0/file"))[0], -1, "others do");
  life.thaw();
  await host.timeline.pass(1);
  t.same(steps, ["open", "written"]);
});

async function faultyWorld(): Promise<{ host: Host; world: Process; file: FileId }> {
  const host = new Host(seed);
  const world = host.start();
  const file = await host.during(async () => {
    const file = await world.disk.open("/disk0/file", NEW);
    world.arena.u32.fill(1, MIB / 4, (MIB + PAGES * CLUSTER_BYTES) / 4);
    await world.disk.writeAsync(file, 0, MIB, PAGES * CLUSTER_BYTES);
    return file;
  });
  return { host, world, file };
}

t.test("a single write is lost, or goes astray", async (t) => {
  const { host, world, file } = await faultyWorld();
  const write = () =>
    host.during(async () => {
      world.arena.u32.fill(2, MIB / 4, (MIB + CLUSTER_BYTES) / 4);
      await world.disk.writeAsync(file, 3 * CLUSTER_BYTES, MIB, CLUSTER_BYTES);
    });
  host.device.faults.next(FaultKind.LostWrite, "/disk0/other");
  host.device.faults.next(FaultKind.LostWrite, "/disk0/file");
  await write();
  t.notOk((await sectorsOf(host, "/disk0/file")).includes(2), "acknowledged and not done");
  host.device.faults.next(FaultKind.MisdirectedWrite, "/disk0");
  await write();
  const sectors = await sectorsOf(host, "/disk0/file");
  t.equal(sectors.filter((number) => number === 2).length, 8);
  t.equal(sectors[24], 1, "its own place is as it was");
  await write();
  t.equal((await sectorsOf(host, "/disk0/file"))[24], 2);
  t.same(host.faults, [FaultKind.LostWrite, FaultKind.MisdirectedWrite]);
});

t.test("errors of reads, writes and syncs come by chance, by number and by place", async (t) => {
  const { host, world, file } = await faultyWorld();
  const { faults } = host.device;
  const { disk } = world;
  const failed = { code: "OVS_DISK_FAILED", message: /EIO/ };
  await host.during(async () => {
    faults.next(FaultKind.ReadError, "/disk0");
    await t.rejects(disk.readAsync(file, 0, MIB, CLUSTER_BYTES), failed);
    await disk.readAsync(file, 0, MIB, CLUSTER_BYTES);
    faults.rates("/disk0/file", { [FaultKind.WriteError]: 0.5, [FaultKind.SyncError]: 1 });
    const writes = Array.from({ length: 60 }, () => disk.writeAsync(file, 0, MIB, CLUSTER_BYTES));
    const results = await Promise.allSettled(writes);
    const count = results.filter((result) => result.status === "rejected").length;
    t.ok(count > 10 && count < 50, `${count} of 60 writes failed`);
    await t.rejects(disk.syncAsync(file), failed);
    faults.heal();
    await disk.syncAsync(file);
    t.ok(faults.spoil("/disk0/file", 5 * CLUSTER_BYTES, CLUSTER_BYTES));
    t.notOk(faults.spoil("/disk0/none", 0, 1));
    await t.rejects(disk.readAsync(file, 0, MIB, 8 * CLUSTER_BYTES), failed);
    await disk.readAsync(file, 0, MIB, 5 * CLUSTER_BYTES);
    await disk.writeAsync(file, 5 * CLUSTER_BYTES, MIB, CLUSTER_BYTES);
    await disk.readAsync(file, 0, MIB, 8 * CLUSTER_BYTES);
  });
  const kinds = [FaultKind.ReadError, FaultKind.WriteError, FaultKind.SyncError];
  for (const kind of [...kinds, FaultKind.BadRange]) t.ok(host.faults.includes(kind), kind);
});

t.test("a bit rots; a device is full, slow, dead, wiped", async (t) => {
  const { host, world, file } = await faultyWorld();
  const { faults } = host.device;
  const { disk } = world;
  t.notOk(faults.rot("/disk0/none"));
  t.ok(faults.rot("/disk0"));
  t.equal((await sectorsOf(host, "/disk0/file")).filter((number) => number !== 1).length, 1);
  await host.during(async () => {
    const { freeBytes } = await disk.files.space("/disk0");
    faults.capacity(host.device.usedBytes + 2 * CLUSTER_BYTES);
    t.ok(freeBytes > (await disk.files.space("/disk0")).freeBytes);
    const behind = PAGES * CLUSTER_BYTES;
    await t.rejects(disk.writeAsync(file, behind, MIB, 3 * CLUSTER_BYTES), { code: "OVS_FULL" });
    await t.rejects(disk.allocateAsync(file, 0, 2 * behind), { code: "OVS_FULL" });
    await disk.writeAsync(file, behind, MIB, 2 * CLUSTER_BYTES);
    await disk.writeAsync(file, 0, MIB, 2 * CLUSTER_BYTES);
    await t.rejects(disk.files.writeSmall("/disk0/small", Uint8Array.of(1)), { code: "OVS_FULL" });
    await disk.truncateAsync(file, behind);
    await disk.files.writeSmall("/disk0/small", Uint8Array.of(1));
    faults.slow(1000);
    const before = host.timeline.nowMs;
    await disk.readAsync(file, 0, MIB, CLUSTER_BYTES);
    t.ok(host.timeline.nowMs - before > 15, "a slow read");
    faults.slow(1);
    faults.dead(true);
    const failed = { code: "OVS_DISK_FAILED", message: /EIO/ };
    await t.rejects(disk.readAsync(file, 0, MIB, CLUSTER_BYTES), failed);
    await t.rejects(disk.writeAsync(file, 0, MIB, CLUSTER_BYTES), failed);
    await t.rejects(disk.truncateAsync(file, 0), failed);
    await t.rejects(disk.files.list("/disk0"), failed);
    await disk.files.list("/");
    faults.dead(false);
    await disk.readAsync(file, 0, MIB, CLUSTER_BYTES);
    faults.wipe();
    t.same(await disk.files.list("/disk0"), []);
    await disk.close(file);
    t.equal(host.device.usedBytes, 0);
  });
  const kinds = [FaultKind.BitRot, FaultKind.Full, FaultKind.Slow, FaultKind.Dead];
  for (const kind of [...kinds, FaultKind.Wiped]) t.ok(host.faults.includes(kind), kind);
});

t.test("what is removed gives its room back, a lock ends with its process", async (t) => {
  const host = new Host(seed);
  const [one, two] = [host.start(), host.start()];
  await host.during(async () => {
    const { files } = one.disk;
    await files.makeFolder("/disk0/a");
    const file = await one.disk.open("/disk0/a/file", NEW);
    await one.disk.allocateAsync(file, 0, MIB);
    t.equal(host.device.usedBytes, MIB);
    await files.lock("/disk0/a");
    const message = /in use by the process with pid 101/;
    await t.rejects(two.disk.files.lock("/disk0/a"), { code: "OVS_BUSY", message });
    await files.remove("/disk0/a/file");
    t.equal(host.device.usedBytes, MIB, "somebody has it open");
    one.life.end();
    t.equal(host.device.usedBytes, 0);
    await two.disk.files.lock("/disk0/a");
  });
});
