// SPDX-License-Identifier: Apache-2.0
// The kernel's own NBD driver against `ovs up`, in User-mode Linux and, with OVS_LONG=1 (`npm run
// vm`), in a QEMU guest too: attach, mkfs, files, fsync, TRIM, unmount, fsck, detach, attach; and
// the death of the router under a file system that is written to.

import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import t from "tap";
import { Cluster } from "../integration/cluster.js";
import { bootQemu, noQemu } from "./qemu.js";
import { routerDies } from "./reconnect.js";
import { fileSystemLife, OPTIONS, smallBlocks } from "./scenario.js";
import { bootUml, noUml } from "./uml.js";

const LONG = process.env.OVS_LONG === "1";
const KILLS = LONG ? 6 : 1;

t.setTimeout(900_000);

t.test("User-mode Linux: a vDisk is a disk for the kernel", { skip: noUml() }, async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up(...OPTIONS);
  const guest = await bootUml(cluster.dir, `${cluster.data}/run/nbd.sock`);
  t.teardown(() => guest.destroy());
  t.comment(`guest: Linux ${guest.kernel}`);
  await fileSystemLife(t, cluster, guest);
  await smallBlocks(t, cluster, guest);
  await routerDies(t, cluster, guest, KILLS);
  await guest.destroy();
  await cluster.down();
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

if (LONG) {
  const skip = await noQemu();
  t.test("QEMU: a vDisk is a disk for Debian's kernel", { skip }, async (t) => {
    const cluster = await Cluster.make();
    t.teardown(() => cluster.destroy());
    const port = await freePort();
    const addresses = [`unix:${cluster.data}/run/nbd.sock`, `tcp:127.0.0.1:${port}`];
    await cluster.up(...OPTIONS, ...addresses.flatMap((address) => ["--nbd", address]));
    const guest = await bootQemu(cluster.dir, port);
    t.teardown(() => guest.destroy());
    t.comment(`guest: Linux ${guest.kernel}`);
    await fileSystemLife(t, cluster, guest);
    await smallBlocks(t, cluster, guest);
    await guest.destroy();
    await cluster.down();
  });
}
