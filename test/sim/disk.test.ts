// SPDX-License-Identifier: Apache-2.0
// The simulated disk behind the contract, and what only a simulated one can be put through: ends of
// processes and of the power at every instant, and every fault.

import t from "tap";
import { MIB } from "../../src/base/units.js";
import { diskContract } from "../platform/disk.contract.js";
import { Host } from "./host.js";

const seed = Number(process.env.SEED ?? Date.now() % 1e9);

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
