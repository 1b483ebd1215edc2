// SPDX-License-Identifier: Apache-2.0
// A router in one process for tests: real registry, one real ASD, a proxy, and the router with its
// worker thread, each in a world of its own. The router's disk can be made to fail, and its calls
// to the thread can be cut.

import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AsdDaemon } from "../../src/asd/daemon.js";
import {
  PROXY_ARENA_BYTES,
  PROXY_DEFAULTS,
  PROXY_RECEIVE_BYTES,
  ProxyDaemon,
} from "../../src/backend/proxy.js";
import { ensurePreset, registerOsd } from "../../src/backend/records.js";
import { GIB, MIB } from "../../src/base/units.js";
import { createWorld, type NodeWorld } from "../../src/platform/node/world.js";
import type { Thread, Threads } from "../../src/platform/threads.js";
import { RegistryClient } from "../../src/registry/client.js";
import { RegistryDaemon } from "../../src/registry/service.js";
import { RouterClient } from "../../src/router/client.js";
import { HOST_MEMORY, type HostConfig, hostArenaBytes, VolumeHost } from "../../src/router/host.js";
import { RouterDaemon } from "../../src/router/router.js";
import { FailureDomain } from "../../src/wire/generated/manifest.js";
import { FaultDisk } from "../volume/faultdisk.js";

/** Waits for a condition; fails after a while, saying for what. */
export async function until(
  what: string,
  condition: () => Promise<boolean> | boolean,
  timeoutMs = 20_000,
): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Worker threads that run in this very thread. */
class InlineThreads implements Threads {
  readonly #rig: RouterRig;

  constructor(rig: RouterRig) {
    this.#rig = rig;
  }

  spawn(_role: string, data: unknown, onEnd: (reason: string) => void): Thread {
    const toMain: Array<(message: unknown) => void> = [];
    const toHost: Array<(message: unknown) => void> = [];
    const post = (list: typeof toMain, message: unknown) => {
      const copy = structuredClone(message);
      setImmediate(() => {
        for (const handler of list) handler(copy);
      });
    };
    this.#rig.startHost(data as HostConfig, {
      post: (message) => post(toMain, message),
      onMessage: (handler) => toHost.push(handler),
    });
    return {
      post: (message) => post(toHost, message),
      onMessage: (handler) => toMain.push(handler),
      terminate: () => {
        onEnd("");
        return Promise.resolve();
      },
    };
  }
}

export class RouterRig {
  readonly folder = mkdtempSync(join(tmpdir(), "ovs-router-"));
  readonly cluster = randomUUID();
  readonly #stops: Array<() => Promise<void>> = [];
  registry!: RegistryClient;
  router!: RouterDaemon;
  client!: RouterClient;
  /** Disk of the router's thread, of its latest life. */
  disk!: FaultDisk;
  hostWorld!: NodeWorld;
  /** Why the router ended itself. */
  died: string | null = null;
  #routerStops: Array<() => Promise<void>> = [];

  static async start(): Promise<RouterRig> {
    const rig = new RouterRig();
    await rig.#startRegistry();
    await rig.#startAsd();
    await rig.#startProxy();
    await rig.startRouter();
    return rig;
  }

  get nbd(): string {
    return `${this.folder}/nbd.sock`;
  }

  #address(name: string): string {
    return `unix:${this.folder}/${name}.sock`;
  }

  #world(name: string, arenaBytes: number, receivePoolBytes = 32 * MIB): NodeWorld {
    const world = createWorld({ name, arenaBytes, receivePoolBytes, terminal: null });
    return world;
  }

  async #startRegistry(): Promise<void> {
    const world = this.#world("registry", 128 * MIB);
    const daemon = new RegistryDaemon(world, {
      path: join(this.folder, "registry"),
      address: this.#address("registry"),
      cluster: this.cluster,
      onFatal: (error) => {
        throw error;
      },
    });
    await daemon.start();
    this.registry = this.#registryOf(world, "manager");
    await ensurePreset(this.registry, "default", {
      policies: [{ k: 1, m: 0, c: 1, x: 1 }],
      domain: FailureDomain.disk,
    });
    this.#stops.push(async () => {
      await this.registry.close();
      await daemon.stop();
      await world.stop();
    });
  }

  #registryOf(world: NodeWorld, role: string): RegistryClient {
    const address = this.#address("registry");
    return new RegistryClient(world, { address, cluster: this.cluster, role });
  }

  async #startAsd(): Promise<void> {
    const world = this.#world("asd", 112 * MIB, 64 * MIB);
    const disk = randomUUID();
    const place = { site: "s", rack: "r", node: "n" };
    const daemon = new AsdDaemon(world, {
      path: join(this.folder, "asd"),
      addresses: [this.#address("asd")],
      place: { clusterUuid: this.cluster, diskUuid: disk, ...place },
      format: true,
      capacityBytes: GIB,
      cacheBytes: 4 * MIB,
      onFatal: (error) => {
        throw error;
      },
    });
    await daemon.start();
    await registerOsd(this.registry, {
      diskUuid: disk,
      clusterUuid: this.cluster,
      address: this.#address("asd"),
      capacityBytes: GIB,
      ...place,
    });
    this.#stops.push(async () => {
      await daemon.stop();
      await world.stop();
    });
  }

  async #startProxy(): Promise<void> {
    const world = this.#world("proxy", PROXY_ARENA_BYTES + 32 * MIB, PROXY_RECEIVE_BYTES);
    const registry = this.#registryOf(world, "proxy");
    const proxy = new ProxyDaemon(world, {
      ...PROXY_DEFAULTS,
      id: "proxy",
      clusterUuid: this.cluster,
      addresses: [this.#address("proxy")],
      registry,
    });
    await proxy.start();
    this.#stops.push(async () => {
      await proxy.stop();
      await registry.close();
      await world.stop();
    });
  }

  /** Starts the router on its folder; it may have been stopped or cut off before. */
  async startRouter(): Promise<void> {
    const world = this.#world("router", 96 * MIB);
    this.died = null;
    const config = {
      id: "router",
      path: join(this.folder, "router"),
      cluster: this.cluster,
      registry: this.#address("registry"),
      proxies: [this.#address("proxy")],
      control: this.#address("control"),
      nbd: [`unix:${this.nbd}`],
      journalBytes: 64 * MIB,
      cacheBytes: 16 * MIB,
      readCacheBytes: 0,
      scoBytes: 4 * MIB,
      threads: 1,
      lostAfterMs: 600_000,
      logTo: null,
    };
    this.router = new RouterDaemon(world, config, new InlineThreads(this), (reason) => {
      this.died = reason;
    });
    await this.router.start();
    const { cluster } = this;
    this.client = new RouterClient(world, { address: config.control, cluster, role: "manager" });
    this.#routerStops = [() => this.client.close(), () => this.router.stop(), () => world.stop()];
  }

  /** Called by the router: its worker thread. */
  startHost(data: HostConfig, port: ConstructorParameters<typeof VolumeHost>[2]): void {
    const world = this.#world("host", hostArenaBytes(data), HOST_MEMORY.receiveBytes);
    this.disk = new FaultDisk(world.disk, world.turn);
    Object.defineProperty(world, "disk", { value: this.disk });
    this.hostWorld = world;
    new VolumeHost(world, data, port);
  }

  async stopRouter(): Promise<void> {
    for (const stop of this.#routerStops) await stop();
    if (this.#routerStops.length > 0) await this.hostWorld.stop();
    this.#routerStops = [];
  }

  async stop(): Promise<void> {
    await this.stopRouter();
    for (const stop of this.#stops.reverse()) await stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
