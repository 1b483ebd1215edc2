// SPDX-License-Identifier: Apache-2.0
// The two sides of the vDisk rows: a whole cluster on this disk (`ovs up`, 4+2 on six ASDs) and
// qemu-nbd on a raw file that was written once, without host cache.

import { existsSync } from "node:fs";
import { type FioOptions, type FioResult, runFio } from "../lib/fio.js";
import { cpuSecondsOf, processTree, run, type Server, startServer } from "../lib/process.js";

const OVS = new URL("../../src/bin/ovs.js", import.meta.url).pathname;
const LIMIT = { timeoutMs: 60_000 };
export const SPAN_GIB = 4;

/** Someone who serves a disk over NBD. */
export interface Side {
  readonly uri: string;
  /** CPU seconds of all its processes so far. */
  cpuSeconds(): number;
  stop(): Promise<void>;
}

/** What every job of both sides has: 4 GiB, fresh buffers, no map of blocks. */
export async function work(side: Side, options: FioOptions): Promise<FioResult> {
  return await runFio({
    ioengine: "nbd",
    uri: side.uri,
    size: `${SPAN_GIB}G`,
    refill_buffers: true,
    norandommap: true,
    ...options,
  });
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
    this.uri = `nbd+unix:///vd0?socket=${this.data}/run/nbd.sock`;
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

  /** Bytes that the client wrote, and that the ASDs stored for them. */
  async written(): Promise<{ client: number; backend: number }> {
    const info = JSON.parse(await this.ovs("vdisk", "info", "vd0", "--json")) as {
      clientWrittenBytes: number;
      backendWrittenBytes: number;
    };
    return { client: info.clientWrittenBytes, backend: info.backendWrittenBytes };
  }

  async sync(): Promise<void> {
    await this.ovs("vdisk", "sync", "vd0");
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
