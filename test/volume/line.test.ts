// SPDX-License-Identifier: Apache-2.0
// The thin line through a volume: write, read, flush, destage, restart, read back.

import t from "tap";
import { CLUSTER_BYTES, MIB } from "../../src/base/units.js";
import { Host, Seeded } from "./fixture.js";

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);

t.test(`what is written reads back, destaged and restarted (seed ${seed})`, async (t) => {
  const host = new Host();
  t.teardown(() => host.destroy());
  const random = new Seeded(seed);
  await host.start();
  const data = random.bytes(MIB);
  const isSame = async () => Buffer.compare(await host.client.read(8192, MIB), data) === 0;
  await host.client.write(8192, data);
  t.ok(await isSame(), "from the journal");
  await host.client.flush();
  await host.volume.sync(10_000);
  t.equal(host.volume.status().dirtyBytes, 0);
  t.equal(host.volume.status().allocatedBytes, MIB);
  t.ok(await isSame(), "from memory");
  host.thread.dropCaches();
  t.ok(await isSame(), "from the backend");
  t.ok(host.volume.status().reads.backend >= 256);
  await host.client.write(CLUSTER_BYTES * 3, data.slice(0, 4 * CLUSTER_BYTES));
  data.copyWithin(CLUSTER_BYTES, 0, 4 * CLUSTER_BYTES);
  await host.stop();
  await host.start();
  t.ok(await isSame(), "after a restart");
  await host.crash();
  await host.start();
  t.ok(await isSame(), "after a crash");
  await host.stop();
});

t.test("writes of any alignment are merged", async (t) => {
  const host = new Host();
  t.teardown(() => host.destroy());
  await host.start();
  const model = new Uint8Array(64 * 1024);
  const random = new Seeded(seed);
  for (let i = 0; i < 200; i++) {
    const offset = random.below(60_000);
    const bytes = random.bytes(1 + random.below(Math.min(9000, model.length - offset)));
    await host.client.write(offset, bytes);
    model.set(bytes, offset);
    if (i === 100) await host.volume.sync(10_000);
  }
  t.same(Buffer.compare(await host.client.read(0, model.length), model), 0);
  await host.stop();
});
