// SPDX-License-Identifier: Apache-2.0
// A whole backend in one process for tests: the embedded registry, ASDs as real daemons on unix
// sockets, each in a world of its own as in a process of its own.

import { randomUUID } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AsdDaemon } from "../../src/asd/daemon.js";
import { parsePolicy } from "../../src/backend/policy.js";
import { ensurePreset, registerOsd } from "../../src/backend/records.js";
import { GIB, MIB } from "../../src/base/units.js";
import type { KvStore } from "../../src/platform/kv.js";
import { createWorld, type NodeWorld } from "../../src/platform/node/world.js";
import { EmbeddedRegistry } from "../../src/registry/embedded.js";
import { FailureDomain } from "../../src/wire/generated/manifest.js";

/** The embedded registry alone, in a world that others may use too. */
export interface TestRegistry {
  world: NodeWorld;
  registry: EmbeddedRegistry;
  stop(): Promise<void>;
}

export async function openTestRegistry(arenaBytes: number): Promise<TestRegistry> {
  const folder = mkdtempSync(join(tmpdir(), "ovs-backend-"));
  const world = createWorld({ name: "test", arenaBytes, terminal: null });
  const store = await world.kv.open(join(folder, "registry"), {
    cacheBytes: 8 * MIB,
    writeBufferBytes: 8 * MIB,
    create: true,
  });
  const registry = await EmbeddedRegistry.open(world, store);
  const stop = async () => {
    await registry.close();
    await store.close();
    await world.stop();
    rmSync(folder, { recursive: true, force: true });
  };
  return { world, registry, stop };
}

export interface ClusterOptions {
  asds: number;
  policies: string[];
  /** OSDs of one node; default: all on one. */
  perNode?: number;
  capacityBytes?: number;
}

export interface TestAsd {
  id: number;
  path: string;
  disk: string;
  daemon: AsdDaemon | null;
  world: NodeWorld | null;
}

export class TestCluster {
  readonly folder = mkdtempSync(join(tmpdir(), "ovs-backend-"));
  readonly cluster = randomUUID();
  readonly options: ClusterOptions;
  readonly asds: TestAsd[] = [];
  readonly worlds: NodeWorld[] = [];
  registry!: EmbeddedRegistry;
  #store!: KvStore;

  private constructor(options: ClusterOptions) {
    this.options = options;
  }

  static async start(options: ClusterOptions): Promise<TestCluster> {
    const cluster = new TestCluster(options);
    const world = cluster.world("registry", 16 * MIB);
    cluster.#store = await world.kv.open(join(cluster.folder, "registry"), {
      cacheBytes: 8 * MIB,
      writeBufferBytes: 8 * MIB,
      create: true,
    });
    cluster.registry = await EmbeddedRegistry.open(world, cluster.#store);
    await ensurePreset(cluster.registry, "default", {
      policies: options.policies.map(parsePolicy),
      domain: FailureDomain.node,
    });
    for (let i = 0; i < options.asds; i++) await cluster.addAsd();
    return cluster;
  }

  /** A world that ends with the cluster. */
  world(name: string, arenaBytes: number, receivePoolBytes?: number): NodeWorld {
    const options = { name, arenaBytes, terminal: null };
    const world = createWorld(
      receivePoolBytes === undefined ? options : { ...options, receivePoolBytes },
    );
    this.worlds.push(world);
    return world;
  }

  /** A new, empty ASD, known to the registry. */
  async addAsd(): Promise<TestAsd> {
    const index = this.asds.length;
    const asd: TestAsd = {
      id: 0,
      path: join(this.folder, `asd-${index}`),
      disk: randomUUID(),
      daemon: null,
      world: null,
    };
    this.asds.push(asd);
    await this.startAsd(asd);
    asd.id = await registerOsd(this.registry, {
      diskUuid: asd.disk,
      clusterUuid: this.cluster,
      address: this.addressOf(asd),
      capacityBytes: this.options.capacityBytes ?? 4 * GIB,
      ...this.#placeOf(asd),
    });
    return asd;
  }

  addressOf(asd: TestAsd): string {
    return `unix:${asd.path}.sock`;
  }

  #placeOf(asd: TestAsd) {
    const node = Math.floor(this.asds.indexOf(asd) / (this.options.perNode ?? 1000));
    return { site: "s0", rack: "r0", node: `n${node}` };
  }

  async startAsd(asd: TestAsd): Promise<void> {
    asd.world = createWorld({
      name: `asd-${this.asds.indexOf(asd)}`,
      arenaBytes: 112 * MIB,
      receivePoolBytes: 64 * MIB,
      terminal: null,
    });
    asd.daemon = new AsdDaemon(asd.world, {
      path: asd.path,
      addresses: [this.addressOf(asd)],
      place: { clusterUuid: this.cluster, diskUuid: asd.disk, ...this.#placeOf(asd) },
      format: true,
      capacityBytes: this.options.capacityBytes ?? 4 * GIB,
      cacheBytes: 4 * MIB,
      onFatal: (error) => {
        throw error;
      },
    });
    await asd.daemon.start();
  }

  async stopAsd(asd: TestAsd): Promise<void> {
    await asd.daemon?.stop();
    await asd.world?.stop();
    asd.daemon = null;
    asd.world = null;
  }

  /** Extent files of an ASD. */
  extentsOf(asd: TestAsd): string[] {
    return readdirSync(join(asd.path, "extents")).map((name) => join(asd.path, "extents", name));
  }

  async stop(): Promise<void> {
    for (const asd of this.asds) await this.stopAsd(asd);
    await this.registry.close();
    await this.#store.close();
    for (const world of this.worlds) await world.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
