// SPDX-License-Identifier: Apache-2.0
// A cluster on one machine, as `ovs up` runs it: brings up the daemons in the order in which they
// need each other, keeps what a later start must know, and answers the operations.
//
//   registry ─► ASDs, recorded as OSDs ─► proxy ─► router ─► vDisks ─► operations ─► "ready"

import { formatUuid, parseUuid } from "../../base/bytes.js";
import { StorageError } from "../../base/errors.js";
import { settleAll } from "../../base/sync.js";
import { formatSize } from "../../base/units.js";
import type { Processes } from "../../platform/processes.js";
import type { World } from "../../platform/world.js";
import { RegistryClient } from "../../registry/client.js";
import type { Registry } from "../../registry/registry.js";
import { RouterClient } from "../../router/client.js";
import { decodeClusterRecord, packClusterRecord } from "../../wire/generated/vdisk.js";
import { managerAddress } from "../client.js";
import { type ClusterConfig, formatConfig } from "../model/config.js";
import { ManagerService } from "../service.js";
import { BackendDesk } from "./backend.js";
import { makeHandlers } from "./handlers.js";
import { type Layout, ROUTER_ID } from "./layout.js";
import { Supervisor } from "./supervisor.js";

const START_MS = 60_000;
const CLUSTER_KEY = "/cluster";

/** A running cluster; made, started and stopped once. */
export class UpCluster {
  readonly world: World;
  readonly layout: Layout;
  readonly supervisor: Supervisor;
  config: ClusterConfig;
  readonly #asked: ReadonlySet<string>;
  #registry: Registry | null = null;
  #backend: BackendDesk | null = null;
  #router: RouterClient | null = null;
  #service: ManagerService | null = null;

  /** `asked`: names of vDisks whose sizes in `config` this start was told. */
  constructor(
    world: World,
    processes: Processes,
    layout: Layout,
    config: ClusterConfig,
    asked: ReadonlySet<string>,
  ) {
    this.world = world;
    this.#asked = asked;
    this.layout = layout;
    this.config = config;
    this.supervisor = new Supervisor(processes, world.clock, world.log);
  }

  /** OVS_UNAVAILABLE before it runs, as the two below. */
  get registry(): Registry {
    if (!this.#registry) throw new StorageError("OVS_UNAVAILABLE", "the cluster is not up yet");
    return this.#registry;
  }

  /** ASDs, OSDs and policies. */
  get backend(): BackendDesk {
    if (!this.#backend) throw new StorageError("OVS_UNAVAILABLE", "the cluster is not up yet");
    return this.#backend;
  }

  /** The client of the router. */
  get router(): RouterClient {
    if (!this.#router) throw new StorageError("OVS_UNAVAILABLE", "the cluster is not up yet");
    return this.#router;
  }

  /** Resolves when everything serves. `progress` gets a line for each step. */
  async start(progress: (line: string) => void): Promise<void> {
    const { layout, supervisor } = this;
    await supervisor.add(layout.registrySpec(this.config), START_MS);
    const registry = new RegistryClient(this.world, {
      address: layout.registry,
      cluster: this.config.cluster,
      role: "manager",
    });
    this.#registry = registry;
    await this.#checkCluster(registry);
    this.#backend = new BackendDesk(this.world, registry, layout, this.config);
    await this.#backend.start();
    progress("registry runs");

    const created = await this.startAsds(this.#backend.expected());
    const running = supervisor
      .status()
      .filter((one) => one.role === "asd" && one.state === "running");
    progress(`${running.length} ASDs run${created > 0 ? `, ${created} new` : ""}`);

    await supervisor.add(layout.proxySpec(this.config), START_MS);
    await this.#backend.startClient();
    progress("proxy runs");

    await supervisor.add(
      { ...layout.routerSpec(this.config), onDeath: () => this.#revokeRouter() },
      START_MS,
    );
    this.#router = new RouterClient(this.world, {
      address: layout.router,
      cluster: this.config.cluster,
      role: "manager",
    });
    await this.#ensureVdisks(this.#router, progress);

    this.#service = new ManagerService(this.world, this.config.cluster, makeHandlers(this));
    await this.#service.listen(managerAddress(layout.data));
  }

  /** Clean stop, in reverse order. */
  async stop(): Promise<void> {
    await this.#service?.stop();
    await this.#router?.close();
    await this.#backend?.stop();
    await this.#registry?.close();
    await this.supervisor.stop();
  }

  /** Writes the configuration for the next start. */
  async keep(config: ClusterConfig): Promise<void> {
    await this.world.disk.files.writeSmall(
      this.layout.config,
      new TextEncoder().encode(formatConfig(config)),
    );
    this.config = config;
  }

  /**
   * Starts the ASDs of these numbers and records the new ones. A known disk that does not start is
   * left to the supervisor, which tries again: the backend lives without it. Resolves with the
   * number of new ones.
   */
  async startAsds(indexes: readonly number[]): Promise<number> {
    const created = await settleAll(indexes.map((index) => this.#startAsd(index)));
    return created.filter((isNew) => isNew).length;
  }

  async #startAsd(index: number): Promise<boolean> {
    const known = this.backend.isKnown(index);
    // Only a disk that the registry does not know may be formatted: an empty folder in the place of
    // a known one is a disk that is not mounted, or gone, and must not come back empty by itself.
    const spec = this.layout.asdSpec(this.config, index, { format: !known });
    if (!known) await this.world.disk.files.makeFolder(this.layout.asdFolder(index));
    if (known) {
      const runs = await this.supervisor.keep(spec, START_MS);
      // The data directory may have been moved: the record learns the new address.
      if (runs) await this.backend.record(index);
      return false;
    }
    await this.supervisor.add(spec, START_MS);
    // From now on it is known: when its folder is lost while it runs, no restart makes it anew.
    this.supervisor.amend(this.layout.asdSpec(this.config, index, { format: false }));
    await this.backend.record(index);
    return true;
  }

  async #checkCluster(registry: Registry): Promise<void> {
    const mine = parseUuid(this.config.cluster);
    // A registry without a cluster is a new one, or one that was lost: its manifests are the only
    // way to what lies on the ASDs, so disks that were formatted must not get an empty registry.
    if ((await registry.get(CLUSTER_KEY)) === null && (await this.#hasDisks())) {
      throw new StorageError(
        "OVS_LOST",
        `the registry in ${this.layout.data}/registry is empty, but there are formatted disks in ` +
          `${this.layout.data}/asd: put the registry's folder back, or start anew with another --data`,
      );
    }
    await registry.transact({
      compares: [{ key: CLUSTER_KEY, target: "version", is: "=", number: 0 }],
      success: [{ kind: "put", key: CLUSTER_KEY, value: packClusterRecord({ cluster: mine }) }],
      failure: [],
    });
    const entry = await registry.get(CLUSTER_KEY);
    const found = entry ? formatUuid(decodeClusterRecord(entry.value).cluster) : "none";
    if (found !== this.config.cluster) {
      throw new StorageError(
        "OVS_WRONG_IDENTITY",
        `the registry in ${this.layout.data} belongs to cluster ${found}, not to ` +
          `${this.config.cluster}: the folders of two clusters were mixed`,
      );
    }
  }

  async #hasDisks(): Promise<boolean> {
    const { files } = this.world.disk;
    for (const name of await files.list(`${this.layout.data}/asd`)) {
      if (await files.stat(`${this.layout.data}/asd/${name}/identity`)) return true;
    }
    return false;
  }

  async #ensureVdisks(router: RouterClient, progress: (line: string) => void): Promise<void> {
    const there = new Map((await router.list()).map((vdisk) => [vdisk.name, vdisk]));
    await this.#heedSizes(there);
    for (const wanted of this.config.vdisks) {
      const vdisk = there.get(wanted.name);
      if (!vdisk) {
        await router.create(wanted.name, wanted.sizeBytes);
        progress(`vDisk ${wanted.name} created, ${formatSize(wanted.sizeBytes)}`);
      } else if (vdisk.state !== "serving") {
        progress(`vDisk ${wanted.name} is NOT served: ${vdisk.reason || vdisk.state}`);
      } else {
        progress(`vDisk ${wanted.name} serves, ${formatSize(vdisk.sizeBytes)}`);
      }
    }
  }

  /**
   * The registry knows how large a vDisk is. What is kept for the next start follows it, also when
   * this start was told another size and is refused: else every later start would be, too.
   */
  async #heedSizes(there: Map<string, { sizeBytes: number }>): Promise<void> {
    const told = this.config.vdisks;
    const vdisks = told.map(({ name, sizeBytes }) => ({
      name,
      sizeBytes: there.get(name)?.sizeBytes ?? sizeBytes,
    }));
    const differs = told.filter((one, i) => one.sizeBytes !== vdisks[i]?.sizeBytes);
    if (differs.length === 0) return;
    await this.keep({ ...this.config, vdisks });
    const wrong = differs.find(({ name }) => this.#asked.has(name));
    if (!wrong) return;
    const is = formatSize(there.get(wrong.name)?.sizeBytes ?? 0);
    throw new StorageError(
      "OVS_INVALID",
      `the vDisk ${wrong.name} has ${is}, not ${formatSize(wrong.sizeBytes)}: leave --vdisk ` +
        `${wrong.name} out, or grow it with \`ovs vdisk resize\``,
    );
  }

  /** The router was reaped, so it is certainly dead: its lease need not run out (P-C3). */
  async #revokeRouter(): Promise<void> {
    const entry = await this.registry.get(`/router/${ROUTER_ID}/alive`);
    if (entry && entry.lease !== "0") await this.registry.leaseRevoke(entry.lease);
  }
}
