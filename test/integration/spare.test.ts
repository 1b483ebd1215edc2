// SPDX-License-Identifier: Apache-2.0
// One ASD more than the policy needs, and one is lost: `sync` tells at once what is survived, and
// when the ASD counts as lost (`--lost-after`) its fragments are made anew on the spare one.

import t from "tap";
import { Cluster, until } from "./cluster.js";
import { loseDisks } from "./disks.js";
import { NbdClient } from "./nbdclient.js";

t.setTimeout(300_000);

const MIB = 1024 * 1024;
const LOST_AFTER_S = 45;
const OPTIONS = [
  ...["--asds", "7", "--asd-size", "512M", "--vdisk", "vd0:64M", "--journal-size", "64M"],
  ...["--sco-size", "4M", "--cache-size", "16M", "--read-cache-size", "64M"],
  ...["--lost-after", String(LOST_AFTER_S)],
];

interface Synced {
  full: boolean;
  spareMin: number;
}

t.test("a lost disk is not waited for, and its fragments move to the spare one", async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up(...OPTIONS);
  const client = await NbdClient.open(`${cluster.data}/run/nbd.sock`, "vd0");
  for (let i = 0; i < 40; i++) await client.write(i * MIB, Buffer.alloc(MIB, i + 1));
  await client.flush();
  await client.close();
  t.same(await cluster.json<Synced>("vdisk", "sync", "vd0"), { full: true, spareMin: 2 });
  await loseDisks(cluster, 3);
  const lostMs = performance.now();

  const sync = await cluster.ovs("vdisk", "sync", "vd0");
  const tookS = (performance.now() - lostMs) / 1000;
  t.equal(sync.code, 3, sync.stdout + sync.stderr);
  t.match(sync.stdout, /NOT at full width: the loss of 1 /, sync.stdout.trim());
  t.ok(
    tookS < LOST_AFTER_S - 10,
    `it did not wait for the disk to be lost (${tookS.toFixed(1)} s)`,
  );

  let now: Synced = { full: false, spareMin: 0 };
  const isWhole = async () => {
    now = await cluster.json<Synced>("vdisk", "sync", "vd0", "--timeout", "30");
    return now.full;
  };
  await until("the spare disk has the fragments", isWhole, 150_000);
  t.same(now, { full: true, spareMin: 2 });
  t.ok(performance.now() - lostMs > (LOST_AFTER_S - 15) * 1000, "and not before it was lost");
  t.equal((await cluster.ovs("backend", "verify")).code, 0, "verify is clean");
  await cluster.down();
});
