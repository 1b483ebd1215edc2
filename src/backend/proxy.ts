// SPDX-License-Identifier: Apache-2.0
// The proxy: takes objects, checks, codes and places them, and commits them; reads for clients
// that cannot reach the OSDs; and one of all proxies does the maintenance. It holds no state that
// is worth keeping.

import { z } from "zod";
import { StorageError } from "../base/errors.js";
import { Semaphore } from "../base/sync.js";
import { CLUSTER_BYTES, MIB } from "../base/units.js";
import { ArenaPool } from "../platform/arena.js";
import type { Address } from "../platform/network.js";
import { oneSegment } from "../platform/segments.js";
import type { World } from "../platform/world.js";
import type { Registry } from "../registry/registry.js";
import { decodeControl } from "../rpc/control.js";
import { type RpcRequest, RpcServer } from "../rpc/server.js";
import { asdFactory } from "./asdosd.js";
import { widthPut } from "./commit.js";
import { BackendCore } from "./core.js";
import { UNIT_BYTES_MAX } from "./layout.js";
import { Maintenance } from "./maintenance.js";
import { LateDeletes } from "./marks.js";
import { Namespaces } from "./namespaces.js";
import {
  extrasSchema,
  PROXY_READ_BYTES_MAX,
  PROXY_ROLE,
  ProxyOperation,
  type ProxyStatus,
  putSchema,
  readSchema,
  verifySchema,
} from "./protocol.js";
import { RateLimit } from "./ratelimit.js";
import type { RepairHost } from "./repair.js";
import { osdStatuses } from "./status.js";
import type { ReadPart } from "./store.js";
import { noUploads, type Upload, type UploadHost, type UploadRequest, upload } from "./upload.js";
import { verify } from "./verify.js";

const CLIENT_ROLES = ["router", "manager", "cli", "edge", "test", "proxy"];
const READ_TIMEOUT_MS = 30_000;
const READS_MAX = 4;

export interface ProxyConfig {
  /** Of this process, unique in the cluster. */
  id: string;
  clusterUuid: string;
  addresses: readonly Address[];
  registry: Registry;
  /** Objects that are uploaded at the same time. */
  uploadsMax: number;
  /** Bytes of the arena for parity, for decoding, and for fragments under repair. */
  parityBytes: number;
  decodeBytes: number;
  repairBytes: number;
  /** Longest wait for one OSD to store a fragment. */
  putTimeoutMs: number;
  /** An OSD without connection for longer counts as lost: its fragments are made anew elsewhere. */
  lostAfterMs: number;
  repairBytesPerSecond: number;
  /** The same while objects are being uploaded. */
  repairBytesPerSecondBusy: number;
  maintenanceTickMs: number;
  gcIntervalMs: number;
}

export const PROXY_DEFAULTS = {
  uploadsMax: 8,
  parityBytes: 96 * MIB,
  decodeBytes: 16 * MIB,
  repairBytes: 64 * MIB,
  putTimeoutMs: 10_000,
  lostAfterMs: 10 * 60_000,
  repairBytesPerSecond: 256 * MIB,
  repairBytesPerSecondBusy: 48 * MIB,
  maintenanceTickMs: 1000,
  gcIntervalMs: 10 * 60_000,
} as const satisfies Partial<ProxyConfig>;

/** Receive pool and arena that a proxy needs with the defaults. */
export const PROXY_RECEIVE_BYTES = 160 * MIB;
export const PROXY_ARENA_BYTES =
  PROXY_RECEIVE_BYTES + (96 + 16 + 64) * MIB + PROXY_READ_BYTES_MAX * READS_MAX + MIB;

type Request = RpcRequest<null>;

export class ProxyDaemon {
  readonly #world: World;
  readonly #config: ProxyConfig;
  readonly #core: BackendCore;
  readonly #namespaces: Namespaces;
  readonly #late: LateDeletes;
  readonly #uploads: UploadHost;
  readonly #repairs: RepairHost;
  readonly #maintenance: Maintenance;
  readonly #server: RpcServer<null>;
  readonly #room: Semaphore;
  readonly #readMemory: ArenaPool;
  readonly #finishing = new Set<Promise<void>>();
  readonly #counters = noUploads();
  #addresses: Address[] = [];
  #uploading = 0;
  #state: ProxyStatus["state"] = "starting";
  #stopping: Promise<void> | null = null;

  constructor(world: World, config: ProxyConfig) {
    this.#world = world;
    this.#config = config;
    const { id, clusterUuid: cluster, registry } = config;
    const self = { role: PROXY_ROLE, id, cluster };
    this.#core = new BackendCore(world, registry, {
      manifestsMax: 4096,
      decodeBytes: config.decodeBytes,
      factory: asdFactory(world, self),
      onDamage: (namespace, name) => void this.#noteDamage(namespace, name),
    });
    this.#namespaces = new Namespaces(registry, world.clock);
    this.#late = new LateDeletes(world, this.#core.pool);
    this.#room = new Semaphore(config.uploadsMax, 1024);
    this.#uploads = this.#uploadHost();
    this.#repairs = this.#repairHost();
    this.#maintenance = new Maintenance(this.#repairs, {
      id,
      tickMs: config.maintenanceTickMs,
      gcIntervalMs: config.gcIntervalMs,
      parallel: 2,
    });
    const readBytes = READS_MAX * PROXY_READ_BYTES_MAX;
    this.#readMemory = new ArenaPool(world.arena.region(readBytes, "proxy reads"), readBytes);
    this.#server = new RpcServer<null>(world, { self, roles: CLIENT_ROLES, session: () => null });
    this.#server.handle(ProxyOperation.put, (request) => this.#put(request));
    this.#server.handle(ProxyOperation.read, (request) => this.#read(request));
    this.#handleControls();
  }

  #uploadHost(): UploadHost {
    const { parityBytes, registry, putTimeoutMs } = this.#config;
    const { arena } = this.#world;
    return {
      world: this.#world,
      registry,
      pool: this.#core.pool,
      namespaces: this.#namespaces,
      late: this.#late,
      memory: new ArenaPool(arena.region(parityBytes, "parity"), parityBytes),
      zeroes: arena.region(UNIT_BYTES_MAX, "zeroes"),
      putTimeoutMs,
      counters: this.#counters,
      isStopping: () => this.#stopping !== null,
    };
  }

  #repairHost(): RepairHost {
    const { repairBytes, putTimeoutMs, lostAfterMs } = this.#config;
    const { repairBytesPerSecond, repairBytesPerSecondBusy } = this.#config;
    return {
      core: this.#core,
      namespaces: this.#namespaces,
      late: this.#late,
      memory: new ArenaPool(this.#world.arena.region(repairBytes, "repair"), repairBytes),
      rate: new RateLimit(this.#world.clock, {
        bytesPerSecond: repairBytesPerSecond,
        bytesPerSecondBusy: repairBytesPerSecondBusy,
        isBusy: () => this.#uploading > 0,
      }),
      putTimeoutMs,
      lostAfterMs,
      isStopping: () => this.#stopping !== null,
    };
  }

  #handleControls(): void {
    this.#server.handleControl(ProxyOperation.verify, verifySchema, async (options) => {
      // Marks that are about to go would count as garbage in the making, no more.
      await this.#late.flush();
      return await verify(this.#repairs, options);
    });
    this.#server.handleControl(ProxyOperation.repair, z.object({}), async () => {
      await this.#core.topology.refresh();
      await this.#maintenance.runNow();
      return this.#maintenance.status;
    });
    this.#server.handleControl(ProxyOperation.status, z.object({}), async () => this.status());
  }

  /** Resolves when it serves. */
  async start(): Promise<void> {
    await this.#core.start();
    for (const address of this.#config.addresses) {
      this.#addresses.push(await this.#server.listen(address));
    }
    this.#maintenance.start();
    this.#state = "serving";
    this.#world.log.info("the proxy serves", { address: this.#addresses.join(" ") });
  }

  /** Lets uploads end, then everything. Idempotent. */
  async stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    await this.#stopping;
  }

  async #stop(): Promise<void> {
    await this.#server.stop();
    await this.#maintenance.stop();
    await Promise.all(this.#finishing);
    await this.#late.stop();
    await this.#core.stop();
    this.#state = "stopped";
  }

  /** Addresses with the real ports. */
  get addresses(): readonly Address[] {
    return this.#addresses;
  }

  /** State, view of the OSDs, maintenance and counters since the start. */
  status(): ProxyStatus {
    const { topology, pool, counters, pieces } = this.#core;
    return {
      id: this.#config.id,
      state: this.#state,
      topologyAgeMs: Number.isFinite(topology.ageMs) ? topology.ageMs : null,
      osds: osdStatuses(pool),
      maintenance: this.#maintenance.status,
      counters: { ...this.#counters, ...counters, ...pieces.counters },
    };
  }

  async #put(request: Request): Promise<void> {
    const { timeoutMs, payloadBytes } = request;
    const payload = request.payload === 0 ? 0 : request.take();
    let work: Promise<void> = Promise.resolve();
    try {
      const upload = this.#uploadOf(request, payload, payloadBytes, timeoutMs);
      await this.#room.with(async () => {
        this.#uploading++;
        try {
          work = (await this.#upload(request, upload)).finished;
        } finally {
          this.#uploading--;
        }
      });
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      // While stopping the outcome may be unknown: the caller learns of it by a lost connection.
      if (error.code === "OVS_CLOSED") throw error;
      request.replyControl({ ok: false, code: error.code, message: error.message });
    }
    const finishing = work.finally(() => {
      if (payload !== 0) this.#world.network.release(payload);
      this.#finishing.delete(finishing);
    });
    this.#finishing.add(finishing);
  }

  async #upload(request: Request, wanted: UploadRequest): Promise<Upload> {
    const leftMs = request.leftMs;
    if (leftMs <= 0)
      throw new StorageError("OVS_TIMEOUT", "the caller's time was over in the queue");
    const timeoutMs = Number.isFinite(leftMs) ? leftMs : wanted.timeoutMs;
    const done = await upload(this.#uploads, { ...wanted, timeoutMs });
    request.replyControl({ ok: true, ...done.result });
    return done;
  }

  #uploadOf(
    request: Request,
    payload: number,
    payloadBytes: number,
    timeoutMs: number,
  ): UploadRequest {
    const { bytes, extrasBytes, ...rest } = decodeControl(request.meta, putSchema);
    const crcBytes = 4 * Math.ceil(bytes / CLUSTER_BYTES);
    if (payloadBytes !== bytes + crcBytes + extrasBytes || rest.uploadId.byteLength !== 16) {
      throw new StorageError("OVS_PROTOCOL", `a put of ${bytes} bytes has ${payloadBytes} in all`);
    }
    // Copies: the upload pads the last page with zeroes, just there.
    const tail = this.#world.arena.slice(payload + bytes, crcBytes + extrasBytes).slice();
    const crcs = new Uint32Array(tail.buffer, 0, crcBytes / 4);
    const extras = decodeControl(tail.subarray(crcBytes), extrasSchema) as UploadRequest["extras"];
    return { ...rest, data: payload, bytes, crcs, extras, timeoutMs };
  }

  async #read(request: Request): Promise<void> {
    const { namespace, parts } = decodeControl(request.meta, readSchema);
    const bytes = parts.reduce((sum, part) => sum + part.bytes, 0);
    if (bytes < 1 || bytes > PROXY_READ_BYTES_MAX) {
      throw new StorageError("OVS_INVALID", `a read of ${bytes} bytes is not possible`);
    }
    const memory = await this.#readMemory.take(bytes);
    try {
      let into = memory;
      const wanted: ReadPart[] = parts.map((part) => {
        into += part.bytes;
        return { ...part, into: into - part.bytes };
      });
      const timeoutMs = Math.min(READ_TIMEOUT_MS, request.leftMs);
      await this.#core.reader.read(namespace, wanted, { timeoutMs, priority: 0 });
    } catch (error) {
      this.#readMemory.give(memory);
      throw error;
    }
    request.reply(null, oneSegment(memory, bytes), () => this.#readMemory.give(memory));
  }

  async #noteDamage(namespace: string, name: string): Promise<void> {
    try {
      const success = [widthPut(namespace, name)];
      await this.#core.registry.transact({ compares: [], success, failure: [] });
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
    }
  }
}
