// SPDX-License-Identifier: Apache-2.0
// An ASD as an OSD of the backend.

import { AsdClient, AsdPartStatus } from "../asd/client.js";
import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { untilTickMs } from "../base/grid.js";
import type { Timer, World } from "../platform/world.js";
import type { Identity } from "../rpc/hello.js";
import {
  type CallOptions,
  type KeyPage,
  type Osd,
  type OsdChange,
  type OsdReadHandler,
  type OsdReads,
  type Priority,
  ReadStatus,
} from "./osd.js";
import type { OsdFactory } from "./osdpool.js";
import type { OsdInfo } from "./topology.js";

/** An OSD that is in use, or whose answers change, is asked so often; another one ever less. */
const STATS_MS = 2000;
const STATS_MS_MAX = 8 * STATS_MS;
const STATS_TIMEOUT_MS = 5000;

assert(
  AsdPartStatus.ok === ReadStatus.Ok &&
    AsdPartStatus.missing === ReadStatus.Missing &&
    AsdPartStatus.corrupt === ReadStatus.Corrupt &&
    AsdPartStatus.failed === ReadStatus.Failed &&
    AsdPartStatus.outside === ReadStatus.Outside,
  "an ASD's statuses are the backend's",
);

/** Makes the OSDs of a pool. `self` says who calls. */
export function asdFactory(world: World, self: Identity): OsdFactory {
  return (info, onUpOrDown) => new AsdOsd(world, info, self, onUpOrDown);
}

class AsdOsd implements Osd {
  readonly id: number;
  readonly #world: World;
  readonly #client: AsdClient;
  #freeBytes: number;
  #refusedFull = false;
  /** The first question was answered, or could not be asked. */
  #asked = false;
  /** Something was asked of it since its statistics were. */
  #used = false;
  #pauseMs = STATS_MS;
  #statsTimer: Timer | null = null;
  #asking: Promise<void> | null = null;
  #closed = false;

  constructor(world: World, info: OsdInfo, self: Identity, onUpOrDown: () => void) {
    this.id = info.id;
    this.#world = world;
    this.#freeBytes = info.capacityBytes;
    this.#client = new AsdClient(world, {
      address: info.address,
      clusterUuid: info.clusterUuid,
      diskUuid: info.diskUuid,
      self,
      onUp: () => {
        onUpOrDown();
        if (this.#asked) this.#askIn(0);
      },
      onDown: onUpOrDown,
    });
    this.#asking = this.#askStats();
  }

  get up(): boolean {
    return this.#client.isConnected;
  }

  get connecting(): boolean {
    return !this.#asked;
  }

  get full(): boolean {
    return this.#refusedFull || this.#client.isNearlyFull;
  }

  get slow(): boolean {
    return this.#client.isSlow;
  }

  get freeBytes(): number {
    return this.#freeBytes;
  }

  get load(): number {
    return this.#client.pending;
  }

  read(
    reads: OsdReads,
    timeoutMs: number,
    priority: Priority,
    handler: OsdReadHandler,
    token: number,
  ): void {
    if (!this.#used) this.#use();
    this.#client.readWith(reads, timeoutMs, priority, handler, token);
  }

  async apply(change: OsdChange, options: CallOptions): Promise<void> {
    const { data } = change;
    if (!this.#used) this.#use();
    try {
      await this.#client.apply(
        {
          asserts: change.present.map((key) => ({ kind: "present", key })),
          values:
            data === null
              ? []
              : [{ key: data.key, length: data.bytes, crcs: data.crcs, pieces: data.payload }],
          small: change.small,
          deletes: change.deletes,
        },
        options,
      );
    } catch (error) {
      if (error instanceof StorageError && error.code === "OVS_FULL") this.#refusedFull = true;
      throw error;
    }
  }

  async range(
    first: Uint8Array,
    end: Uint8Array,
    limit: number,
    options: CallOptions,
  ): Promise<KeyPage> {
    return await this.#client.range({ first, end, limit }, options);
  }

  async getSmall(
    keys: readonly Uint8Array[],
    options: CallOptions,
  ): Promise<Array<Uint8Array | null>> {
    return await this.#client.getSmall(keys, options);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#statsTimer?.cancel();
    await this.#client.close();
    await this.#asking;
  }

  /** Its answers are about to change: whoever had long left it alone asks soon. */
  #use(): void {
    this.#used = true;
    if (this.#pauseMs === STATS_MS) return;
    this.#pauseMs = STATS_MS;
    if (this.#statsTimer !== null) this.#ask();
  }

  #ask(): void {
    this.#askIn(untilTickMs(this.#world.clock.nowMs(), this.#pauseMs));
  }

  #askIn(delayMs: number): void {
    if (this.#closed) return;
    this.#statsTimer?.cancel();
    this.#statsTimer = this.#world.clock.after(delayMs, () => {
      this.#statsTimer = null;
      this.#asking = this.#askStats();
    });
  }

  async #askStats(): Promise<void> {
    const freeBytes = this.#freeBytes;
    let isQuiet = !this.#used;
    this.#used = false;
    try {
      const stats = await this.#client.stats({ timeoutMs: STATS_TIMEOUT_MS });
      this.#freeBytes = stats.freeBytes;
      this.#refusedFull = stats.full;
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      isQuiet = false;
    }
    this.#asked = true;
    isQuiet &&= this.#freeBytes === freeBytes && !this.full && !this.slow && !this.#used;
    this.#pauseMs = isQuiet ? Math.min(STATS_MS_MAX, 2 * this.#pauseMs) : STATS_MS;
    this.#ask();
  }
}
