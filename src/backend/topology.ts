// SPDX-License-Identifier: Apache-2.0
// Which OSDs and presets there are: a view of the registry that says how old it is. It follows a
// watch, and reads everything again from time to time, because a silent watch proves nothing:
// whoever uploads refuses to do so on a view older than 30 s (P-C5).

import { formatUuid } from "../base/bytes.js";
import { messageOf, StorageError } from "../base/errors.js";
import type { Timer, World } from "../platform/world.js";
import type { Registry, RegistryEntry, Watch, WatchEvent } from "../registry/registry.js";
import { decodePreset, type Preset } from "../wire/generated/manifest.js";
import { decodeOsdRecord, type OsdState } from "../wire/generated/osd.js";
import { OSD_PREFIX, osdIdOf, PRESET_PREFIX } from "./paths.js";
import type { Place } from "./placement.js";
import { OSDS_MAX, readAll } from "./records.js";

/** Uploads are refused on an older view. */
export const VIEW_AGE_MAX_MS = 30_000;
const REFRESH_MS = 10_000;
const RETRY_MS = 500;
const PRESETS_MAX = 256;

/** An OSD as the registry knows it. */
export interface OsdInfo extends Place {
  readonly diskUuid: string;
  readonly clusterUuid: string;
  readonly address: string;
  readonly state: OsdState;
  readonly capacityBytes: number;
}

export class BackendTopology {
  readonly #world: Pick<World, "clock" | "log">;
  readonly #registry: Registry;
  readonly #osds = new Map<number, OsdInfo>();
  readonly #presets = new Map<string, Preset>();
  readonly #listeners: Array<() => void> = [];
  #readAtMs = Number.NEGATIVE_INFINITY;
  #watches: Watch[] = [];
  #timer: Timer | null = null;
  #reading: Promise<void> | null = null;
  #stopped = false;

  constructor(world: Pick<World, "clock" | "log">, registry: Registry) {
    this.#world = world;
    this.#registry = registry;
  }

  /** Known OSDs, also draining ones and those that are gone. */
  get osds(): ReadonlyMap<number, OsdInfo> {
    return this.#osds;
  }

  /** Milliseconds since the registry last confirmed all of it. */
  get ageMs(): number {
    return this.#world.clock.nowMs() - this.#readAtMs;
  }

  /** False when the view is too old to place fragments by (P-C5). */
  get fresh(): boolean {
    return this.ageMs <= VIEW_AGE_MAX_MS;
  }

  /** A preset by its name; null when there is none. */
  preset(name: string): Preset | null {
    return this.#presets.get(name) ?? null;
  }

  /** Called after every change. */
  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Reads the registry once, then follows it. Rejects when the first reading fails. */
  async start(): Promise<void> {
    await this.#read();
    this.#schedule(REFRESH_MS);
  }

  /** Ends watches and timer; the view stays as it is. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#endWatches();
  }

  /** Reads everything now; calls that come meanwhile share it. */
  async refresh(): Promise<void> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = null;
    });
    await this.#reading;
  }

  async #read(): Promise<void> {
    // Counted from before the question: the answer is at least as new.
    const askedMs = this.#world.clock.nowMs();
    const osds = await readAll(this.#registry, OSD_PREFIX, OSDS_MAX);
    const presets = await readAll(this.#registry, PRESET_PREFIX, PRESETS_MAX);
    if (this.#stopped) return;
    this.#osds.clear();
    this.#presets.clear();
    for (const entry of [...osds.entries, ...presets.entries]) this.#put(entry);
    this.#readAtMs = askedMs;
    if (this.#watches.length === 0) await this.#watch(osds.revision, presets.revision);
    this.#tell();
  }

  async #watch(osdRevision: number, presetRevision: number): Promise<void> {
    const handler = {
      onEvents: (events: WatchEvent[]) => this.#onEvents(events),
      onEnd: () => {
        this.#endWatches();
        if (!this.#stopped) this.#schedule(RETRY_MS);
      },
    };
    try {
      this.#watches.push(await this.#registry.watch(OSD_PREFIX, osdRevision + 1, handler));
      this.#watches.push(await this.#registry.watch(PRESET_PREFIX, presetRevision + 1, handler));
    } catch (error) {
      this.#endWatches();
      throw error;
    }
    if (this.#stopped) this.#endWatches();
  }

  #endWatches(): void {
    for (const watch of this.#watches) watch.cancel();
    this.#watches = [];
  }

  #onEvents(events: WatchEvent[]): void {
    if (this.#stopped) return;
    for (const { kind, entry } of events) {
      if (kind === "put") this.#put(entry);
      else if (entry.key.startsWith(OSD_PREFIX)) this.#osds.delete(osdIdOf(entry.key));
      else this.#presets.delete(entry.key.slice(PRESET_PREFIX.length));
    }
    this.#tell();
  }

  #put(entry: RegistryEntry): void {
    try {
      if (!entry.key.startsWith(OSD_PREFIX)) {
        this.#presets.set(entry.key.slice(PRESET_PREFIX.length), decodePreset(entry.value));
        return;
      }
      const id = osdIdOf(entry.key);
      if (id !== 0) this.#osds.set(id, osdInfoOf(id, entry.value));
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#world.log.error("a record of the registry is bad", {
        key: entry.key,
        reason: error.message,
      });
    }
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }

  #schedule(delayMs: number): void {
    this.#timer?.cancel();
    this.#timer = this.#world.clock.after(delayMs, () => void this.#again());
  }

  async #again(): Promise<void> {
    let delayMs = REFRESH_MS;
    try {
      await this.refresh();
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#world.log.warn("cannot read the topology", { reason: messageOf(error) });
      delayMs = RETRY_MS;
    }
    if (!this.#stopped) this.#schedule(delayMs);
  }
}

/** An OSD's record in plain words. */
export function osdInfoOf(id: number, value: Uint8Array): OsdInfo {
  const record = decodeOsdRecord(value);
  return {
    id,
    site: record.site,
    rack: record.rack,
    node: record.node,
    diskUuid: formatUuid(record.diskUuid),
    clusterUuid: formatUuid(record.clusterUuid),
    address: record.address,
    state: record.state,
    capacityBytes: record.capacityBytes,
  };
}
