// SPDX-License-Identifier: Apache-2.0
// What the main thread does to have a vDisk served, step by step, over a thread that is played and
// a clock that the test moves. And the parts beside it: the lease, the assignment to threads.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { type ErrorCode, StorageError } from "../../src/base/errors.js";
import { MIB } from "../../src/base/units.js";
import { createWorld } from "../../src/platform/node/world.js";
import { Assignment } from "../../src/router/assignment.js";
import { type KeeperHost, type Opened, VdiskKeeper } from "../../src/router/keeper.js";
import { RouterLease } from "../../src/router/lease.js";
import type { VdiskStatus } from "../../src/router/messages.js";
import { aliveKey, type Vdisk } from "../../src/router/records.js";
import { openTestRegistry } from "../backend/cluster.js";
import { QuietLog } from "../platform/fixture.js";
import { HandClock, settled } from "../platform/handclock.js";

t.setTimeout(60_000);

const ENTRY = { key: "k", createRevision: 1, modRevision: 1, version: 1, lease: "0" };
const VDISK: Vdisk = {
  id: "00000000-0000-0000-0000-000000000001",
  record: {
    vdisk: new Uint8Array(16),
    sizeBytes: MIB,
    scoBytes: MIB,
    createdMs: 1,
    name: "vd0",
    namespace: "ns",
  },
  entry: { ...ENTRY, value: new Uint8Array(0) },
};

function turn(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}

/** A thread that does as the test says, and notes what it was asked. */
class PlayedHost implements KeeperHost {
  readonly asked: string[] = [];
  /** What the next openings come to; then they succeed. */
  readonly openings: Array<ErrorCode | "deleting"> = [];
  readonly removals: ErrorCode[] = [];
  corruptions = 0;
  #busy = 0;

  async #step<T>(what: string, work: () => T): Promise<T> {
    this.asked.push(what);
    if (++this.#busy > 1) throw new Error("one step at a time");
    for (let i = 0; i < 3; i++) await turn();
    this.#busy--;
    return work();
  }

  open(acceptLoss: boolean): Promise<Opened> {
    return this.#step(acceptLoss ? "open with loss" : "open", () => {
      const next = this.openings.shift();
      if (next === "deleting") return { kind: "deleting" };
      if (next) throw new StorageError(next, `refused with ${next}`);
      return { kind: "serving", vdisk: VDISK };
    });
  }

  close(): Promise<{ corruptions: number }> {
    return this.#step("close", () => ({ corruptions: this.corruptions }));
  }

  grow(sizeBytes: number): Promise<Vdisk> {
    const record = { ...VDISK.record, sizeBytes };
    return this.#step("grow", () => ({ ...VDISK, record }));
  }

  remove(): Promise<void> {
    return this.#step("remove", () => {
      const next = this.removals.shift();
      if (next) throw new StorageError(next, `refused with ${next}`);
    });
  }

  info(): Promise<VdiskStatus> {
    return Promise.resolve({ state: "serving", corruptions: this.corruptions } as VdiskStatus);
  }
}

function keeperOf(...openings: PlayedHost["openings"]) {
  const clock = new HandClock();
  const log = new QuietLog();
  const host = new PlayedHost();
  host.openings.push(...openings);
  const seen = { changes: 0, gone: 0 };
  const keeper = new VdiskKeeper(VDISK, {
    clock,
    log,
    host,
    thread: 0,
    onChange: () => {
      seen.changes++;
    },
    onGone: () => {
      seen.gone++;
      return Promise.resolve();
    },
  });
  /** Time goes by, and what it starts runs. */
  const pass = async (ms: number) => {
    clock.pass(ms);
    await settled();
  };
  return { clock, log, host, keeper, seen, pass };
}

t.test("what may pass is tried again at longer intervals, until it serves", async (t) => {
  const { host, keeper, pass, seen, log } = keeperOf(
    ...(["OVS_TIMEOUT", "OVS_BUSY", "OVS_CONFLICT", "OVS_DISK_FAILED"] as const),
  );
  t.equal((await keeper.open(false))?.code, "OVS_TIMEOUT");
  t.match(await keeper.status(), { state: "waiting", reason: "refused with OVS_TIMEOUT" });
  for (const [i, ms] of [500, 1000, 2000, 4000].entries()) {
    await pass(ms - 20);
    t.equal(host.asked.length, i + 1, `not before ${ms} ms`);
    await pass(40);
    t.equal(host.asked.length, i + 2, `but then`);
  }
  t.equal(keeper.state, "serving");
  t.equal(keeper.reason, "");
  t.equal(seen.changes, 1, "the exports change once");
  t.equal(log.lines.filter((line) => /is not served/.test(line)).length, 4);
  t.equal(await keeper.open(true), null, "one that serves is let alone");
  t.equal(host.asked.length, 5);
});

t.test("what an operator must decide waits for him", async (t) => {
  const { host, keeper, pass } = keeperOf("OVS_LOST", "OVS_LOST", "OVS_CORRUPT", "OVS_CORRUPT");
  await keeper.open(false);
  await pass(100_000);
  t.same(host.asked, ["open"], "it is not tried by itself");
  t.throws(() => keeper.assertServing(), /vd0 is not served \(waiting: refused with OVS_LOST\)/);
  await t.rejects(keeper.grow(2 * MIB), /is not served/);
  t.equal((await keeper.open(false))?.code, "OVS_LOST");
  t.equal((await keeper.status()).corruptions, 0, "a loss is no damage");
  await keeper.open(false);
  await keeper.open(false);
  t.equal((await keeper.status()).corruptions, 1, "damage is counted, once");
  t.equal(await keeper.open(true), null);
  t.equal(host.asked.at(-1), "open with loss");
  t.equal((await keeper.status()).corruptions, 1);
});

t.test("one that halts is given up and opened again, ever more slowly", async (t) => {
  const { host, keeper, pass, seen } = keeperOf();
  await keeper.open(false);
  host.corruptions = 2;
  for (const ms of [500, 1000, 2000, 4000, 8000, 10_000, 10_000]) {
    host.asked.length = 0;
    const halting = keeper.onHalted("a write of the journal failed");
    t.equal(keeper.state, "halted", "at once");
    await keeper.onHalted("again");
    await halting;
    t.same(host.asked, ["close"], "it is closed once");
    t.match(await keeper.status(), { state: "halted", reason: "a write of the journal failed" });
    await pass(ms - 20);
    t.same(host.asked, ["close"]);
    await pass(40);
    t.same(host.asked, ["close", "open"], `after ${ms} ms`);
    t.equal(keeper.state, "serving");
  }
  t.equal((await keeper.status()).corruptions, 7 * 2 + 2, "what earlier lives met is counted");
  t.equal(seen.changes, 15, "each end and each begin changes the exports");
  await pass(61_000);
  await keeper.onHalted("later");
  await pass(520);
  t.equal(keeper.state, "serving", "one that was steady begins with the first interval");
  await keeper.onHalted("once more");
  t.equal(await keeper.open(false), null, "an operator need not wait");
});

t.test("a deletion that was begun is tried until it is done", async (t) => {
  const { host, keeper, pass, seen } = keeperOf();
  await keeper.open(false);
  host.removals.push("OVS_TIMEOUT", "OVS_TIMEOUT");
  await t.rejects(keeper.remove(), { code: "OVS_TIMEOUT" });
  t.match(await keeper.status(), { state: "deleting", reason: "refused with OVS_TIMEOUT" });
  await pass(520);
  t.same(host.asked, ["open", "remove", "remove"], "it is not opened any more");
  await pass(1020);
  t.equal(keeper.state, "closed");
  t.equal(seen.gone, 1);
  await keeper.remove();
  t.equal(await keeper.open(false), null);
  await pass(60_000);
  t.equal(host.asked.length, 4, "and then nothing happens");

  const found = keeperOf("deleting");
  t.equal((await found.keeper.open(false))?.code, "OVS_NOT_FOUND");
  t.same(found.host.asked, ["open", "remove"], "one that a crash cut short is ended");
  t.equal(found.seen.gone, 1);
});

t.test("a stop waits for the step that runs, and none follows", async (t) => {
  const { host, keeper, pass } = keeperOf("OVS_TIMEOUT");
  const opening = keeper.open(false);
  await turn();
  await keeper.stop();
  t.equal((await opening)?.code, "OVS_TIMEOUT");
  await pass(60_000);
  t.same(host.asked, ["open"]);
  await keeper.onHalted("late");
  t.same(host.asked, ["open"]);
});

t.test("a router's lease: one life at a time, and the end of it is told", async (t) => {
  const { world, registry, stop } = await openTestRegistry(16 * MIB);
  t.teardown(stop);
  const leaseOf = (life: number, lost: string[]) =>
    new RouterLease(world, registry, {
      router: "r0",
      incarnation: new Uint8Array(16).fill(life),
      address: "unix:/r",
      onLost: (reason) => lost.push(reason),
    });
  const lost: string[] = [];
  const first = leaseOf(1, lost);
  await first.take(1000);
  await t.rejects(leaseOf(2, []).take(300), /another process lives as router r0/);
  await first.release();
  t.equal(await registry.get(aliveKey("r0")), null, "what is given back is gone at once");
  const second = leaseOf(2, lost);
  const third = leaseOf(3, lost);
  await second.take(1000);
  const waiting = third.take(10_000);
  await registry.leaseRevoke((await registry.get(aliveKey("r0")))!.lease);
  await waiting;
  const end = performance.now() + 10_000;
  while (lost.length === 0 && performance.now() < end) await world.clock.sleep(20);
  t.same(lost, ["the registry has ended this router's lease"], "told once, to whom it was");
  await second.release();
  await third.release();
});

t.test("a vDisk keeps its shard, whatever the number of threads", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "ovs-assignment-"));
  const world = createWorld({ name: "test", arenaBytes: MIB, terminal: null });
  t.teardown(async () => {
    await world.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  const cluster = "00000000-0000-4000-8000-000000000000";
  const open = (threads: number) => Assignment.open(world, folder, { threads, cluster });
  const four = await open(4);
  const shards: number[] = [];
  for (let i = 0; i < 8; i++) shards.push(await four.shardOf(`v${i}`));
  t.same(shards, [0, 1, 2, 3, 0, 1, 2, 3], "the shard with the fewest");
  await four.forget("v1");
  t.equal(await four.shardOf("v9"), 1, "what was deleted leaves room");
  const two = await open(2);
  t.equal(two.starts, 2);
  t.equal(two.router, four.router);
  t.equal(await two.shardOf("v3"), 3);
  t.same(
    [two.shardsOf(0), two.shardsOf(1)],
    [
      [0, 2],
      [1, 3],
    ],
  );
  t.equal(two.threadOf(3), 1);
  t.ok((await two.shardOf("new")) < 2, "new ones get a shard of today's threads");
  t.same((await open(8)).shardsOf(7), [7]);

  const path = join(folder, "assignment.json");
  const good = readFileSync(path, "utf8");
  for (const [text, code] of [
    ["{", "OVS_CORRUPT"],
    [good.replace('"version":1', '"version":9'), "OVS_WRONG_VERSION"],
    [good.replace(cluster, cluster.replace("4000", "4001")), "OVS_WRONG_IDENTITY"],
    [good.replace('"v0":0', '"v0":64'), "OVS_CORRUPT"],
    [good.replace('"v0":0', '"v0":-1'), "OVS_CORRUPT"],
  ] as const) {
    writeFileSync(path, text);
    await t.rejects(open(1), { code }, code);
    t.equal(readFileSync(path, "utf8"), text, "and is left as it is");
  }
});
