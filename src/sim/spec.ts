// SPDX-License-Identifier: Apache-2.0
// The daemons of a simulated cluster: what a real main (src/bin) does with arguments, this does
// with a specification. Same classes, smaller memory.

import { AsdDaemon } from "../asd/daemon.js";
import { PROXY_DEFAULTS, ProxyDaemon } from "../backend/proxy.js";
import { messageOf } from "../base/errors.js";
import { KIB, MIB } from "../base/units.js";
import type { Address } from "../platform/network.js";
import { RegistryClient } from "../registry/client.js";
import { RegistryDaemon } from "../registry/service.js";
import type { PastLimits } from "../registry/watches.js";
import { type HostConfig, type HostMemory, hostArenaBytes, VolumeHost } from "../router/host.js";
import { RouterDaemon } from "../router/router.js";
import type { SimHost } from "./host.js";
import type { Life } from "./life.js";
import { SimThreads } from "./threads.js";
import { SimWorld } from "./world.js";

/** What a process does between its start and its clean stop. */
export interface Running {
  /** Resolves when it serves. Rejects with a StorageError: it cannot, and the process ends. */
  start(): Promise<void>;
  /** As on SIGTERM: in order, called once. */
  stop(): Promise<void>;
}

/** How a process is made: in a life, on a host. `die` ends the process at once. */
export interface Spec {
  readonly name: string;
  readonly role: "registry" | "asd" | "proxy" | "router";
  readonly host: SimHost;
  /** Called for each life anew, in an event of that life. */
  make(life: Life, die: (reason: string) => void): Running;
  /** Of an ASD: where it serves now, and which disk. */
  whereIs?(): Whereabouts;
}

export interface Whereabouts {
  address: Address;
  clusterUuid: string;
  diskUuid: string;
}

const ROUTER_MEMORY: HostMemory = {
  slots: 64,
  receiveBytes: 6 * MIB,
  destageBytes: 8 * MIB,
  pageCacheBytes: MIB,
  kvCacheBytes: MIB,
  kvWriteBufferBytes: MIB,
  decodeBytes: 4 * MIB,
};

/** The registry of the cluster; `past`: how much of it watches may ask for. */
export function registrySpec(
  host: SimHost,
  address: Address,
  cluster: string,
  past?: PastLimits,
): Spec {
  const make = (life: Life, die: (reason: string) => void): Running => {
    const world = new SimWorld(host, life, { arenaBytes: 32 * MIB, receivePoolBytes: 4 * MIB });
    return new RegistryDaemon(world, {
      path: "/registry",
      address,
      cluster,
      ...(past === undefined ? {} : { past }),
      onFatal: (error) => die(messageOf(error)),
    });
  };
  return { name: "registry", role: "registry", host, make };
}

export interface AsdSpecOptions {
  name: string;
  path: string;
  /** Asked at each start: an operator may have moved it. */
  address: () => Address;
  cluster: string;
  /** Asked at each start: a disk that was replaced has another one. */
  diskUuid: () => string;
  place: { site: string; rack: string; node: string };
  capacityBytes: number;
  /** Asked at each start: may an empty disk be made an ASD's? */
  format: () => boolean;
}

/** A disk. */
export function asdSpec(host: SimHost, options: AsdSpecOptions): Spec {
  const { name, path, cluster, capacityBytes } = options;
  const make = (life: Life, die: (reason: string) => void): Running => {
    const world = new SimWorld(host, life, { arenaBytes: 18 * MIB, receivePoolBytes: 8 * MIB });
    const diskUuid = options.diskUuid();
    const place = { clusterUuid: cluster, diskUuid, ...options.place };
    return new AsdDaemon(world, {
      path,
      addresses: [options.address()],
      place,
      format: options.format(),
      capacityBytes,
      cacheBytes: 256 * KIB,
      readBytes: 16 * MIB,
      onFatal: (error) => die(messageOf(error)),
    });
  };
  const whereIs = () => {
    return { address: options.address(), clusterUuid: cluster, diskUuid: options.diskUuid() };
  };
  return { name, role: "asd", host, make, whereIs };
}

export interface ServiceOptions {
  name: string;
  cluster: string;
  registry: Address;
  lostAfterMs: number;
}

export interface ProxySpecOptions extends ServiceOptions {
  /** Between two collections of garbage; minutes in earnest. */
  gcIntervalMs: number;
}

/** A proxy. */
export function proxySpec(host: SimHost, address: Address, options: ProxySpecOptions): Spec {
  const { name, cluster, lostAfterMs, gcIntervalMs } = options;
  const make = (life: Life): Running => {
    const world = new SimWorld(host, life, { arenaBytes: 68 * MIB, receivePoolBytes: 8 * MIB });
    const registry = new RegistryClient(world, {
      address: options.registry,
      cluster,
      role: "proxy",
      id: name,
    });
    const proxy = new ProxyDaemon(world, {
      ...PROXY_DEFAULTS,
      id: name,
      clusterUuid: cluster,
      addresses: [address],
      registry,
      uploadsMax: 4,
      parityBytes: 8 * MIB,
      decodeBytes: 4 * MIB,
      repairBytes: 8 * MIB,
      lostAfterMs,
      gcIntervalMs,
    });
    return {
      start: () => proxy.start(),
      stop: async () => {
        await proxy.stop();
        await registry.close();
      },
    };
  };
  return { name, role: "proxy", host, make };
}

export interface RouterSpecOptions extends ServiceOptions {
  control: Address;
  nbd: Address;
  proxies: Address[];
  threads: number;
  journalBytes: number;
  cacheBytes: number;
  readCacheBytes: number;
  scoBytes: number;
  checkpointTlogs?: number;
}

/** A router with its worker threads. */
export function routerSpec(host: SimHost, options: RouterSpecOptions): Spec {
  const make = (life: Life, die: (reason: string) => void): Running => {
    const world = new SimWorld(host, life, { arenaBytes: 8 * MIB, receivePoolBytes: 2 * MIB });
    const threads = new SimThreads(life, (thread, _role, data, port) => {
      const config = data as HostConfig;
      const sizes = {
        arenaBytes: hostArenaBytes(config),
        receivePoolBytes: config.memory.receiveBytes,
      };
      new VolumeHost(new SimWorld(host, thread, sizes), config, port);
    });
    const config = {
      id: options.name,
      path: "/router",
      cluster: options.cluster,
      registry: options.registry,
      proxies: options.proxies,
      control: options.control,
      nbd: [options.nbd],
      journalBytes: options.journalBytes,
      cacheBytes: options.cacheBytes,
      readCacheBytes: options.readCacheBytes,
      scoBytes: options.scoBytes,
      threads: options.threads,
      lostAfterMs: options.lostAfterMs,
      memory: ROUTER_MEMORY,
      ...(options.checkpointTlogs === undefined
        ? {}
        : { checkpointTlogs: options.checkpointTlogs }),
      logTo: null,
    };
    return new RouterDaemon(world, config, threads, die);
  };
  return { name: options.name, role: "router", host, make };
}
