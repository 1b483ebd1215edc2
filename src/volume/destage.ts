// SPDX-License-Identifier: Apache-2.0
// Destage: closed batches go to the backend, in order.
//
//   layer ─► newest version of each cluster, by address ─► SCOs (put, in parallel) ─► TLog (put)
//         ─► map ─► layer dropped, segments freed
//
// When the journal is crowded, the SCOs of the next batch are put from the TLog of one on.
//
// The commit of TLog n compares that n−1 is the last (P-A9) and comes after all its SCOs (P-C7), so
// that the backend is a crash-consistent prefix at every moment (P-A1). What fails for want of a
// backend is tried again for ever, from where it failed; a newer owner halts the volume.

import type { PutRequest } from "../backend/store.js";
import { assert } from "../base/assert.js";
import { hasCode, messageOf, StorageError } from "../base/errors.js";
import type { Deferred } from "../base/sync.js";
import { deferred, Semaphore, settleAll } from "../base/sync.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { Compare } from "../registry/registry.js";
import { fixedNumber } from "../registry/registry.js";
import type { Tlog, TlogEntry } from "../wire/generated/tlog.js";
import { bytesTlog, encodeTlog } from "../wire/generated/tlog.js";
import type { BatchContent } from "./batch.js";
import { layerContent, liesInRuns } from "./batch.js";
import type { Layer } from "./dirty.js";
import { Maintenance } from "./maintenance.js";
import { scoIdOf, scoName, tlogKey, tlogName } from "./names.js";
import { putObject } from "./objects.js";
import type { BuiltSco } from "./scobuilder.js";
import { ScoBuilder } from "./scobuilder.js";
import type { Volume } from "./volume.js";

const RETRY_FIRST_MS = 200;
const RETRY_LAST_MS = 5000;
const PUT_TIMEOUT_MS = 60_000;
/** Clusters copied to the read cache between two looks at the loop. */
const CACHE_SLICE = 256;

/** A batch whose SCOs are put while the one in front of it becomes a TLog and enters the map. */
interface Ahead {
  layer: Layer;
  entries: TlogEntry[];
  put: Promise<boolean>;
}

export class Destager {
  readonly counts = { putBytes: 0, storedBytes: 0, retries: 0 };
  readonly #volume: Volume;
  readonly #builder: ScoBuilder;
  readonly #maintenance: Maintenance;
  /** Held while a TLog enters the map, and while SCOs that it emptied are looked for and go. */
  readonly mapTurn = new Semaphore(1);
  #running: Promise<void> | null = null;
  #stopping = false;
  /** Resolved when waiting has to end. */
  readonly #wake = deferred<void>();
  #waiters: Array<{ sequence: number; done: Deferred<void> }> = [];
  #scoCounter = 0;
  #ahead: Ahead | null = null;
  /** What destage waits for now, in words; null when it does not wait. */
  obstacle: string | null = null;

  constructor(volume: Volume) {
    this.#volume = volume;
    this.#builder = new ScoBuilder(volume);
    this.#maintenance = new Maintenance(volume, this, this.#builder);
  }

  /** What is done beside batches: reclaim and checkpoints. */
  get maintenance(): Maintenance {
    return this.#maintenance;
  }

  /** True while batches or relocations are on their way. */
  get running(): boolean {
    return this.#running !== null;
  }

  /** A number for a new SCO, never used before. */
  nextScoId(): number {
    this.#scoCounter++;
    return scoIdOf(this.#volume.config.epoch, this.#scoCounter);
  }

  /** There may be something to do. */
  kick(): void {
    if (this.#running !== null || this.#stopping || this.#rests) return;
    this.#running = this.#run().finally(() => {
      this.#running = null;
      if (this.#volume.dirty.oldestClosed !== null) this.kick();
    });
  }

  /** Nobody waits for a sequence, and the pace allows that closed batches stay in the journal. */
  get #rests(): boolean {
    const { pace, thread } = this.#volume;
    return this.#waiters.length === 0 && pace.mayRest(thread.world.clock.nowMs());
  }

  /** Resolves when the map has everything up to a sequence; OVS_TIMEOUT says what it waits for. */
  async waitFor(sequence: number, timeoutMs: number): Promise<void> {
    if (this.#destaged(sequence)) return;
    const done = deferred<void>();
    const waiter = { sequence, done };
    this.#waiters.push(waiter);
    this.kick();
    const timer = this.#volume.thread.world.clock.after(timeoutMs, () => {
      this.#waiters = this.#waiters.filter((other) => other !== waiter);
      const why = this.obstacle ?? "destage is not done";
      done.reject(
        new StorageError("OVS_TIMEOUT", `${this.#volume.name}: after ${timeoutMs} ms ${why}`),
      );
    });
    try {
      await done.promise;
    } finally {
      timer.cancel();
    }
  }

  /** No new work is begun; resolves when what runs has come to an end. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#wake.resolve();
    await this.#running;
    await this.#maintenance.stop();
  }

  /** The volume is halted: what runs ends at its next step, and who waits gets OVS_CLOSED. */
  halt(): void {
    this.#stopping = true;
    this.#wake.resolve();
    const reason = new StorageError("OVS_CLOSED", `${this.#volume.name} is halted`);
    for (const { done } of this.#waiters) done.reject(reason);
    this.#waiters = [];
  }

  /**
   * Runs `step` until it succeeds, waiting longer each time the backend is not there. Answers null
   * when the volume stops or halts instead.
   */
  async persist<T>(step: () => Promise<T>): Promise<T | null> {
    for (
      let delayMs = RETRY_FIRST_MS;
      !this.#stopping;
      delayMs = Math.min(2 * delayMs, RETRY_LAST_MS)
    ) {
      try {
        const result = await step();
        this.obstacle = null;
        return result;
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        if (!this.#mayRetry(error)) return null;
        this.counts.retries++;
        // What is garbage already can go even when nothing can be put.
        if (error.kind === "full") await this.#maintenance.removeEmpty();
      }
      await Promise.race([this.#wake.promise, this.#volume.thread.world.clock.sleep(delayMs)]);
    }
    return null;
  }

  #mayRetry(error: StorageError): boolean {
    switch (error.kind) {
      case "unavailable":
      case "closed":
        this.obstacle = `destage waits for the backend (${error.message})`;
        return true;
      case "full":
        this.obstacle = `destage waits for room in the backend (${error.message})`;
        return true;
      case "fenced":
        this.#volume.halt("fenced", `a newer owner took over: ${error.message}`);
        return false;
      case "invalid":
      case "corrupt":
        this.#volume.halt("corrupt", error.message);
        return false;
    }
  }

  #destaged(sequence: number): boolean {
    return this.#volume.map.mark.sequence >= sequence || this.#volume.dirty.empty;
  }

  async #run(): Promise<void> {
    await this.#maintenance.before();
    try {
      while (!this.#stopping) {
        const layer = this.#volume.dirty.oldestClosed;
        if (layer === null && !this.#maintenance.isWanted) return;
        if (layer !== null && this.#ahead === null && this.#rests) return;
        const tlogBytes = await this.#destage(layer);
        if (tlogBytes === 0) return;
        await this.#maintenance.after(tlogBytes);
      }
    } finally {
      // Nothing is lent any more when this ends.
      await this.#ahead?.put;
    }
  }

  /**
   * Begins with the batch behind `layer` when writes are about to wait for room, or somebody waits
   * for all. Its SCOs have higher ids than all of the TLog in front, so that they count as orphans
   * until their own is there.
   */
  #beginAhead(layer: Layer): void {
    assert(this.#ahead === null, "one batch is ahead");
    const { dirty, journal } = this.#volume;
    const next = dirty.closedAfter(layer);
    if (next === null || (this.#waiters.length === 0 && !journal.isCrowded)) return;
    const entries: TlogEntry[] = [];
    const put = this.#putLayer(next, entries);
    // Whoever takes the batch is told, or `#run` at its end.
    put.catch(() => undefined);
    this.#ahead = { layer: next, entries, put };
  }

  /**
   * One TLog: a batch, or none, and what moves with it. Answers its bytes, 0 when there is none.
   */
  async #destage(layer: Layer | null): Promise<number> {
    const ahead = this.#ahead;
    this.#ahead = null;
    assert(ahead === null || ahead.layer === layer, "the batch ahead is the next one");
    const entries = ahead?.entries ?? [];
    if (layer !== null && !(await (ahead?.put ?? this.#putLayer(layer, entries)))) return 0;
    if (!(await this.#putMoved(entries))) return 0;
    if (layer === null && entries.length === 0) return 0;
    if (layer !== null) this.#beginAhead(layer);
    const tlog = this.#tlogOf(layer, entries);
    const bytes = await this.persist(() => this.#putTlog(tlog));
    if (bytes === null || !(await this.#apply(tlog))) return 0;
    if (layer !== null) this.#finish(layer);
    return bytes;
  }

  async #putLayer(layer: Layer, entries: TlogEntry[]): Promise<boolean> {
    const content = await layerContent(layer, this.#volume.thread.world.clock);
    for (const zero of content.zeroes) entries.push({ kind: "zero", ...zero });
    if (layer.sizeBytes > 0) entries.push({ kind: "resize", sizeBytes: layer.sizeBytes });
    return await this.#putClusters(content, entries);
  }

  /** Relocations come last: they apply only where the batch left the old location standing. */
  async #putMoved(entries: TlogEntry[]): Promise<boolean> {
    const taken = new Set<number>();
    for (let round = this.#maintenance.rounds; round > 0; round--) {
      const moved = await this.#maintenance.relocate(taken);
      if (moved === null) return true;
      try {
        if ((await this.persist(() => this.putSco(moved.sco))) === null) return false;
        for (const entry of moved.entries) entries.push({ kind: "relocation", ...entry });
      } finally {
        this.#builder.release([moved.sco]);
      }
    }
    return true;
  }

  async #apply(tlog: Tlog): Promise<boolean> {
    try {
      await this.mapTurn.with(() => this.#volume.map.apply(tlog));
    } catch (error) {
      // The TLog is committed: the next start applies it again, or rebuilds the map.
      if (!(error instanceof StorageError)) throw error;
      const kind = error.kind === "corrupt" ? "corrupt" : "unavailable";
      this.#volume.halt(kind, `the map cannot be changed: ${error.message}`);
    }
    return this.#volume.failed === null;
  }

  /**
   * Puts the clusters of a batch as SCOs, as many at a time as there is memory for. Where the
   * clusters of a SCO lie together in the journal, it is on its way while the next one is read;
   * otherwise all of them are read in one pass over the journal.
   */
  async #putClusters(content: BatchContent, entries: TlogEntry[]): Promise<boolean> {
    const isRun = liesInRuns(content);
    const step = this.#builder.clustersPerSco * (isRun ? 1 : this.#builder.scosPerGroup);
    const puts: Array<Promise<boolean>> = [];
    let isWhole = true;
    for (let from = 0; from < content.clusters.length && isWhole; from += step) {
      const to = Math.min(from + step, content.clusters.length);
      const built = await this.persist(() => this.#builder.build(content, from, to));
      if (built === null) {
        isWhole = false;
        break;
      }
      for (const sco of built) entries.push({ kind: "data", ...sco.entry });
      const put = this.#putBuilt(built);
      puts.push(put);
      if (!isRun) isWhole = await put;
      // What fails is told at the end: until then memory is lent.
      else put.catch(() => undefined);
    }
    const done = await settleAll(puts);
    return isWhole && !done.includes(false);
  }

  /** Puts SCOs, and fills the read cache with them. Takes their memory. */
  async #putBuilt(built: readonly BuiltSco[]): Promise<boolean> {
    try {
      const put = await settleAll(built.map((sco) => this.persist(() => this.putSco(sco))));
      if (put.includes(null)) return false;
      for (const sco of built) await this.#cache(sco);
      return true;
    } finally {
      this.#builder.release(built);
    }
  }

  /**
   * Puts a SCO as an object. Borrows its memory. May be repeated after a failure: its name is its
   * own.
   */
  async putSco(sco: BuiltSco): Promise<true> {
    const { config, store, namespace } = this.#volume;
    const request: PutRequest = {
      namespace,
      name: scoName(sco.entry.scoId),
      payload: { list: new Uint32Array([sco.memory, sco.bytes]), count: 1 },
      bytes: sco.bytes,
      crcs: sco.crcs,
      ownerEpoch: config.epoch,
      extras: { compares: [], operations: [] },
      timeoutMs: PUT_TIMEOUT_MS,
    };
    try {
      const result = await store.put(request);
      this.counts.storedBytes += result.storedBytes;
    } catch (error) {
      // Ids are unique, so that one which exists is this very SCO, of an attempt that seemed to
      // fail.
      if (!hasCode(error, "OVS_EXISTS")) throw error;
    }
    this.counts.putBytes += sco.bytes;
    return true;
  }

  /** What was written lately is read soon: it goes to the read cache under its new place. */
  async #cache(sco: BuiltSco): Promise<void> {
    const { memory, world } = this.#volume.thread;
    if (memory.bytes === 0) return;
    const clusters = sco.entry.crcs.length;
    const index = this.#volume.cacheBase + sco.entry.scoIndex;
    for (let i = 0; i < clusters; i++) {
      memory.insert(sco.entry.scoId, index + i, sco.memory + i * CLUSTER_BYTES);
      if (i % CACHE_SLICE === CACHE_SLICE - 1) await breathe(world.clock);
    }
  }

  #tlogOf(layer: Layer | null, entries: TlogEntry[]): Tlog {
    const { config, map, thread } = this.#volume;
    const { mark } = map;
    return {
      clusterUuid: config.clusterUuid,
      vdiskUuid: config.vdiskId,
      ownerEpoch: config.epoch,
      number: mark.tlogNumber + 1,
      firstSequence: layer?.firstSequence ?? mark.sequence + 1,
      lastSequence: layer?.lastSequence ?? mark.sequence,
      lastEpoch: layer?.lastEpoch ?? mark.sequenceEpoch,
      sizeBytes: layer !== null && layer.sizeBytes > 0 ? layer.sizeBytes : mark.sizeBytes,
      createdMs: Math.floor(thread.world.clock.wallMs()),
      keyId: 0,
      entries,
    };
  }

  /** P-A9: the commit of TLog n compares that n−1 is the last. */
  async #putTlog(tlog: Tlog): Promise<number> {
    const { config, store, namespace, thread } = this.#volume;
    const key = tlogKey(namespace);
    const before = new TextEncoder().encode(fixedNumber(tlog.number - 1));
    const after = new TextEncoder().encode(fixedNumber(tlog.number));
    const compare: Compare =
      tlog.number === 1
        ? { key, target: "version", is: "=", number: 0 }
        : { key, target: "value", is: "=", value: before };
    const request = {
      namespace,
      name: tlogName(tlog.number),
      ownerEpoch: config.epoch,
      extras: { compares: [compare], operations: [{ kind: "put" as const, key, value: after }] },
      timeoutMs: PUT_TIMEOUT_MS,
    };
    const put = await putObject(thread, store, request, {
      bytes: bytesTlog(tlog),
      encode: (target, at) => encodeTlog(tlog, target, at),
    });
    this.counts.putBytes += put.bytes;
    this.counts.storedBytes += put.storedBytes;
    return put.bytes;
  }

  #finish(layer: Layer): void {
    const volume = this.#volume;
    assert(volume.map.mark.sequence === layer.lastSequence, "the map is at the batch's end");
    volume.thread.world.turn.begin();
    volume.dirty.drop(layer);
    volume.onDestaged();
    this.#waiters = this.#waiters.filter(({ sequence, done }) => {
      if (!this.#destaged(sequence)) return true;
      done.resolve();
      return false;
    });
    volume.thread.world.turn.end();
  }

  /** For logs: what went wrong in something that is tried again by itself. */
  warn(message: string, error: unknown): void {
    this.#volume.thread.world.log.warn(message, {
      vdisk: this.#volume.name,
      reason: messageOf(error),
    });
  }
}

/** Lets the loop turn: long work on many clusters does not delay requests. */
export async function breathe(clock: { immediate(work: () => void): void }): Promise<void> {
  await new Promise<void>((resolve) => clock.immediate(resolve));
}
