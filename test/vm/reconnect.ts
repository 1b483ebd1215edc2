// SPDX-License-Identifier: Apache-2.0
// The router dies by SIGKILL while a guest's file system is written to. The guest's kernel has a
// dead-connection timeout and is given a new connection (netlink.py), so it sends again what was in
// flight: no I/O error reaches the file system, and what was synced is there.

import type { Test } from "tap";
import { type Cluster, until } from "../integration/cluster.js";
import type { Guest } from "./guest.js";
import { attach, detach, RECOMMENDED, sameFiles } from "./scenario.js";

const ATTACHER = new URL("../../../test/vm/netlink.py", import.meta.url).pathname;
const DEAD_SECONDS = 120;
const FILES_BETWEEN = 15;

// Each file is synced before its sum is noted. Bounded by the size of the vDisk.
const WRITER = `
i=0
while [ $i -lt 600 ] && [ ! -e /run/stop ]; do
  i=$((i + 1))
  dd if=/dev/urandom of=/mnt/$i bs=64k count=8 conv=fsync 2> /run/error || exit 1
  (cd /mnt; sha256sum $i) >> /run/sums || exit 1
done
`;

/** Kills the router `kills` times under a writing guest, and looks for what it wrote. */
export async function routerDies(
  t: Test,
  cluster: Cluster,
  guest: Guest,
  kills: number,
): Promise<void> {
  const command = `python3 ${ATTACHER} /dev/nbd0 ${guest.server} vd0 ${DEAD_SECONDS}`;
  await guest.must(`${command} > /run/attacher 2>&1 &`);
  await until("netlink.py attached", async () => {
    return (await guest.run("grep -q attached /run/attacher")).code === 0;
  });
  await guest.must("mkfs.ext4 -q /dev/nbd0; mount /dev/nbd0 /mnt; rm -f /run/sums /run/stop");
  await guest.must(`(${WRITER} echo done > /run/ended) > /run/writer 2>&1 &`);
  let files = await written(guest, FILES_BETWEEN);
  for (let kill = 0; kill < kills; kill++) {
    const pid = await cluster.kill("router");
    await cluster.restarted("router", pid);
    files = await written(guest, files + FILES_BETWEEN);
  }
  await guest.must("touch /run/stop");
  await until("the writer ended well", async () => {
    return (await guest.run("test -e /run/ended")).code === 0;
  }).catch(async (error: unknown) => {
    throw new Error(`${String(error)}: ${await guest.must("cat /run/error")} ${guest.messages()}`);
  });
  const again = Number(await guest.must("grep -c again /run/attacher"));
  t.ok(again >= kills, `${again} new connections for ${kills} deaths, ${files} files`);
  t.notMatch(guest.messages(), /I\/O error|aborted/, "the file system saw no error");
  await guest.must("umount /mnt; e2fsck -fn /dev/nbd0");
  await detach(guest);
  await attach(guest, RECOMMENDED);
  await sameFiles(t, guest, `after ${kills} deaths of the router`);
  await detach(guest);
}

/** Waits until the writer has synced `count` files; resolves with how many it has. */
async function written(guest: Guest, count: number): Promise<number> {
  let files = 0;
  await until(
    `${count} files are written`,
    async () => {
      const lines = await guest.run("wc -l < /run/sums 2> /dev/null || echo 0");
      files = Number(lines.output);
      return files >= count;
    },
    120_000,
  );
  return files;
}
