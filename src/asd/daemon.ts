// SPDX-License-Identifier: Apache-2.0
// The daemon of one disk: opens the folder, then listens; stops listening, then closes it.

import { formatUuid } from "../base/bytes.js";
import { MIB } from "../base/units.js";
import type { Address } from "../platform/network.js";
import type { World } from "../platform/world.js";
import type { AsdPlace } from "./identity.js";
import type { AsdStats } from "./protocol.js";
import { AsdService } from "./service.js";
import { AsdStore } from "./store.js";

/** Arena that an ASD needs: answers, and what the network receives. */
export const ASD_READ_BYTES = 32 * MIB;
export const ASD_RECEIVE_BYTES = 64 * MIB;
export const ASD_ARENA_BYTES = ASD_READ_BYTES + ASD_RECEIVE_BYTES + 4 * MIB;

export interface AsdConfig {
  /** Folder of the disk, absolute. */
  path: string;
  addresses: readonly Address[];
  place: AsdPlace;
  /** Format the folder when it is empty. */
  format: boolean;
  /** Bytes that it may fill; 0: what the file system has. */
  capacityBytes: number;
  /** Bytes for index entries in memory. */
  cacheBytes: number;
  /** Bytes of arena for answers. */
  readBytes?: number;
  connectionsMax?: number;
  /** The disk has failed: the process must end (its supervisor starts it anew). */
  onFatal: (error: unknown) => void;
}

export interface AsdStatus extends AsdStats {
  state: "starting" | "serving" | "failed" | "stopped";
  path: string;
  addresses: readonly Address[];
  connections: number;
}

export class AsdDaemon {
  readonly #world: World;
  readonly #config: AsdConfig;
  #store: AsdStore | null = null;
  #service: AsdService | null = null;
  #addresses: Address[] = [];
  #stopping: Promise<void> | null = null;

  constructor(world: World, config: AsdConfig) {
    this.#world = world;
    this.#config = config;
  }

  /** Resolves when it serves. Refuses as AsdStore.open and RpcServer.listen do. */
  async start(): Promise<void> {
    const { path, place, format, capacityBytes, cacheBytes, onFatal } = this.#config;
    const readBytes = this.#config.readBytes ?? ASD_READ_BYTES;
    this.#store = await AsdStore.open(this.#world, {
      path,
      place,
      format,
      capacityBytes,
      cacheBytes,
      readBytes,
      onFatal,
    });
    try {
      this.#service = new AsdService(this.#world, this.#store, {
        connectionsMax: this.#config.connectionsMax ?? 256,
      });
      for (const address of this.#config.addresses) {
        this.#addresses.push(await this.#service.server.listen(address));
      }
    } catch (error) {
      await this.stop();
      throw error;
    }
    const disk = formatUuid(this.#store.identity.diskUuid);
    this.#world.log.info("the disk is served", { disk, path, address: this.#addresses.join(" ") });
  }

  /** Lets requests end, closes the folder. Idempotent. */
  async stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    await this.#stopping;
  }

  async #stop(): Promise<void> {
    await this.#service?.server.stop();
    await this.#store?.close();
  }

  /** Addresses with the real ports. */
  get addresses(): readonly Address[] {
    return this.#addresses;
  }

  /** null before it has started. */
  status(): AsdStatus | null {
    if (!this.#store) return null;
    const stats = this.#store.stats();
    let state: AsdStatus["state"] = this.#addresses.length > 0 ? "serving" : "starting";
    if (this.#stopping) state = "stopped";
    if (this.#store.failure) state = "failed";
    return {
      ...stats,
      state,
      path: this.#config.path,
      addresses: this.#addresses,
      connections: this.#service?.server.connections ?? 0,
    };
  }
}
