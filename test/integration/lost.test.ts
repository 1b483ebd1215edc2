// SPDX-License-Identifier: Apache-2.0
// The router's folder (journals, maps, caches) is lost. After a clean sync everything is rebuilt
// from the backend, bit-identical; with dirty data the vDisk waits and says so, and opens only when
// somebody accepts the loss.

import { rm } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { Cluster, killHard, must, until } from "./cluster.js";
import { NbdClient } from "./nbdclient.js";

t.setTimeout(1_200_000);

const OPTIONS = [
  ...["--asd-size", "512M", "--vdisk", "vd0:256M", "--journal-size", "128M", "--sco-size", "4M"],
  ...["--cache-size", "64M", "--read-cache-size", "128M"],
];

interface VdiskRow {
  state: string;
  reason: string;
  dirtyBytes: number;
}

async function infoOf(cluster: Cluster): Promise<VdiskRow> {
  return await cluster.json<VdiskRow>("vdisk", "info", "vd0");
}

/** Ends everything at once, as a power loss does; resolves when no process of it lives. */
async function killAll(cluster: Cluster): Promise<void> {
  const rows = (await cluster.processes()).filter((row) => row.pid > 0);
  await cluster.killSupervisor();
  for (const { pid } of rows) {
    try {
      killHard(pid);
    } catch {
      // Its parent's end has ended it.
    }
  }
  await until("no process of the cluster lives", () => rows.every(({ pid }) => !isAlive(pid)));
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Random bytes, written at the start, with a hole and an overwrite; the file shows them too. */
async function fill(cluster: Cluster): Promise<string> {
  const image = join(cluster.dir, "in.img");
  await must("dd", ["if=/dev/urandom", `of=${image}`, "bs=1M", "count=96", "status=none"]);
  await must("nbdcopy", ["--flush", image, cluster.uri()]);
  const client = await NbdClient.open(`${cluster.data}/run/nbd.sock`, "vd0");
  await client.trim(8 << 20, 4 << 20);
  await client.write(20 << 20, Buffer.alloc(12_288, 0xa5));
  await client.flush();
  await client.close();
  await must("fallocate", ["-z", "-o", String(8 << 20), "-l", String(4 << 20), image]);
  const patch = join(cluster.dir, "patch");
  await must("sh", ["-c", `head -c 12288 /dev/zero | tr '\\0' '\\245' > ${patch}`]);
  const at = `seek=${(20 << 20) / 4096}`;
  await must("dd", [`if=${patch}`, `of=${image}`, "bs=4096", at, "conv=notrunc", "status=none"]);
  await must("truncate", ["-s", "256M", image]);
  return image;
}

async function same(t: Test, cluster: Cluster, image: string, words: string): Promise<void> {
  const back = join(cluster.dir, "back.img");
  await must("nbdcopy", [cluster.uri(), back]);
  await must("cmp", [image, back]);
  await rm(back);
  t.pass(words);
}

t.test("after a clean sync the router's folder may be lost", async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up(...OPTIONS);
  const image = await fill(cluster);
  const sync = await cluster.ovs("vdisk", "sync", "vd0");
  t.equal(sync.code, 0, sync.stdout + sync.stderr);
  t.equal((await infoOf(cluster)).dirtyBytes, 0, "nothing is dirty after a sync");

  await cluster.down();
  await rm(join(cluster.data, "router"), { recursive: true });
  await cluster.up();
  await same(t, cluster, image, "rebuilt after a clean stop, bit-identical");

  await killAll(cluster);
  await rm(join(cluster.data, "router"), { recursive: true });
  await cluster.up();
  t.equal((await infoOf(cluster)).state, "serving");
  await same(t, cluster, image, "rebuilt after the death of everything, bit-identical");

  await must("nbdcopy", ["--flush", image, cluster.uri()]);
  await same(t, cluster, image, "the rebuilt vDisk takes writes");
  await cluster.down();
});

t.test(
  "with dirty data the vDisk waits, says so, and opens when the loss is accepted",
  async (t) => {
    const cluster = await Cluster.make();
    t.teardown(() => cluster.destroy());
    await cluster.up(...OPTIONS);
    await fill(cluster);
    t.equal((await cluster.ovs("vdisk", "sync", "vd0")).code, 0);
    const client = await NbdClient.open(`${cluster.data}/run/nbd.sock`, "vd0");
    await client.write(0, Buffer.alloc(4096, 0x5a), true);
    client.destroy();
    await killAll(cluster);
    await rm(join(cluster.data, "router"), { recursive: true });

    await cluster.up();
    t.match(cluster.output, /vd0 is NOT served/, "ovs up says it");
    const info = await infoOf(cluster);
    t.equal(info.state, "waiting");
    t.match(info.reason, /journal/, `the reason is in words: ${info.reason}`);
    const status = await cluster.ovs("status");
    t.equal(status.code, 3, "the status is degraded");
    t.match(status.stdout, /waiting/);
    await t.rejects(NbdClient.open(`${cluster.data}/run/nbd.sock`, "vd0"), "nothing is served");

    const refused = await cluster.ovs("vdisk", "recover", "vd0");
    t.not(refused.code, 0, "without --accept-loss it is refused");
    t.match(refused.stdout + refused.stderr, /accept-loss/, "and the way out is named");
    t.equal((await infoOf(cluster)).state, "waiting", "and it still waits");

    const opened = await cluster.ovs("vdisk", "recover", "vd0", "--accept-loss");
    t.equal(opened.code, 0, opened.stdout + opened.stderr);
    t.equal((await infoOf(cluster)).state, "serving");
    const again = await NbdClient.open(`${cluster.data}/run/nbd.sock`, "vd0");
    const patched = await again.read(20 << 20, 12_288);
    t.ok(patched.equals(Buffer.alloc(12_288, 0xa5)), "what was synced is there");
    await again.write(0, Buffer.alloc(4096, 0x77), true);
    await again.close();
    await cluster.down();
    await cluster.up();
    t.equal((await infoOf(cluster)).state, "serving", "it stays open");
    await cluster.down();
  },
);
