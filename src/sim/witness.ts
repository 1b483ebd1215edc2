// SPDX-License-Identifier: Apache-2.0
// Reads along what is committed in the registry, and checks what the protocols promise of it: a
// broken rule is seen when it is broken, not when something comes of it. All that is checked only
// grows, or is never used twice, so that events which were missed (the registry has restarted) do
// not matter.

import { missingFragments, readManifest } from "../backend/manifests.js";
import { readNumber, TRASH_PREFIX, widthPath } from "../backend/paths.js";
import { toHex } from "../base/bytes.js";
import { messageOf, StorageError } from "../base/errors.js";
import type { Registry, RegistryEntry, WatchEvent } from "../registry/registry.js";
import type { Manifest } from "../wire/generated/manifest.js";
import { decodeVdiskOwner, type VdiskOwner } from "../wire/generated/vdisk.js";
import type { PrefixCheck } from "./prefix.js";
import type { Timeline } from "./timeline.js";

const AGAIN_MS = 200;
const TLOG = "tlog/";
/** Of a registry without any content: its past begins behind it. */
const FIRST_REVISION = 1;
/** Of one transaction. */
const GETS_MAX = 100;
const OBJECT_KEY = /^\/ns\/([^/]+)\/o\/(.+)$/;
const NUMBER_KEY = /^\/ns\/[^/]+\/(fence|gc)$/;
const OWNER_KEY = /^\/vdisk\/[^/]+\/owner$/;

export interface WitnessOptions {
  /** Whose events it reads. */
  registry: Registry;
  timeline: Timeline;
  /** Told in words which rule was broken. */
  onViolation: (words: string) => void;
  /** Told of objects that are committed. */
  prefix?: PrefixCheck;
}

export class Witness {
  readonly #options: WitnessOptions;
  /** Fences and lowest upload epochs, by their keys. */
  readonly #numbers = new Map<string, number>();
  readonly #owners = new Map<string, VdiskOwner>();
  readonly #manifests = new Map<string, Manifest>();
  /** Keys of those that are the last ones: no event of them was missed. */
  readonly #current = new Set<string>();
  /** Where each fragment lies or lay, by its name. */
  readonly #fragments = new Map<string, number>();
  /** The last TLog of each namespace. */
  readonly #tlogs = new Map<string, number>();
  #revision = FIRST_REVISION;
  /** The watch that counts. */
  #watches = 0;

  constructor(options: WitnessOptions) {
    this.#options = options;
  }

  /** Reads along from now on. */
  start(): void {
    void this.#watch();
  }

  /** Events of one transaction. */
  saw(events: readonly WatchEvent[], revision: number): void {
    if (revision <= this.#revision) this.#broken(`revision ${revision} comes again`);
    this.#revision = revision;
    try {
      for (const event of events) this.#look(event, events);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#broken(messageOf(error));
    }
  }

  /** One watch after the other: what ends and what is refused may both be told of the same one. */
  async #watch(): Promise<void> {
    const mine = ++this.#watches;
    const goOn = (skips: boolean): void => {
      if (mine === this.#watches) void this.#again(skips);
    };
    try {
      await this.#options.registry.watch("/", this.#revision + 1, {
        onEvents: (events, revision) => {
          if (mine === this.#watches) this.saw(events, revision);
        },
        onEnd: (reason) => goOn(/compacted/.test(reason)),
      });
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      goOn(false);
    }
  }

  /** `skips`: what happened before the registry's last start is not told any more. */
  async #again(skips: boolean): Promise<void> {
    const { timeline } = this.#options;
    this.#watches++;
    await new Promise<void>((resolve) => void timeline.after(AGAIN_MS, null, resolve));
    if (skips) await this.#skip();
    await this.#watch();
  }

  async #skip(): Promise<void> {
    this.#options.prefix?.skipped();
    try {
      const keys = [...this.#numbers.keys()].slice(0, GETS_MAX);
      const success = keys.map((key) => ({ kind: "get" as const, key }));
      const transaction = { compares: [], success, failure: [] };
      const { revision, entries } = await this.#options.registry.transact(transaction);
      // P-C7: what was answered stays.
      if (revision < this.#revision) this.#broken(`it was at revision ${this.#revision} before`);
      this.#revision = revision;
      this.#tlogs.clear();
      this.#current.clear();
      this.#numbers.clear();
      for (const entry of entries) if (entry !== null) this.#onNumber(entry);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
    }
  }

  #look({ kind, entry }: WatchEvent, events: readonly WatchEvent[]): void {
    const { key } = entry;
    const [, namespace, name] = OBJECT_KEY.exec(key) ?? [];
    if (kind === "delete") this.#onEnd(key, events);
    else if (NUMBER_KEY.test(key)) this.#onNumber(entry);
    else if (OWNER_KEY.test(key)) this.#onOwner(entry);
    else if (namespace !== undefined) {
      const manifest = readManifest(entry);
      if (entry.version === 1) this.#onCommit(namespace, name!, manifest, events);
      this.#nothingIsForgotten(key, manifest, events);
      this.#onManifest(key, manifest);
    }
  }

  /** P-C5, P-C6: a fence and a lowest upload epoch only grow. */
  #onNumber({ key, value }: RegistryEntry): void {
    const [before, now] = [this.#numbers.get(key) ?? 0, readNumber(value, key)];
    if (now < before) this.#broken(`${key} falls from ${before} to ${now}`);
    this.#numbers.set(key, now);
  }

  /** P-A4: each start of service takes a new epoch. */
  #onOwner({ key, value }: RegistryEntry): void {
    const [before, now] = [this.#owners.get(key), decodeVdiskOwner(value)];
    if (before !== undefined) {
      const isSame = toHex(before.incarnation) === toHex(now.incarnation);
      if (now.epoch < before.epoch || (now.epoch === before.epoch && !isSame)) {
        this.#broken(`${key} goes from epoch ${before.epoch} to ${now.epoch}`);
      }
    }
    this.#owners.set(key, now);
  }

  #onCommit(
    namespace: string,
    name: string,
    manifest: Manifest,
    events: readonly WatchEvent[],
  ): void {
    const { ownerEpoch, gcEpoch, policy, fragments } = manifest;
    const fence = this.#numbers.get(`/ns/${namespace}/fence`) ?? ownerEpoch;
    const gc = this.#numbers.get(`/ns/${namespace}/gc`) ?? 0;
    // P-C5: whoever owns has raised it first.
    if (ownerEpoch !== fence) {
      this.#broken(`${name} is committed by owner epoch ${ownerEpoch}, the fence is ${fence}`);
    }
    if (gcEpoch < gc) this.#broken(`${name} is committed by upload epoch ${gcEpoch}, gc is ${gc}`);
    const there = fragments.filter(({ osd }) => osd !== 0).length;
    if (there < policy.c && manifest.inline.byteLength === 0) {
      this.#broken(`${name} is committed with ${there} fragments of ${policy.c}`);
    }
    const width = widthPath(namespace, name);
    const isNoted = events.some(({ kind, entry }) => kind === "put" && entry.key === width);
    if (missingFragments(manifest).length > 0 && !isNoted) {
      this.#broken(`${name} is committed with ${there} fragments, and nobody is told`);
    }
    const id = toHex(manifest.objectId);
    for (const [f, { osd, version }] of fragments.entries()) {
      const isUsed = osd !== 0 && this.#fragments.has(`${id}/${f}/${version}`);
      if (isUsed) this.#broken(`${name}: what was deleted is committed again`);
    }
    if (name.startsWith(TLOG)) this.#onTlog(namespace, name);
    const commit = { namespace, name, bytes: manifest.rawBytes, revision: this.#revision };
    this.#options.prefix?.committed(commit);
  }

  #onEnd(key: string, events: readonly WatchEvent[]): void {
    if (OBJECT_KEY.test(key)) this.#nothingIsForgotten(key, null, events);
    this.#manifests.delete(key);
    this.#current.delete(key);
  }

  /**
   * P-C6: a change is made from the manifest that it replaces. What that one named and the new one
   * (null: there is none) does not name goes to the trash with the same transaction.
   */
  #nothingIsForgotten(key: string, now: Manifest | null, events: readonly WatchEvent[]): void {
    const before = this.#current.has(key) ? this.#manifests.get(key) : undefined;
    this.#current.add(key);
    if (before === undefined) return;
    const kept = new Set(now === null ? [] : namesOf(now));
    for (const { kind, entry } of events) {
      if (kind !== "put" || !entry.key.startsWith(TRASH_PREFIX)) continue;
      for (const name of namesOf(readManifest(entry))) kept.add(name);
    }
    const lost = namesOf(before).filter((name) => !kept.has(name));
    if (lost.length > 0) this.#broken(`${key}: fragment ${lost[0]} is forgotten, not trash`);
  }

  /** P-A9: TLogs are numbered without gaps. */
  #onTlog(namespace: string, name: string): void {
    const number = Number.parseInt(name.slice(TLOG.length), 16);
    const last = this.#tlogs.get(namespace);
    if (last !== undefined && number !== last + 1) {
      this.#broken(`TLog ${number} of ${namespace} comes after ${last}`);
    }
    this.#tlogs.set(namespace, number);
  }

  /**
   * P-C6: a fragment's name is never used twice, its version only grows. An OSD has no more of
   * them than the policy's x.
   */
  #onManifest(key: string, manifest: Manifest): void {
    const before = this.#manifests.get(key);
    const id = toHex(manifest.objectId);
    const isSame = before !== undefined && toHex(before.objectId) === id;
    const perOsd = new Map<number, number>();
    for (const [f, { osd, version }] of manifest.fragments.entries()) {
      if (osd === 0) continue;
      perOsd.set(osd, (perOsd.get(osd) ?? 0) + 1);
      const name = `${id}/${f}/${version}`;
      const place = this.#fragments.get(name) ?? osd;
      if (place !== osd) this.#broken(`${key}: fragment ${name} is on OSD ${osd}, was on ${place}`);
      this.#fragments.set(name, osd);
      const old = isSame ? before.fragments[f]!.version : 0;
      if (version < old)
        this.#broken(`${key}: fragment ${f} goes from version ${old} to ${version}`);
    }
    const most = Math.max(0, ...perOsd.values());
    if (most > 1) this.#broken(`${key} has ${most} fragments on one OSD`);
    this.#manifests.set(key, manifest);
  }

  #broken(words: string): void {
    this.#options.onViolation(`the registry, revision ${this.#revision}: ${words}`);
  }
}

/** Names of the fragments that a manifest has. */
function namesOf({ objectId, fragments }: Manifest): string[] {
  const id = toHex(objectId);
  return fragments.flatMap(({ osd, version }, f) => (osd === 0 ? [] : [`${id}/${f}/${version}`]));
}
