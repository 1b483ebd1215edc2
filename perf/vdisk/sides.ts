// SPDX-License-Identifier: Apache-2.0
// The two sides of the vDisk rows: a whole cluster on this disk (`ovs up`, 4+2 on six ASDs) and
// qemu-nbd on a raw file that was written once, without host cache.

import { existsSync } from "node:fs";
import { type FioOptions, type FioResult, runFio } from "../lib/fio.js";
import { cpuSecondsOf, processTree, run, type Server, startServer } from "../lib/process.js";

const OVS = new URL("../../src/bin/ovs.js", import.meta.url).pathname;
const LIMIT = { timeoutMs: 60_000 };
export const SPAN_GIB = 4;

/** Someone who serves a disk. */
export interface Side {
  /** Of its NBD server; empty where fio reaches it by another engine. */
  readonly uri: string;
  /** Environment of its clients. */
  readonly env?: NodeJS.ProcessEnv;
  /** CPU seconds of all its processes so far. */
  cpuSeconds(): number;
  stop(): Promise<void>;
}

/** What every job of both sides has: 4 GiB, fresh buffers, no map of blocks. */
export async function work(side: Side, options: FioOptions): Promise<FioResult> {
  const common = { size: `${SPAN_GIB}G`, refill_buffers: true, norandommap: true } as const;
  const nbd: FioOptions = side.uri === "" ? {} : { ioengine: "nbd", uri: side.uri };
  return await runFio({ ...nbd, ...common, ...options }, side.env);
}

/** qemu-nbd on a raw file; the file is written once when it is made. */
export async function startQemu(folder: string): Promise<Side> {
  const file = `${folder}/peer.img`;
  const socket = `${folder}/peer.sock`;
  if (!existsSync(file)) {
    const args = ["if=/dev/urandom", `of=${file}`, "bs=1M", `count=${SPAN_GIB * 1024}`];
    await run("dd", [...args, "oflag=direct", "status=none"], { timeoutMs: 600_000 });
  }
  const args = ["-f", "raw", "-t", "-e", "8", "-k", socket, "--cache=none", "--aio=io_uring"];
  const server = await startServer("qemu-nbd", [...args, file], () => existsSync(socket), LIMIT);
  return {
    uri: `nbd+unix:///?socket=${socket}`,
    cpuSeconds: () => cpuSecondsOf([server.pid]),
    stop: () => server.stop(),
  };
}

/** `ovs up` in a folder; further starts go on with what is there. */
export class Ours implements Side {
  readonly data: string;
  readonly uri: string;
  #server: Server | null = null;

  constructor(folder: string) {
    this.data = `${folder}/data`;
    this.uri = this.uriOf("vd0");
  }

  uriOf(vdisk: string): string {
    return `nbd+unix:///${vdisk}?socket=${this.data}/run/nbd.sock`;
  }

  async start(...options: string[]): Promise<void> {
    const nbd = `unix:${this.data}/run/nbd.sock`;
    const args = [OVS, "up", "--data", this.data, "--nbd", nbd, ...options];
    const ready = async () =>
      existsSync(`${this.data}/run/ovs.sock`) &&
      (await this.ovs("status").then(
        () => true,
        () => false,
      ));
    this.#server = await startServer(process.execPath, args, ready, LIMIT);
  }

  /** Runs a command against the cluster; throws when it fails. */
  async ovs(...args: string[]): Promise<string> {
    const limit = { timeoutMs: 1_800_000 };
    return await run(process.execPath, [OVS, ...args, "--data", this.data], limit);
  }

  /** Bytes that clients wrote to vd0. */
  async clientBytes(): Promise<number> {
    const info = JSON.parse(await this.ovs("vdisk", "info", "vd0", "--json")) as {
      clientWrittenBytes: number;
    };
    return info.clientWrittenBytes;
  }

  /** Resolves when all of a vDisk is in the backend at full width. */
  async sync(vdisk = "vd0"): Promise<void> {
    await this.ovs("vdisk", "sync", vdisk);
  }

  async dropCaches(): Promise<void> {
    await this.ovs("cache", "drop");
  }

  /** The product's processes by what they are, `ovs up` itself among them. */
  async processes(): Promise<Array<{ id: string; role: string; pid: number }>> {
    const status = JSON.parse(await this.ovs("status", "--json")) as {
      processes: Array<{ id: string; role: string; pid: number }>;
    };
    return [{ id: "up", role: "up", pid: this.#server!.pid }, ...status.processes];
  }

  get pids(): number[] {
    return this.#server ? processTree(this.#server.pid) : [];
  }

  cpuSeconds(): number {
    return cpuSecondsOf(this.pids);
  }

  async stop(): Promise<void> {
    await this.#server?.stop();
    this.#server = null;
  }
}
