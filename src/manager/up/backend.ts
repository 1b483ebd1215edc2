// SPDX-License-Identifier: Apache-2.0
// The backend as `ovs up` sees it: which folder is which OSD, how its disks and its proxy are.
//
// An OSD is found by its node name (`asd-N`), not by its address: a data directory may be moved.
// The registry is the truth about which disks belong to the cluster; a disk that was replaced
// stays in it as *gone*, its successor has an id of its own.

import { AsdClient, type AsdStats } from "../../asd/client.js";
import { BackendClient, CLIENT_DEFAULTS } from "../../backend/client.js";
import { drainOsd } from "../../backend/drain.js";
import { formatPolicy } from "../../backend/policy.js";
import type { ProxyStatus } from "../../backend/protocol.js";
import { ensurePreset, registerOsd, setOsdState } from "../../backend/records.js";
import { BackendTopology, type OsdInfo } from "../../backend/topology.js";
import { messageOf, StorageError } from "../../base/errors.js";
import { settleAll } from "../../base/sync.js";
import { MIB } from "../../base/units.js";
import type { World } from "../../platform/world.js";
import type { Registry } from "../../registry/registry.js";
import { FailureDomain } from "../../wire/generated/manifest.js";
import { OsdState } from "../../wire/generated/osd.js";
import type { ClusterConfig } from "../model/config.js";
import type { AsdStatus, BackendStatus, VerifyReport } from "../operations/operations.js";
import type { Layout } from "./layout.js";

export const PRESET = "default";
const STATS_MS = 2_000;
const VERIFY_MS = 12 * 3600 * 1000;
const DRAIN_MS = 12 * 3600 * 1000;
const DECODE_BYTES = 4 * MIB;

interface Disk {
  info: OsdInfo;
  client: AsdClient;
}

/** What `ovs up` knows and does about the backend. */
export class BackendDesk {
  readonly #world: World;
  readonly #registry: Registry;
  readonly #layout: Layout;
  readonly #config: ClusterConfig;
  readonly #topology: BackendTopology;
  readonly #client: BackendClient;
  readonly #disks = new Map<string, Disk>();

  constructor(world: World, registry: Registry, layout: Layout, config: ClusterConfig) {
    this.#world = world;
    this.#registry = registry;
    this.#layout = layout;
    this.#config = config;
    this.#topology = new BackendTopology(world, registry);
    this.#client = new BackendClient(world, {
      ...CLIENT_DEFAULTS,
      self: { role: "manager", id: "", cluster: config.cluster },
      registry,
      proxies: [layout.proxy],
      manifestsMax: 64,
      decodeBytes: DECODE_BYTES,
    });
  }

  /** Makes the preset of the policy and reads which OSDs there are. */
  async start(): Promise<void> {
    await ensurePreset(this.#registry, PRESET, {
      policies: [this.#config.policy],
      domain: FailureDomain.disk,
    });
    await this.#topology.start();
  }

  /** After the proxy runs. */
  async startClient(): Promise<void> {
    await this.#client.start();
  }

  /** Ends the connections; the ASDs go on. */
  async stop(): Promise<void> {
    this.#topology.stop();
    await this.#client.stop();
    await settleAll([...this.#disks.values()].map(({ client }) => client.close()));
  }

  /** Numbers of the ASDs of this cluster: those of the registry, and up to the configured count. */
  expected(): number[] {
    const numbers = new Set<number>();
    const removed = new Set<number>();
    for (const info of this.#topology.osds.values()) {
      const number = numberOf(info.node);
      if (number < 0) continue;
      if (info.state === OsdState.gone) removed.add(number);
      else numbers.add(number);
    }
    for (let number = 0; number < this.#config.asds; number++) {
      // A number that was taken out stays out.
      if (!removed.has(number)) numbers.add(number);
    }
    return [...numbers].sort((a, b) => a - b);
  }

  /** True when the registry has a disk in this place. */
  isKnown(number: number): boolean {
    return this.#infoOf(number) !== null;
  }

  /** Enters the disk that runs in this place, or brings its record up to date. */
  async record(number: number): Promise<void> {
    const address = this.#layout.asdAddress(number);
    const client = this.#connect(address, null);
    try {
      const stats = await client.stats({ timeoutMs: STATS_MS });
      await registerOsd(this.#registry, {
        diskUuid: stats.diskUuid,
        clusterUuid: this.#config.cluster,
        address,
        capacityBytes: stats.capacityBytes,
        site: "local",
        rack: "local",
        node: nodeOf(number),
      });
    } finally {
      await client.close();
    }
    await this.#topology.refresh();
  }

  /** Declares the disk in this place gone: its fragments are rebuilt elsewhere. */
  async forget(number: number): Promise<void> {
    const info = this.#infoOf(number);
    if (!info) return;
    await setOsdState(this.#registry, info.id, OsdState.gone);
    await this.#topology.refresh();
    const disk = this.#disks.get(info.diskUuid);
    this.#disks.delete(info.diskUuid);
    await disk?.client.close();
  }

  /** Moves all fragments off a disk; OVS_FULL or OVS_UNAVAILABLE when they have no other place. */
  async drain(number: number): Promise<void> {
    const info = this.#infoOf(number);
    if (!info) throw new StorageError("OVS_NOT_FOUND", `there is no ASD ${nodeOf(number)}`);
    const { k, m } = this.#config.policy;
    const others = [...this.#topology.osds.values()].filter(
      (osd) => osd.state === OsdState.active && osd.id !== info.id,
    );
    if (others.length < k + m) {
      throw new StorageError(
        "OVS_INVALID",
        `without ${nodeOf(number)} there are ${others.length} ASDs, and the policy ` +
          `${formatPolicy(this.#config.policy)} needs ${k + m}: add one first`,
      );
    }
    const parts = { clock: this.#world.clock, registry: this.#registry };
    const count = async () => {
      const { state, fragments } = await this.#status(info);
      return state.startsWith("down") ? null : fragments;
    };
    await drainOsd(parts, info.id, count, parts.clock.nowMs() + DRAIN_MS);
  }

  /** All ASDs that are not gone, by number; those that do not answer in 2 s are down. */
  async asds(): Promise<AsdStatus[]> {
    const infos = [...this.#topology.osds.values()].filter((info) => info.state !== OsdState.gone);
    infos.sort((a, b) => numberOf(a.node) - numberOf(b.node));
    return await settleAll(infos.map((info) => this.#status(info)));
  }

  /** Health by the ASDs that answer; counters are 0 while the proxy does not. */
  async status(): Promise<BackendStatus> {
    const asds = await this.asds();
    const { k, m, c } = this.#config.policy;
    const up = asds.filter((asd) => asd.state === "up");
    const counters = await this.#counters();
    const healthy = up.length === asds.length && counters.objectsDegraded === 0;
    const full = up.length < k ? "down" : up.length < c ? "readonly" : "degraded";
    return {
      health: healthy && up.length >= k + m ? "ok" : full,
      policy: formatPolicy(this.#config.policy),
      osds: asds.length,
      osdsUp: up.length,
      capacityBytes: asds.reduce((sum, asd) => sum + asd.capacityBytes, 0),
      usedBytes: asds.reduce((sum, asd) => sum + asd.usedBytes, 0),
      ...counters,
    };
  }

  /** Reads every fragment and repairs; clean only when nothing was wrong before. */
  async verify(): Promise<VerifyReport> {
    const options = { namespaces: null, repair: true, leaks: true };
    const report = await this.#client.verify(options, VERIFY_MS);
    const isWhole = report.unreachable + report.lacking + report.unreadable === 0;
    const isRight = report.missing + report.corrupt + report.misplaced + report.leaked === 0;
    return { ...report, clean: isWhole && isRight };
  }

  async #counters(): Promise<
    Pick<BackendStatus, "objectsDegraded" | "repairedFragments" | "corruptFragments">
  > {
    try {
      const statuses = await this.#client.proxyStatuses(STATS_MS);
      const sum = (of: (status: ProxyStatus) => number) =>
        statuses.reduce((total, status) => total + of(status), 0);
      return {
        objectsDegraded: sum((status) => status.maintenance.waitingObjects),
        repairedFragments: sum((status) => status.maintenance.repairedFragments),
        corruptFragments: sum((status) => status.counters.corruptPieces ?? 0),
      };
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#world.log.warn(`the proxy does not answer: ${messageOf(error)}`);
      return { objectsDegraded: 0, repairedFragments: 0, corruptFragments: 0 };
    }
  }

  #infoOf(number: number): OsdInfo | null {
    for (const info of this.#topology.osds.values()) {
      if (info.node === nodeOf(number) && info.state !== OsdState.gone) return info;
    }
    return null;
  }

  #connect(address: string, diskUuid: string | null): AsdClient {
    return new AsdClient(this.#world, {
      address,
      clusterUuid: this.#config.cluster,
      diskUuid,
      self: { role: "manager", id: "", cluster: this.#config.cluster },
    });
  }

  #disk(info: OsdInfo): Disk {
    const known = this.#disks.get(info.diskUuid);
    if (known && known.info.address === info.address) return known;
    const disk = { info, client: this.#connect(info.address, info.diskUuid) };
    this.#disks.set(info.diskUuid, disk);
    return disk;
  }

  async #status(info: OsdInfo): Promise<AsdStatus> {
    let stats: AsdStats | null = null;
    try {
      stats = await this.#disk(info).client.stats({ timeoutMs: STATS_MS });
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
    }
    const draining = info.state === OsdState.draining ? " draining" : "";
    return {
      id: info.node,
      osd: info.id,
      disk: info.diskUuid,
      address: info.address,
      state: stats ? (stats.failed === null ? `up${draining}` : "failed") : `down${draining}`,
      capacityBytes: stats?.capacityBytes ?? info.capacityBytes,
      usedBytes: stats?.usedBytes ?? 0,
      fragments: stats?.keys ?? 0,
      corruptions: stats?.corruptPages ?? 0,
      full: stats?.full ?? false,
      slow: stats?.slow ?? false,
    };
  }
}

function nodeOf(number: number): string {
  return `asd-${number}`;
}

/** The number in a node name of ours; -1 for another. */
function numberOf(node: string): number {
  const match = /^asd-(\d{1,4})$/.exec(node);
  return match ? Number(match[1]) : -1;
}
