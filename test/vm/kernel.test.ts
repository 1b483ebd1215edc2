// SPDX-License-Identifier: Apache-2.0
// The kernel's own NBD driver against `ovs up`, in User-mode Linux and, with OVS_LONG=1 (`npm run
// vm`), in a QEMU guest too: attach, mkfs, files, fsync, TRIM, unmount, fsck, detach, attach.

import t from "tap";
import { Cluster } from "../integration/cluster.js";
import { fileSystemLife, OPTIONS, smallBlocks } from "./scenario.js";
import { bootUml, noUml } from "./uml.js";

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
  await guest.destroy();
  await cluster.down();
});
