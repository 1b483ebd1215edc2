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

export class ManifestCache {
  readonly #registry: Registry;
  readonly #half: number;
  #young = new Map<string, ObjectView>();
  #old = new Map<string, ObjectView>();
  readonly #fetching = new Map<string, Promise<void>>();

  constructor(registry: Registry, entriesMax: number) {
    assert(entriesMax >= 2, "a cache has entries");
    this.#registry = registry;
    this.#half = Math.floor(entriesMax / 2);
  }

  get entries(): number {
    return this.#young.size + this.#old.size;
  }

  /** undefined: it must be fetched. */
  get(namespace: string, name: string): ObjectView | undefined {
    const key = keyOf(namespace, name);
    const young = this.#young.get(key);
    if (young !== undefined) return young;
    const old = this.#old.get(key);
    if (old !== undefined) this.#add(key, old);
    return old;
  }

  /** True when no part's object has to be fetched. */
  hasAll(namespace: string, parts: ReadonlyArray<{ readonly name: string }>): boolean {
    for (let i = 0; i < parts.length; i++) {
      if (this.get(namespace, parts[i]!.name) === undefined) return false;
    }
    return true;
  }

  /**
   * Reads the manifests of `names` consistently; those of missing objects are absent afterwards.
   */
  async fetch(namespace: string, names: Iterable<string>): Promise<void> {
    const waits = new Set<Promise<void>>();
    const missing: string[] = [];
    for (const name of new Set(names)) {
      const running = this.#fetching.get(keyOf(namespace, name));
      if (running) waits.add(running);
      else missing.push(name);
    }
    for (let at = 0; at < missing.length; at += GETS_MAX) {
      waits.add(this.#fetchSome(namespace, missing.slice(at, at + GETS_MAX)));
    }
    await Promise.all(waits);
  }

  /** Reads them again, whatever is known; never joins a reading that began before. */
  async refresh(namespace: string, names: readonly string[]): Promise<void> {
    for (let at = 0; at < names.length; at += GETS_MAX) {
      await this.#read(namespace, names.slice(at, at + GETS_MAX));
    }
  }

  forget(namespace: string, name: string): void {
    const key = keyOf(namespace, name);
    this.#young.delete(key);
    this.#old.delete(key);
  }

  clear(): void {
    this.#young.clear();
    this.#old.clear();
  }

  #fetchSome(namespace: string, names: string[]): Promise<void> {
    const running = this.#read(namespace, names).finally(() => {
      for (const name of names) this.#fetching.delete(keyOf(namespace, name));
    });
    for (const name of names) this.#fetching.set(keyOf(namespace, name), running);
    return running;
  }

  async #read(namespace: string, names: string[]): Promise<void> {
    const { entries } = await this.#registry.transact({
      compares: [],
      success: names.map((name) => ({ kind: "get", key: objectPath(namespace, name) })),
      failure: [],
    });
    names.forEach((name, i) => {
      const entry = entries[i] ?? null;
      if (entry === null) this.forget(namespace, name);
      else {
        const view = new ObjectView(name, entry.modRevision, readManifest(entry));
        this.#add(keyOf(namespace, name), view);
      }
    });
  }

  #add(key: string, view: ObjectView): void {
    this.#old.delete(key);
    this.#young.set(key, view);
    if (this.#young.size < this.#half) return;
    this.#old = this.#young;
    this.#young = new Map();
  }
}

function keyOf(namespace: string, name: string): string {
  return `${namespace}/${name}`;
}
