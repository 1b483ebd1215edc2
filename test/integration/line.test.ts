// SPDX-License-Identifier: Apache-2.0
// The thin line through everything: a GiB goes in over NBD, two ASDs and the router die, and the
// same GiB comes out, decoded.

import { join } from "node:path";
import t from "tap";
import { Cluster, must, sha256 } from "./cluster.js";

t.setTimeout(600_000);

t.test("what was synced survives the death of two ASDs and of the router", async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up("--asd-size", "2G", "--vdisk", "vd0:2G", "--journal-size", "512M");
  const source = join(cluster.dir, "in.img");
  const target = join(cluster.dir, "out.img");
  await must("dd", ["if=/dev/urandom", `of=${source}`, "bs=1M", "count=1024", "status=none"]);

  await must("nbdcopy", ["--flush", source, cluster.uri()]);
  const sync = await cluster.ovs("vdisk", "sync", "vd0");
  t.equal(sync.code, 0, sync.stdout + sync.stderr);

  await cluster.kill("asd-1");
  await cluster.kill("asd-4");
  const router = await cluster.kill("router");
  await cluster.restarted("router", router);
  await must("nbdcopy", [cluster.uri(), target]);
  await must("truncate", ["-s", "1G", target]);
  t.equal(await sha256(target), await sha256(source), "the bytes are the same");
  await cluster.down();
});
