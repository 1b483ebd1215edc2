// SPDX-License-Identifier: Apache-2.0
// What a user does with a vDisk as /dev/nbd0, done in a guest against a real cluster. The same
// steps run on every kind of guest, so they use only tools that all guests have.

import { join } from "node:path";
import type { Test } from "tap";
import { type Cluster, must } from "../integration/cluster.js";
import type { Guest } from "./guest.js";

export const MIB = 1024 * 1024;
export const VDISK_BYTES = 512 * MIB;
const DROPPED_MIB = 48;

/** Options of `ovs up` for these tests: one vDisk `vd0`, small disks and caches. */
export const OPTIONS = [
  ...["--asd-size", "512M", "--vdisk", `vd0:${VDISK_BYTES / MIB}M`],
  ...["--journal-size", "256M", "--cache-size", "64M", "--read-cache-size", "64M"],
];

/** Bytes that the vDisk holds in the backend, when all that was written or trimmed is there. */
export async function allocated(cluster: Cluster): Promise<number> {
  const sync = await cluster.ovs("vdisk", "sync", "vd0");
  if (sync.code !== 0) throw new Error(`sync: ${sync.code} ${sync.stdout}${sync.stderr}`);
  const info = await cluster.json<{ allocatedBytes: number }>("vdisk", "info", "vd0");
  return info.allocatedBytes;
}

/** The options of nbd-client that docs/operations.md recommends. */
export const RECOMMENDED = "-b 4096 -C 2";

/** Makes vd0 the guest's /dev/nbd0. */
export async function attach(guest: Guest, options: string): Promise<void> {
  await guest.must(`nbd-client ${guest.server} -N vd0 /dev/nbd0 ${options}`);
}

/** Gives /dev/nbd0 back. */
export async function detach(guest: Guest): Promise<void> {
  await guest.must("nbd-client -d /dev/nbd0; ! nbd-client -c /dev/nbd0");
}

/** The file system is whole, and its files in `folder` are those of /run/sums. */
export async function sameFiles(t: Test, guest: Guest, when: string): Promise<void> {
  await guest.must("e2fsck -fn /dev/nbd0; echo 3 > /proc/sys/vm/drop_caches");
  await guest.must("mount /dev/nbd0 /mnt; cd /mnt; sha256sum -c /run/sums > /run/checked");
  await guest.must("cd /; umount /mnt; e2fsck -fn /dev/nbd0");
  t.pass(`the files are the same and the file system is clean ${when}`);
}

/** A shell line that fills /mnt/keep with files of many sizes, synced, and notes their sums. */
export const FILL = `
mkdir -p /mnt/keep
i=0
while [ $i -lt 24 ]; do
  i=$((i + 1))
  dd if=/dev/urandom of=/mnt/keep/$i bs=1000 count=$((i * i)) conv=fsync 2>&1
done
cp -r /etc/*.conf /mnt/keep/
ln /mnt/keep/1 /mnt/keep/linked
sync
cd /mnt
find keep -type f | sort | xargs sha256sum > /run/sums
`;

/** What the kernel made of the export. */
export async function deviceLooksRight(t: Test, guest: Guest, blockBytes: number): Promise<void> {
  const names = ["logical_block_size", "write_cache", "fua", "discard_max_bytes"];
  const paths = names.map((name) => `/sys/block/nbd0/queue/${name}`).join(" ");
  const shown = await guest.must(`cat /sys/block/nbd0/size ${paths}`);
  const [sectors, block, cache, fua, discard] = shown.trim().split("\n");
  t.equal(Number(sectors) * 512, VDISK_BYTES, "the device has the vDisk's size");
  t.equal(Number(block), blockBytes, "its block size is the one asked for");
  t.equal(cache, "write back", "the kernel flushes");
  t.equal(fua, "1", "the kernel uses FUA");
  t.ok(Number(discard) > 0, "the kernel trims");
}

/** ext4 from attach to detach, and the same files after the next attach. */
export async function fileSystemLife(t: Test, cluster: Cluster, guest: Guest): Promise<void> {
  await attach(guest, RECOMMENDED);
  await deviceLooksRight(t, guest, 4096);
  // Without noinit_itable ext4 writes inode tables in the background, between the two counts.
  await guest.must("mkfs.ext4 -q /dev/nbd0; mount -o noinit_itable /dev/nbd0 /mnt");
  await guest.must(FILL);
  await guest.must(
    `dd if=/dev/urandom of=/mnt/dropped bs=1M count=${DROPPED_MIB} conv=fsync; sync`,
  );
  const before = await allocated(cluster);
  t.ok(before > DROPPED_MIB * MIB, `${before} bytes are allocated`);
  await guest.must("rm /mnt/dropped; sync; fstrim /mnt");
  const after = await allocated(cluster);
  t.ok(before - after >= DROPPED_MIB * MIB * 0.9, `TRIM gave back ${before - after} bytes`);
  await guest.must("umount /mnt; e2fsck -fn /dev/nbd0");
  await detach(guest);
  t.pass("a file system was made, filled, trimmed, unmounted, checked and detached");

  t.equal((await cluster.ovs("cache", "drop")).code, 0, "the caches are dropped");
  await attach(guest, RECOMMENDED);
  await sameFiles(t, guest, "after the next attach");
  await detach(guest);
  await onTheHost(t, cluster);
}

/** The same bytes by another client: what the host copies out is a clean file system. */
async function onTheHost(t: Test, cluster: Cluster): Promise<void> {
  const image = join(cluster.dir, "copied.img");
  await must("nbdcopy", [cluster.uri(), image]);
  await must("e2fsck", ["-fn", image]);
  await must("rm", [image]);
  t.pass("nbdcopy copies out a clean file system");
}

/** Blocks of 1 KiB on a device of 512 bytes: requests that are no whole clusters. */
export async function smallBlocks(t: Test, cluster: Cluster, guest: Guest): Promise<void> {
  await attach(guest, "-b 512");
  await deviceLooksRight(t, guest, 512);
  await guest.must("mkfs.ext4 -q -b 1024 /dev/nbd0; mount /dev/nbd0 /mnt");
  await guest.must(FILL);
  await guest.must("umount /mnt");
  await sameFiles(t, guest, "with blocks of 1 KiB");
  await guest.must("blkdiscard -f /dev/nbd0; cmp -n 67108864 /dev/nbd0 /dev/zero");
  await detach(guest);
  t.equal(await allocated(cluster), 0, "nothing is left of a vDisk that is discarded whole");
}
