// SPDX-License-Identifier: Apache-2.0
// Group commit. Applies whose pages are written wait here; a group shares one fdatasync of the
// extent files it touched, then the next stage checks asserts and writes one synced index batch.
// The two stages work at the same time on different groups; each is strictly in order.
//
//   submit ─► waiting ─(fdatasync)─► synced ─(asserts, index batch, sync)─► acknowledged
//
// Only the second stage changes the index, one group at a time, so what it read of the index is
// still true when it writes. Pages before index: an entry never names pages that are not durable.

import { assert } from "../base/assert.js";
import { equalBytes } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { type Deferred, deferred } from "../base/sync.js";
import type { Runs } from "./allocator.js";
import type { Entry, EntryCache } from "./cache.js";
import type { Extents } from "./extents.js";
import type { Holds } from "./holds.js";
import type { Index, Loaded, Place } from "./index.js";

/** Applies of one group. */
const GROUP_MAX = 512;

export interface StoreAssert {
  kind: "absent" | "present" | "equals";
  key: string;
  /** equals: the small value. */
  value: Uint8Array | null;
}

/** An apply whose pages are written, but not yet durable. */
export interface Prepared {
  asserts: readonly StoreAssert[];
  puts: ReadonlyArray<{ key: string; entry: Entry }>;
  deletes: readonly string[];
}

interface Waiting extends Prepared {
  done: Deferred<void>;
}

/** What the store counts. */
export interface Totals {
  keys: number;
  indexBytes: number;
  commits: number;
}

interface Old {
  places: Map<string, Place | null | "corrupt">;
  /** Loaded for `equals` only. */
  entries: Map<string, Loaded>;
}

export class Committer {
  readonly #extents: Extents;
  readonly #index: Index;
  readonly #cache: EntryCache;
  readonly #holds: Holds;
  readonly #totals: Totals;
  readonly #onFatal: (error: unknown) => void;
  #waiting: Waiting[] = [];
  #synced: Waiting[] = [];
  #isSyncing = false;
  #isCommitting = false;
  #idle: Array<() => void> = [];
  #failure: StorageError | null = null;

  constructor(parts: {
    extents: Extents;
    index: Index;
    cache: EntryCache;
    holds: Holds;
    totals: Totals;
    /** A sync failed: what is durable is unknown, the process must end (never retried). */
    onFatal: (error: unknown) => void;
  }) {
    this.#extents = parts.extents;
    this.#index = parts.index;
    this.#cache = parts.cache;
    this.#holds = parts.holds;
    this.#totals = parts.totals;
    this.#onFatal = parts.onFatal;
  }

  /**
   * Resolves when the apply is durable. OVS_CONFLICT when an assert does not hold: then nothing
   * of it is. Takes the runs of the puts' entries.
   */
  submit(prepared: Prepared): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure);
    const done = deferred<void>();
    this.#waiting.push({ ...prepared, done });
    if (!this.#isSyncing) void this.#syncAll();
    return done.promise;
  }

  /** Resolves when nothing is waiting. */
  async idle(): Promise<void> {
    if (!this.#isSyncing && !this.#isCommitting) return;
    await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  // Each stage clears its flag in the same step in which it finds its queue empty: nobody can add
  // to the queue in between and be forgotten.

  async #syncAll(): Promise<void> {
    this.#isSyncing = true;
    while (this.#waiting.length > 0 && !this.#failure) {
      const group = this.#waiting.splice(0, GROUP_MAX);
      try {
        const files = filesOf(group);
        if (files.size > 0) await this.#extents.sync(files);
        this.#synced.push(...group);
        if (!this.#isCommitting) void this.#commitAll();
      } catch (error) {
        this.#fail(error, group);
      }
    }
    this.#isSyncing = false;
    this.#tellIdle();
  }

  async #commitAll(): Promise<void> {
    this.#isCommitting = true;
    while (this.#synced.length > 0 && !this.#failure) {
      const group = this.#synced.splice(0, GROUP_MAX);
      try {
        await this.#commit(group);
      } catch (error) {
        this.#fail(error, group);
      }
    }
    this.#isCommitting = false;
    this.#tellIdle();
  }

  #tellIdle(): void {
    if (this.#isSyncing || this.#isCommitting) return;
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** The outcome of a sync is unknown: all that waits gets the error, and nothing more is taken. */
  #fail(error: unknown, group: Waiting[]): void {
    const cause = error instanceof StorageError ? error.message : String(error);
    this.#failure = new StorageError("OVS_DISK_FAILED", `the disk is given up: ${cause}`, {
      cause: error,
    });
    const all = [...group, ...this.#synced.splice(0), ...this.#waiting.splice(0)];
    for (const one of all) one.done.reject(this.#failure);
    this.#onFatal(error);
  }

  async #commit(group: Waiting[]): Promise<void> {
    const old = await this.#loadOld(group);
    const changes = new Map<string, Entry | null>();
    const accepted: Waiting[] = [];
    const unused: Runs[] = [];
    for (const one of group) {
      const reason = violated(one.asserts, old, changes);
      if (reason !== null) {
        for (const put of one.puts) unused.push(put.entry.runs);
        one.done.reject(new StorageError("OVS_CONFLICT", reason));
        continue;
      }
      for (const key of one.deletes) overlay(changes, key, null, unused);
      for (const put of one.puts) overlay(changes, put.key, put.entry, unused);
      accepted.push(one);
    }
    if (changes.size > 0) await this.#write(changes, old);
    // Nobody ever saw these pages: they are free at once.
    for (const runs of unused) this.#extents.allocator.free(runs);
    for (const one of accepted) one.done.resolve();
  }

  async #loadOld(group: Waiting[]): Promise<Old> {
    const keys = new Set<string>();
    const equals = new Set<string>();
    for (const one of group) {
      for (const put of one.puts) keys.add(put.key);
      for (const key of one.deletes) keys.add(key);
      for (const assertion of one.asserts) {
        keys.add(assertion.key);
        if (assertion.kind === "equals") equals.add(assertion.key);
      }
    }
    const [names, values] = [[...keys], [...equals]];
    const places = await this.#index.places(names);
    const entries = values.length > 0 ? await this.#index.load(values) : [];
    return {
      places: new Map(names.map((key, i) => [key, places[i]!])),
      entries: new Map(values.map((key, i) => [key, entries[i]!])),
    };
  }

  async #write(changes: Map<string, Entry | null>, old: Old): Promise<void> {
    const batch = this.#index.batch();
    let keys = 0;
    let indexBytes = 0;
    for (const [key, entry] of changes) {
      const place = old.places.get(key) ?? null;
      if (place !== null) keys--;
      if (place !== null && place !== "corrupt") indexBytes -= place.indexBytes;
      if (entry === null) this.#index.delete(batch, key);
      else {
        keys++;
        indexBytes += this.#index.put(batch, key, entry);
      }
    }
    await this.#index.write(batch);
    this.#totals.keys += keys;
    this.#totals.indexBytes += indexBytes;
    this.#totals.commits++;
    for (const [key, entry] of changes) {
      if (entry === null) this.#cache.delete(key);
      else this.#cache.put(key, entry);
      const place = old.places.get(key) ?? null;
      if (place !== null && place !== "corrupt") this.#holds.retire(place.runs);
    }
  }
}

function filesOf(group: readonly Waiting[]): Set<number> {
  const files = new Set<number>();
  for (const one of group) {
    for (const { entry } of one.puts) {
      for (let i = 0; i < entry.runs.length; i += 3) files.add(entry.runs[i]!);
    }
  }
  return files;
}

/** The newest change of a key in the group wins; pages that it replaces were never seen. */
function overlay(
  changes: Map<string, Entry | null>,
  key: string,
  entry: Entry | null,
  unused: Runs[],
): void {
  const before = changes.get(key);
  if (before) unused.push(before.runs);
  assert(before !== entry || entry === null, "an apply stores a key once");
  changes.set(key, entry);
}

/** null when all asserts hold, else which one does not. */
function violated(
  asserts: readonly StoreAssert[],
  old: Old,
  changes: Map<string, Entry | null>,
): string | null {
  for (const { kind, key, value } of asserts) {
    const change = changes.get(key);
    const exists = change === undefined ? (old.places.get(key) ?? null) !== null : change !== null;
    const name = JSON.stringify(key);
    if (kind === "absent" && exists) return `the key ${name} exists already`;
    if (kind !== "absent" && !exists) return `the key ${name} does not exist`;
    if (kind !== "equals") continue;
    const entry = change ?? old.entries.get(key) ?? null;
    const inline = entry === null || entry === "corrupt" ? null : entry.inline;
    if (inline === null || value === null || !equalBytes(inline, value)) {
      return `the key ${name} has another value`;
    }
  }
  return null;
}
