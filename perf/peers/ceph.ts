// SPDX-License-Identifier: Apache-2.0
// A one-host Ceph as a peer: one monitor, one manager, six OSDs on BlueStore files in a folder, an
// image whose data lies in an erasure-coded pool 4+2. Debian's packages; fio's rbd engine is the
// client, without librbd's own cache, so that acknowledged means what it means for a vDisk: it is
// with the storage. No authentication, everything on loopback, nothing outside the folder.

import { randomUUID } from "node:crypto";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { cpuSecondsOf, pause, run, type Server, startServer } from "../lib/process.js";
import { type Side, SPAN_GIB } from "../vdisk/sides.js";

const OSDS = 6;
const OSD_GIB = 12;
/** What an OSD may take for its caches and all else; the least that Ceph takes is about this. */
const OSD_MEMORY_BYTES = 896 * 2 ** 20;
const PORTS = { v2: 13_300, v1: 16_789 };
const POOLS = { meta: "rep", data: "ecd" };
const IMAGE = "vd0";
const LIMIT = { timeoutMs: 60_000 };
const AS_ROOT = ["--setuser", "root", "--setgroup", "root"];

/** fio's options that stand in the place of an NBD server's address. */
export const CEPH_FIO = {
  ioengine: "rbd",
  clientname: "admin",
  pool: POOLS.meta,
  rbdname: IMAGE,
} as const;

/** Whether the programs are there; `npm run perf -- ceph` installs them. */
export function haveCeph(): boolean {
  return ["ceph-mon", "ceph-osd", "ceph-mgr", "ceph", "rbd"].every((name) =>
    existsSync(`/usr/bin/${name}`),
  );
}

export class Ceph implements Side {
  readonly uri = "";
  readonly env: NodeJS.ProcessEnv;
  readonly #folder: string;
  readonly #daemons: Server[] = [];
  #osds: Server[] = [];

  constructor(folder: string) {
    this.#folder = `${folder}/ceph`;
    this.env = { ...process.env, CEPH_CONF: `${this.#folder}/ceph.conf` };
  }

  /** Makes the cluster, its pools and the image, and waits until all is clean. */
  async start(): Promise<void> {
    const folder = this.#folder;
    const fsid = randomUUID();
    for (const name of ["mon", "mgr", "log", "run"])
      mkdirSync(`${folder}/${name}`, { recursive: true });
    writeFileSync(`${folder}/ceph.conf`, configuration(folder, fsid));
    const monitors = `[v2:127.0.0.1:${PORTS.v2},v1:127.0.0.1:${PORTS.v1}]`;
    const map = `${folder}/monmap`;
    await this.#run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitors, map);
    await this.#run("ceph-mon", "--mkfs", "-i", "a", "--monmap", map, ...AS_ROOT);
    this.#daemons.push(
      await this.#serve("ceph-mon", "a", () => this.#answers("-s", "--connect-timeout", "2")),
    );
    this.#daemons.push(await this.#serve("ceph-mgr", "x", () => true));
    for (let i = 0; i < OSDS; i++) await this.#makeOsd(i);
    await this.#startOsds();
    await this.#makePools();
    await this.#run(
      "rbd",
      "create",
      `${POOLS.meta}/${IMAGE}`,
      "--size",
      `${SPAN_GIB}G`,
      "--data-pool",
      POOLS.data,
    );
  }

  /** Ends the OSDs and starts them again: their caches are empty then. */
  async restartOsds(): Promise<void> {
    for (const server of this.#osds) await server.stop();
    this.#osds = [];
    await this.#startOsds();
    await this.#waitClean();
  }

  cpuSeconds(): number {
    return cpuSecondsOf([...this.#daemons, ...this.#osds].map(({ pid }) => pid));
  }

  async stop(): Promise<void> {
    for (const server of [...this.#osds, ...this.#daemons].reverse()) await server.stop();
  }

  async #makeOsd(index: number): Promise<void> {
    const uuid = randomUUID();
    mkdirSync(`${this.#folder}/osd${index}`);
    await this.#ceph("osd", "new", uuid, String(index));
    await this.#run("ceph-osd", "-i", String(index), "--mkfs", "--osd-uuid", uuid, ...AS_ROOT);
    await this.#ceph("osd", "crush", "add", String(index), "1.0", "root=default", "host=h0");
  }

  async #startOsds(): Promise<void> {
    for (let i = 0; i < OSDS; i++) {
      this.#osds.push(await this.#serve("ceph-osd", String(i), () => true));
    }
    await this.#until("all OSDs are up", async () => {
      const state = JSON.parse(await this.#ceph("osd", "stat", "-f", "json")) as {
        num_up_osds: number;
      };
      return state.num_up_osds === OSDS;
    });
  }

  async #makePools(): Promise<void> {
    const { meta, data } = POOLS;
    await this.#ceph("osd", "pool", "create", meta, "32", "32", "replicated");
    const profile = ["k=4", "m=2", "crush-failure-domain=osd", "plugin=isa"];
    await this.#ceph("osd", "erasure-code-profile", "set", "ec", ...profile);
    await this.#ceph("osd", "pool", "create", data, "32", "32", "erasure", "ec");
    await this.#ceph("osd", "pool", "set", data, "allow_ec_overwrites", "true");
    for (const pool of [meta, data]) {
      await this.#ceph("osd", "pool", "application", "enable", pool, "rbd");
    }
    await this.#waitClean();
  }

  async #waitClean(): Promise<void> {
    await this.#until("all placement groups are clean", async () =>
      /^(\d+) pgs: \1 active\+clean/.test(await this.#ceph("pg", "stat")),
    );
  }

  async #until(what: string, isTrue: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + LIMIT.timeoutMs;
    while (!(await isTrue())) {
      if (performance.now() > deadline) throw new Error(`Ceph: in vain it was waited: ${what}`);
      await pause(300);
    }
  }

  async #serve(
    program: string,
    id: string,
    ready: () => boolean | Promise<boolean>,
  ): Promise<Server> {
    return await startServer(program, ["-f", "-i", id, ...AS_ROOT], ready, {
      ...LIMIT,
      env: this.env,
    });
  }

  async #answers(...args: string[]): Promise<boolean> {
    return await this.#ceph(...args).then(
      () => true,
      () => false,
    );
  }

  async #ceph(...args: string[]): Promise<string> {
    return await this.#run("ceph", ...args);
  }

  async #run(program: string, ...args: string[]): Promise<string> {
    return await run(program, args, { ...LIMIT, env: this.env });
  }
}

function configuration(folder: string, fsid: string): string {
  return `[global]
fsid = ${fsid}
mon_host = [v2:127.0.0.1:${PORTS.v2}/0,v1:127.0.0.1:${PORTS.v1}/0]
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
public_network = 127.0.0.0/8
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
run_dir = ${folder}/run
admin_socket = ${folder}/run/$name.asok
log_file = ${folder}/log/$name.log
crash_dir = ${folder}/crash
mon_data = ${folder}/mon
mgr_data = ${folder}/mgr
osd_data = ${folder}/osd$id
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 3
osd_pool_default_min_size = 1
osd_pool_default_pg_autoscale_mode = off
mon_warn_on_insecure_global_id_reclaim_allowed = false
mon_data_avail_crit = 1
mon_osd_reporter_subtree_level = osd
mon_initial_members = a
rbd_cache = false
[osd]
osd_objectstore = bluestore
bluestore_block_size = ${OSD_GIB * 2 ** 30}
osd_memory_target = ${OSD_MEMORY_BYTES}
osd_max_pg_per_osd_hard_ratio = 10
osd_class_update_on_start = false
`;
}
