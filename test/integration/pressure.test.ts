// SPDX-License-Identifier: Apache-2.0
// More comes in than there is room for. A journal smaller than the load makes writes wait, never
// fail; a vDisk that is overwritten ten times on small disks never fills them, because what nobody
// reads any more is reclaimed. OVS_LONG=1 takes 4 GiB on disks of 2 GiB.

import t, { type Test } from "tap";
import { Cluster, run } from "./cluster.js";
import { NbdClient } from "./nbdclient.js";

t.setTimeout(7_200_000);

const LONG = process.env.OVS_LONG === "1";
const MIB = 1024 * 1024;
const LATENCY_MAX_MS = 1000;

interface FioJob {
  error: number;
  write: {
    io_bytes: number;
    iops: number;
    bw_bytes: number;
    clat_ns: { max: number; percentile: Record<string, number> };
  };
}

/** Runs fio's NBD engine on a vDisk; fails the test when it errs. */
async function fio(t: Test, cluster: Cluster, ...args: string[]): Promise<FioJob> {
  const common = ["--name=load", "--ioengine=nbd", `--uri=${cluster.uri()}`, "--thread"];
  const output = ["--output-format=json", "--percentile_list=50:99:99.9"];
  const result = await run("fio", [...common, ...args, ...output], {
    timeoutMs: 6_600_000,
    cwd: cluster.dir,
  });
  t.equal(result.code, 0, `fio ends well ${result.stderr.slice(0, 500)}`);
  const parsed = JSON.parse(result.stdout.slice(result.stdout.indexOf("{"))) as { jobs: FioJob[] };
  const job = parsed.jobs[0]!;
  t.equal(job.error, 0, "fio saw no error");
  return job;
}

t.test("a journal smaller than the load makes writes wait, without an error", async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up(
    ...["--asd-size", "1G", "--vdisk", "vd0:1G", "--journal-size", "64M"],
    ...["--cache-size", "64M", "--read-cache-size", "128M"],
  );
  const runtime = LONG ? 60 : 10;
  const job = await fio(
    t,
    cluster,
    ...["--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=768M", "--refill_buffers"],
    ...["--norandommap", "--time_based", `--runtime=${runtime}`],
  );
  const p999 = (job.write.clat_ns.percentile["99.900000"] ?? 0) / 1e6;
  const max = job.write.clat_ns.max / 1e6;
  t.comment(
    `${(job.write.io_bytes / MIB).toFixed(0)} MiB through a journal of 64 MiB, ` +
      `${job.write.iops.toFixed(0)} IOPS, p99.9 ${p999.toFixed(1)} ms, max ${max.toFixed(0)} ms`,
  );
  t.ok(job.write.io_bytes > 64 * MIB, "more than the journal holds");
  if (LONG) t.ok(p999 < LATENCY_MAX_MS, `p99.9 is ${p999} ms`);
  t.equal((await cluster.ovs("vdisk", "sync", "vd0")).code, 0);
  await cluster.down();
});

t.test("ten overwrites of a vDisk on small disks never stop and never err", async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  const mib = LONG ? 4096 : 256;
  await cluster.up(
    ...["--asd-size", LONG ? "2G" : "256M", "--vdisk", `vd0:${mib}M`],
    ...["--journal-size", LONG ? "512M" : "128M", "--sco-size", LONG ? "16M" : "4M"],
    ...["--cache-size", "64M", "--read-cache-size", "128M"],
  );
  await fio(
    t,
    cluster,
    ...["--rw=randwrite", "--bs=64k", "--iodepth=16", `--size=${mib}M`, "--loops=10"],
    ...["--randrepeat=0", "--refill_buffers"],
  );
  const sync = await cluster.ovs("vdisk", "sync", "vd0");
  t.equal(sync.code, 0, sync.stdout + sync.stderr);
  const info = await cluster.json<{ backendWrittenBytes: number }>("vdisk", "info", "vd0");
  const backend = await cluster.json<{ usedBytes: number; capacityBytes: number }>(
    "backend",
    "info",
  );
  t.comment(
    `backend took ${(info.backendWrittenBytes / MIB).toFixed(0)} MiB, holds ` +
      `${(backend.usedBytes / MIB).toFixed(0)} of ${(backend.capacityBytes / MIB).toFixed(0)} MiB`,
  );
  t.ok(backend.usedBytes < backend.capacityBytes, "what nobody reads is reclaimed");
  const client = await NbdClient.open(`${cluster.data}/run/nbd.sock`, "vd0");
  // A request's length has 32 bits.
  const part = Math.min(mib * MIB, 1024 * MIB);
  for (let at = 0; at < mib * MIB; at += part) await client.trim(at, part);
  await client.flush();
  await client.close();
  t.equal((await cluster.ovs("vdisk", "sync", "vd0")).code, 0, "it still syncs");
  const verify = await cluster.json<{ unreadable: number; leaked: number }>("backend", "verify");
  t.equal(verify.unreadable, 0);
  await cluster.down();
});
