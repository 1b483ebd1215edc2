// SPDX-License-Identifier: Apache-2.0
// The same random story told to the real thing and to the simulated one: the same comes of each
// step. SEED repeats a run. And the contract of clocks and chance.

import { mkdirSync, writeFileSync } from "node:fs";
import t, { type Test } from "tap";
import { MIB } from "../../src/base/units.js";
import { createWorld } from "../../src/platform/node/world.js";
import { SimClock } from "../../src/sim/clock.js";
import { DiskTeller, diskStory, STORY_BYTES } from "../platform/disk.story.js";
import { temporaryFolder } from "../platform/fixture.js";
import { KvTeller, kvStory } from "../platform/kv.story.js";
import { clockContract, randomContract } from "../platform/world.contract.js";
import { Host } from "./host.js";

t.setTimeout(280_000);

const SEED = Number(process.env.SEED ?? Date.now() % 1e9);
const DISK_STORIES = 6;
const DISK_STEPS = 250;
/** Clocks of hosts run fast or slow. */
const RATES = [1, 0.997, 1.003];

const KV_STORIES = 6;
const KV_STEPS = 300;

/** Fails at the first line that differs, with those before it. */
function sameLines(t: Test, found: string[], expected: string[], seed: number): void {
  const at = expected.findIndex((line, i) => found[i] !== line);
  if (at < 0) return void t.equal(found.length, expected.length);
  const before = expected.slice(Math.max(0, at - 12), at).join("\n");
  t.fail(`SEED=${seed} step ${at}\n${before}\nreal: ${expected[at]}\nhere: ${found[at]}`);
}

for (let i = 0; i < DISK_STORIES; i++) {
  const seed = SEED + i;
  t.test(`disks: node:fs, io_uring and the simulated one agree (SEED=${seed})`, async (t) => {
    const steps = diskStory(seed, DISK_STEPS);
    const lists: string[][] = [];
    for (const engine of ["fs", "io_uring"] as const) {
      const folder = temporaryFolder();
      t.teardown(folder.remove);
      const world = createWorld({ name: "test", arenaBytes: MIB, disk: engine, terminal: null });
      const at = world.arena.region(STORY_BYTES, "story");
      lists.push(await new DiskTeller(world.disk, world.arena, folder.path, at).tell(steps));
      await world.stop();
    }
    const host = new Host(seed);
    const simulated = await host.during(async () => {
      const { disk, arena } = host.start();
      return await new DiskTeller(disk, arena, "/disk0", STORY_BYTES).tell(steps);
    });
    sameLines(t, lists[1]!, lists[0]!, seed);
    sameLines(t, simulated, lists[0]!, seed);
  });
}

for (let i = 0; i < KV_STORIES; i++) {
  const seed = SEED + i;
  t.test(`stores: RocksDB and the simulated one agree (SEED=${seed})`, async (t) => {
    const steps = kvStory(seed, KV_STEPS);
    const folder = temporaryFolder();
    t.teardown(folder.remove);
    mkdirSync(`${folder.path}/folder`);
    writeFileSync(`${folder.path}/file`, "");
    const world = createWorld({ name: "test", arenaBytes: MIB, terminal: null });
    const real = await new KvTeller(world.kv, folder.path).tell(steps);
    await world.stop();
    const host = new Host(seed);
    const simulated = await host.during(async () => {
      const { kv, disk } = host.start();
      await disk.files.makeFolder("/disk0/folder");
      await disk.files.writeSmall("/disk0/file", new Uint8Array(0));
      return await new KvTeller(kv, "/disk0").tell(steps);
    });
    sameLines(t, simulated, real, seed);
  });
}

for (const rate of RATES) {
  t.test(`clock and chance as the real world's, at a rate of ${rate} (SEED=${SEED})`, async (t) => {
    const host = new Host(SEED);
    const { life } = host.start();
    const clock = new SimClock(life, { rate, originMs: 7e9, skewMs: 3 });
    await host.during(async () => {
      await clockContract(t, clock);
      await randomContract(t, host.dice.fork("contract"));
    });
  });
}
