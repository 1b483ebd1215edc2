// SPDX-License-Identifier: Apache-2.0
// A simulated disk of which one operation hangs.

import t from "tap";
import { CLUSTER_BYTES, MIB } from "../../src/base/units.js";
import type { OpenOptions } from "../../src/platform/disk.js";
import { type DiskOperation, FaultKind } from "../../src/sim/faults.js";
import { Host } from "./host.js";

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
const NEW: OpenOptions = { create: true, exclusive: true, write: true, direct: true };

t.test("one operation hangs until it is let go, those with it and after it do not", async (t) => {
  const host = new Host(seed);
  const world = host.start();
  const file = await host.during(async () => {
    const file = await world.disk.open("/disk0/file", NEW);
    world.arena.u32.fill(1, MIB / 4, (MIB + 4 * CLUSTER_BYTES) / 4);
    await world.disk.writeAsync(file, 0, MIB, 4 * CLUSTER_BYTES);
    return file;
  });
  const numberAt = (page: number) => {
    const { file } = host.device.filesUnder("/disk0/file")[0]!;
    const bytes = new Uint8Array(4);
    file.content.read(page * CLUSTER_BYTES, bytes, 0, 4);
    return bytes[0];
  };
  const { faults } = host.device;
  const held: Array<() => void> = [];
  const meant: string[] = [];
  const done: number[] = [];
  const write = (page: number) => {
    world.arena.u32.fill(2, MIB / 4, (MIB + CLUSTER_BYTES) / 4);
    const work = world.disk.writeAsync(file, page * CLUSTER_BYTES, MIB, CLUSTER_BYTES);
    void work.then(() => done.push(page));
  };
  const trap = {
    isMeant: (one: DiskOperation) => {
      meant.push(`${one.kind} ${one.offset} ${one.bytes} ${one.isBesideOthers}`);
      return one.offset === 2 * CLUSTER_BYTES;
    },
    onHang: (letGo: () => void) => void held.push(letGo),
  };
  faults.hangNext(trap)();
  t.notOk(faults.hasTraps, "it was taken back");
  faults.hangNext(trap);
  for (const page of [1, 2, 3]) write(page);
  await host.timeline.pass(10_000);
  t.same(done.sort(), [1, 3]);
  t.same(meant, ["write 4096 4096 true", "write 8192 4096 true"]);
  t.equal(numberAt(2), 1, "it has no effect yet");
  held[0]!();
  await host.timeline.pass(1000);
  t.same(done.sort(), [1, 2, 3]);
  t.equal(numberAt(2), 2);
  t.ok(host.faults.includes(FaultKind.Hang));

  faults.hangNext(trap);
  write(2);
  await host.timeline.pass(1);
  world.life.end();
  held[1]!();
  await host.timeline.pass(1000);
  t.same(done.sort(), [1, 2, 3], "the process was killed: nobody is told");
});
