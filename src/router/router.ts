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
import type { World } from "../platform/world.js";
import { RegistryClient } from "../registry/client.js";
import type { Registry } from "../registry/registry.js";
import { RpcServer } from "../rpc/server.js";
import { JOURNAL_BYTES_MIN } from "../volume/open.js";
import { Assignment } from "./assignment.js";
import {
  HOST_MEMORY,
  type HostConfig,
  type HostMemory,
  type HostMethods,
  type MainMethods,
} from "./host.js";
import { VdiskKeeper } from "./keeper.js";
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
import { createVdisk, listVdisks, type Vdisk } from "./records.js";

const LEASE_WAIT_MS = 15_000;
const OPEN_AT_ONCE = 8;

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
  /** An ASD that is away for longer counts as lost: `sync` waits for its fragments' repair. */
  lostAfterMs: number;
  /** Of each worker thread; HOST_MEMORY by default. */
  memory?: HostMemory;
  /** As `VolumeThreadOptions` has it. */
  checkpointTlogs?: number;
  /** Folder of the threads' logs. */
  logTo: string | null;
}

interface HostThread {
  link: Link<HostMethods>;
  end: () => Promise<void>;
}

/** A router; made, started and stopped once. */
export class RouterDaemon {
  readonly #world: World;
  readonly #config: RouterConfig;
  readonly #threads: Threads;
  /** Ends the process; used when a thread died or the lease is lost. */
  readonly #die: (reason: string) => void;
  readonly #keepers = new Map<string, VdiskKeeper>();
  readonly #hosts: HostThread[] = [];
  readonly #opening = new Semaphore(OPEN_AT_ONCE);
  readonly #creating = new Semaphore(1);
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
      nbd: this.#world.nbd,
      slots: (this.#config.memory ?? HOST_MEMORY).slots,
      log: this.#world.log,
      onNegotiated: (ticket) => this.#adopt(ticket),
    });
    const vdisks = await listVdisks(client);
    await settleAll(vdisks.map((vdisk) => this.#add(vdisk)));
    for (const address of this.#config.nbd) this.#listener.listen(address);
    this.#server = this.#makeServer();
    await this.#server.listen(control);
  }

  /** Clean stop: every vDisk is closed in order, then the lease is given back. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#server?.stop();
    this.#listener?.close();
    const keepers = [...this.#keepers.values()].map((keeper) => keeper.stop());
    await settleAll(this.#hosts.map((host) => host.link.call("stop", {})));
    await settleAll(keepers);
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
        // Shards of an earlier start with more threads must not make those of today too small.
        journalBytes: Math.max(JOURNAL_BYTES_MIN, share(config.journalBytes)),
        cacheBytes: share(config.cacheBytes),
        readCacheBytes: share(config.readCacheBytes),
        thread,
        shards: list,
        lostAfterMs: config.lostAfterMs,
        memory: config.memory ?? HOST_MEMORY,
        ...(config.checkpointTlogs === undefined
          ? {}
          : { checkpointTlogs: config.checkpointTlogs }),
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
      halted: async ({ id, reason }) => this.#keepers.get(id)?.onHalted(reason),
      condemned: async ({ reason }) => this.#die(`a store of maps needs a new start: ${reason}`),
    };
    const link = new Link<HostMethods>(handle, methods);
    this.#hosts.push({ link, end: () => handle.terminate() });
    await link.call("start", {});
  }

  /** Keeps a vDisk from now on; resolves when it was tried once. */
  async #add(vdisk: Vdisk): Promise<VdiskKeeper> {
    const { id } = vdisk;
    const shard = await this.#assignments.shardOf(id);
    const thread = this.#assignments.threadOf(shard);
    const link = this.#linkOf(thread);
    const keeper = new VdiskKeeper(vdisk, {
      clock: this.#world.clock,
      log: this.#world.log,
      thread,
      host: {
        open: (acceptLoss) =>
          this.#opening.with(() => link.call("open", { id, shard, acceptLoss })),
        close: () => link.call("close", { id }),
        grow: (sizeBytes) => link.call("grow", { id, sizeBytes }),
        remove: () => link.call("remove", { id, shard }),
        info: () => link.call("info", { id }),
      },
      onChange: () => this.#updateExports(),
      onGone: async () => {
        this.#keepers.delete(id);
        await this.#assignments.forget(id);
      },
    });
    this.#keepers.set(id, keeper);
    await keeper.open(false);
    return keeper;
  }

  get #assignments(): Assignment {
    if (!this.#assignment) throw new StorageError("OVS_CLOSED", "the router does not run");
    return this.#assignment;
  }

  get #registryNow(): Registry {
    if (!this.#registry) throw new StorageError("OVS_CLOSED", "the router does not run");
    return this.#registry;
  }

  #linkOf(thread: number): Link<HostMethods> {
    const host = this.#hosts[thread];
    if (!host) throw new StorageError("OVS_CLOSED", "the router does not run");
    return host.link;
  }

  #updateExports(): void {
    if (this.#stopping) return;
    this.#listener?.setExports(
      this.#exported().map(({ vdisk }) => ({
        name: vdisk.record.name,
        sizeBytes: vdisk.record.sizeBytes,
        readOnly: false,
        description: `vDisk ${vdisk.id}`,
      })),
    );
  }

  /** Hands a negotiated connection to the thread that has the vDisk. */
  #adopt(ticket: NbdTicket): void {
    const keeper = ticket.name === "" ? this.#exported()[0] : this.#find(ticket.name);
    if (keeper?.state !== "serving") {
      discardTicket(this.#world.nbd, ticket);
      return;
    }
    const { id } = keeper.vdisk;
    void this.#linkOf(keeper.thread).call("adopt", { id, ticket });
  }

  /** Those that are served; the oldest is the default export. */
  #exported(): VdiskKeeper[] {
    const served = [...this.#keepers.values()].filter((keeper) => keeper.state === "serving");
    return served.sort((a, b) => a.vdisk.record.createdMs - b.vdisk.record.createdMs);
  }

  #find(name: string): VdiskKeeper | null {
    for (const keeper of this.#keepers.values()) {
      if (keeper.vdisk.record.name === name) return keeper;
    }
    return null;
  }

  #named(name: string): VdiskKeeper {
    const keeper = this.#find(name);
    if (!keeper) throw new StorageError("OVS_NOT_FOUND", `there is no vDisk ${name}`);
    return keeper;
  }

  #makeServer(): RpcServer<null> {
    const server = new RpcServer<null>(this.#world, {
      self: { role: "router", id: this.#config.id, cluster: this.#config.cluster },
      session: () => null,
    });
    server.handleControl(RouterOperation.List, listInput, async ({ after, limit }) => {
      const all = [...this.#keepers.values()].sort((a, b) =>
        a.vdisk.record.name < b.vdisk.record.name ? -1 : 1,
      );
      const rest = all.filter((keeper) => keeper.vdisk.record.name > after);
      const page = rest.slice(0, limit);
      const vdisks = await settleAll(page.map((keeper) => keeper.status()));
      return { vdisks, more: rest.length > page.length };
    });
    server.handleControl(RouterOperation.Info, nameInput, async ({ name }) =>
      this.#named(name).status(),
    );
    server.handleControl(RouterOperation.Create, sizeInput, ({ name, sizeBytes }) =>
      this.#creating.with(() => this.#create(name, sizeBytes)),
    );
    server.handleControl(RouterOperation.Resize, sizeInput, ({ name, sizeBytes }) =>
      this.#resize(name, sizeBytes),
    );
    server.handleControl(RouterOperation.Delete, nameInput, ({ name }) => this.#delete(name));
    server.handleControl(RouterOperation.Sync, syncInput, async ({ name, timeoutMs }) => {
      const keeper = this.#named(name);
      keeper.assertServing();
      const { id } = keeper.vdisk;
      return await this.#linkOf(keeper.thread).call("sync", { id, timeoutMs });
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

  /** Takes in vDisks that the registry has and this router does not know. */
  async #addMissing(): Promise<void> {
    const vdisks = await listVdisks(this.#registryNow);
    const missing = vdisks.filter((vdisk) => !this.#keepers.has(vdisk.id));
    await settleAll(missing.map((vdisk) => this.#add(vdisk)));
  }

  async #create(name: string, sizeBytes: number): Promise<VdiskStatus> {
    const { clock } = this.#world;
    // An earlier attempt of unknown outcome may have come true: it shows up as a vDisk of its own.
    if (!this.#find(name)) await this.#addMissing();
    // One vDisk has at most a million objects (P-C7): large ones get large SCOs.
    const scoBytes = sizeBytes > 4 * 1024 ** 4 ? 64 * 1024 ** 2 : this.#config.scoBytes;
    const options = { name, sizeBytes, scoBytes, createdMs: Math.floor(clock.wallMs()) };
    const vdisk = await createVdisk(this.#world, this.#registryNow, options);
    const keeper = await this.#add(vdisk);
    if (keeper.state !== "serving") throw new StorageError("OVS_UNAVAILABLE", keeper.reason);
    return await keeper.status();
  }

  async #resize(name: string, sizeBytes: number): Promise<VdiskStatus> {
    const keeper = this.#named(name);
    keeper.assertServing();
    const before = keeper.vdisk.record.sizeBytes;
    if (sizeBytes < before) {
      throw new StorageError(
        "OVS_INVALID",
        `${name} has ${formatSize(before)}; it can only grow, because a smaller size would cut data off`,
      );
    }
    if (sizeBytes > before) await keeper.grow(sizeBytes);
    return await keeper.status();
  }

  async #delete(name: string): Promise<Record<string, never>> {
    await this.#named(name).remove();
    return {};
  }

  async #recover(name: string, acceptLoss: boolean): Promise<VdiskStatus> {
    const keeper = this.#named(name);
    const refusal = await keeper.open(acceptLoss);
    if (refusal) throw refusal;
    return await keeper.status();
  }
}
