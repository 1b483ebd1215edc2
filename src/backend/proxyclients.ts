// SPDX-License-Identifier: Apache-2.0
// The way to the proxies: any of them will do, another one is taken on an error or a timeout.
//
// A put whose connection was lost may have been committed, or may yet be: a proxy that is slow is
// not dead. So it is tried again under the same upload id, where the first commit wins and every
// later one finds it; and when no try brings an answer, the name is settled in the registry by
// raising `gc` beyond every upload that has begun: after that it is there or will never be (P-B1).

import type { ZodType } from "zod";
import { StorageError } from "../base/errors.js";
import { CLUSTER_BYTES, MIB } from "../base/units.js";
import { ArenaPool } from "../platform/arena.js";
import type { Address } from "../platform/network.js";
import { SegmentList } from "../platform/segments.js";
import type { World } from "../platform/world.js";
import type { Registry } from "../registry/registry.js";
import { RpcClient } from "../rpc/client.js";
import { decodeControl, encodeControl } from "../rpc/control.js";
import type { Identity } from "../rpc/hello.js";
import { OBJECT_ID_BYTES } from "./keys.js";
import { type Namespaces, uploadEpoch } from "./namespaces.js";
import {
  maintenanceSchema,
  PROXY_READ_BYTES_MAX,
  PROXY_READ_PARTS_MAX,
  PROXY_ROLE,
  ProxyOperation,
  type ProxyStatus,
  proxyStatusSchema,
  putReplySchema,
  verifyReportSchema,
} from "./protocol.js";
import { settlePut } from "./settle.js";
import { OBJECT_BYTES_MAX, type PutRequest, type PutResult, type ReadPart } from "./store.js";
import type { VerifyOptions, VerifyReport } from "./verify.js";

const TAIL_BYTES = 4 * MIB;
const CONNECT_WAIT_MS = 25;
/** A proxy that failed is not the first choice for this long. */
const AVOID_MS = 3000;
const RETRY_MS = 50;
const EPOCHS_MAX = 4;

export interface ProxyClientsOptions {
  self: Identity & { cluster: string };
  addresses: readonly Address[];
  registry: Registry;
  namespaces: Namespaces;
}

interface Proxy {
  client: RpcClient;
  avoidUntilMs: number;
}

export class ProxyClients {
  readonly #world: World;
  readonly #registry: Registry;
  readonly #namespaces: Namespaces;
  readonly #proxies: Proxy[];
  /** For checksums and extras that go with a put. */
  readonly #tails: ArenaPool;
  #next = 0;
  #stopped = false;

  constructor(world: World, options: ProxyClientsOptions) {
    const { self, addresses, registry, namespaces } = options;
    this.#world = world;
    this.#registry = registry;
    this.#namespaces = namespaces;
    this.#tails = new ArenaPool(world.arena.region(TAIL_BYTES, "put tails"), TAIL_BYTES);
    const wants = { role: PROXY_ROLE, id: null, cluster: self.cluster };
    this.#proxies = addresses.map((address) => ({
      client: new RpcClient(world, { address, self, wants, callsMax: 256, inFlightMax: 64 }),
      avoidUntilMs: 0,
    }));
  }

  /** Begins to connect to all proxies. */
  start(): void {
    for (const { client } of this.#proxies) client.start();
  }

  /** Closes the connections; calls in flight fail with OVS_CLOSED. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#proxies.map(({ client }) => client.close()));
  }

  /** True while at least one proxy can be asked. */
  get connected(): boolean {
    return this.#proxies.some(({ client }) => client.connected);
  }

  /** Each proxy with its connection's state, and why it is down. */
  status(): Array<{ address: Address; connected: boolean; reason: string }> {
    return this.#proxies.map(({ client }) => {
      return { address: client.address, connected: client.connected, reason: client.downReason };
    });
  }

  /** As ObjectStore.put. */
  async put(request: PutRequest): Promise<PutResult> {
    checkPut(request);
    const extras = encodeControl(request.extras);
    const crcBytes = request.crcs.byteLength;
    const tailBytes = crcBytes + extras.byteLength;
    const tail = await this.#tails.take(tailBytes);
    try {
      const { bytes } = this.#world.arena;
      const { crcs } = request;
      bytes.set(new Uint8Array(crcs.buffer, crcs.byteOffset, crcBytes), tail);
      bytes.set(extras, tail + crcBytes);
      const payload = new SegmentList(request.payload.count + 1);
      const { list, count } = request.payload;
      for (let i = 0; i < count; i++) payload.add(list[2 * i]!, list[2 * i + 1]!);
      if (payload.bytes !== request.bytes) {
        throw new StorageError("OVS_INVALID", `the payload has ${payload.bytes} bytes`);
      }
      payload.add(tail, tailBytes);
      return await this.#putEpochs(request, payload, extras.byteLength);
    } finally {
      this.#tails.give(tail);
    }
  }

  /** Again with a new upload epoch where garbage collection was faster than the upload. */
  async #putEpochs(
    request: PutRequest,
    payload: SegmentList,
    extrasBytes: number,
  ): Promise<PutResult> {
    const { namespace, name, bytes, ownerEpoch } = request;
    const uploadId = this.#world.random.bytes(OBJECT_ID_BYTES);
    const untilMs = this.#world.clock.nowMs() + request.timeoutMs;
    for (let tries = 1; ; tries++) {
      const epoch = uploadEpoch(await this.#namespaces.get(namespace));
      const message = { namespace, name, uploadId, bytes, ownerEpoch, epoch, extrasBytes };
      const outcome = await this.#putTries(encodeControl(message), payload, untilMs);
      if ("revision" in outcome) return outcome;
      const { error, isSettled } = outcome;
      if (isSettled && (error.code !== "OVS_CONFLICT" || tries === EPOCHS_MAX)) throw error;
      if (!isSettled) {
        const put = { namespace, name, uploadId, epoch };
        const there = await settlePut(this.#registry, this.#world, put, () => this.#stopped);
        this.#namespaces.forget(namespace);
        if (there !== null) return there;
        const text = `${name} was not stored: ${error.message}`;
        throw new StorageError("OVS_UNAVAILABLE", text, { cause: error });
      }
      this.#namespaces.forget(namespace);
    }
  }

  /** Tries proxies until one answers for all tries, or time is over. */
  async #putTries(
    meta: Uint8Array,
    payload: SegmentList,
    untilMs: number,
  ): Promise<PutResult | { error: StorageError; isSettled: boolean }> {
    let lost: StorageError | null = null;
    let tried: Proxy | null = null;
    for (;;) {
      const leftMs: number = untilMs - this.#world.clock.nowMs();
      const proxy: Proxy | null = leftMs > 0 ? await this.#choose(untilMs, tried) : null;
      if (proxy === null) break;
      tried = proxy;
      try {
        const answer = await this.#call(proxy, ProxyOperation.put, meta, payload, leftMs);
        const reply = decodeControl(answer, putReplySchema);
        if (reply.ok) return reply;
        const error = new StorageError(reply.code, reply.message);
        // It speaks of its own try; of an earlier one only where compares say so (commit.ts).
        if (lost === null || SETTLED.has(reply.code)) return { error, isSettled: true };
        lost = error;
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        lost = error;
      }
      await this.#world.clock.sleep(RETRY_MS);
    }
    return lost === null
      ? { error: this.#noProxy(), isSettled: true }
      : { error: lost, isSettled: false };
  }

  /** As ObjectStore.read, by a proxy. */
  async read(namespace: string, parts: readonly ReadPart[], timeoutMs: number): Promise<void> {
    const untilMs = this.#world.clock.nowMs() + timeoutMs;
    for (const some of slices(parts)) {
      const into = new SegmentList(some.length);
      for (const part of some) into.add(part.into, part.bytes);
      const wanted = some.map(({ name, offset, bytes }) => ({ name, offset, bytes }));
      const meta = encodeControl({ namespace, parts: wanted });
      const leftMs = untilMs - this.#world.clock.nowMs();
      const proxy = await this.#choose(untilMs, null);
      if (proxy === null) throw this.#noProxy();
      await proxy.client.call(ProxyOperation.read, meta, null, into, {
        timeoutMs: Math.max(1, leftMs),
      });
    }
  }

  /** Has a proxy verify the backend, and repair if asked; OVS_UNAVAILABLE when there is none. */
  async verify(options: VerifyOptions, timeoutMs: number): Promise<VerifyReport> {
    return await this.#control(ProxyOperation.verify, options, verifyReportSchema, timeoutMs);
  }

  /**
   * Has a proxy look for repairs now; resolves with its counters. OVS_UNAVAILABLE when there is
   * none.
   */
  async repair(timeoutMs: number): Promise<ProxyStatus["maintenance"]> {
    return await this.#control(ProxyOperation.repair, {}, maintenanceSchema, timeoutMs);
  }

  /** What each connected proxy says of itself; those that do not answer are left out. */
  async statuses(timeoutMs: number): Promise<ProxyStatus[]> {
    const asked = this.#proxies
      .filter(({ client }) => client.connected)
      .map(({ client }) =>
        client.callControl(ProxyOperation.status, {}, proxyStatusSchema, { timeoutMs }),
      );
    const answers = await Promise.allSettled(asked);
    return answers.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []));
  }

  async #control<T>(
    operation: number,
    message: unknown,
    schema: ZodType<T>,
    timeoutMs: number,
  ): Promise<T> {
    const proxy = await this.#choose(this.#world.clock.nowMs() + timeoutMs, null);
    if (proxy === null) throw this.#noProxy();
    return await proxy.client.callControl(operation, message, schema, { timeoutMs });
  }

  async #call(
    proxy: Proxy,
    operation: number,
    meta: Uint8Array,
    payload: SegmentList,
    timeoutMs: number,
  ): Promise<Uint8Array> {
    try {
      const answer = await proxy.client.call(operation, meta, payload, null, { timeoutMs });
      if (answer.payload !== 0) this.#world.network.release(answer.payload);
      return answer.meta;
    } catch (error) {
      proxy.avoidUntilMs = this.#world.clock.nowMs() + AVOID_MS;
      throw error;
    }
  }

  /** The next proxy that is connected, another one than `but` if possible; null: none in time. */
  async #choose(untilMs: number, but: Proxy | null): Promise<Proxy | null> {
    const { clock } = this.#world;
    for (;;) {
      if (this.#stopped) throw new StorageError("OVS_CLOSED", "the backend's client is closed");
      const proxy = this.#pick(but);
      if (proxy !== null) return proxy;
      const leftMs = untilMs - clock.nowMs();
      if (leftMs <= 0) return null;
      await clock.sleep(Math.min(CONNECT_WAIT_MS, leftMs));
    }
  }

  #pick(but: Proxy | null): Proxy | null {
    const nowMs = this.#world.clock.nowMs();
    const { length } = this.#proxies;
    let best: Proxy | null = null;
    let bestRank = Number.POSITIVE_INFINITY;
    for (let i = 0; i < length; i++) {
      const proxy = this.#proxies[(this.#next + i) % length]!;
      if (!proxy.client.connected) continue;
      const isAvoided = nowMs < proxy.avoidUntilMs || proxy === but;
      const rank = proxy.client.pending + (isAvoided ? 10_000 : 0);
      if (rank >= bestRank) continue;
      best = proxy;
      bestRank = rank;
    }
    if (length > 0) this.#next = (this.#next + 1) % length;
    return best;
  }

  #noProxy(): StorageError {
    const reasons = this.#proxies.map(({ client }) => client.downReason).filter((r) => r !== "");
    return new StorageError("OVS_UNAVAILABLE", `no proxy can be reached: ${reasons.join("; ")}`);
  }
}

/** Answers of a later try that speak of all tries: the compares behind them stay false. */
const SETTLED = new Set(["OVS_FENCED", "OVS_EXISTS", "OVS_NOT_FOUND", "OVS_CONFLICT"]);

function checkPut(request: PutRequest): void {
  const { bytes, crcs, payload } = request;
  if (!Number.isSafeInteger(bytes) || bytes < 1 || bytes > OBJECT_BYTES_MAX) {
    throw new StorageError(
      "OVS_INVALID",
      `an object has 1 to ${OBJECT_BYTES_MAX} bytes, not ${bytes}`,
    );
  }
  if (crcs.length !== Math.ceil(bytes / CLUSTER_BYTES) || payload.count === 0) {
    throw new StorageError("OVS_INVALID", `${bytes} bytes do not have ${crcs.length} checksums`);
  }
}

/** Runs of parts that fit one read through a proxy. */
function slices(parts: readonly ReadPart[]): ReadPart[][] {
  const runs: ReadPart[][] = [];
  let run: ReadPart[] = [];
  let bytes = 0;
  for (const part of parts.flatMap(pieces)) {
    if (run.length === PROXY_READ_PARTS_MAX || bytes + part.bytes > PROXY_READ_BYTES_MAX) {
      runs.push(run);
      run = [];
      bytes = 0;
    }
    run.push(part);
    bytes += part.bytes;
  }
  if (run.length > 0) runs.push(run);
  return runs;
}

function pieces(part: ReadPart): ReadPart[] {
  const all: ReadPart[] = [];
  for (let at = 0; at < part.bytes; at += PROXY_READ_BYTES_MAX) {
    const bytes = Math.min(PROXY_READ_BYTES_MAX, part.bytes - at);
    all.push({ name: part.name, offset: part.offset + at, bytes, into: part.into + at });
  }
  return all;
}
