// SPDX-License-Identifier: Apache-2.0
// A whole cluster in one process: hosts, the daemons on them, and an operator who stands outside,
// whom no fault meets.
//
//   h0: router, registry, proxies          d0, d1, …: one ASD each, or several
//   m0: registry, or registry and proxies, where these have a host of their own
//   operator: records the disks, makes vDisks, asks for verify, revokes the leases of the dead

import { AsdClient, type AsdStats } from "../asd/client.js";
import { BackendClient, CLIENT_DEFAULTS } from "../backend/client.js";
import { drainOsd } from "../backend/drain.js";
import { OSD_PREFIX, osdIdOf } from "../backend/paths.js";
import type { Policy } from "../backend/policy.js";
import { ensurePreset, OSDS_MAX, readAll, registerOsd, setOsdState } from "../backend/records.js";
import { assert } from "../base/assert.js";
import { equalBytes, formatUuid, parseUuid, toHex } from "../base/bytes.js";
import { messageOf, StorageError } from "../base/errors.js";
import { GIB, KIB, MIB } from "../base/units.js";
import type { Address } from "../platform/network.js";
import { RegistryClient } from "../registry/client.js";
import type { RegistryEntry } from "../registry/registry.js";
import { RouterClient } from "../router/client.js";
import { FailureDomain } from "../wire/generated/manifest.js";
import { decodeOsdRecord, OsdState } from "../wire/generated/osd.js";
import { audit } from "./audit.js";
import type { Dice } from "./dice.js";
import { SimHost } from "./host.js";
import type { KvContent } from "./kvcontent.js";
import { Life } from "./life.js";
import { SimNbdClient } from "./nbdclient.js";
import { ObjectReader } from "./objects.js";
import { SimProcess } from "./process.js";
import type { Scene } from "./scene.js";
import { asdSpec, proxySpec, registrySpec, routerSpec } from "./spec.js";
import type { BlockConnection } from "./workload.js";
import { SimWorld } from "./world.js";

export interface ClusterOptions {
  asds: number;
  /** Hosts that the ASDs are spread over. */
  /** Each is a node, and a rack of its own; every other one at the other site. */
  diskHosts: number;
  domain: FailureDomain;
  proxies: number;
  /** What is not on the router's host, but on one of its own. */
  apart: "none" | "registry" | "registry and proxies";
  threads: number;
  policy: Policy;
  vdisks: ReadonlyArray<{ name: string; sizeBytes: number }>;
  journalBytes: number;
  scoBytes: number;
  cacheBytes: number;
  readCacheBytes: number;
  asdBytes: number;
  lostAfterMs: number;
  gcIntervalMs: number;
  /** TLogs between two checkpoints; thousands in earnest. */
  checkpointTlogs?: number;
}

/** A cluster of its own kind. */
export function someCluster(dice: Dice): ClusterOptions {
  const policies: Policy[] = [
    { k: 2, m: 1, c: 3, x: 1 },
    { k: 2, m: 2, c: 3, x: 1 },
    { k: 4, m: 2, c: 5, x: 6 },
    { k: 3, m: 2, c: 5, x: 1 },
  ];
  const drawn = dice.pick(policies);
  const asds = drawn.k + drawn.m + dice.below(3);
  const spread = dice.fork("spread");
  const isShared = spread.chance(0.4);
  // Two disks a host: a domain above the disk has to take two fragments.
  const policy = isShared ? { ...drawn, x: 2 } : drawn;
  // Small SCOs are soon mostly garbage: their clusters are moved (P-F2).
  const isSmall = dice.fork("small SCOs").chance(0.5);
  const checkpoints = dice.fork("checkpoints");
  return {
    asds,
    diskHosts: isShared ? Math.ceil(asds / 2) : asds,
    domain: spread.pick([FailureDomain.disk, FailureDomain.node, FailureDomain.rack]),
    proxies: dice.between(1, 2),
    apart: spread.pick(["none", "registry", "registry and proxies"]),
    threads: dice.between(1, 2),
    policy,
    vdisks: Array.from({ length: dice.between(1, 3) }, (_, i) => ({
      name: `vd${i}`,
      sizeBytes: dice.pick([2, 4, 16]) * MIB,
    })),
    journalBytes: dice.pick([16, 32]) * MIB,
    scoBytes: dice.pick([256, 1024]) * KIB,
    cacheBytes: dice.pick([1, 4]) * MIB,
    readCacheBytes: dice.pick([0, 4]) * MIB,
    asdBytes: GIB,
    lostAfterMs: dice.pick([5_000, 600_000]),
    // 1 s is about as long as a repair takes: collection then overtakes repairs all the time.
    gcIntervalMs: dice.pick([1_000, 4_000, 15_000]),
    ...(isSmall ? { scoBytes: 64 * KIB } : {}),
    ...(checkpoints.chance(0.5) ? { checkpointTlogs: checkpoints.pick([3, 10, 30]) } : {}),
  };
}

const FRONT_IP = "127.1.0.1";
const MIDDLE_IP = "127.1.2.1";
const CONTROL = "tcp:127.1.0.1:7100";
const REGISTRY_PORT = 7000;
const PROXY_PORT = 7200;
const ASD_PORT = 7300;
const MOVED_PORT = 7400;
const DRAIN_MS = Number.POSITIVE_INFINITY;
const NBD = "unix:/run/nbd.sock";
const READY_MS = 60_000;
const LOOK_MS = 20;
const AGAIN_MS = 400;

export class SimCluster {
  readonly scene: Scene;
  readonly options: ClusterOptions;
  readonly uuid: string;
  /** Where the router runs. */
  readonly front: SimHost;
  /** Where the registry runs: the router's host, or one apart. */
  readonly #middle: SimHost;
  readonly diskHosts: SimHost[] = [];
  readonly registry: SimProcess;
  readonly router: SimProcess;
  readonly proxies: SimProcess[] = [];
  readonly asds: SimProcess[] = [];
  readonly operator: RegistryClient;
  readonly backend: BackendClient;
  readonly objects: ObjectReader;
  readonly routerClient: RouterClient;
  readonly #world: SimWorld;
  /** Of the clients on the router's host; they are not killed with it. */
  readonly #clients: Life;
  readonly #known = new Set<number>();
  readonly #diskUuids: string[] = [];
  /** Where each ASD listens. */
  readonly #addresses: string[] = [];
  #moves = 0;
  /** Disks that are being drained. */
  readonly #draining = new Set<number>();

  constructor(scene: Scene, options: ClusterOptions) {
    this.scene = scene;
    this.options = options;
    this.uuid = formatUuid(scene.dice.fork("cluster").bytes(16));
    this.front = new SimHost(scene, "h0", FRONT_IP);
    const isApart = options.apart !== "none";
    this.#middle = isApart ? new SimHost(scene, "m0", MIDDLE_IP) : this.front;
    for (let i = 0; i < options.diskHosts; i++) {
      const mounts = this.#diskPaths().filter((_, disk) => disk % options.diskHosts === i);
      this.diskHosts.push(new SimHost(scene, `d${i}`, `127.1.1.${i + 1}`, mounts));
    }
    const office = new SimHost(scene, "op", "127.1.9.1");
    const registry = this.#registryAddress;
    this.registry = new SimProcess(registrySpec(this.#middle, registry, this.uuid));
    const proxies = this.#addProxies();
    for (let i = 0; i < options.asds; i++) this.#addAsd(i);
    this.router = new SimProcess(
      routerSpec(this.front, {
        name: "router",
        cluster: this.uuid,
        registry,
        lostAfterMs: options.lostAfterMs,
        control: CONTROL,
        nbd: NBD,
        proxies,
        threads: options.threads,
        journalBytes: options.journalBytes,
        cacheBytes: options.cacheBytes,
        readCacheBytes: options.readCacheBytes,
        scoBytes: options.scoBytes,
        ...(options.checkpointTlogs === undefined
          ? {}
          : { checkpointTlogs: options.checkpointTlogs }),
      }),
    );
    this.router.onDeath = () => this.#revoke();

    this.#clients = new Life("clients", scene.timeline);
    const sizes = { arenaBytes: 26 * MIB, receivePoolBytes: 4 * MIB };
    this.#world = new SimWorld(office, new Life("operator", scene.timeline), sizes);
    const cluster = this.uuid;
    this.operator = new RegistryClient(this.#world, {
      address: registry,
      cluster,
      role: "manager",
    });
    this.backend = new BackendClient(this.#world, {
      ...CLIENT_DEFAULTS,
      self: { role: "manager", id: "", cluster },
      registry: this.operator,
      proxies,
      manifestsMax: 64,
      decodeBytes: 4 * MIB,
    });
    this.objects = new ObjectReader(this.#world, this.backend);
    this.routerClient = new RouterClient(this.#world, {
      address: CONTROL,
      cluster,
      role: "manager",
    });
  }

  /** All that a fault may meet: registry, proxies, ASDs, router; always in this order. */
  get processes(): SimProcess[] {
    return [this.registry, ...this.proxies, ...this.asds, this.router];
  }

  /** The router's host first. The operator's is not among them: no fault meets it. */
  get hosts(): SimHost[] {
    return [this.front, ...this.otherHosts];
  }

  /** Those that the router does not run on. */
  get otherHosts(): SimHost[] {
    return this.#middle === this.front ? this.diskHosts : [this.#middle, ...this.diskHosts];
  }

  get #registryAddress(): Address {
    return `tcp:${this.#middle.net.ip}:${REGISTRY_PORT}`;
  }

  /** Brings everything up, as an operator does it for the first time. */
  async start(): Promise<void> {
    const { policy, vdisks } = this.options;
    this.registry.keep();
    await this.#until("the registry is ready", () => this.registry.isReady);
    await ensurePreset(this.operator, "default", {
      policies: [policy],
      domain: this.options.domain,
    });
    for (const asd of this.asds) asd.keep();
    await this.#until("the ASDs are ready", () => this.asds.every((asd) => asd.isReady));
    for (const [i] of this.asds.entries()) await this.#record(i);
    for (const proxy of this.proxies) proxy.keep();
    await this.#until("the proxies are ready", () => this.proxies.every((one) => one.isReady));
    await this.backend.start();
    this.router.keep();
    await this.#until("the router is ready", () => this.router.isReady);
    for (const { name, sizeBytes } of vdisks) await this.routerClient.create(name, sizeBytes);
  }

  /** Opens a connection to a vDisk, as a client on the router's host. */
  async connect(vdisk: string, onEnd: () => void): Promise<BlockConnection> {
    const client = await SimNbdClient.connect({
      host: this.front.net,
      life: this.#clients,
      address: NBD,
      name: vdisk,
      onEnd,
    });
    return {
      request: (kind, flags, offset, length, data, done) =>
        client.request(kind, flags, offset, length, data, done),
      close: () => client.close(),
    };
  }

  /** Stops everything in order. */
  async stop(): Promise<void> {
    await this.router.stop();
    for (const proxy of this.proxies) await proxy.stop();
    for (const asd of this.asds) await asd.stop();
    await this.registry.stop();
  }

  /** Starts everything again after `stop`. */
  async startAgain(): Promise<void> {
    for (const process of this.processes) process.keep();
    await this.#until("all is ready again", () => this.processes.every((one) => one.isReady));
  }

  /**
   * What `ovs asd replace` does: the disk is declared gone, an empty one serves in its place. Goes
   * on until it is done.
   */
  async replaceDisk(i: number): Promise<void> {
    const asd = this.asds[i]!;
    await asd.stop();
    const old = this.#diskUuids[i]!;
    await this.#insist(() => this.#forget(old));
    asd.spec.host.storage.deviceOf(this.#diskPaths()[i]!).faults.wipe();
    this.#diskUuids[i] = formatUuid(this.scene.dice.fork(`disk ${i} after ${old}`).bytes(16));
    this.#known.delete(i);
    asd.keep();
    await this.#insist(() => this.#record(i));
    this.scene.trace.note("operator", `${asd.name} has a new disk`);
  }

  /**
   * ASDs come back at other addresses, as after a move of the data directory: one at a new one, two
   * of a host in each other's place. Goes on until it is done.
   */
  async moveAsds(some: readonly number[]): Promise<void> {
    for (const i of some) await this.asds[i]!.stop();
    const old = some.map((i) => this.#addresses[i]!);
    const { ip } = this.asds[some[0]!]!.spec.host.net;
    const free = `tcp:${ip}:${MOVED_PORT + this.#moves++}`;
    const places = some.length > 1 ? [...old.slice(1), old[0]!] : [free];
    for (const [at, i] of some.entries()) this.#addresses[i] = places[at]!;
    for (const i of some) this.asds[i]!.keep();
    for (const i of some) await this.#insist(() => this.#record(i));
    const words = some.map((i) => `${this.asds[i]!.name} is at ${this.#addresses[i]}`);
    this.scene.trace.note("operator", words.join(", "));
  }

  /**
   * What `ovs asd remove` does: all fragments move away, then the disk is declared gone; and
   * `ovs asd add`: an empty one serves in its place. Goes on until it is done. False: it cannot be
   * spared.
   */
  async drainDisk(i: number): Promise<boolean> {
    const diskUuid = this.#diskUuids[i]!;
    const { k, m } = this.options.policy;
    let isSpare = true;
    const parts = { clock: this.#world.clock, registry: this.operator };
    const count = async () => {
      try {
        return (await this.#statsOf(i)).keys;
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        return null;
      }
    };
    await this.#insist(async () => {
      const { entries } = await readAll(this.operator, OSD_PREFIX, OSDS_MAX);
      const there = entries.filter(({ value }) => decodeOsdRecord(value).state !== OsdState.gone);
      // Also those of other drains, marked or about to be.
      this.#draining.add(i);
      isSpare = there.length - this.#draining.size >= k + m;
      if (isSpare) await drainOsd(parts, await this.#idOf(diskUuid), count, DRAIN_MS);
    });
    if (isSpare) {
      this.scene.trace.note("operator", `${this.asds[i]!.name} is empty`);
      await this.replaceDisk(i);
    }
    this.#draining.delete(i);
    return isSpare;
  }

  async #forget(diskUuid: string): Promise<void> {
    await setOsdState(this.operator, await this.#idOf(diskUuid), OsdState.gone);
  }

  async #idOf(diskUuid: string): Promise<number> {
    const { entries } = await readAll(this.operator, OSD_PREFIX, OSDS_MAX);
    const wanted = parseUuid(diskUuid);
    const isMeant = (entry: RegistryEntry) =>
      equalBytes(decodeOsdRecord(entry.value).diskUuid, wanted);
    const found = entries.find(isMeant);
    assert(found !== undefined, "the disk was recorded");
    return osdIdOf(found.key);
  }

  /** Calls until it is answered without an error. */
  async #insist(call: () => Promise<unknown>): Promise<void> {
    for (;;) {
      try {
        await call();
        return;
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        this.scene.trace.note("operator", `refused: ${messageOf(error)}`);
      }
      await this.#world.clock.sleep(AGAIN_MS);
    }
  }

  /** All that the router has on its disk is gone; it is not running. */
  loseRouter(): void {
    assert(!this.router.isAlive, "it was stopped");
    this.front.storage.deviceOf("/router").loseFolder("/router");
    this.scene.count("router's data lost");
  }

  /** What is wrong in the books of the cluster, which was stopped in order. */
  audit(): string[] {
    const only = (host: SimHost, path: string) => {
      const stores = host.storage.deviceOf(path).storesUnder(path);
      assert(stores.length === 1, `${path} has one store`);
      return stores[0]!.store;
    };
    const indexes = new Map<string, KvContent>();
    for (const [i, asd] of this.asds.entries()) {
      const uuid = toHex(parseUuid(this.#diskUuids[i]!));
      indexes.set(uuid, only(asd.spec.host, this.#diskPaths()[i]!));
    }
    return audit({
      registry: only(this.#middle, "/registry"),
      indexes,
      domain: this.options.domain,
    });
  }

  #addProxies(): string[] {
    const addresses: string[] = [];
    const host = this.options.apart === "registry and proxies" ? this.#middle : this.front;
    for (let i = 0; i < this.options.proxies; i++) {
      const address = `tcp:${host.net.ip}:${PROXY_PORT + i}`;
      addresses.push(address);
      const spec = proxySpec(host, address, {
        name: `proxy-${i}`,
        cluster: this.uuid,
        registry: this.#registryAddress,
        lostAfterMs: this.options.lostAfterMs,
        gcIntervalMs: this.options.gcIntervalMs,
      });
      this.proxies.push(new SimProcess(spec));
    }
    return addresses;
  }

  #addAsd(i: number): void {
    const host = this.diskHosts[i % this.diskHosts.length]!;
    this.#addresses.push(`tcp:${host.net.ip}:${ASD_PORT + i}`);
    this.#diskUuids.push(formatUuid(this.scene.dice.fork(`disk ${i}`).bytes(16)));
    const spec = asdSpec(host, {
      name: `asd-${i}`,
      path: this.#diskPaths()[i]!,
      address: () => this.#addresses[i]!,
      cluster: this.uuid,
      diskUuid: () => this.#diskUuids[i]!,
      place: this.#placeOf(i),
      capacityBytes: this.options.asdBytes,
      format: () => !this.#known.has(i),
    });
    this.asds.push(new SimProcess(spec));
  }

  #placeOf(i: number): { site: string; rack: string; node: string } {
    const number = i % this.diskHosts.length;
    const node = this.diskHosts[number]!.name;
    return { site: `s${number % 2}`, rack: `r${number}`, node };
  }

  #diskPaths(): string[] {
    return Array.from({ length: this.options.asds }, (_, i) => `/asd${i}`);
  }

  async #statsOf(i: number): Promise<AsdStats> {
    const client = new AsdClient(this.#world, {
      address: this.#addresses[i]!,
      clusterUuid: this.uuid,
      diskUuid: this.#diskUuids[i]!,
      self: { role: "manager", id: "", cluster: this.uuid },
    });
    return await client.stats({ timeoutMs: 5_000 }).finally(() => client.close());
  }

  async #record(i: number): Promise<void> {
    const stats = await this.#statsOf(i);
    this.#known.add(i);
    await registerOsd(this.operator, {
      diskUuid: stats.diskUuid,
      clusterUuid: this.uuid,
      address: this.#addresses[i]!,
      capacityBytes: stats.capacityBytes,
      ...this.#placeOf(i),
    });
  }

  /** What a supervisor does that has reaped the router (P-C3). */
  async #revoke(): Promise<void> {
    try {
      const entry = await this.operator.get("/router/router/alive");
      if (entry && entry.lease !== "0") await this.operator.leaseRevoke(entry.lease);
    } catch (error) {
      // Then it runs out by itself.
      if (!(error instanceof StorageError)) throw error;
    }
  }

  async #until(what: string, condition: () => boolean): Promise<void> {
    const { clock } = this.#world;
    const endMs = clock.nowMs() + READY_MS;
    while (!condition()) {
      assert(clock.nowMs() < endMs, `it did not come to this: ${what}`);
      await clock.sleep(LOOK_MS);
    }
  }
}
