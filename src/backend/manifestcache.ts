// SPDX-License-Identifier: Apache-2.0
// Manifests that reads need: bounded, and allowed to be old. Fragments are immutable and their
// names are never used again, so an old manifest finds the right bytes or nothing; whoever finds
// nothing asks for a fresh one before it believes it.
//
// Two generations stand in for a least-recently-used order: a hit moves an entry to the young one,
// and when that is full it becomes the old one, whose rest is dropped.

import { assert } from "../base/assert.js";
import type { Registry } from "../registry/registry.js";
import { ObjectView, readManifest } from "./manifests.js";
import { objectPath } from "./paths.js";

const GETS_MAX = 100;

/** Views by namespace and name: two look-ups make no string, as one with both would. */
class Generation {
  size = 0;
  readonly #spaces = new Map<string, Map<string, ObjectView>>();

  get(namespace: string, name: string): ObjectView | undefined {
    return this.#spaces.get(namespace)?.get(name);
  }

  set(namespace: string, view: ObjectView): void {
    let space = this.#spaces.get(namespace);
    if (space === undefined) {
      space = new Map();
      this.#spaces.set(namespace, space);
    }
    if (!space.has(view.name)) this.size++;
    space.set(view.name, view);
  }

  delete(namespace: string, name: string): void {
    if (this.#spaces.get(namespace)?.delete(name)) this.size--;
  }
}

export class ManifestCache {
  readonly #registry: Registry;
  readonly #half: number;
  #young = new Generation();
  #old = new Generation();
  /** Readings under way, by object. */
  readonly #fetching = new Map<string, Promise<Map<string, ObjectView>>>();

  constructor(registry: Registry, entriesMax: number) {
    assert(entriesMax >= 2, "a cache has entries");
    this.#registry = registry;
    this.#half = Math.floor(entriesMax / 2);
  }

  /** Manifests in memory; one in both generations counts as two. */
  get entries(): number {
    return this.#young.size + this.#old.size;
  }

  /** undefined: it must be fetched. */
  get(namespace: string, name: string): ObjectView | undefined {
    const young = this.#young.get(namespace, name);
    if (young !== undefined) return young;
    const old = this.#old.get(namespace, name);
    if (old !== undefined) this.#add(namespace, old);
    return old;
  }

  /** The manifests of `names`, read consistently; those of missing objects are absent. */
  async fetch(namespace: string, names: Iterable<string>): Promise<Map<string, ObjectView>> {
    const waits = new Set<Promise<Map<string, ObjectView>>>();
    const missing: string[] = [];
    for (const name of new Set(names)) {
      const running = this.#fetching.get(keyOf(namespace, name));
      if (running) waits.add(running);
      else missing.push(name);
    }
    for (let at = 0; at < missing.length; at += GETS_MAX) {
      waits.add(this.#fetchSome(namespace, missing.slice(at, at + GETS_MAX)));
    }
    const found = new Map<string, ObjectView>();
    for (const views of await Promise.all(waits)) {
      for (const [name, view] of views) found.set(name, view);
    }
    return found;
  }

  /** Reads them again, whatever is known; never joins a reading that began before. */
  async refresh(namespace: string, names: readonly string[]): Promise<void> {
    for (let at = 0; at < names.length; at += GETS_MAX) {
      await this.#read(namespace, names.slice(at, at + GETS_MAX));
    }
  }

  /** The next read of the object asks the registry. */
  forget(namespace: string, name: string): void {
    this.#young.delete(namespace, name);
    this.#old.delete(namespace, name);
  }

  /** Forgets all; readings that are under way still come in. */
  clear(): void {
    this.#young = new Generation();
    this.#old = new Generation();
  }

  #fetchSome(namespace: string, names: string[]): Promise<Map<string, ObjectView>> {
    const running = this.#read(namespace, names).finally(() => {
      for (const name of names) this.#fetching.delete(keyOf(namespace, name));
    });
    for (const name of names) this.#fetching.set(keyOf(namespace, name), running);
    return running;
  }

  async #read(namespace: string, names: string[]): Promise<Map<string, ObjectView>> {
    const { entries } = await this.#registry.transact({
      compares: [],
      success: names.map((name) => ({ kind: "get", key: objectPath(namespace, name) })),
      failure: [],
    });
    const views = new Map<string, ObjectView>();
    names.forEach((name, i) => {
      const entry = entries[i] ?? null;
      if (entry === null) {
        this.forget(namespace, name);
        return;
      }
      const view = new ObjectView(name, entry.modRevision, readManifest(entry));
      views.set(name, view);
      // Of two readings at once the answer of the older one may come last.
      const known = this.get(namespace, name);
      if (known === undefined || known.revision < view.revision) this.#add(namespace, view);
    });
    return views;
  }

  #add(namespace: string, view: ObjectView): void {
    this.#old.delete(namespace, view.name);
    this.#young.set(namespace, view);
    if (this.#young.size < this.#half) return;
    this.#old = this.#young;
    this.#young = new Generation();
  }
}

function keyOf(namespace: string, name: string): string {
  return `${namespace}/${name}`;
}
