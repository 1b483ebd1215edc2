// SPDX-License-Identifier: Apache-2.0
// The registry as simulated clusters have it: the real service over the simulated store, disk and
// network passes the contract that etcd passes.

import t from "tap";
import { MIB } from "../../src/base/units.js";
import { RegistryClient } from "../../src/registry/client.js";
import { SimHost } from "../../src/sim/host.js";
import { Life } from "../../src/sim/life.js";
import { SimProcess } from "../../src/sim/process.js";
import { Scene } from "../../src/sim/scene.js";
import { registrySpec } from "../../src/sim/spec.js";
import { SimWorld } from "../../src/sim/world.js";
import { always, put, registryContract } from "../registry/registry.contract.js";

t.setTimeout(300_000);

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const ADDRESS = "tcp:127.1.0.1:7000";
const CLUSTER = "00000000-0000-4000-8000-000000000001";

t.test(`the contract, in a simulated world (SEED=${SEED})`, async (t) => {
  const scene = new Scene(SEED, false);
  const host = new SimHost(scene, "h0", "127.1.0.1");
  const past = { revisionsMax: 400, bytesMax: 16 * MIB };
  const service = new SimProcess(registrySpec(host, ADDRESS, CLUSTER, past));
  const office = new SimHost(scene, "op", "127.1.9.1");
  // One answer of a range has 4 MiB and what the last key brings.
  const sizes = { arenaBytes: 16 * MIB, receivePoolBytes: 6 * MIB };
  const world = new SimWorld(office, new Life("client", scene.timeline), sizes);
  const registry = new RegistryClient(world, { address: ADDRESS, cluster: CLUSTER, role: "test" });
  const compact = async () => {
    for (let i = 0; i <= past.revisionsMax; i++) {
      await registry.transact(always(put("compact", "x")));
    }
  };
  service.keep();
  let over = false;
  const story = registryContract(t, () => ({ registry, compact, seed: SEED, clock: world.clock }));
  void story.finally(() => {
    over = true;
  });
  // The test awaits other things, too: then nothing is left to happen for a moment.
  while (!over) {
    await scene.timeline.run(() => over);
    await new Promise<void>((resolve) => void setImmediate(resolve));
  }
  await story;
  t.ok(scene.timeline.nowMs > 5000, "its leases ran by simulated time");
});
