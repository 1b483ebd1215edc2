// SPDX-License-Identifier: Apache-2.0
// Where everything lies in a data directory, and with which arguments its daemons are started.
//
//   DIR/ovs.toml       the configuration        DIR/run/     sockets
//   DIR/lock           the pid of `ovs up`      DIR/log/     logs
//   DIR/registry/      the registry             DIR/asd/N/   the disks
//   DIR/router/        journals, maps, caches

import { StorageError } from "../../base/errors.js";
import type { ClusterConfig } from "../model/config.js";
import type { ProcessSpec } from "./supervisor.js";

/** Longest path of a unix socket that the kernel takes, without the final zero. */
const SOCKET_PATH_MAX = 107;
const STOP_MS = 10_000;
/** A clean stop of a router ends the destage that runs and closes journals and stores. */
const ROUTER_STOP_MS = 60_000;

export const ROUTER_ID = "router";
export const DEFAULT_NBD_TCP = "tcp:127.0.0.1:10809";

/** Paths, addresses and arguments of one data directory. */
export class Layout {
  readonly data: string;

  /** `data`: absolute path. OVS_INVALID when it is too long for sockets. */
  constructor(data: string) {
    this.data = data;
    const longest = `${data}/run/registry.sock`;
    if (Buffer.byteLength(longest) > SOCKET_PATH_MAX) {
      throw new StorageError(
        "OVS_INVALID",
        `the path ${data} is too long for sockets in it: use a --data of at most ` +
          `${SOCKET_PATH_MAX - "/run/registry.sock".length} bytes`,
      );
    }
  }

  /** The configuration's file. */
  get config(): string {
    return `${this.data}/ovs.toml`;
  }

  /** The folder of the sockets. */
  get run(): string {
    return `${this.data}/run`;
  }

  /** The folder of the logs. */
  get logs(): string {
    return `${this.data}/log`;
  }

  /** Address of the registry. */
  get registry(): string {
    return `unix:${this.run}/registry.sock`;
  }

  /** Address of the proxy. */
  get proxy(): string {
    return `unix:${this.run}/proxy.sock`;
  }

  /** Address of the router's control service. */
  get router(): string {
    return `unix:${this.run}/router.sock`;
  }

  /** The folder of the disk `index`, counted from 0. */
  asdFolder(index: number): string {
    return `${this.data}/asd/${index}`;
  }

  /** Address of the ASD `index`. */
  asdAddress(index: number): string {
    return `unix:${this.run}/asd-${index}.sock`;
  }
  /** Where NBD clients come in: as configured, else a socket here and the usual port. */
  nbd(config: ClusterConfig): string[] {
    return config.nbd.length > 0 ? config.nbd : [`unix:${this.run}/nbd.sock`, DEFAULT_NBD_TCP];
  }

  /** How the registry is started. */
  registrySpec(config: ClusterConfig): ProcessSpec {
    const args = [
      "--path",
      `${this.data}/registry`,
      "--address",
      this.registry,
      "--cluster",
      config.cluster,
    ];
    return this.#spec("registry", "registry", this.registry, args, STOP_MS);
  }

  /** `format`: an empty folder may become a disk of this cluster. */
  asdSpec(config: ClusterConfig, index: number, options: { format: boolean }): ProcessSpec {
    const args = [
      ...["--path", this.asdFolder(index), "--address", this.asdAddress(index)],
      ...["--cluster", config.cluster, "--capacity", String(config.asdBytes)],
      ...["--site", "local", "--rack", "local", "--node", `asd-${index}`, "--name", `asd-${index}`],
      ...(options.format ? ["--format"] : []),
    ];
    return this.#spec("asd", `asd-${index}`, this.asdAddress(index), args, STOP_MS);
  }

  /** How the proxy is started. */
  proxySpec(config: ClusterConfig): ProcessSpec {
    const args = [
      ...["--address", this.proxy, "--registry", this.registry, "--cluster", config.cluster],
      ...["--lost-after", String(config.lostAfterMs / 1000)],
    ];
    return this.#spec("proxy", "proxy", this.proxy, args, STOP_MS);
  }

  /** How the router is started; its clean stop may take a minute. */
  routerSpec(config: ClusterConfig): ProcessSpec {
    const args = [
      ...["--id", ROUTER_ID, "--path", `${this.data}/router`, "--cluster", config.cluster],
      ...["--registry", this.registry, "--proxy", this.proxy, "--control", this.router],
      ...this.nbd(config).flatMap((address) => ["--nbd", address]),
      ...["--journal-size", String(config.journalBytes), "--cache-size", String(config.cacheBytes)],
      ...[
        "--read-cache-size",
        String(config.readCacheBytes),
        "--sco-size",
        String(config.scoBytes),
      ],
      ...["--threads", String(config.routerThreads)],
      ...["--lost-after", String(config.lostAfterMs / 1000)],
    ];
    return this.#spec("router", ROUTER_ID, this.router, args, ROUTER_STOP_MS);
  }

  #spec(role: string, id: string, address: string, args: string[], stopMs: number): ProcessSpec {
    return { role, id, address, args: [role, ...args, "--log", this.logs], stopMs, onDeath: null };
  }
}
