// SPDX-License-Identifier: Apache-2.0
// Repair of one object: the fragments that it lacks are computed from the others, written under a
// new version to OSDs that fit its placement rules, and entered by a commit that compares the
// manifest's revision and `gc` (P-C6). What the manifest then names no more goes to the trash. The
// loser of a race leaves marked garbage only.

import { StorageError } from "../base/errors.js";
import { CLUSTER_BYTES, KIB } from "../base/units.js";
import type { ArenaPool } from "../platform/arena.js";
import { packRecovery } from "../wire/generated/backend.js";
import { FailureDomain, type Manifest, packManifest } from "../wire/generated/manifest.js";
import { FIRST_VERSION } from "./attempt.js";
import { changeManifest } from "./commit.js";
import type { BackendCore } from "./core.js";
import { decodePieces } from "./decode.js";
import { dataKey, markKey, recoveryKey } from "./keys.js";
import { onePiece } from "./layout.js";
import { ObjectView, readManifest, withPlaces } from "./manifests.js";
import type { LateDeletes } from "./marks.js";
import { type Namespaces, type NamespaceView, uploadEpoch } from "./namespaces.js";
import { Priority } from "./osd.js";
import { objectPath } from "./paths.js";
import { type FailedPiece, Failure } from "./pieces.js";
import {
  type Candidate,
  choosePlaces,
  domainOf,
  type Place,
  type PlacementRules,
} from "./placement.js";
import type { RateLimit } from "./ratelimit.js";

const SLICE_BYTES = 256 * KIB;
const READ_TIMEOUT_MS = 30_000;
/** Versions have 32 bits: a fragment can be made anew 65,536 times at least. */
const VERSION_STEP_MAX = 65_536;

export interface RepairHost {
  readonly core: BackendCore;
  readonly namespaces: Namespaces;
  readonly late: LateDeletes;
  /** For rebuilt fragments; has room for the longest one. */
  readonly memory: ArenaPool;
  readonly rate: RateLimit;
  readonly putTimeoutMs: number;
  /** An OSD without connection for longer counts as lost. */
  readonly lostAfterMs: number;
  /** True once work is to end at its next step. */
  isStopping(): boolean;
}

export interface RepairResult {
  /** Fragments that were made anew. */
  repaired: number;
  /** Fragments that are still missing or in the wrong place: there was no OSD for them. */
  lacking: number;
  /** Someone else changed the object meanwhile. */
  raced: boolean;
}

/** Fragments that are damaged or not where the manifest says they are, each with its version. */
export type Damage = ReadonlyMap<number, number>;

/** What an object needs, by what is known now. */
export interface Needs {
  /** Fragments to make anew: first those that are lost, then those that only have to move. */
  wanted: number[];
  /** How many of them are lost. */
  lost: number;
  /** Losses of OSDs that the object survives without repair; negative: it cannot be read now. */
  spare: number;
}

/** `preset`: of the namespace. */
export function needsOf(host: RepairHost, manifest: Manifest, preset: string, bad: Damage): Needs {
  const { pool } = host.core;
  const lost: number[] = [];
  const moving: number[] = [];
  const kept: Place[] = [];
  let alive = 0;
  const rules = rulesOf(host, manifest, preset);
  manifest.fragments.forEach(({ osd, version }, f) => {
    const isLost = osd === 0 || bad.get(f) === version || pool.downMs(osd) > host.lostAfterMs;
    if (!isLost && pool.isUp(osd)) alive++;
    const place = pool.place(osd);
    const domain = domainOf(place, rules.domain);
    const crowd = kept.filter((other) => domainOf(other, rules.domain) === domain).length;
    const isMisplaced = crowd >= rules.x || kept.some((other) => other.id === osd);
    if (isLost) lost.push(f);
    else if (isMisplaced || pool.isDraining(osd)) moving.push(f);
    else kept.push(place);
  });
  return { wanted: [...lost, ...moving], lost: lost.length, spare: alive - manifest.policy.k };
}

function rulesOf(host: RepairHost, manifest: Manifest, preset: string): PlacementRules {
  const domain = host.core.topology.preset(preset)?.domain ?? FailureDomain.node;
  return { x: manifest.policy.x, domain };
}

/**
 * Makes what the object lacks. OVS_UNAVAILABLE or OVS_CORRUPT when fewer than k fragments can be
 * read; a missing object is fine.
 */
export async function repairObject(
  host: RepairHost,
  namespace: string,
  name: string,
  bad: Damage,
): Promise<RepairResult> {
  const total = { repaired: 0, lacking: 0, raced: false };
  for (;;) {
    const entry = await host.core.registry.get(objectPath(namespace, name));
    if (entry === null) return total;
    const manifest = readManifest(entry);
    const view = await host.namespaces.get(namespace);
    const repair = new ObjectRepair(host, view, name, manifest, entry.modRevision);
    const needs = needsOf(host, manifest, view.preset, bad);
    const { repaired, lacking, raced } = await repair.run(needs);
    total.repaired += repaired;
    total.lacking = lacking;
    total.raced = raced;
    if (repaired === 0 || lacking === 0) return total;
  }
}

interface Target {
  f: number;
  version: number;
  place: Candidate;
  /** It cannot be read where it is. */
  isLost: boolean;
}

class ObjectRepair {
  readonly #host: RepairHost;
  readonly #namespace: NamespaceView;
  readonly #name: string;
  readonly #manifest: Manifest;
  readonly #revision: number;
  readonly #view: ObjectView;
  readonly #bytes: number;

  constructor(
    host: RepairHost,
    namespace: NamespaceView,
    name: string,
    manifest: Manifest,
    revision: number,
  ) {
    this.#host = host;
    this.#namespace = namespace;
    this.#name = name;
    this.#manifest = manifest;
    this.#revision = revision;
    this.#view = new ObjectView(name, revision, manifest);
    this.#bytes = manifest.unitBytes * manifest.stripes;
  }

  async run({ wanted, lost }: Needs): Promise<RepairResult> {
    // As many at a time as fit half of the memory, at least one.
    const each = Math.max(1, Math.floor(this.#host.memory.bytes / 2 / this.#bytes));
    const some = this.#choose(wanted, lost, each);
    if (some.length === 0) return { repaired: 0, lacking: wanted.length, raced: false };
    const memory = await this.#host.memory.take(some.length * this.#bytes);
    try {
      const crcs = await this.#rebuild(some, memory);
      const puts = some.map((target, i) => this.#put(target, i, memory, crcs));
      const stored = await keepStored(some, puts);
      const committed = await this.#commit(stored);
      const repaired = committed ? stored.length : 0;
      return { repaired, lacking: wanted.length - repaired, raced: !committed };
    } finally {
      this.#host.memory.give(memory);
    }
  }

  /** Places for up to `count` of the fragments, of which the first `lost` are lost. */
  #choose(wanted: readonly number[], lost: number, count: number): Target[] {
    const { pool, world } = this.#host.core;
    const { fragments } = this.#manifest;
    const rules = rulesOf(this.#host, this.#manifest, this.#namespace.preset);
    const writable = pool.writable(true);
    const targets: Target[] = [];
    for (const [i, f] of wanted.entries()) {
      if (targets.length === count) break;
      // Each may be entered without any other: it fits beside where those are, and will be.
      const taken: Place[] = targets.map(({ place }) => place);
      fragments.forEach(({ osd }, other) => {
        if (other !== f && osd !== 0) taken.push(pool.place(osd));
      });
      const [place] = choosePlaces(writable, 1, rules, taken, world.random);
      if (place === undefined) continue;
      // P-C6: names are never used twice. The first one is taken also where no fragment was there
      // at the commit (version 0): the upload may have written it, and deletes such leftovers when
      // it likes. What another try of repair left under its name is collected when its mark is
      // found, also while this one commits: hence no two tries take the same step.
      const before = Math.max(fragments[f]!.version, FIRST_VERSION);
      const version = before + 1 + world.random.below(VERSION_STEP_MAX);
      targets.push({ f, place, version, isLost: i < lost });
    }
    return targets;
  }

  /**
   * Reads or computes the fragments into memory, one after the other; returns the CRCs of all
   * their pages.
   */
  async #rebuild(targets: readonly Target[], memory: number): Promise<Uint32Array> {
    const { core, rate } = this.#host;
    const pages = this.#bytes / CLUSTER_BYTES;
    const crcs = new Uint32Array(targets.length * pages);
    for (let at = 0; at < this.#bytes; at += SLICE_BYTES) {
      const bytes = Math.min(SLICE_BYTES, this.#bytes - at);
      await rate.take(bytes * (this.#view.k + targets.length));
      if (this.#host.isStopping()) throw new StorageError("OVS_CLOSED", "repair ends");
      const failed = await this.#copy(targets, at, bytes, memory);
      const deadlineMs = core.world.clock.nowMs() + READ_TIMEOUT_MS;
      await decodePieces(core, failed, { parts: [], deadlineMs, priority: Priority.Background });
      targets.forEach((_, i) => {
        const index = i * pages + at / CLUSTER_BYTES;
        const from = memory + i * this.#bytes + at;
        core.world.codec.crc32cClusters(from, bytes / CLUSTER_BYTES, crcs, index);
      });
    }
    return crcs;
  }

  /** Reads those that only move where they are. Answers what has to be computed. */
  async #copy(
    targets: readonly Target[],
    at: number,
    bytes: number,
    memory: number,
  ): Promise<FailedPiece[]> {
    const { pieces } = this.#host.core;
    const options = { timeoutMs: READ_TIMEOUT_MS, priority: Priority.Background, patient: true };
    const call = pieces.begin(options);
    const view = this.#view;
    const page = at / CLUSTER_BYTES;
    const pages = bytes / CLUSTER_BYTES;
    for (const [i, { f, isLost }] of targets.entries()) {
      const into = memory + i * this.#bytes + at;
      if (isLost) call.fail(view, f, page, pages, into, Failure.Missing);
      else pieces.add(call, view, f, page, pages, into);
    }
    return await new Promise((resolve) => pieces.send(call, resolve));
  }

  async #put(target: Target, i: number, memory: number, crcs: Uint32Array): Promise<void> {
    const { core, late, putTimeoutMs } = this.#host;
    const osd = core.pool.get(target.place.id);
    if (osd === null) throw new StorageError("OVS_UNAVAILABLE", `OSD ${target.place.id} is gone`);
    const name = this.#fragmentName(target.f, target.version);
    const pages = this.#bytes / CLUSTER_BYTES;
    const recovery = packRecovery({
      chunk: 0,
      fragment: target.f,
      fragmentVersion: target.version,
      namespaceId: this.#namespace.id,
      namespace: this.#namespace.namespace,
      name: this.#name,
      manifest: packManifest(this.#manifest),
    });
    await osd.apply(
      {
        present: [],
        data: {
          key: dataKey(name),
          payload: onePiece(memory + i * this.#bytes, this.#bytes),
          bytes: this.#bytes,
          crcs: crcs.subarray(i * pages, (i + 1) * pages),
        },
        small: [
          { key: recoveryKey(name), value: recovery },
          { key: this.#mark(target), value: Buffer.from(this.#name) },
        ],
        deletes: late.take(osd.id),
      },
      { timeoutMs: putTimeoutMs, priority: Priority.Background },
    );
  }

  async #commit(targets: readonly Target[]): Promise<boolean> {
    const { core, late } = this.#host;
    const places = new Map(
      targets.map(({ f, place, version }) => [f, { osd: place.id, version }] as const),
    );
    const removed = targets
      .map(({ f }) => ({ f, ...this.#manifest.fragments[f]! }))
      .filter(({ osd }) => osd !== 0);
    const change = {
      namespace: this.#namespace.namespace,
      name: this.#name,
      revision: this.#revision,
      manifest: withPlaces(this.#manifest, places),
      epoch: uploadEpoch(this.#namespace),
      removed,
    };
    const { registry, world } = core;
    const giveUp = () => this.#host.isStopping();
    const revision = await changeManifest(registry, world, change, giveUp);
    core.manifests.forget(change.namespace, this.#name);
    if (revision === null) {
      // The epoch may be over, too.
      this.#host.namespaces.forget(change.namespace);
      return false;
    }
    for (const target of targets) late.add(target.place.id, this.#mark(target));
    return true;
  }

  #mark(target: Target): Uint8Array {
    const name = this.#fragmentName(target.f, target.version);
    return markKey(this.#namespace.id, uploadEpoch(this.#namespace), name);
  }

  #fragmentName(fragment: number, version: number) {
    return { objectId: this.#manifest.objectId, chunk: 0, fragment, version };
  }
}

/** The targets whose fragments are durable; throws when none is. Waits for all. */
async function keepStored(targets: Target[], puts: Array<Promise<void>>): Promise<Target[]> {
  const results = await Promise.allSettled(puts);
  const stored = targets.filter((_, i) => results[i]!.status === "fulfilled");
  for (const result of results) {
    if (result.status === "fulfilled") continue;
    if (stored.length === 0 || !(result.reason instanceof StorageError)) throw result.reason;
  }
  return stored;
}
