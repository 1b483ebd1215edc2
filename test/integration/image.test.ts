// SPDX-License-Identifier: Apache-2.0
// Real data: a file system made of this machine's own files goes in; two of six disks are lost and
// stay lost; it comes back bit-identical. The disks return, or empty ones take their place, repair
// completes by itself, and two other disks may be lost. OVS_LONG=1 takes an image of 2 GiB.

import { copyFile, lstat, mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { Cluster, must } from "./cluster.js";
import { loseDisks, replaceDisks, returnDisks, whole } from "./disks.js";

t.setTimeout(1_800_000);

const LONG = process.env.OVS_LONG === "1";
const MIB = 1024 * 1024;
const IMAGE_BYTES = (LONG ? 2048 : 192) * MIB;
const FILL_BYTES = Math.floor(IMAGE_BYTES * 0.7);
const SOURCES = ["/usr/share", "/usr/lib", "/usr/bin"];
const OPTIONS = [
  ...["--asd-size", LONG ? "4G" : "512M", "--vdisk", `vd0:${IMAGE_BYTES / MIB}M`],
  ...["--journal-size", "256M", "--cache-size", "64M", "--read-cache-size", "128M"],
];

/** Copies regular files below `from` until the budget is used; resolves with what is left of it. */
async function gather(from: string, to: string, budget: number): Promise<number> {
  let left = budget;
  await mkdir(to, { recursive: true });
  for (const name of (await readdir(from)).sort()) {
    if (left <= 0) return 0;
    const path = join(from, name);
    const info = await lstat(path);
    if (info.isDirectory()) left = await gather(path, join(to, name), left);
    else if (info.isFile() && info.size < left) {
      await copyFile(path, join(to, name));
      left -= Math.max(info.size, 4096) + 256;
    }
  }
  return left;
}

/** An ext4 image with files of this machine. */
async function makeImage(folder: string): Promise<string> {
  const files = join(folder, "files");
  const image = join(folder, "in.img");
  const share = Math.floor(FILL_BYTES / SOURCES.length);
  for (const source of SOURCES) await gather(source, join(files, source), share);
  await must("truncate", ["-s", String(IMAGE_BYTES), image]);
  await must("mke2fs", ["-q", "-t", "ext4", "-N", "100000", "-d", files, image]);
  await must("rm", ["-rf", files]);
  return image;
}

async function sameBack(t: Test, cluster: Cluster, image: string, when: string): Promise<void> {
  const drop = await cluster.ovs("cache", "drop");
  t.equal(drop.code, 0, `caches are dropped ${when}`);
  const back = join(cluster.dir, "out.img");
  await must("nbdcopy", [cluster.uri(), back]);
  await must("cmp", [image, back]);
  await must("e2fsck", ["-fn", back]);
  await must("rm", [back]);
  t.pass(`the image is bit-identical and clean ${when}`);
}

t.test("a file system survives any two disks, again after their return", async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  const image = await makeImage(cluster.dir);
  await cluster.up(...OPTIONS);
  await must("nbdcopy", ["--flush", image, cluster.uri()]);
  await whole(cluster);

  await loseDisks(cluster, 1, 4);
  await sameBack(t, cluster, image, "with two disks lost");
  const sync = await cluster.ovs("vdisk", "sync", "vd0");
  t.equal(sync.code, 3, `a sync tells that the width is not full: ${sync.stdout}`);

  await returnDisks(cluster, 1, 4);
  await whole(cluster);
  await loseDisks(cluster, 0, 5);
  await sameBack(t, cluster, image, "with two other disks lost");

  await replaceDisks(cluster, 0, 5);
  await whole(cluster);
  const verify = await cluster.json<{ clean: boolean; samples: string[] }>("backend", "verify");
  t.equal(verify.clean, true, `verify after the repair: ${JSON.stringify(verify)}`);
  await loseDisks(cluster, 2, 3);
  await sameBack(t, cluster, image, "when only repaired fragments can stand in for two disks");
  await cluster.down();
});

t.test("a qcow2 image converted onto a vDisk compares equal with two disks lost", async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  const image = await makeImage(cluster.dir);
  const qcow = join(cluster.dir, "in.qcow2");
  await must("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", image, qcow]);
  await cluster.up(...OPTIONS);
  await must("qemu-img", ["convert", "-n", "-f", "qcow2", "-O", "raw", qcow, cluster.uri()]);
  await whole(cluster);
  await loseDisks(cluster, 2, 3);
  t.equal((await cluster.ovs("cache", "drop")).code, 0);
  const compare = ["compare", "-f", "qcow2", "-F", "raw", qcow, cluster.uri()];
  t.match(await must("qemu-img", compare), /identical/);
  await cluster.down();
});
