// SPDX-License-Identifier: Apache-2.0
// The backend as the router uses it: an ObjectStore. Objects go up through a proxy, any of several;
// reads come straight from the OSDs, with a proxy as the fallback; everything that is only
// metadata is a transaction of its own with the registry.

import { alignUp } from "../base/bytes.js";
import { messageOf, StorageError } from "../base/errors.js";
import { CLUSTER_BYTES, MIB } from "../base/units.js";
import type { Address } from "../platform/network.js";
import type { World } from "../platform/world.js";
import type { Registry } from "../registry/registry.js";
import type { Identity } from "../rpc/hello.js";
import { asdFactory } from "./asdosd.js";
import { removeObjects, widthPut } from "./commit.js";
import { BackendCore } from "./core.js";
import { createNamespace, markDeleting, Namespaces, raiseFence } from "./namespaces.js";
import { checkNamespace, checkObjectName } from "./paths.js";
import type { ProxyStatus } from "./protocol.js";
import { ProxyClients } from "./proxyclients.js";
import { osdStatuses } from "./status.js";
import type {
  CommitExtras,
  ObjectInfo,
  ObjectStore,
  PutRequest,
  PutResult,
  ReadPart,
} from "./store.js";
import type { VerifyOptions, VerifyReport } from "./verify.js";
import { isSurelyFull, listObjects, widthOf } from "./width.js";

const WIDTH_LOOK_MS = 100;
const DAMAGE_NOTED_MAX = 10_000;
const FALLBACK_LOG_MS = 10_000;

export interface BackendClientConfig {
  /** Who this is: role and id of the process, and its cluster. */
  self: Identity & { cluster: string };
  registry: Registry;
  proxies: readonly Address[];
  /** Preset of new namespaces. */
  preset: string;
  /** Manifests that are kept (about half a KiB each). */
  manifestsMax: number;
  /** Bytes of the arena for decoding. */
  decodeBytes: number;
  /** An OSD without connection for longer counts as lost: its fragments are made anew elsewhere. */
  lostAfterMs: number;
}

export const CLIENT_DEFAULTS = {
  lostAfterMs: 10 * 60_000,
  preset: "default",
  manifestsMax: 65_536,
  decodeBytes: 32 * MIB,
} as const satisfies Partial<BackendClientConfig>;

export interface BackendStatus {
  topologyAgeMs: number | null;
  osds: ReturnType<typeof osdStatuses>;
  proxies: Array<{ address: Address; connected: boolean; reason: string }>;
  counters: Record<string, number>;
}

export class BackendClient implements ObjectStore {
  readonly #world: World;
  readonly #config: BackendClientConfig;
  readonly #core: BackendCore;
  readonly #namespaces: Namespaces;
  readonly #proxies: ProxyClients;
  /** Objects whose damage was told, with the time; a repair takes a moment. */
  readonly #noted = new Map<string, number>();
  readonly #background = new Set<Promise<void>>();
  #fallbackLogMs = Number.NEGATIVE_INFINITY;
  #fallbackReads = 0;
  #stopped = false;

  constructor(world: World, config: BackendClientConfig) {
    this.#world = world;
    this.#config = config;
    this.#core = new BackendCore(world, config.registry, {
      manifestsMax: config.manifestsMax,
      decodeBytes: config.decodeBytes,
      factory: asdFactory(world, config.self),
      onDamage: (namespace, name) => this.#noteDamage(namespace, name),
    });
    this.#namespaces = new Namespaces(config.registry, world.clock);
    this.#proxies = new ProxyClients(world, {
      self: config.self,
      addresses: config.proxies,
      registry: config.registry,
      namespaces: this.#namespaces,
    });
  }

  /** Reads the topology and connects. Rejects when the registry does not answer. */
  async start(): Promise<void> {
    this.#proxies.start();
    await this.#core.start();
  }

  /** Ends everything; puts whose outcome is not known yet are rejected with OVS_CLOSED. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#proxies.stop();
    await Promise.all(this.#background);
    await this.#core.stop();
  }

  async createNamespace(namespace: string, ownerEpoch: number): Promise<void> {
    const { registry, preset } = this.#config;
    await createNamespace(registry, this.#world, namespace, { ownerEpoch, preset });
  }

  async deleteNamespace(namespace: string, ownerEpoch: number): Promise<void> {
    await markDeleting(this.#config.registry, namespace, ownerEpoch);
    this.#namespaces.forget(namespace);
  }

  async raiseFence(namespace: string, ownerEpoch: number): Promise<void> {
    await raiseFence(this.#config.registry, namespace, ownerEpoch);
  }

  async put(request: PutRequest): Promise<PutResult> {
    checkNamespace(request.namespace);
    checkObjectName(request.name);
    return await this.#proxies.put(request);
  }

  async remove(
    namespace: string,
    names: readonly string[],
    ownerEpoch: number,
    extras: CommitExtras,
  ): Promise<void> {
    checkNamespace(namespace);
    const removal = { namespace, names, ownerEpoch, extras };
    await removeObjects(this.#config.registry, this.#world, removal, () => this.#stopped);
    for (const name of names) this.#core.manifests.forget(namespace, name);
  }

  async read(namespace: string, parts: readonly ReadPart[], timeoutMs: number): Promise<void> {
    try {
      await this.#core.reader.read(namespace, parts, { timeoutMs, priority: 0 });
    } catch (error) {
      if (!(error instanceof StorageError) || error.kind !== "unavailable") throw error;
      if (!this.#proxies.connected || this.#stopped) throw error;
      await this.#readThroughProxy(namespace, parts, timeoutMs, error);
    }
  }

  /** The OSDs may be out of reach from here only. */
  async #readThroughProxy(
    namespace: string,
    parts: readonly ReadPart[],
    timeoutMs: number,
    cause: StorageError,
  ): Promise<void> {
    this.#fallbackReads++;
    const nowMs = this.#world.clock.nowMs();
    if (nowMs - this.#fallbackLogMs > FALLBACK_LOG_MS) {
      this.#fallbackLogMs = nowMs;
      this.#world.log.warn("reads go through a proxy", { reason: cause.message });
    }
    try {
      await this.#proxies.read(namespace, parts, timeoutMs);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      const message = `${cause.message}; and through a proxy: ${error.message}`;
      throw new StorageError(error.code, message, { cause });
    }
  }

  async list(
    namespace: string,
    prefix: string,
    options: { after?: string; limit: number },
  ): Promise<ObjectInfo[]> {
    checkNamespace(namespace);
    const { registry, pool } = this.#core;
    return await listObjects({ registry, pool }, namespace, prefix, options);
  }

  async waitFullWidth(
    namespace: string,
    timeoutMs: number,
  ): Promise<{ full: boolean; spareMin: number }> {
    const { clock } = this.#world;
    const untilMs = clock.nowMs() + timeoutMs;
    const { preset } = await this.#namespaces.get(namespace);
    const host = { registry: this.#core.registry, pool: this.#core.pool };
    for (let delayMs = WIDTH_LOOK_MS; ; delayMs = Math.min(2 * delayMs, 2000)) {
      const policies = this.#core.topology.preset(preset)?.policies ?? [];
      if (policies.length === 1 && (await isSurelyFull(host, namespace))) {
        return { full: true, spareMin: policies[0]!.m };
      }
      const { lostAfterMs } = this.#config;
      const { full, spareMin, repairable } = await widthOf(host, namespace, preset, lostAfterMs);
      const spare = spareMin ?? policies[0]?.m ?? 0;
      const leftMs = untilMs - clock.nowMs();
      // Fragments on an OSD that is away, and not lost yet, come back with it or are made anew when
      // it is lost: who asks is told now rather than kept waiting for that.
      const isPointless = repairable === 0;
      if (full || isPointless || leftMs <= 0 || this.#stopped) return { full, spareMin: spare };
      await clock.sleep(Math.min(delayMs, leftMs));
    }
  }

  /** Reads every fragment, reports and repairs; through a proxy, may take long. */
  async verify(options: VerifyOptions, timeoutMs: number): Promise<VerifyReport> {
    return await this.#proxies.verify(options, timeoutMs);
  }

  /** Lets a proxy look for what is to be repaired or removed, now. */
  async repair(timeoutMs: number): Promise<ProxyStatus["maintenance"]> {
    return await this.#proxies.repair(timeoutMs);
  }

  /** What the proxies that answer say of themselves. */
  async proxyStatuses(timeoutMs: number): Promise<ProxyStatus[]> {
    return await this.#proxies.statuses(timeoutMs);
  }

  /**
   * Share of the space of the living OSDs that is free, from 0 to 1; 1 while nothing is known. The
   * fullest OSD counts: fragments spread evenly, so it is the first to refuse.
   */
  get freeShare(): number {
    let least = 1;
    for (const { id, up, freeBytes } of osdStatuses(this.#core.pool)) {
      const capacity = this.#core.topology.osds.get(id)?.capacityBytes ?? 0;
      if (up && capacity > 0) least = Math.min(least, freeBytes / capacity);
    }
    return least;
  }

  /** Forgets all manifests: the next reads ask the registry. */
  dropCache(): void {
    this.#core.manifests.clear();
  }

  /** What this client sees of topology, OSDs and proxies, and its counters. */
  status(): BackendStatus {
    const { topology, pool, counters, pieces } = this.#core;
    return {
      topologyAgeMs: Number.isFinite(topology.ageMs) ? topology.ageMs : null,
      osds: osdStatuses(pool),
      proxies: this.#proxies.status(),
      counters: { ...counters, ...pieces.counters, fallbackReads: this.#fallbackReads },
    };
  }

  /** Puts the object on the list of those that repair looks at. */
  #noteDamage(namespace: string, name: string): void {
    const key = `${namespace}/${name}`;
    const nowMs = this.#world.clock.nowMs();
    if (nowMs < (this.#noted.get(key) ?? 0) || this.#stopped) return;
    if (this.#noted.size >= DAMAGE_NOTED_MAX) this.#noted.clear();
    this.#noted.set(key, nowMs + FALLBACK_LOG_MS);
    this.#world.log.warn("a fragment is damaged or missing", { namespace, object: name });
    const success = [widthPut(namespace, name)];
    const telling = this.#core.registry
      .transact({ compares: [], success, failure: [] })
      .then(() => undefined)
      .catch((error: unknown) => {
        if (!(error instanceof StorageError)) throw error;
        this.#noted.delete(key);
        this.#world.log.warn("damage could not be told", { reason: messageOf(error) });
      })
      .finally(() => this.#background.delete(telling));
    this.#background.add(telling);
  }
}

/** Bytes of a payload with its last page filled up: what `crcs` of a put speak of. */
export function paddedBytes(bytes: number): number {
  return alignUp(bytes, CLUSTER_BYTES);
}
