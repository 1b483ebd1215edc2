// SPDX-License-Identifier: Apache-2.0
// The registry over a connection to `ovs registry`. It outlives restarts of the service: calls
// wait for it until their deadline, watches end (their owners read again and watch anew), leases
// go on. A call whose deadline passes, or whose connection is lost, may have been carried out
// (P-B1).

import { z } from "zod";
import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { MIB } from "../base/units.js";
import { ArenaPool } from "../platform/arena.js";
import type { Address } from "../platform/network.js";
import type { World } from "../platform/world.js";
import { type Answer, RpcClient } from "../rpc/client.js";
import { decodeControl } from "../rpc/control.js";
import {
  decodeRegistryEvents,
  decodeRegistryItems,
  decodeRegistryLeaseCall,
  decodeRegistryTransacted,
  decodeRegistryWatchEnd,
  packRegistryGet,
  packRegistryLeaseCall,
  packRegistryRange,
  packRegistryTransaction,
  packRegistryWatch,
  packRegistryWatchEnd,
  type RegistryLeaseCall,
} from "../wire/generated/registry.js";
import {
  checkKey,
  checkLease,
  checkPrefix,
  checkRange,
  checkRevision,
  checkTransaction,
  checkTtl,
} from "./limits.js";
import {
  entryOfItem,
  eventOf,
  pack,
  REGISTRY_ROLE,
  RegistryOp,
  resultOf,
  unpack,
  wireTransaction,
} from "./protocol.js";
import type {
  RangeResult,
  Registry,
  RegistryEntry,
  Transaction,
  TransactionResult,
  Watch,
  WatchHandler,
} from "./registry.js";

const TIMEOUT_MS = 5000;
const POOL_BYTES = 4 * MIB;
const WATCHES_MAX = 1000;

const statsSchema = z.object({
  revision: z.number(),
  compactedRevision: z.number(),
  leases: z.number(),
  watches: z.number(),
  diskBytes: z.number(),
  memoryBytes: z.number(),
  keysEstimate: z.number(),
  full: z.boolean(),
  connections: z.number(),
});
export type RegistryServiceStats = z.infer<typeof statsSchema>;

export interface RegistryClientOptions {
  address: Address;
  /** Uuid text of the cluster; null before it is known. */
  cluster: string | null;
  /** Who calls: "router", "manager", … */
  role: string;
  id?: string;
  /** How long a call waits for its answer. */
  timeoutMs?: number;
  /** Longest pause between attempts to connect. */
  backoffMsMax?: number;
}

export class RegistryClient implements Registry {
  readonly #world: World;
  readonly #rpc: RpcClient;
  readonly #timeoutMs: number;
  readonly #pool: ArenaPool;
  readonly #watches = new Map<number, WatchHandler>();
  #watchLast = 0;

  /** Cuts 4 MiB of the world's arena for large transactions. Connects at the first call. */
  constructor(world: World, options: RegistryClientOptions) {
    const { address, cluster, role, id = "", timeoutMs = TIMEOUT_MS } = options;
    this.#world = world;
    this.#timeoutMs = timeoutMs;
    this.#pool = new ArenaPool(world.arena.region(POOL_BYTES, "registry client"), POOL_BYTES);
    this.#rpc = new RpcClient(world, {
      address,
      self: { role, id, cluster },
      wants: { role: REGISTRY_ROLE, id: null, cluster },
      whileDown: "wait",
      backoffMsMax: options.backoffMsMax ?? 250,
      onDown: (reason) => this.#endAll(`the connection to the registry is lost: ${reason}`),
      onNotice: (operation, meta, payload, payloadBytes) =>
        this.#onNotice(operation, { meta, payload, payloadBytes }),
    });
  }

  /** True while a greeted connection to the registry is up. */
  get connected(): boolean {
    return this.#rpc.connected;
  }

  async get(key: string): Promise<RegistryEntry | null> {
    checkKey(key);
    const answer = await this.#call(RegistryOp.get, packRegistryGet({ key }));
    const { items } = this.#read(answer, decodeRegistryItems);
    return items.length === 0 ? null : entryOfItem(items[0]!);
  }

  async range(prefix: string, options: { after?: string; limit: number }): Promise<RangeResult> {
    checkRange(prefix, options);
    const { after, limit } = options;
    const follows = after === undefined ? 0 : 1;
    const request = packRegistryRange({ prefix, after: after ?? "", follows, limit });
    const answer = await this.#call(RegistryOp.range, request);
    const { items, more, revision } = this.#read(answer, decodeRegistryItems);
    return { entries: items.map(entryOfItem), more: more === 1, revision };
  }

  async transact(transaction: Transaction): Promise<TransactionResult> {
    checkTransaction(transaction);
    const request = packRegistryTransaction(wireTransaction(transaction));
    const answer = await this.#call(RegistryOp.transact, request);
    return resultOf(this.#read(answer, decodeRegistryTransacted));
  }

  async watch(prefix: string, fromRevision: number, handler: WatchHandler): Promise<Watch> {
    checkPrefix(prefix);
    checkRevision(fromRevision);
    if (this.#watches.size >= WATCHES_MAX) {
      throw new StorageError("OVS_BUSY", `more than ${WATCHES_MAX} watches`);
    }
    const watch = ++this.#watchLast;
    this.#watches.set(watch, handler);
    try {
      const request = packRegistryWatch({ watch, fromRevision, prefix });
      this.#done(await this.#call(RegistryOp.watch, request));
    } catch (error) {
      // It may have begun all the same.
      this.#cancel(watch);
      throw error;
    }
    return { cancel: () => this.#cancel(watch) };
  }

  async leaseGrant(ttlSeconds: number): Promise<{ lease: string; ttlSeconds: number }> {
    checkTtl(ttlSeconds);
    const granted = await this.#lease(RegistryOp.leaseGrant, { lease: 0n, ttlSeconds });
    return { lease: String(granted.lease), ttlSeconds: granted.ttlSeconds };
  }

  async leaseKeepAlive(lease: string): Promise<{ ttlSeconds: number }> {
    const request = { lease: checkLease(lease), ttlSeconds: 0 };
    const { ttlSeconds } = await this.#lease(RegistryOp.leaseKeepAlive, request);
    return { ttlSeconds };
  }

  async leaseRevoke(lease: string): Promise<void> {
    await this.#lease(RegistryOp.leaseRevoke, { lease: checkLease(lease), ttlSeconds: 0 });
  }

  /** What the service says of itself. */
  async stats(): Promise<RegistryServiceStats> {
    const answer = await this.#call(RegistryOp.status, null);
    return this.#read(answer, (bytes) => decodeControl(bytes, statsSchema));
  }

  /** Ends all calls and watches. Idempotent. */
  async close(): Promise<void> {
    await this.#rpc.close();
    this.#endAll("this registry client is closed");
  }

  async #call(operation: number, message: Uint8Array | null): Promise<Answer> {
    const options = { timeoutMs: this.#timeoutMs };
    if (message === null) return await this.#rpc.call(operation, null, null, null, options);
    const { meta, payload, give } = await pack(this.#world.arena, this.#pool, message);
    try {
      return await this.#rpc.call(operation, meta, payload, null, options);
    } finally {
      give?.();
    }
  }

  #read<T>(answer: Answer, decode: (bytes: Uint8Array) => T): T {
    try {
      return decode(unpack(this.#world.arena, answer));
    } finally {
      this.#done(answer);
    }
  }

  #done(answer: Answer): void {
    if (answer.payload !== 0) this.#world.network.release(answer.payload);
  }

  async #lease(operation: number, request: RegistryLeaseCall): Promise<RegistryLeaseCall> {
    const answer = await this.#call(operation, packRegistryLeaseCall(request));
    return this.#read(answer, decodeRegistryLeaseCall);
  }

  #onNotice(
    operation: number,
    frame: { meta: Uint8Array; payload: number; payloadBytes: number },
  ): void {
    try {
      const message = unpack(this.#world.arena, frame);
      if (operation === RegistryOp.events) this.#onEvents(message);
      else if (operation === RegistryOp.watchEnd) this.#onWatchEnd(message);
    } finally {
      if (frame.payload !== 0) this.#world.network.release(frame.payload);
    }
  }

  #onEvents(message: Uint8Array): void {
    const { watch, revision, changes } = decodeRegistryEvents(message);
    // One that was cancelled here may still be told things.
    this.#watches.get(watch)?.onEvents(changes.map(eventOf), revision);
  }

  #onWatchEnd(message: Uint8Array): void {
    const { watch, reason } = decodeRegistryWatchEnd(message);
    const handler = this.#watches.get(watch);
    this.#watches.delete(watch);
    handler?.onEnd(reason);
  }

  #cancel(watch: number): void {
    if (!this.#watches.delete(watch)) return;
    const message = packRegistryWatchEnd({ watch, reason: "" });
    this.#rpc.notify(RegistryOp.watchEnd, message, null, null);
  }

  #endAll(reason: string): void {
    const handlers = [...this.#watches.values()];
    this.#watches.clear();
    for (const handler of handlers) handler.onEnd(reason);
    assert(handlers.length <= WATCHES_MAX, "watches are bounded");
  }
}
