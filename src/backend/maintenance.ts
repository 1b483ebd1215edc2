// SPDX-License-Identifier: Apache-2.0
// Maintenance: what keeps objects wide and OSDs free of garbage, without anyone asking. One proxy
// at a time does it, chosen by a lease; two at once would only do some work twice, because every
// change is a commit that compares what it was made from.
//
//   width    objects that were committed narrow, or that a reader found damaged: as soon as seen
//   lost     objects with fragments on OSDs that are gone, draining or away for too long
//   trash    fragments that nothing names any more
//   garbage  what dead uploaders left, by its marks, every few minutes
//
// What is closest to loss is repaired first, over all namespaces.

import { equalBytes } from "../base/bytes.js";
import { messageOf, StorageError } from "../base/errors.js";
import { Semaphore } from "../base/sync.js";
import type { Timer } from "../platform/world.js";
import type { RegistryEntry } from "../registry/registry.js";
import { OsdState } from "../wire/generated/osd.js";
import { VIEW_SETTLED_MS } from "./drain.js";
import { collectGarbage, collectOrphans } from "./gc.js";
import { readManifest } from "./manifests.js";
import { listNamespaces } from "./namespaces.js";
import { objectPath, splitPath, WIDTH_PREFIX } from "./paths.js";
import {
  type Damage,
  needsOf,
  type RepairHost,
  type RepairResult,
  repairObject,
} from "./repair.js";
import { emptyTrash } from "./trash.js";
import { removeNamespaces } from "./unmake.js";
import { checkFragments, eachObject } from "./verify.js";

const LEADER_KEY = "/backend/maintenance";
const LEASE_TTL_S = 10;
/** Keys of that list for one answer of the registry, and objects of it that one pass works on. */
const WIDTH_PER_PAGE = 500;
const WIDTH_PER_PASS = 2000;
const QUEUE_MAX = 10_000;
const BACKOFF_MS_MIN = 2000;
const BACKOFF_MS_MAX = 300_000;
const ATTEMPTS_MAX = 100_000;
/** Tries of a repair that others overtake, at once: nothing is wrong with the object then. */
const RACES_MAX = 4;
/** Ticks between the passes while they find nothing. */
const QUIET_TICKS = 5;

export interface MaintenanceOptions {
  /** Of this process. */
  id: string;
  tickMs: number;
  gcIntervalMs: number;
  /** Objects that are repaired at the same time. */
  parallel: number;
}

export interface MaintenanceStatus {
  leader: boolean;
  /** Objects that lack width or have lost OSDs, as the last look found. */
  waitingObjects: number;
  repairedFragments: number;
  failedRepairs: number;
  collectedFragments: number;
  trashWaiting: number;
  lastPassMs: number;
}

interface Candidate {
  namespace: string;
  name: string;
  spare: number;
}

interface Backoff {
  delayMs: number;
  untilMs: number;
}

export class Maintenance {
  readonly #host: RepairHost;
  readonly #options: MaintenanceOptions;
  readonly #backoffs = new Map<string, Backoff>();
  /** Objects with lost fragments that could not be mended: they wait for no other look at all. */
  readonly #unmended = new Map<string, Candidate>();
  /** Keys of the list of those that lack width that an earlier pass has seen, and this round. */
  #seen = new Set<string>();
  #seenNow = new Set<string>();
  /** Where the next pass goes on in that list: it must not stop at those that cannot be mended. */
  #widthAfter: string | undefined;
  /** Objects that the last whole round found on it. */
  #narrowObjects = 0;
  readonly #status: MaintenanceStatus;
  #lease: string | null = null;
  #leaseEndMs = 0;
  #timer: Timer | null = null;
  #running: Promise<void> | null = null;
  #trashAfter: string | undefined;
  #trashAtMs = 0;
  #gcAtMs: number;
  /** The lost OSDs of the last look, when they changed, and whether a pass found nothing since. */
  #lost = "";
  #lostSinceMs = 0;
  #isLostSettled = true;
  /** The last pass found nothing to do: the next one may wait until then. */
  #quietUntilMs = 0;
  #lostAtMs = 0;
  #usable = "";
  #stopped = false;

  constructor(host: RepairHost, options: MaintenanceOptions) {
    this.#host = host;
    this.#options = options;
    this.#gcAtMs = this.#now() + options.gcIntervalMs;
    this.#status = {
      leader: false,
      waitingObjects: 0,
      repairedFragments: 0,
      failedRepairs: 0,
      collectedFragments: 0,
      trashWaiting: 0,
      lastPassMs: 0,
    };
  }

  /** A copy of the counters. */
  get status(): MaintenanceStatus {
    return { ...this.#status };
  }

  /** Begins to try for the lease, and to work while it holds it. */
  start(): void {
    this.#schedule(this.#options.tickMs);
  }

  /** Ends after the step that is under way; gives the lease back. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#running;
    if (this.#lease === null) return;
    await this.#host.core.registry.leaseRevoke(this.#lease).catch(ignoreStorageError);
    this.#lease = null;
  }

  /** Looks at everything now, waiting times aside; resolves when it is worked off once. */
  async runNow(): Promise<void> {
    while (this.#running !== null) await this.#running;
    this.#backoffs.clear();
    this.#trashAtMs = 0;
    this.#gcAtMs = 0;
    this.#isLostSettled = this.#lost === "";
    this.#lostAtMs = 0;
    this.#running = this.#pass({ isPatient: false }).finally(() => {
      this.#running = null;
    });
    await this.#running;
  }

  #now(): number {
    return this.#host.core.world.clock.nowMs();
  }

  #schedule(delayMs: number): void {
    if (this.#stopped) return;
    this.#timer = this.#host.core.world.clock.after(delayMs, () => {
      this.#running ??= this.#tick().finally(() => {
        this.#running = null;
        this.#schedule(this.#options.tickMs);
      });
    });
  }

  async #tick(): Promise<void> {
    try {
      this.#status.leader = await this.#lead();
      this.#noteChanges();
      if (!this.#status.leader || this.#now() < this.#quietUntilMs) return;
      await this.#pass({ isPatient: true });
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#host.core.world.log.warn("maintenance waits", { reason: error.message });
    }
  }

  /** True while this process holds the lease. */
  async #lead(): Promise<boolean> {
    const { registry } = this.#host.core;
    const askedMs = this.#now();
    if (this.#lease !== null) {
      if (askedMs < this.#leaseEndMs - (LEASE_TTL_S * 1000) / 2) return true;
      const { ttlSeconds } = await registry.leaseKeepAlive(this.#lease).catch((error: unknown) => {
        if (error instanceof StorageError && error.code === "OVS_NOT_FOUND") this.#lease = null;
        throw error;
      });
      this.#leaseEndMs = askedMs + ttlSeconds * 1000;
      return true;
    }
    const value = Buffer.from(this.#options.id);
    const there = await registry.get(LEADER_KEY);
    if (there !== null && !equalBytes(there.value, value)) return false;
    const { lease, ttlSeconds } = await registry.leaseGrant(LEASE_TTL_S);
    const { succeeded } = await registry.transact({
      compares: [
        { key: LEADER_KEY, target: "modRevision", is: "=", number: there?.modRevision ?? 0 },
      ],
      success: [{ kind: "put", key: LEADER_KEY, value, lease }],
      failure: [],
    });
    if (!succeeded) {
      await registry.leaseRevoke(lease).catch(ignoreStorageError);
      return false;
    }
    this.#lease = lease;
    this.#leaseEndMs = askedMs + ttlSeconds * 1000;
    return true;
  }

  async #pass(options: { isPatient: boolean }): Promise<void> {
    this.#noteChanges();
    const narrow = await this.#narrow(options);
    const again = await this.#again();
    const lost = await this.#onLost();
    const candidates = [...narrow, ...again, ...lost];
    this.#status.waitingObjects = this.#narrowObjects + lost.length + this.#unmended.size;
    await this.#repairAll(candidates);
    for (const candidate of [...again, ...lost]) this.#noteUnmended(candidate);
    const isTrashEmpty = await this.#trash();
    const removed = await removeNamespaces({
      world: this.#host.core.world,
      registry: this.#host.core.registry,
      isStopping: () => this.#isEnding(),
    });
    await this.#garbage();
    const isSettled = this.#isLostSettled && this.#seen.size + this.#unmended.size === 0;
    if (isSettled && isTrashEmpty && removed === 0 && candidates.length === 0) {
      this.#quietUntilMs = this.#now() + (QUIET_TICKS - 0.5) * this.#options.tickMs;
    }
    this.#status.lastPassMs = this.#host.core.world.clock.wallMs();
  }

  #isEnding(): boolean {
    return this.#stopped || this.#host.isStopping();
  }

  /** When OSDs come or go, what could not be done may be possible. */
  #noteChanges(): void {
    const { pool, topology } = this.#host.core;
    const usable = pool.writable(true).map(({ id }) => id);
    const lost: string[] = [];
    for (const { id, state } of topology.osds.values()) {
      const isLost = state !== OsdState.active || pool.downMs(id) > this.#host.lostAfterMs;
      if (isLost) lost.push(`${id}:${state}`);
    }
    const usableNow = usable.sort((a, b) => a - b).join();
    const lostNow = lost.sort().join();
    if (usableNow !== this.#usable || lostNow !== this.#lost) {
      this.#backoffs.clear();
      this.#trashAtMs = 0;
      this.#lostAtMs = 0;
      this.#quietUntilMs = 0;
    }
    this.#usable = usableNow;
    if (lostNow === this.#lost) return;
    this.#lost = lostNow;
    this.#lostSinceMs = this.#now();
    this.#isLostSettled = lostNow === "";
  }

  /** Objects on the list of those that lack width, from where the last pass ended. */
  async #narrow(options: { isPatient: boolean }): Promise<Candidate[]> {
    const { registry } = this.#host.core;
    const candidates: Candidate[] = [];
    let more = true;
    while (more && candidates.length < WIDTH_PER_PASS && !this.#isEnding()) {
      const limit = { limit: WIDTH_PER_PAGE };
      const after = this.#widthAfter;
      const page = await registry.range(
        WIDTH_PREFIX,
        after === undefined ? limit : { ...limit, after },
      );
      for (const { key } of page.entries) {
        this.#widthAfter = key;
        if (this.#seenNow.size < ATTEMPTS_MAX) this.#seenNow.add(key);
        // Its uploader is perhaps about to enter a late fragment: that one is given a moment.
        if (options.isPatient && !this.#seen.has(key)) continue;
        const candidate = await this.#onWidth(key);
        if (candidate !== null) candidates.push(candidate);
      }
      more = page.more;
    }
    if (!more) this.#endRound(options);
    return candidates;
  }

  /** The whole list was seen: the next pass begins at its start. */
  #endRound(options: { isPatient: boolean }): void {
    const before = this.#seen;
    this.#seen = this.#seenNow;
    this.#seenNow = new Set();
    this.#widthAfter = undefined;
    this.#narrowObjects = 0;
    for (const key of this.#seen) {
      if (!options.isPatient || before.has(key)) this.#narrowObjects++;
    }
  }

  /** null: nothing to do for this entry of the list now. */
  async #onWidth(key: string): Promise<Candidate | null> {
    const { namespace, rest } = splitPath(key, WIDTH_PREFIX);
    if (this.#isBackedOff(namespace, rest)) return null;
    const entry = await this.#host.core.registry.get(objectPath(namespace, rest));
    if (entry !== null) return await this.#candidate(namespace, rest, entry);
    await this.#clearWidth(key, objectPath(namespace, rest), 0);
    return null;
  }

  /** null: its namespace is being deleted. */
  async #candidate(
    namespace: string,
    name: string,
    entry: RegistryEntry,
  ): Promise<Candidate | null> {
    const { preset } = await this.#host.namespaces.get(namespace).catch(ignoreMissing);
    if (preset === "") return null;
    const { spare } = needsOf(this.#host, readManifest(entry), preset, new Map());
    return { namespace, name, spare };
  }

  /** Those that an earlier pass could not mend and that have waited long enough. */
  async #again(): Promise<Candidate[]> {
    const candidates: Candidate[] = [];
    for (const [key, { namespace, name }] of this.#unmended) {
      if (this.#isEnding()) break;
      if (this.#isBackedOff(namespace, name)) continue;
      const entry = await this.#host.core.registry.get(objectPath(namespace, name));
      const candidate = entry === null ? null : await this.#candidate(namespace, name, entry);
      if (candidate === null) this.#unmended.delete(key);
      else candidates.push(candidate);
    }
    return candidates;
  }

  /** After its repair: what has to wait stays, also when a pass ends early. */
  #noteUnmended(candidate: Candidate): void {
    const key = keyOf(candidate);
    if (!this.#backoffs.has(key)) this.#unmended.delete(key);
    else if (this.#unmended.size < QUEUE_MAX) this.#unmended.set(key, candidate);
  }

  /** Objects with fragments on OSDs that do not count any more. */
  async #onLost(): Promise<Candidate[]> {
    const nowMs = this.#now();
    if (this.#isLostSettled || nowMs < this.#lostAtMs) return [];
    this.#lostAtMs = nowMs + VIEW_SETTLED_MS;
    const candidates: Candidate[] = [];
    let [found, isCut] = [0, false];
    for (const namespace of await listNamespaces(this.#host.core.registry)) {
      const { preset } = await this.#host.namespaces.get(namespace).catch(ignoreMissing);
      if (preset === "") continue;
      await eachObject(this.#host, namespace, async (name, entry) => {
        const { wanted, spare } = needsOf(this.#host, readManifest(entry), preset, new Map());
        if (wanted.length === 0) return;
        found++;
        const isWaiting = this.#unmended.has(keyOf({ namespace, name }));
        if (isWaiting || this.#isBackedOff(namespace, name)) return;
        if (candidates.length < QUEUE_MAX) candidates.push({ namespace, name, spare });
        else isCut = true;
      });
    }
    if (found === 0 && nowMs - this.#lostSinceMs >= VIEW_SETTLED_MS) this.#isLostSettled = true;
    if (isCut) this.#lostAtMs = 0;
    return candidates;
  }

  async #repairAll(candidates: Candidate[]): Promise<void> {
    candidates.sort((a, b) => a.spare - b.spare);
    const room = new Semaphore(this.#options.parallel, QUEUE_MAX + WIDTH_PER_PASS + WIDTH_PER_PAGE);
    const done = candidates.map((candidate) =>
      room.with(async () => {
        if (!this.#isEnding()) await this.#mend(candidate);
      }),
    );
    await Promise.all(done);
  }

  async #mend({ namespace, name }: Candidate): Promise<void> {
    try {
      const isWhole = await this.#repairOne(namespace, name);
      if (isWhole) this.#backoffs.delete(keyOf({ namespace, name }));
      else this.#backOff(namespace, name);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#status.failedRepairs++;
      this.#backOff(namespace, name);
      this.#host.core.world.log.warn("repair failed", {
        namespace,
        object: name,
        reason: messageOf(error),
      });
    }
  }

  /** True when the object has all that it should have. */
  async #repairOne(namespace: string, name: string): Promise<boolean> {
    const { registry } = this.#host.core;
    const key = objectPath(namespace, name);
    const result = await this.#repair(namespace, name, new Map());
    if (result.lacking > 0 || result.raced) return false;
    if (result.repaired > 0) return true;
    // By its manifest it is whole: then someone has seen damage. All of it is read.
    const entry = await registry.get(key);
    if (entry === null) return true;
    const check = await checkFragments(this.#host, name, readManifest(entry));
    if (check.damage.size > 0) {
      const again = await this.#repair(namespace, name, check.damage);
      return check.unreachable === 0 && again.lacking === 0 && !again.raced;
    }
    if (check.unreachable > 0) return false;
    await this.#clearWidth(`${WIDTH_PREFIX}${namespace}/${name}`, key, entry.modRevision);
    return true;
  }

  /** As repairObject, again where someone was faster. */
  async #repair(namespace: string, name: string, bad: Damage): Promise<RepairResult> {
    for (let races = 1; ; races++) {
      const result = await repairObject(this.#host, namespace, name, bad);
      this.#status.repairedFragments += result.repaired;
      if (!result.raced || races === RACES_MAX || this.#isEnding()) return result;
    }
  }

  async #clearWidth(widthKey: string, objectKey: string, revision: number): Promise<void> {
    await this.#host.core.registry.transact({
      compares: [{ key: objectKey, target: "modRevision", is: "=", number: revision }],
      success: [{ kind: "delete", key: widthKey }],
      failure: [],
    });
  }

  #isBackedOff(namespace: string, name: string): boolean {
    const backoff = this.#backoffs.get(keyOf({ namespace, name }));
    return backoff !== undefined && this.#now() < backoff.untilMs;
  }

  #backOff(namespace: string, name: string): void {
    const key = keyOf({ namespace, name });
    if (this.#backoffs.size >= ATTEMPTS_MAX) this.#backoffs.clear();
    const before = this.#backoffs.get(key)?.delayMs ?? BACKOFF_MS_MIN / 2;
    const delayMs = Math.min(BACKOFF_MS_MAX, 2 * before);
    this.#backoffs.set(key, { delayMs, untilMs: this.#now() + delayMs });
  }

  /** True when it had nothing to do. */
  async #trash(): Promise<boolean> {
    const nowMs = this.#now();
    if (nowMs < this.#trashAtMs) return false;
    const { world, registry, pool } = this.#host.core;
    let waiting = 0;
    let emptied = 0;
    do {
      const host = { world, registry, pool };
      const result = await emptyTrash(host, { after: this.#trashAfter });
      waiting += result.waiting;
      emptied += result.emptied;
      this.#trashAfter = result.after;
    } while (this.#trashAfter !== undefined && !this.#isEnding());
    this.#status.trashWaiting = waiting;
    if (waiting > 0) this.#trashAtMs = nowMs + 10 * this.#options.tickMs;
    return waiting + emptied === 0;
  }

  async #garbage(): Promise<void> {
    const nowMs = this.#now();
    if (nowMs < this.#gcAtMs) return;
    this.#gcAtMs = nowMs + this.#options.gcIntervalMs;
    for (const namespace of await listNamespaces(this.#host.core.registry)) {
      if (this.#isEnding()) return;
      const result = await collectGarbage(this.#host.core, namespace);
      this.#status.collectedFragments += result.fragments;
    }
    const orphans = await collectOrphans(this.#host.core);
    this.#status.collectedFragments += orphans.fragments;
  }
}

function keyOf({ namespace, name }: { namespace: string; name: string }): string {
  return `${namespace}/${name}`;
}

function ignoreStorageError(error: unknown): void {
  if (!(error instanceof StorageError)) throw error;
}

function ignoreMissing(error: unknown): { preset: string } {
  if (!(error instanceof StorageError) || error.code !== "OVS_NOT_FOUND") throw error;
  return { preset: "" };
}
