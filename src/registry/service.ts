// SPDX-License-Identifier: Apache-2.0
// `ovs registry`: the embedded registry of one machine as a process of its own.
//
//   DIR/lock       who has it          DIR/identity   which registry, version of the folder
//   DIR/kv/        the store           DIR is refused when it holds anything else
//
// Every answer of a write leaves after the write is durable. A client that does not take its
// events loses its watches, with the reason, rather than making the registry remember them.

import { formatUuid } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { MIB } from "../base/units.js";
import { ArenaPool } from "../platform/arena.js";
import type { KvStore } from "../platform/kv.js";
import type { Address } from "../platform/network.js";
import { isLeftOf } from "../platform/smallfile.js";
import type { World } from "../platform/world.js";
import type { Identity } from "../rpc/hello.js";
import { type RpcConnection, type RpcRequest, RpcServer } from "../rpc/server.js";
import {
  decodeRegistryGet,
  decodeRegistryIdentity,
  decodeRegistryLeaseCall,
  decodeRegistryRange,
  decodeRegistryTransaction,
  decodeRegistryWatch,
  decodeRegistryWatchEnd,
  packRegistryEvents,
  packRegistryIdentity,
  packRegistryItems,
  packRegistryLeaseCall,
  packRegistryTransacted,
  packRegistryWatchEnd,
  REGISTRY_FOLDER_VERSION,
} from "../wire/generated/registry.js";
import { EmbeddedRegistry } from "./embedded.js";
import { NO_BYTES } from "./layout.js";
import {
  pack,
  packNow,
  REGISTRY_ROLE,
  RegistryOp,
  transactionOf,
  unpack,
  wireEvent,
  wireItem,
  wireResult,
} from "./protocol.js";
import type { Watch, WatchEvent } from "./registry.js";
import type { PastLimits } from "./watches.js";

const POOL_BYTES = 16 * MIB;
/** Events that a client has not taken; beyond it the connection is closed. */
const UNTAKEN_BYTES_MAX = 8 * MIB;
const SESSION_WATCHES_MAX = 1000;
const IDENTITY_BYTES_MAX = 4096;
/** Below this much free space the registry takes no more puts. */
const FREE_BYTES_MIN = 256 * MIB;
const CACHE_BYTES = 32 * MIB;
const WRITE_BUFFER_BYTES = 16 * MIB;

export interface RegistryConfig {
  /** Folder, absolute; made when missing. */
  path: string;
  address: Address;
  /** Uuid text of the cluster that is served; null: any. */
  cluster: string | null;
  quotaBytes?: number;
  /** How much of the past watches may ask for. */
  past?: PastLimits;
  /** The registry cannot go on; the process is to end. */
  onFatal: (error: StorageError) => void;
}

export interface RegistryStatus {
  state: "starting" | "serving" | "stopped";
  address: Address;
  registry: string;
  revision: number;
  connections: number;
}

/** What belongs to a client's connection. */
class Session {
  readonly connection: RpcConnection<Session>;
  readonly watches = new Map<number, Watch>();
  /** Bytes of events in the pool that the kernel has not taken. */
  lentBytes = 0;

  constructor(connection: RpcConnection<Session>) {
    this.connection = connection;
  }
}

type Request = RpcRequest<Session>;

export class RegistryDaemon {
  readonly #world: World;
  readonly #config: RegistryConfig;
  #state: RegistryStatus["state"] = "starting";
  #uuid = "";
  #address: Address;
  #lock: { release(): Promise<void> } | null = null;
  #store: KvStore | null = null;
  #registry: EmbeddedRegistry | null = null;
  #service: RegistryService | null = null;

  constructor(world: World, config: RegistryConfig) {
    this.#world = world;
    this.#config = config;
    this.#address = config.address;
  }

  /** OVS_BUSY: another one has the folder; OVS_WRONG_VERSION, OVS_INVALID: not ours. */
  async start(): Promise<void> {
    try {
      await this.#open();
    } catch (error) {
      await this.stop();
      throw error;
    }
    this.#state = "serving";
    this.#world.log.info("registry serves", { address: this.#address, registry: this.#uuid });
  }

  /** Lets running requests end, closes everything. Idempotent. */
  async stop(): Promise<void> {
    this.#state = "stopped";
    await this.#service?.stop();
    await this.#registry?.close();
    await this.#store?.close();
    await this.#lock?.release();
    this.#service = null;
    this.#registry = null;
    this.#store = null;
    this.#lock = null;
  }

  /** State, address, uuid, revision and connections, for logs and tests. */
  status(): RegistryStatus {
    return {
      state: this.#state,
      address: this.#address,
      registry: this.#uuid,
      revision: this.#registry?.revision ?? 0,
      connections: this.#service?.server.connections ?? 0,
    };
  }

  async #open(): Promise<void> {
    const { files } = this.#world.disk;
    const { path, cluster, quotaBytes, past, onFatal } = this.#config;
    await files.makeFolder(path);
    this.#lock = await files.lock(path);
    this.#uuid = await this.#identify();
    const options = { cacheBytes: CACHE_BYTES, writeBufferBytes: WRITE_BUFFER_BYTES };
    this.#store = await this.#world.kv.open(`${path}/kv`, { ...options, create: true });
    await files.syncFolder(path); // The name `kv`.
    const freeBytes = async () => (await files.space(path)).freeBytes;
    this.#registry = await EmbeddedRegistry.open(this.#world, this.#store, {
      ...(quotaBytes === undefined ? {} : { quotaBytes }),
      ...(past === undefined ? {} : { past }),
      room: { freeBytes, freeBytesMin: FREE_BYTES_MIN },
      onFatal,
    });
    const self = { role: REGISTRY_ROLE, id: this.#uuid, cluster };
    this.#service = new RegistryService(this.#world, this.#registry, self);
    this.#address = await this.#service.server.listen(this.#config.address);
  }

  /** The uuid in the folder's identity; an empty folder gets one. */
  async #identify(): Promise<string> {
    const { files } = this.#world.disk;
    const { path } = this.#config;
    const content = await files.readSmall(`${path}/identity`, IDENTITY_BYTES_MAX);
    if (content === null) {
      const names = (await files.list(path)).filter((name) => name !== "lock");
      // What a process left that was killed while it wrote the identity does not matter.
      const other = names.find((name) => !isLeftOf(name, "identity"));
      if (other !== undefined) {
        const text = `${path} is no registry's folder: it holds "${other}" and no identity`;
        throw new StorageError("OVS_INVALID", text);
      }
      for (const name of names) await files.remove(`${path}/${name}`);
      const registryUuid = this.#world.random.bytes(16);
      const identity = {
        folderVersion: REGISTRY_FOLDER_VERSION,
        registryUuid,
        createdMs: this.#world.clock.wallMs(),
      };
      await files.writeSmall(`${path}/identity`, packRegistryIdentity(identity));
      return formatUuid(registryUuid);
    }
    const identity = decodeRegistryIdentity(content);
    if (identity.folderVersion !== REGISTRY_FOLDER_VERSION) {
      const text =
        `${path} is a registry's folder of version ${identity.folderVersion}, ` +
        `this program reads version ${REGISTRY_FOLDER_VERSION}`;
      throw new StorageError("OVS_WRONG_VERSION", text);
    }
    return formatUuid(identity.registryUuid);
  }
}

/** The operations of a registry over rpc. */
class RegistryService {
  readonly server: RpcServer<Session>;
  readonly #world: World;
  readonly #registry: EmbeddedRegistry;
  readonly #answers: ArenaPool;
  readonly #events: ArenaPool;

  constructor(world: World, registry: EmbeddedRegistry, self: Identity) {
    this.#world = world;
    this.#registry = registry;
    const pool = (name: string) => new ArenaPool(world.arena.region(POOL_BYTES, name), POOL_BYTES);
    this.#answers = pool("registry answers");
    this.#events = pool("registry events");
    this.server = new RpcServer<Session>(world, {
      self,
      session: (_peer, connection) => new Session(connection),
      onSessionEnd: (session) => {
        for (const watch of session.watches.values()) watch.cancel();
      },
      onNotice: (session, operation, meta, payload) => {
        if (payload !== 0) world.network.release(payload);
        if (operation === RegistryOp.watchEnd)
          endWatch(session, decodeRegistryWatchEnd(meta).watch);
      },
    });
    this.#handleData();
    this.#handleLeases();
  }

  async stop(): Promise<void> {
    await this.server.stop();
  }

  #handleData(): void {
    const { server } = this;
    const registry = this.#registry;
    server.handle(RegistryOp.get, async (request) => {
      const entry = await registry.get(decodeRegistryGet(request.meta).key);
      const items = entry ? [wireItem(entry)] : [];
      await this.#answer(request, packRegistryItems({ revision: 0, more: 0, items }));
    });
    server.handle(RegistryOp.range, async (request) => {
      const { prefix, follows, after, limit } = decodeRegistryRange(request.meta);
      const options = follows === 1 ? { after, limit } : { limit };
      const { entries, more, revision } = await registry.range(prefix, options);
      const items = entries.map(wireItem);
      await this.#answer(request, packRegistryItems({ revision, more: more ? 1 : 0, items }));
    });
    server.handle(RegistryOp.transact, async (request) => {
      const message = decodeRegistryTransaction(unpack(this.#world.arena, request));
      const result = await registry.transact(transactionOf(message));
      await this.#answer(request, packRegistryTransacted(wireResult(result)));
    });
    server.handle(RegistryOp.watch, async (request) => {
      const { watch, fromRevision, prefix } = decodeRegistryWatch(request.meta);
      await this.#watch(request.session, watch, fromRevision, prefix);
      request.reply(null, null, null);
    });
  }

  #handleLeases(): void {
    const { server } = this;
    const registry = this.#registry;
    const answer = (request: Request, lease: bigint, ttlSeconds: number) =>
      request.reply(packRegistryLeaseCall({ lease, ttlSeconds }), null, null);
    server.handle(RegistryOp.leaseGrant, async (request) => {
      const { ttlSeconds } = decodeRegistryLeaseCall(request.meta);
      const granted = await registry.leaseGrant(ttlSeconds);
      answer(request, BigInt(granted.lease), granted.ttlSeconds);
    });
    server.handle(RegistryOp.leaseKeepAlive, async (request) => {
      const { lease } = decodeRegistryLeaseCall(request.meta);
      answer(request, lease, (await registry.leaseKeepAlive(String(lease))).ttlSeconds);
    });
    server.handle(RegistryOp.leaseRevoke, async (request) => {
      const { lease } = decodeRegistryLeaseCall(request.meta);
      await registry.leaseRevoke(String(lease));
      answer(request, lease, 0);
    });
    server.handle(RegistryOp.status, async (request) => {
      request.replyControl({ ...(await registry.stats()), connections: server.connections });
    });
  }

  async #answer(request: Request, message: Uint8Array): Promise<void> {
    const { meta, payload, give } = await pack(this.#world.arena, this.#answers, message);
    request.reply(meta, payload, give);
  }

  async #watch(session: Session, id: number, from: number, prefix: string): Promise<void> {
    if (session.watches.has(id)) {
      throw new StorageError("OVS_PROTOCOL", `the watch ${id} is there already`);
    }
    if (session.watches.size >= SESSION_WATCHES_MAX) {
      throw new StorageError("OVS_BUSY", `more than ${SESSION_WATCHES_MAX} watches`);
    }
    const watch = await this.#registry.watch(prefix, from, {
      onEvents: (events, revision) => this.#tell(session, id, revision, events),
      onEnd: (reason) => tellEnd(session, id, reason),
    });
    if (session.connection.open) session.watches.set(id, watch);
    else watch.cancel();
  }

  #tell(session: Session, id: number, revision: number, events: WatchEvent[]): void {
    const { connection } = session;
    const message = packRegistryEvents({ watch: id, revision, changes: events.map(wireEvent) });
    const bytes = message.byteLength;
    if (connection.queuedBytes + session.lentBytes + bytes > UNTAKEN_BYTES_MAX) {
      // Its memory comes back with its end; a word about it would only wait behind the events.
      connection.close("this client does not take its events");
      return;
    }
    const packed = packNow(this.#world.arena, this.#events, message);
    if (!packed) {
      endWatch(session, id);
      tellEnd(session, id, "the registry has no room for these events: read again");
      return;
    }
    const lent = packed.payload ? bytes : 0;
    session.lentBytes += lent;
    connection.notify(RegistryOp.events, packed.meta ?? NO_BYTES, packed.payload, () => {
      session.lentBytes -= lent;
      packed.give?.();
    });
  }
}

function tellEnd(session: Session, id: number, reason: string): void {
  session.watches.delete(id);
  const message = packRegistryWatchEnd({ watch: id, reason: reason.slice(0, 256) });
  session.connection.notify(RegistryOp.watchEnd, message, null, null);
}

function endWatch(session: Session, id: number): void {
  session.watches.get(id)?.cancel();
  session.watches.delete(id);
}
