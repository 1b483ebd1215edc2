// SPDX-License-Identifier: Apache-2.0
// Runs fio and reads its JSON.

import { run } from "./process.js";

/** fio's options by name, without dashes; `true` stands for a bare option. */
export type FioOptions = Record<string, string | number | true>;

export interface FioResult {
  iops: number;
  bytesPerSecond: number;
  /** Completion latency, microseconds. */
  latencyUs: { mean: number; p50: number; p99: number; p999: number };
  /** CPU seconds of fio's job itself. */
  cpuSeconds: number;
  operations: number;
  bytes: number;
  errors: number;
}

interface FioSide {
  iops: number;
  io_bytes: number;
  bw_bytes: number;
  total_ios: number;
  clat_ns: { mean: number; percentile?: Record<string, number> };
}

interface FioJob {
  read: FioSide;
  write: FioSide;
  job_runtime: number;
  usr_cpu: number;
  sys_cpu: number;
  error: number;
  total_err?: number;
}

/** Runs one job; reads and writes are added up. Throws when fio fails. */
export async function runFio(options: FioOptions, env?: NodeJS.ProcessEnv): Promise<FioResult> {
  const args = ["--name=perf", "--output-format=json", "--group_reporting"];
  for (const [name, value] of Object.entries(options)) {
    args.push(value === true ? `--${name}` : `--${name}=${value}`);
  }
  const seconds = Number(options.runtime ?? 0) + Number(options.ramp_time ?? 0);
  const limit = { timeoutMs: (seconds + 300) * 1000 };
  const text = await run("fio", args, env === undefined ? limit : { ...limit, env });
  const report = JSON.parse(text.slice(text.indexOf("{"))) as { jobs: FioJob[] };
  const job = report.jobs[0]!;
  const side = job.write.total_ios > job.read.total_ios ? job.write : job.read;
  const at = (share: string) => (side.clat_ns.percentile?.[share] ?? 0) / 1000;
  return {
    iops: job.read.iops + job.write.iops,
    bytesPerSecond: job.read.bw_bytes + job.write.bw_bytes,
    latencyUs: {
      mean: side.clat_ns.mean / 1000,
      p50: at("50.000000"),
      p99: at("99.000000"),
      p999: at("99.900000"),
    },
    cpuSeconds: ((job.usr_cpu + job.sys_cpu) / 100) * (job.job_runtime / 1000),
    operations: job.read.total_ios + job.write.total_ios,
    bytes: job.read.io_bytes + job.write.io_bytes,
    errors: job.error,
  };
}
