// SPDX-License-Identifier: Apache-2.0
// The registry stands still for longer than a lease, and goes on: clients of a vDisk see no error
// and no disconnect, and the router goes on.

import t from "tap";
import { Cluster, until } from "./cluster.js";
import { VerifiedLoad } from "./load.js";

t.setTimeout(300_000);

const STALL_MS = 6000;
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const OPTIONS = [
  ...["--asd-size", "512M", "--vdisk", "vd0:64M", "--journal-size", "64M", "--sco-size", "4M"],
  ...["--cache-size", "16M", "--read-cache-size", "64M"],
];

t.test(`a registry that stands still for 6 s is not noticed (SEED=${SEED})`, async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up(...OPTIONS);
  const rows = await cluster.processes();
  const registry = rows.find((row) => row.id === "registry")!;
  const load = new VerifiedLoad(`${cluster.data}/run/nbd.sock`, "vd0", 8192, SEED);
  load.start(8);
  await until("the load runs", () => load.operations > 1000);

  process.kill(registry.pid, "SIGSTOP");
  const before = load.operations;
  try {
    // The time itself is what is tested.
    await new Promise((resolve) => setTimeout(resolve, STALL_MS));
  } finally {
    process.kill(registry.pid, "SIGCONT");
  }
  const during = load.operations - before;
  const end = performance.now() + 6000;
  await until("and some more", () => performance.now() > end && load.operations > before + 1000);
  await load.stop();
  t.comment(`${during} operations while the registry stood still`);
  t.same(load.wrong, [], "no request failed");
  t.equal(load.counters.reconnects, 1, "no connection ended");
  const after = await cluster.processes();
  t.same(
    after.map(({ id, pid, restarts }) => ({ id, pid, restarts })),
    rows.map(({ id, pid, restarts }) => ({ id, pid, restarts })),
    "every process went on",
  );
  t.match(await cluster.log("registry"), /stood still/, "the registry tells");
  await load.verifyAll();
  t.same(load.wrong, [], "all that was written is there");
  await load.stop();
  await cluster.down();
});

t.test("status tells of a router that hangs, and does not wait for it", async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up(...OPTIONS);
  const router = (await cluster.processes()).find((row) => row.id === "router")!;
  t.equal((await cluster.ovs("status")).code, 0);
  process.kill(router.pid, "SIGSTOP");
  try {
    const status = await cluster.ovs("status", "--json");
    t.equal(status.code, 3);
    t.match(JSON.parse(status.stdout), { vdisks: [], backend: { health: "degraded" } });
  } finally {
    process.kill(router.pid, "SIGCONT");
  }
  await until("all is well", async () => (await cluster.ovs("status")).code === 0);
  await cluster.down();
});
