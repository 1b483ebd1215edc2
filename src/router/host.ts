// SPDX-License-Identifier: Apache-2.0
// A worker thread of the router: hosts volumes. It has a World of its own, its own connections to
// the registry, the proxies and the ASDs, and shares nothing with other threads. Here a vDisk is
// claimed, fenced, opened, served and released:
//
//   claim (epoch + 1) ─► raise the fence ─► open: journal, map ─► serving ─► … ─► stop ─► released

import { BackendClient, CLIENT_DEFAULTS } from "../backend/client.js";
import { assert } from "../base/assert.js";
import { parseUuid } from "../base/bytes.js";
import { hasCode, messageOf, StorageError } from "../base/errors.js";
import { settleAll } from "../base/sync.js";
import { MIB } from "../base/units.js";
import { SLOT_BYTES, SLOTS_DEFAULT } from "../nbd/limits.js";
import { discardTicket, type NbdTicket } from "../nbd/listener.js";
import { NbdServer } from "../nbd/server.js";
import type { KvStore } from "../platform/kv.js";
import type { Address } from "../platform/network.js";
import type { Port } from "../platform/threads.js";
import type { World } from "../platform/world.js";
import { RegistryClient } from "../registry/client.js";
import type { VolumeConfig } from "../volume/config.js";
import { openVolume } from "../volume/open.js";
import { countJournals, removeVolume } from "../volume/remove.js";
import { VolumeThread, type VolumeThreadOptions, volumeArenaBytes } from "../volume/thread.js";
import type { Volume } from "../volume/volume.js";
import { OwnerGate } from "./gate.js";
import type { Opened } from "./keeper.js";
import { Link } from "./link.js";
import type { VdiskStatus } from "./messages.js";
import {
  type Claimer,
  claimVdisk,
  deleteVdisk,
  growRecord,
  readVdisk,
  type Vdisk,
} from "./records.js";

/** What a worker thread is started with. Sizes in bytes. */
export interface HostConfig {
  router: string;
  /** This router's folder, 16 bytes, and how often it was started. */
  routerUuid: Uint8Array;
  starts: number;
  /** This life of the router, 16 bytes. */
  incarnation: Uint8Array;
  path: string;
  cluster: string;
  registry: Address;
  proxies: Address[];
  /** Shares of each shard. */
  journalBytes: number;
  cacheBytes: number;
  readCacheBytes: number;
  thread: number;
  /** The shards that live on this thread. */
  shards: number[];
  lostAfterMs: number;
  memory: HostMemory;
  /** As `VolumeThreadOptions` has it. */
  checkpointTlogs?: number;
  logTo: string | null;
}

/** What the main thread may ask. */
export type HostMethods = {
  start: (input: Record<string, never>) => Promise<void>;
  open: (input: { id: string; shard: number; acceptLoss: boolean }) => Promise<Opened>;
  /** Gives up a vDisk that halted: its connections end; resolves with what it had met. */
  close: (input: { id: string }) => Promise<{ corruptions: number }>;
  /** Closes a vDisk and deletes all of it, its records last. Goes on where a crash cut it short. */
  remove: (input: { id: string; shard: number }) => Promise<void>;
  info: (input: { id: string }) => Promise<VdiskStatus>;
  /** Grows it, then its record. */
  grow: (input: { id: string; sizeBytes: number }) => Promise<Vdisk>;
  sync: (input: { id: string; timeoutMs: number }) => Promise<{ full: boolean; spareMin: number }>;
  dropCaches: (input: Record<string, never>) => Promise<void>;
  adopt: (input: { id: string; ticket: NbdTicket }) => Promise<void>;
  stop: (input: Record<string, never>) => Promise<void>;
};

/** What a host tells the main thread. */
export type MainMethods = {
  halted: (input: { id: string; reason: string }) => Promise<void>;
  /**
   * A shard's store of maps is damaged and condemned: a new start makes it anew; or it takes no
   * more writes: a new start opens it.
   */
  condemned: (input: { reason: string }) => Promise<void>;
};

/** Memory of a worker thread beside its caches. Bytes, but for `slots`: requests under way. */
export interface HostMemory {
  slots: number;
  receiveBytes: number;
  /** Of each shard. */
  destageBytes: number;
  pageCacheBytes: number;
  kvCacheBytes: number;
  kvWriteBufferBytes: number;
  decodeBytes: number;
}

export const HOST_MEMORY: HostMemory = {
  slots: SLOTS_DEFAULT,
  receiveBytes: 24 * MIB,
  destageBytes: 80 * MIB,
  pageCacheBytes: 48 * MIB,
  kvCacheBytes: 16 * MIB,
  kvWriteBufferBytes: 4 * MIB,
  decodeBytes: 16 * MIB,
};

const READ_PATIENCE_MS = 60_000;
const SENTENCE_BYTES_MAX = 4096;

function shardOptions(config: HostConfig, shard: number): VolumeThreadOptions {
  const folder = shardFolder(config, shard);
  return {
    memoryCacheBytes: config.cacheBytes,
    diskCache:
      config.readCacheBytes > 0
        ? { path: `${folder}/read-cache`, bytes: config.readCacheBytes }
        : null,
    pageCacheBytes: config.memory.pageCacheBytes,
    journalBytes: config.journalBytes,
    destageBytes: config.memory.destageBytes,
    readPatienceMs: READ_PATIENCE_MS,
    ...(config.checkpointTlogs === undefined ? {} : { checkpointTlogs: config.checkpointTlogs }),
  };
}

function shardFolder(config: HostConfig, shard: number): string {
  return `${config.path}/shard-${shard}`;
}

/** Arena of a host's world. */
export function hostArenaBytes(config: HostConfig): number {
  const shards = config.shards.reduce(
    (sum, shard) => sum + volumeArenaBytes(shardOptions(config, shard)),
    0,
  );
  const { slots, receiveBytes, decodeBytes } = config.memory;
  return slots * SLOT_BYTES + receiveBytes + decodeBytes + 16 * MIB + shards;
}

/** Says beside a store of maps why it must not be opened again. */
function condemnedPath(store: string): string {
  return `${store}.condemned`;
}

interface Shard {
  kv: KvStore;
  thread: VolumeThread;
  /** Its store of maps was damaged and made anew. */
  damages: number;
}

interface Hosted {
  vdisk: Vdisk;
  gate: OwnerGate;
  volume: Volume;
  shard: number;
}

/** The vDisks of one worker thread. */
export class VolumeHost {
  readonly #world: World;
  readonly #config: HostConfig;
  readonly #link: Link<MainMethods>;
  readonly #registry: RegistryClient;
  readonly #backend: BackendClient;
  readonly #nbd: NbdServer;
  readonly #shards = new Map<number, Shard>();
  readonly #hosted = new Map<string, Hosted>();
  /** Opening, closing, deleting: awaited by `stop`. */
  readonly #steps = new Set<Promise<unknown>>();
  #stopping = false;
  #condemned = false;

  constructor(world: World, config: HostConfig, port: Port) {
    this.#world = world;
    this.#config = config;
    const { cluster, registry, proxies } = config;
    this.#registry = new RegistryClient(world, { address: registry, cluster, role: "router" });
    this.#backend = new BackendClient(world, {
      ...CLIENT_DEFAULTS,
      self: { role: "router", id: config.router, cluster },
      registry: this.#registry,
      proxies,
      decodeBytes: config.memory.decodeBytes,
      lostAfterMs: config.lostAfterMs,
    });
    this.#nbd = new NbdServer(world, { slots: config.memory.slots });
    const methods: HostMethods = {
      start: () => this.#start(),
      open: ({ id, shard, acceptLoss }) =>
        this.#step(() => this.#open(id, shard, acceptLoss)).finally(() => this.#lookAt(shard)),
      close: ({ id }) => this.#step(() => this.#giveUp(this.#get(id))),
      remove: ({ id, shard }) => this.#step(() => this.#remove(id, shard)),
      info: async ({ id }) => this.#status(this.#get(id)),
      grow: ({ id, sizeBytes }) => this.#grow(this.#get(id), sizeBytes),
      sync: ({ id, timeoutMs }) => this.#sync(this.#get(id), timeoutMs),
      dropCaches: async () => {
        for (const shard of this.#shards.values()) shard.thread.dropCaches();
        this.#backend.dropCache();
      },
      adopt: async ({ id, ticket }) => this.#adopt(id, ticket),
      stop: () => this.#stop(),
    };
    this.#link = new Link<MainMethods>(port, methods);
  }

  async #start(): Promise<void> {
    await this.#backend.start();
    for (const shard of this.#config.shards) {
      const folder = shardFolder(this.#config, shard);
      await this.#world.disk.files.makeFolder(folder);
      const { kv, damages } = await this.#openMaps(`${folder}/map`);
      await this.#world.disk.files.syncFolder(folder); // The name `map`.
      const options = {
        ...shardOptions(this.#config, shard),
        backendFreeShare: () => this.#backend.freeShare,
      };
      const thread = await VolumeThread.create(this.#world, this.#nbd.requests, kv, options);
      await countJournals(thread, folder);
      this.#shards.set(shard, { kv, thread, damages });
    }
  }

  /**
   * Opens the store of maps. A damaged one is kept beside an empty one: the backend has all that
   * was in it (P-A1), and each vDisk is rebuilt from there when it is opened.
   */
  async #openMaps(path: string): Promise<{ kv: KvStore; damages: number }> {
    const { files } = this.#world.disk;
    const options = {
      cacheBytes: this.#config.memory.kvCacheBytes,
      writeBufferBytes: this.#config.memory.kvWriteBufferBytes,
      create: true,
    };
    const sentence = await files.readSmall(condemnedPath(path), SENTENCE_BYTES_MAX);
    let reason = sentence ? new TextDecoder().decode(sentence) : "";
    if (reason === "") {
      try {
        return { kv: await this.#world.kv.open(path, options), damages: 0 };
      } catch (error) {
        if (!(error instanceof StorageError) || error.code !== "OVS_CORRUPT") throw error;
        reason = error.message;
      }
    }
    const aside = `${path}.damaged`;
    this.#world.log.error(`${reason}; kept as ${aside}, rebuilding from the backend`);
    if ((await files.stat(path)) !== null) {
      await files.remove(aside);
      await files.rename(path, aside);
    }
    await files.remove(condemnedPath(path));
    return { kv: await this.#world.kv.open(path, options), damages: 1 };
  }

  /**
   * A store that has met damage is given up whole: what else is bad in it shows only when it is
   * read, or when RocksDB merges its files and then refuses all writes.
   */
  async #lookAt(shardNumber: number): Promise<void> {
    const { damage, failure } = this.#shard(shardNumber).kv;
    if ((damage ?? failure) === null || this.#condemned) return;
    this.#condemned = true;
    if (damage === null) {
      // A full disk, most of all: nothing is wrong with what it has, but only a new process can
      // open it again.
      await this.#link.call("condemned", { reason: failure!.message });
      return;
    }
    const path = condemnedPath(`${shardFolder(this.#config, shardNumber)}/map`);
    const reason = damage.message.slice(0, SENTENCE_BYTES_MAX / 4);
    await this.#world.disk.files.writeSmall(path, new TextEncoder().encode(reason));
    await this.#link.call("condemned", { reason });
  }

  /** Runs a step that `stop` waits for. */
  async #step<T>(work: () => Promise<T>): Promise<T> {
    if (this.#stopping) throw new StorageError("OVS_CLOSED", "the router stops");
    const step = work();
    this.#steps.add(step);
    try {
      return await step;
    } finally {
      this.#steps.delete(step);
    }
  }

  #get(id: string): Hosted {
    const hosted = this.#hosted.get(id);
    if (!hosted) throw new StorageError("OVS_NOT_FOUND", `this thread has no vDisk ${id}`);
    return hosted;
  }

  #shard(number: number): Shard {
    const shard = this.#shards.get(number);
    assert(shard !== undefined, "the vDisk's shard lives on this thread");
    return shard;
  }

  async #open(id: string, shardNumber: number, acceptLoss: boolean): Promise<Opened> {
    assert(!this.#hosted.has(id), "a vDisk is opened once");
    // An earlier life may have asked for its deletion, carried out only now: nothing is left of it.
    const read = await readVdisk(this.#registry, id).catch(ignoreMissing);
    if (read === null) return { kind: "deleting" };
    const claimed = await claimVdisk(this.#registry, id, this.#claimer("serve"));
    if (claimed === null) return { kind: "deleting" };
    const gate = new OwnerGate(this.#world, this.#registry, id, claimed.claim);
    // The fence is raised after the claim and before the map is read (P-C5). A first start that was
    // cut short may have left a claim and no namespace.
    await this.#backend.createNamespace(read.record.namespace, gate.epoch);
    const { thread } = this.#shard(shardNumber);
    const config = this.#volumeConfig(read, gate, {
      shardNumber,
      acceptLoss,
      isNew: claimed.before === null,
    });
    const volume = await openVolume(thread, config, this.#backend, {
      dirty: () => gate.makeDirty(),
      clean: () => gate.makeClean(),
    });
    try {
      volume.onHalted = (reason) => this.#onHalted(id, volume, reason);
      // A crash may have come between the journal's word of a new size and the registry's.
      const vdisk = await growRecord(this.#world, this.#registry, read, volume.sizeBytes);
      await gate.serving();
      if (volume.reason !== null) {
        throw new StorageError("OVS_UNAVAILABLE", `halted while it was opened: ${volume.reason}`);
      }
      this.#hosted.set(id, { vdisk, gate, volume, shard: shardNumber });
      const fields = { vdisk: id, epoch: gate.epoch };
      this.#world.log.info(`vDisk ${vdisk.record.name} serves`, fields);
      return { kind: "serving", vdisk };
    } catch (error) {
      gate.close();
      await volume.stop();
      throw error;
    }
  }

  #claimer(purpose: Claimer["purpose"]): Claimer {
    const { router, incarnation } = this.#config;
    return { router, incarnation, purpose };
  }

  #volumeConfig(
    { record }: Vdisk,
    gate: OwnerGate,
    how: { shardNumber: number; acceptLoss: boolean; isNew: boolean },
  ): VolumeConfig {
    return {
      vdiskId: record.vdisk,
      name: record.name,
      sizeBytes: record.sizeBytes,
      namespace: record.namespace,
      epoch: gate.epoch,
      clusterUuid: parseUuid(this.#config.cluster),
      routerUuid: this.#config.routerUuid,
      incarnation: this.#config.starts,
      dir: shardFolder(this.#config, how.shardNumber),
      journalBytes: this.#config.journalBytes,
      scoBytes: record.scoBytes,
      isNew: how.isNew,
      wasDirty: gate.dirty,
      acceptLoss: how.acceptLoss,
      batchBytes: null,
      batchAgeMs: 5_000,
      segmentBytes: null,
    };
  }

  #onHalted(id: string, volume: Volume, reason: string): void {
    // One that is being opened or closed is seen to by who does that.
    const hosted = this.#hosted.get(id);
    if (hosted?.volume !== volume) return;
    void this.#link.call("halted", { id, reason });
    void this.#lookAt(hosted.shard).catch((error: unknown) => {
      this.#world.log.error(`the damaged store cannot be condemned: ${messageOf(error)}`);
    });
  }

  /** Stops a volume in order; its owner record says released. */
  async #close(id: string, hosted: Hosted): Promise<void> {
    this.#hosted.delete(id);
    await this.#nbd.drop(hosted.volume);
    await hosted.volume.stop();
    await hosted.gate.release();
  }

  /** The owner record stays as it is: the next claim takes a new epoch (P-A4). */
  async #giveUp({ vdisk, gate, volume }: Hosted): Promise<{ corruptions: number }> {
    this.#hosted.delete(vdisk.id);
    gate.close();
    await this.#nbd.drop(volume);
    await volume.stop();
    return { corruptions: volume.counts.corruptions };
  }

  /**
   * The registry learns first that it is being deleted, last that it is gone: a crash in between
   * is found at the next start, and the rest is done then.
   */
  async #remove(id: string, shardNumber: number): Promise<void> {
    const hosted = this.#hosted.get(id);
    if (hosted) await this.#giveUp(hosted);
    const vdisk = await readVdisk(this.#registry, id).catch(ignoreMissing);
    if (vdisk === null) return;
    const claimed = await claimVdisk(this.#registry, id, this.#claimer("delete"));
    assert(claimed !== null, "whatever its state, it can be claimed for its deletion");
    const { namespace } = vdisk.record;
    await this.#backend.deleteNamespace(namespace, claimed.claim.value.epoch);
    const dir = shardFolder(this.#config, shardNumber);
    await removeVolume(this.#shard(shardNumber).thread, { dir, vdiskId: vdisk.record.vdisk });
    await deleteVdisk(this.#registry, vdisk, claimed.claim);
  }

  async #grow(hosted: Hosted, sizeBytes: number): Promise<Vdisk> {
    // The journal learns the size first: a record of the registry that the volume does not obey
    // would let a client write behind its end.
    await hosted.volume.resize(sizeBytes);
    this.#nbd.resize(hosted.volume);
    hosted.vdisk = await growRecord(this.#world, this.#registry, hosted.vdisk, sizeBytes);
    return hosted.vdisk;
  }

  async #sync(hosted: Hosted, timeoutMs: number): Promise<{ full: boolean; spareMin: number }> {
    return await hosted.volume.sync(timeoutMs);
  }

  #adopt(id: string, ticket: NbdTicket): void {
    const hosted = this.#hosted.get(id);
    if (hosted) this.#nbd.adopt(ticket, hosted.volume);
    else discardTicket(this.#world.nbd, ticket);
  }

  #status({ vdisk, volume, shard }: Hosted): VdiskStatus {
    const status = volume.status();
    const { reads } = status;
    return {
      name: status.name,
      id: vdisk.id,
      state: status.state,
      reason: status.reason ?? status.waiting ?? "",
      epoch: status.epoch,
      sizeBytes: status.sizeBytes,
      allocatedBytes: status.allocatedBytes,
      dirtyBytes: status.dirtyBytes,
      journalBytes: status.journal.usedBytes,
      clientWrittenBytes: status.client.writtenBytes,
      clientReadBytes: status.client.readBytes,
      backendWrittenBytes: status.backend.storedBytes,
      cacheHits: reads.memory + reads.disk,
      cacheMisses: reads.backend,
      corruptions: status.corruptions + this.#shard(shard).damages,
      thread: this.#config.thread,
    };
  }

  async #stop(): Promise<void> {
    this.#stopping = true;
    await Promise.allSettled(this.#steps);
    await settleAll(
      [...this.#hosted].map(async ([id, hosted]) => {
        try {
          await this.#close(id, hosted);
        } catch (error) {
          // A volume that cannot stop in order is recovered at its next start.
          this.#world.log.error(`closing vDisk ${hosted.vdisk.record.name}: ${messageOf(error)}`);
        }
      }),
    );
    await this.#nbd.stop();
    for (const { thread, kv } of this.#shards.values()) {
      await thread.close();
      await kv.close();
    }
    await this.#backend.stop();
    await this.#registry.close();
  }
}

function ignoreMissing(error: unknown): null {
  if (!hasCode(error, "OVS_NOT_FOUND")) throw error;
  return null;
}
