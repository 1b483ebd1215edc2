// SPDX-License-Identifier: Apache-2.0
// The storage router: owns vDisks. This class lives on the main thread; it holds the lease, knows
// which vDisks there are, negotiates with NBD clients and answers the control service. The vDisks
// themselves live on worker threads (host.ts), each on exactly one.
//
//   main:   lease ── list of vDisks ── control service ── NBD listener (accept, negotiate)
//                          │ link: open, close, sync, adopt(connection) …
//   worker: VolumeHost ── Volume (journal, map, destage) ── NBD connections

import { alignDown, parseUuid } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { Semaphore, settleAll } from "../base/sync.js";
import { CLUSTER_BYTES, formatSize } from "../base/units.js";
import { discardTicket, NbdListener, type NbdTicket } from "../nbd/listener.js";
import type { Address } from "../platform/network.js";
import type { Threads } from "../platform/threads.js";
import type { Timer, World } from "../platform/world.js";
import { RegistryClient } from "../registry/client.js";
import type { Registry } from "../registry/registry.js";
import { RpcServer } from "../rpc/server.js";
import { Assignment } from "./assignment.js";
import type { HostConfig, HostMethods, MainMethods } from "./host.js";
import { RouterLease } from "./lease.js";
import { Link } from "./link.js";
import {
  emptySchema,
  listInput,
  nameInput,
  RouterOperation,
  recoverInput,
  sizeInput,
  syncInput,
  type VdiskStatus,
} from "./messages.js";
import { createVdisk, deleteVdisk, listVdisks, resizeVdisk, type Vdisk } from "./records.js";

const LEASE_WAIT_MS = 15_000;
const OPEN_AT_ONCE = 8;
const RETRY_FIRST_MS = 500;
const RETRY_LAST_MS = 10_000;

/** What a router is started with. Sizes in bytes, for all threads together. */
export interface RouterConfig {
  id: string;
  /** Folder of journals, maps and disk cache. */
  path: string;
  cluster: string;
  registry: Address;
  proxies: Address[];
  control: Address;
  nbd: Address[];
  journalBytes: number;
  cacheBytes: number;
  readCacheBytes: number;
  scoBytes: number;
  threads: number;
  /** Folder of the threads' logs. */
  logTo: string | null;
}

interface HostThread {
  link: Link<HostMethods>;
  end: () => Promise<void>;
}

interface Entry {
  vdisk: Vdisk;
  shard: number;
  /** Served: a host has it, and knows more; a halted one stays `served` here. */
  state: "opening" | "waiting" | "served" | "closed";
  reason: string;
  backoffMs: number;
  timer: Timer | null;
}

/** A router; made, started and stopped once. */
export class RouterDaemon {
  readonly #world: World;
  readonly #config: RouterConfig;
  readonly #threads: Threads;
  /** Ends the process; used when a thread died or the lease is lost. */
  readonly #die: (reason: string) => void;
  readonly #entries = new Map<string, Entry>();
  readonly #hosts: HostThread[] = [];
  readonly #opening = new Semaphore(OPEN_AT_ONCE);
  readonly #incarnation: Uint8Array;
  #registry: Registry | null = null;
  #lease: RouterLease | null = null;
  #assignment: Assignment | null = null;
  #listener: NbdListener | null = null;
  #server: RpcServer<null> | null = null;
  #lock: { release(): Promise<void> } | null = null;
  #stopping = false;

  constructor(world: World, config: RouterConfig, threads: Threads, die: (reason: string) => void) {
    this.#world = world;
    this.#config = config;
    this.#threads = threads;
    this.#die = die;
    this.#incarnation = world.random.bytes(16);
  }

  /** Resolves when the control service and NBD listen and every vDisk was tried once. */
  async start(): Promise<void> {
    const { path, id, cluster, registry, control } = this.#config;
    await this.#world.disk.files.makeFolder(path);
    this.#lock = await this.#world.disk.files.lock(path);
    const client = new RegistryClient(this.#world, {
      address: registry,
      cluster,
      role: "router",
    });
    this.#registry = client;
    this.#lease = new RouterLease(this.#world, client, {
      router: id,
      incarnation: this.#incarnation,
      address: control,
      onLost: (reason) => this.#die(reason),
    });
    await this.#lease.take(LEASE_WAIT_MS);
    this.#assignment = await Assignment.open(this.#world, path, {
      threads: this.#config.threads,
      cluster,
    });
    await this.#startHosts();
    this.#listener = new NbdListener({
      log: this.#world.log,
      onNegotiated: (ticket) => this.#adopt(ticket),
    });
    const vdisks = await listVdisks(client);
    await settleAll(vdisks.map((vdisk) => this.#addEntry(vdisk)));
    for (const address of this.#config.nbd) this.#listener.listen(address);
    this.#server = this.#makeServer();
    await this.#server.listen(control);
  }

  /** Clean stop: every vDisk is closed in order, then the lease is given back. */
  async stop(): Promise<void> {
    this.#stopping = true;
    for (const entry of this.#entries.values()) entry.timer?.cancel();
    await this.#server?.stop();
    this.#listener?.close();
    await settleAll(this.#hosts.map((host) => host.link.call("stop", {})));
    await settleAll(this.#hosts.map((host) => host.end()));
    await this.#lease?.release();
    await this.#registry?.close();
    await this.#lock?.release();
  }

  async #startHosts(): Promise<void> {
    const config = this.#config;
    const assignment = this.#assignments;
    const lists = Array.from({ length: config.threads }, (_, i) => assignment.shardsOf(i));
    const shards = lists.reduce((sum, list) => sum + list.length, 0);
    const share = (bytes: number) => alignDown(bytes / shards, CLUSTER_BYTES);
    for (const [thread, list] of lists.entries()) {
      const data: HostConfig = {
        router: config.id,
        routerUuid: parseUuid(assignment.router),
        starts: assignment.starts,
        incarnation: this.#incarnation,
        path: config.path,
        cluster: config.cluster,
        registry: config.registry,
        proxies: config.proxies,
        journalBytes: share(config.journalBytes),
        cacheBytes: share(config.cacheBytes),
        readCacheBytes: share(config.readCacheBytes),
        thread,
        shards: list,
        logTo: config.logTo,
      };
      await this.#startHost(data);
    }
  }

  async #startHost(data: HostConfig): Promise<void> {
    const handle = this.#threads.spawn("router-host", data, (reason) => {
      if (reason !== "") this.#die(`thread ${data.thread} died: ${reason}`);
    });
    const methods: MainMethods = {
      halted: async ({ id, reason }) => this.#onHalted(id, reason),
    };
    const link = new Link<HostMethods>(handle, methods);
    this.#hosts.push({ link, end: () => handle.terminate() });
    await link.call("start", {});
  }

  #onHalted(id: string, reason: string): void {
    const entry = this.#entries.get(id);
    if (!entry) return;
    this.#world.log.error(`vDisk ${entry.vdisk.record.name} halted: ${reason}`);
    this.#updateExports();
  }

  async #addEntry(vdisk: Vdisk): Promise<Entry> {
    const shard = await this.#assignments.shardOf(vdisk.id);
    const entry: Entry = {
      vdisk,
      shard,
      state: "opening",
      reason: "",
      backoffMs: RETRY_FIRST_MS,
      timer: null,
    };
    this.#entries.set(vdisk.id, entry);
    await this.#open(entry, false);
    return entry;
  }

  get #assignments(): Assignment {
    if (!this.#assignment) throw new StorageError("OVS_CLOSED", "the router does not run");
    return this.#assignment;
  }

  get #registryNow(): Registry {
    if (!this.#registry) throw new StorageError("OVS_CLOSED", "the router does not run");
    return this.#registry;
  }

  #hostOf(entry: Entry): HostThread {
    const host = this.#hosts[this.#assignments.threadOf(entry.shard)];
    if (!host) throw new StorageError("OVS_CLOSED", "the router does not run");
    return host;
  }

  /**
   * Opens on its thread. What may pass is tried again, the rest waits for an operator. Resolves
   * with why it does not serve, or null.
   */
  async #open(entry: Entry, acceptLoss: boolean): Promise<StorageError | null> {
    const { id, record } = entry.vdisk;
    entry.state = "opening";
    try {
      await this.#opening.with(() =>
        this.#hostOf(entry).link.call("open", { id, shard: entry.shard, acceptLoss }),
      );
      entry.state = "served";
      entry.reason = "";
      entry.backoffMs = RETRY_FIRST_MS;
      this.#updateExports();
      return null;
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      entry.state = "waiting";
      entry.reason = error.message;
      this.#world.log.warn(`vDisk ${record.name} is not served: ${error.message}`, {
        code: error.code,
      });
      if (error.kind === "unavailable" || error.kind === "full" || error.code === "OVS_CONFLICT") {
        this.#retryLater(entry);
      }
      return error;
    }
  }

  #retryLater(entry: Entry): void {
    if (this.#stopping) return;
    entry.timer = this.#world.clock.after(entry.backoffMs, () => {
      entry.timer = null;
      void this.#open(entry, false);
    });
    entry.backoffMs = Math.min(entry.backoffMs * 2, RETRY_LAST_MS);
  }

  #updateExports(): void {
    this.#listener?.setExports(
      this.#exported().map((entry) => ({
        name: entry.vdisk.record.name,
        sizeBytes: entry.vdisk.record.sizeBytes,
        readOnly: false,
        description: `vDisk ${entry.vdisk.id}`,
      })),
    );
  }

  /** Hands a negotiated connection to the thread that has the vDisk. */
  #adopt(ticket: NbdTicket): void {
    const entry = ticket.name === "" ? this.#first() : this.#find(ticket.name);
    if (entry?.state !== "served") {
      discardTicket(ticket);
      return;
    }
    void this.#hostOf(entry).link.call("adopt", { id: entry.vdisk.id, ticket });
  }

  /** The default export: the oldest vDisk. */
  #first(): Entry | null {
    return this.#exported()[0] ?? null;
  }

  #exported(): Entry[] {
    const served = [...this.#entries.values()].filter((entry) => entry.state === "served");
    return served.sort((a, b) => a.vdisk.record.createdMs - b.vdisk.record.createdMs);
  }

  #find(name: string): Entry | null {
    for (const entry of this.#entries.values()) {
      if (entry.vdisk.record.name === name) return entry;
    }
    return null;
  }

  #named(name: string): Entry {
    const entry = this.#find(name);
    if (!entry) throw new StorageError("OVS_NOT_FOUND", `there is no vDisk ${name}`);
    return entry;
  }

  async #status(entry: Entry): Promise<VdiskStatus> {
    if (entry.state === "served") {
      return await this.#hostOf(entry).link.call("info", { id: entry.vdisk.id });
    }
    const { record, id } = entry.vdisk;
    return {
      name: record.name,
      id,
      state: entry.state,
      reason: entry.reason,
      epoch: 0,
      sizeBytes: record.sizeBytes,
      allocatedBytes: 0,
      dirtyBytes: 0,
      journalBytes: 0,
      clientWrittenBytes: 0,
      clientReadBytes: 0,
      backendWrittenBytes: 0,
      cacheHits: 0,
      cacheMisses: 0,
      corruptions: 0,
      thread: this.#assignments.threadOf(entry.shard),
    };
  }

  #served(name: string): Entry {
    const entry = this.#named(name);
    if (entry.state !== "served") {
      throw new StorageError(
        "OVS_UNAVAILABLE",
        `${name} is not served: ${entry.reason || entry.state}`,
      );
    }
    return entry;
  }

  #makeServer(): RpcServer<null> {
    const server = new RpcServer<null>(this.#world, {
      self: { role: "router", id: this.#config.id, cluster: this.#config.cluster },
      session: () => null,
    });
    server.handleControl(RouterOperation.List, listInput, async ({ after, limit }) => {
      const all = [...this.#entries.values()].sort((a, b) =>
        a.vdisk.record.name < b.vdisk.record.name ? -1 : 1,
      );
      const rest = all.filter((entry) => entry.vdisk.record.name > after);
      const page = rest.slice(0, limit);
      const vdisks = await settleAll(page.map((entry) => this.#status(entry)));
      return { vdisks, more: rest.length > page.length };
    });
    server.handleControl(RouterOperation.Info, nameInput, async ({ name }) =>
      this.#status(this.#named(name)),
    );
    server.handleControl(RouterOperation.Create, sizeInput, ({ name, sizeBytes }) =>
      this.#create(name, sizeBytes),
    );
    server.handleControl(RouterOperation.Resize, sizeInput, ({ name, sizeBytes }) =>
      this.#resize(name, sizeBytes),
    );
    server.handleControl(RouterOperation.Delete, nameInput, ({ name }) => this.#delete(name));
    server.handleControl(RouterOperation.Sync, syncInput, async ({ name, timeoutMs }) => {
      const entry = this.#served(name);
      return await this.#hostOf(entry).link.call("sync", { id: entry.vdisk.id, timeoutMs });
    });
    server.handleControl(RouterOperation.Recover, recoverInput, ({ name, acceptLoss }) =>
      this.#recover(name, acceptLoss),
    );
    server.handleControl(RouterOperation.DropCaches, emptySchema, async () => {
      await settleAll(this.#hosts.map((host) => host.link.call("dropCaches", {})));
      return {};
    });
    return server;
  }

  async #create(name: string, sizeBytes: number): Promise<VdiskStatus> {
    // One vDisk has at most a million objects (P-C7): large ones get large SCOs.
    const scoBytes = sizeBytes > 4 * 1024 ** 4 ? 64 * 1024 ** 2 : this.#config.scoBytes;
    const vdisk = await createVdisk(this.#registryNow, this.#world.random, {
      name,
      sizeBytes,
      scoBytes,
      createdMs: Math.floor(this.#world.clock.wallMs()),
    });
    const entry = await this.#addEntry(vdisk);
    if (entry.state !== "served") throw new StorageError("OVS_UNAVAILABLE", entry.reason);
    return await this.#status(entry);
  }

  async #resize(name: string, sizeBytes: number): Promise<VdiskStatus> {
    const entry = this.#served(name);
    const before = entry.vdisk.record.sizeBytes;
    if (sizeBytes < before) {
      throw new StorageError(
        "OVS_INVALID",
        `${name} has ${formatSize(before)}; it can only grow, because a smaller size would cut data off`,
      );
    }
    if (sizeBytes > before) {
      // The journal learns the size first: a record of the registry that the volume does not obey
      // would let a client write behind its end.
      await this.#hostOf(entry).link.call("resize", { id: entry.vdisk.id, sizeBytes });
      entry.vdisk = await resizeVdisk(this.#registryNow, entry.vdisk, sizeBytes);
      this.#updateExports();
    }
    return await this.#status(entry);
  }

  async #delete(name: string): Promise<Record<string, never>> {
    const entry = this.#named(name);
    entry.timer?.cancel();
    entry.state = "closed";
    this.#updateExports();
    await this.#hostOf(entry).link.call("remove", { id: entry.vdisk.id, shard: entry.shard });
    await deleteVdisk(this.#registryNow, entry.vdisk);
    this.#entries.delete(entry.vdisk.id);
    await this.#assignments.forget(entry.vdisk.id);
    return {};
  }

  async #recover(name: string, acceptLoss: boolean): Promise<VdiskStatus> {
    const entry = this.#named(name);
    if (entry.state === "served") return await this.#status(entry);
    entry.timer?.cancel();
    entry.timer = null;
    const refusal = await this.#open(entry, acceptLoss);
    if (refusal) throw refusal;
    return await this.#status(entry);
  }
}
