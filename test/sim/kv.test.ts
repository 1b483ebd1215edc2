// SPDX-License-Identifier: Apache-2.0
// The simulated key-value store behind the contract, and what only a simulated one can be put
// through.

import t from "tap";
import { kvContract } from "../platform/kv.contract.js";
import { Host } from "./host.js";

const seed = Number(process.env.SEED ?? Date.now() % 1e9);

t.test(`the contract (SEED=${seed})`, async (t) => {
  const host = new Host(seed);
  const { kv } = host.start();
  let names = 0;
  const path = () => `/disk0/store-${++names}`;
  await host.during(async () => {
    await kvContract(t, { factory: kv, path, seed });
  });
});
