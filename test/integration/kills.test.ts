// SPDX-License-Identifier: Apache-2.0
// Processes die by SIGKILL at random moments under a verified load. KILLS says how many (default:
// a short form); `npm run soak` runs the long one. The seed is printed, SEED takes it back.

import t from "tap";
import { Cluster, killHard, type ProcessRow, until } from "./cluster.js";
import { Dice, VerifiedLoad } from "./load.js";

t.setTimeout(1_200_000);

const KILLS = Number(process.env.KILLS ?? 12);
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const BLOCKS = 16_384;
const OPTIONS = [
  "--asd-size",
  "1G",
  "--vdisk",
  "vd0:1G",
  "--journal-size",
  "128M",
  "--sco-size",
  "4M",
];

t.test(`what was acknowledged survives ${KILLS} kills (SEED=${SEED})`, async (t) => {
  const dice = new Dice(SEED);
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up(...OPTIONS, "--cache-size", "64M", "--read-cache-size", "256M");
  const load = new VerifiedLoad(`${cluster.data}/run/nbd.sock`, "vd0", BLOCKS, SEED);
  load.start(16);
  for (let kill = 0; kill < KILLS; kill++) {
    const goal = load.operations + 200 + dice.below(1500);
    await until(
      "the load goes on",
      () => load.operations >= goal || load.wrong.length > 0,
      120_000,
    );
    if (load.wrong.length > 0) break;
    await killOne(cluster, dice);
  }
  const goal = load.operations + 500;
  await until("the load goes on", () => load.operations >= goal || load.wrong.length > 0, 120_000);
  await load.stop();
  await load.verifyAll();
  t.same(load.wrong, [], "everything reads as acknowledged");
  t.comment(JSON.stringify(load.counters));
  await load.stop();

  const sync = await cluster.ovs("vdisk", "sync", "vd0");
  t.equal(sync.code, 0, sync.stdout + sync.stderr);
  const verify = await cluster.json<{ clean: boolean; unreadable: number; leaked: number }>(
    "backend",
    "verify",
  );
  t.equal(verify.unreadable, 0, "no object is lost");
  const again = await cluster.json<{ clean: boolean; leaked: number }>("backend", "verify");
  t.equal(again.clean, true, "verify ends clean");
  t.equal(again.leaked, 0, "nothing is leaked");
  await load.verifyAll();
  t.same(load.wrong, [], "it still reads after the sync");
  await load.stop();
  await cluster.down();
});

/** Kills the supervisor now and then, else one of its daemons. */
async function killOne(cluster: Cluster, dice: Dice): Promise<void> {
  if (dice.below(6) === 0) {
    await cluster.killSupervisor();
    await cluster.up();
    return;
  }
  const rows: ProcessRow[] = await cluster.processes();
  const alive = rows.filter((row) => row.state === "running" && row.pid > 0);
  const row = alive[dice.below(alive.length)];
  if (!row) return;
  killHard(row.pid);
}
