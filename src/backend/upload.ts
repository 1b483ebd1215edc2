// SPDX-License-Identifier: Apache-2.0
// Uploads: bytes in the arena become k + m fragments on as many OSDs, and then, by one commit, an
// object. The data fragments are never copied: each is the list of its units in the payload.
//
//   check and encode ─► one apply per OSD {fragment, recovery, mark} ─► c durable, a moment for
//   the others ─► commit ─► reply ─► stragglers enter the manifest ─► marks go
//
// An OSD that fails is replaced by another at once while there is one. What an upload leaves
// behind when it fails is marked, and removed by itself or by garbage collection (P-C6).

import { assert } from "../base/assert.js";
import { alignUp, equalBytes } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { deferred } from "../base/sync.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { ArenaPool } from "../platform/arena.js";
import type { Segments } from "../platform/network.js";
import type { World } from "../platform/world.js";
import type { Registry } from "../registry/registry.js";
import { packRecovery } from "../wire/generated/backend.js";
import { type Manifest, type Preset, packManifest } from "../wire/generated/manifest.js";
import { Attempt, FIRST_VERSION, shuffle } from "./attempt.js";
import { changeManifest, commitObject } from "./commit.js";
import { dataKey, OBJECT_ID_BYTES, recoveryKey } from "./keys.js";
import {
  crcIndex,
  dataPieces,
  FRAGMENT_BYTES_MAX,
  fragmentBytes,
  layoutFor,
  type ObjectLayout,
  onePiece,
} from "./layout.js";
import { withPlaces } from "./manifests.js";
import type { LateDeletes } from "./marks.js";
import type { Namespaces, NamespaceView } from "./namespaces.js";
import { Priority } from "./osd.js";
import type { OsdPool } from "./osdpool.js";
import { checkObjectName } from "./paths.js";
import { type Candidate, choosePlaces, countPerDomain } from "./placement.js";
import { choosePolicy, formatPolicy, type PolicyChoice } from "./policy.js";
import { type CommitExtras, OBJECT_BYTES_MAX, type PutResult } from "./store.js";
import { VIEW_AGE_MAX_MS } from "./topology.js";

/** Commits of one upload, while the namespace's record changes. */
const TRIES_MAX = 8;
const SLACK_MS_MIN = 50;
const SLACK_MS_MAX = 500;

export interface UploadRequest {
  namespace: string;
  name: string;
  /** Random; the same for every try of the caller with this object. */
  uploadId: Uint8Array;
  /**
   * Arena offset, contiguous. Borrowed until `finished`; the rest of the last page is overwritten.
   */
  data: number;
  bytes: number;
  /** CRC-32C of each page, the last one padded with zeroes. */
  crcs: Uint32Array;
  ownerEpoch: number;
  /**
   * Upload epoch, read by the caller before it asked: so the caller can end every try of its own
   * by raising `gc` beyond it (P-B1, P-C6).
   */
  epoch: number;
  extras: CommitExtras;
  timeoutMs: number;
}

export interface Upload {
  result: PutResult;
  /** Never rejects. Resolves when the payload is free and late fragments are in the manifest. */
  finished: Promise<void>;
}

export interface UploadCounters {
  uploads: number;
  uploadBytes: number;
  storedBytes: number;
  replacedFragments: number;
  lateFragments: number;
  failedUploads: number;
}

/** Counters of nothing yet. */
export function noUploads(): UploadCounters {
  return {
    uploads: 0,
    uploadBytes: 0,
    storedBytes: 0,
    replacedFragments: 0,
    lateFragments: 0,
    failedUploads: 0,
  };
}

/** What uploads share. */
export interface UploadHost {
  readonly world: Pick<World, "clock" | "random" | "log" | "arena" | "codec">;
  readonly registry: Registry;
  readonly pool: OsdPool;
  readonly namespaces: Namespaces;
  readonly late: LateDeletes;
  /** For parity. */
  readonly memory: ArenaPool;
  /** UNIT_BYTES_MAX bytes of zeroes in the arena. */
  readonly zeroes: number;
  /** Longest wait for one OSD. */
  readonly putTimeoutMs: number;
  readonly counters: UploadCounters;
  /** True once uploads are to end instead of trying again. */
  isStopping(): boolean;
}

/**
 * Uploads and commits an object. OVS_INVALID, OVS_CORRUPT (the payload is not what `crcs` say),
 * OVS_FENCED, OVS_EXISTS, OVS_NOT_FOUND, OVS_CONFLICT (the upload epoch is over); OVS_UNAVAILABLE
 * and OVS_FULL: nothing was committed. OVS_CLOSED: nobody knows.
 */
export async function upload(host: UploadHost, request: UploadRequest): Promise<Upload> {
  checkRequest(request);
  const run = new ObjectUpload(host, request);
  try {
    const result = await run.run();
    host.counters.uploads++;
    host.counters.uploadBytes += request.bytes;
    host.counters.storedBytes += result.storedBytes;
    return { result, finished: run.finish() };
  } catch (error) {
    host.counters.failedUploads++;
    // The payload is lent to puts that are still under way.
    await run.abandon();
    throw error;
  }
}

function checkRequest(request: UploadRequest): void {
  checkObjectName(request.name);
  const { bytes, crcs } = request;
  if (!Number.isSafeInteger(bytes) || bytes < 1 || bytes > OBJECT_BYTES_MAX) {
    throw new StorageError(
      "OVS_INVALID",
      `an object has 1 to ${OBJECT_BYTES_MAX} bytes, not ${bytes}`,
    );
  }
  const pages = Math.ceil(bytes / CLUSTER_BYTES);
  if (crcs.length !== pages) {
    throw new StorageError(
      "OVS_INVALID",
      `${bytes} bytes have ${pages} checksums, not ${crcs.length}`,
    );
  }
  assert(request.data % CLUSTER_BYTES === 0, "the payload is aligned");
  assert(request.uploadId.byteLength === OBJECT_ID_BYTES, "an upload has an id");
}

class ObjectUpload {
  readonly #host: UploadHost;
  readonly #request: UploadRequest;
  readonly #deadlineMs: number;
  readonly #inFlight = new Set<Promise<void>>();
  #layout!: ObjectLayout;
  #preset!: Preset;
  #choice!: PolicyChoice;
  #crcs!: Uint32Array;
  #parity = 0;
  #view!: NamespaceView;
  #attempt: Attempt | null = null;
  #committed: Manifest | null = null;
  #revision = 0;

  constructor(host: UploadHost, request: UploadRequest) {
    this.#host = host;
    this.#request = request;
    this.#deadlineMs = host.world.clock.nowMs() + request.timeoutMs;
  }

  async run(): Promise<PutResult> {
    const { namespaces } = this.#host;
    this.#view = await namespaces.get(this.#request.namespace);
    this.#checkView();
    const places = this.#plan();
    await this.#encode();
    const objectId = this.#host.world.random.bytes(OBJECT_ID_BYTES);
    const attempt = new Attempt(objectId, this.#view.id, this.#request.epoch, places);
    this.#attempt = attempt;
    await this.#write(attempt);
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const outcome = await this.#commit(attempt);
      if (outcome === "done") return this.#result();
      namespaces.forget(this.#request.namespace);
      this.#view = await namespaces.get(this.#request.namespace);
      // P-C6: what has marks of an old epoch, or of another namespace, may be collected any moment.
      if (outcome === "stale-epoch" || !equalBytes(this.#view.id, attempt.namespaceId)) break;
    }
    throw new StorageError(
      "OVS_CONFLICT",
      `the upload of ${this.#request.name} took too long: its epoch ${attempt.epoch} is over`,
    );
  }

  /** After success: waits for stragglers, enters them, gives memory back. Never rejects. */
  async finish(): Promise<void> {
    const attempt = this.#attempt!;
    this.#settleMarks(attempt, this.#committed!);
    await Promise.all(this.#inFlight);
    attempt.discardStrays(this.#host.late);
    try {
      await this.#addLate(attempt);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      // The object is on the list of those that lack width: repair does it (P-A10).
      this.#host.world.log.warn("late fragments are left to repair", { reason: error.message });
    }
    this.#giveParity();
  }

  /** After failure: waits until nothing is lent, removes what was written. */
  async abandon(): Promise<void> {
    await Promise.all(this.#inFlight);
    // While stopping, the commit's outcome may be unknown.
    if (!this.#host.isStopping()) this.#attempt?.discard(this.#host.late);
    this.#giveParity();
  }

  #giveParity(): void {
    if (this.#parity !== 0) this.#host.memory.give(this.#parity);
    this.#parity = 0;
  }

  #checkView(): void {
    const { topology } = this.#host.pool;
    if (topology.fresh) return;
    const seconds = Math.round(topology.ageMs / 1000);
    throw new StorageError(
      "OVS_UNAVAILABLE",
      `the list of OSDs is ${seconds} s old, ${VIEW_AGE_MAX_MS / 1000} s at most are safe`,
    );
  }

  /** Chooses policy and places by what is usable now. */
  #plan(): Candidate[] {
    const { pool, world } = this.#host;
    const preset = pool.topology.preset(this.#view.preset);
    if (preset === null) {
      throw new StorageError("OVS_UNAVAILABLE", `there is no preset "${this.#view.preset}"`);
    }
    for (const withSlow of [false, true]) {
      const candidates = pool.writable(withSlow);
      const choice = choosePolicy(preset.policies, countPerDomain(candidates, preset.domain));
      // Slow ones are better than a worse policy or a narrower object.
      const best = choice?.rank === 0 && choice.fragments === choice.policy.k + choice.policy.m;
      if (choice === null || (!best && !withSlow)) continue;
      this.#preset = preset;
      this.#choice = choice;
      const rules = { x: choice.policy.x, domain: preset.domain };
      return shuffle(
        choosePlaces(candidates, choice.fragments, rules, [], world.random),
        world.random,
      );
    }
    const living = pool.writable(true).length;
    const least = preset.policies.map((policy) => `${formatPolicy(policy)} needs ${policy.c}`);
    const full = [...pool.all()].some((osd) => osd.up && osd.full);
    throw new StorageError(
      full ? "OVS_FULL" : "OVS_UNAVAILABLE",
      `no policy can be satisfied: ${living} OSDs take fragments (k,m,c,x = ${least.join("; ")})`,
    );
  }

  /** Makes parity and checksums; refuses a payload that is not what its owner computed. */
  async #encode(): Promise<void> {
    const { world, memory } = this.#host;
    const { data, bytes, crcs } = this.#request;
    const { k, m } = this.#choice.policy;
    const layout = layoutFor(bytes, k, m);
    const each = fragmentBytes(layout);
    if (each > FRAGMENT_BYTES_MAX) {
      throw new StorageError("OVS_INVALID", `${bytes} bytes are too many for k = ${k}`);
    }
    this.#layout = layout;
    const padded = alignUp(bytes, CLUSTER_BYTES);
    world.arena.bytes.fill(0, data + bytes, data + padded);
    const all = new Uint32Array((k + m) * (each / CLUSTER_BYTES));
    if (m > 0) this.#parity = await memory.take(m * each);
    await world.codec.encode(layout, data, padded, this.#parity, all);
    for (let page = 0; page < crcs.length; page++) {
      if (all[crcIndex(layout, page)] === crcs[page]) continue;
      throw new StorageError(
        "OVS_CORRUPT",
        `page ${page} of ${this.#request.name} is not what its sender computed the checksum of`,
      );
    }
    this.#crcs = all;
  }

  /** Writes all fragments; resolves when enough are durable to commit. */
  async #write(attempt: Attempt): Promise<void> {
    const { clock } = this.#host.world;
    const begunMs = clock.nowMs();
    const { c } = this.#choice.policy;
    attempt.recovery = packManifest(this.#manifest(attempt, () => true));
    const enough = deferred<void>();
    const all = deferred<void>();
    let left = attempt.places.length;
    for (let f = 0; f < attempt.places.length; f++) {
      const put = this.#putFragment(attempt, f).finally(() => {
        this.#inFlight.delete(put);
        left--;
        if (attempt.acked >= c || left === 0) enough.resolve();
        if (left === 0) all.resolve();
      });
      this.#inFlight.add(put);
    }
    await enough.promise;
    if (attempt.acked < c) throw this.#tooFew(attempt, c);
    if (left === 0) return;
    // Most often the others are nearly there: waiting a moment saves a second change of the
    // manifest.
    const elapsedMs = clock.nowMs() - begunMs;
    const slackMs = Math.min(SLACK_MS_MAX, Math.max(SLACK_MS_MIN, elapsedMs));
    await Promise.race([all.promise, clock.sleep(slackMs)]);
  }

  /** Writes one fragment, to another OSD when one fails. Never rejects with a StorageError. */
  async #putFragment(attempt: Attempt, f: number): Promise<void> {
    const { clock } = this.#host.world;
    for (let place: Candidate | null = attempt.places[f]!; place !== null; ) {
      const timeoutMs = Math.min(this.#host.putTimeoutMs, this.#deadlineMs - clock.nowMs());
      if (timeoutMs <= 0) return;
      attempt.places[f] = place;
      try {
        await this.#applyFragment(attempt, f, place, timeoutMs);
        attempt.ack(f);
        return;
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        attempt.fail(place.id, f, error);
      }
      place = this.#replacement(attempt, f);
    }
  }

  async #applyFragment(
    attempt: Attempt,
    f: number,
    place: Candidate,
    timeoutMs: number,
  ): Promise<void> {
    const { pool, late } = this.#host;
    const osd = pool.get(place.id);
    if (osd === null) throw new StorageError("OVS_UNAVAILABLE", `OSD ${place.id} is gone`);
    const name = attempt.name(f);
    const bytes = fragmentBytes(this.#layout);
    const pages = bytes / CLUSTER_BYTES;
    const crcs = this.#crcs.subarray(f * pages, (f + 1) * pages);
    const recovery = packRecovery({
      chunk: 0,
      fragment: f,
      fragmentVersion: name.version,
      namespaceId: this.#view.id,
      namespace: this.#request.namespace,
      name: this.#request.name,
      manifest: attempt.recovery,
    });
    await osd.apply(
      {
        present: [],
        data: { key: dataKey(name), payload: this.#payload(f), bytes, crcs },
        small: [
          { key: recoveryKey(name), value: recovery },
          { key: attempt.mark(f), value: Buffer.from(this.#request.name) },
        ],
        deletes: late.take(place.id),
      },
      { timeoutMs, priority: Priority.Client },
    );
  }

  #payload(f: number): Segments {
    const { data, bytes } = this.#request;
    const { k } = this.#layout;
    const padded = alignUp(bytes, CLUSTER_BYTES);
    if (f < k) return dataPieces(this.#layout, f, data, padded, this.#host.zeroes);
    const each = fragmentBytes(this.#layout);
    return onePiece(this.#parity + (f - k) * each, each);
  }

  /** Another OSD for a fragment whose first one failed; null: there is none. */
  #replacement(attempt: Attempt, f: number): Candidate | null {
    if (this.#committed !== null || this.#host.isStopping()) return null;
    const candidates = this.#host.pool.writable(true).filter(({ id }) => !attempt.failed.has(id));
    const taken = attempt.places.filter((_, other) => other !== f);
    const rules = { x: this.#choice.policy.x, domain: this.#preset.domain };
    const [place] = choosePlaces(candidates, 1, rules, taken, this.#host.world.random);
    if (place === undefined) return null;
    this.#host.counters.replacedFragments++;
    return place;
  }

  #tooFew(attempt: Attempt, c: number): StorageError {
    const errors = [...attempt.failed.values()];
    const full = errors.some((error) => error.code === "OVS_FULL");
    const reasons = [...new Set(errors.map((error) => error.message))].slice(0, 3).join("; ");
    return new StorageError(
      full ? "OVS_FULL" : "OVS_UNAVAILABLE",
      `only ${attempt.acked} of ${c} fragments of ${this.#request.name} were stored: ${reasons}`,
    );
  }

  #manifest(attempt: Attempt, isStored: (f: number) => boolean): Manifest {
    const { policy } = this.#choice;
    const each = fragmentBytes(this.#layout);
    const fragments = Array.from({ length: policy.k + policy.m }, (_, f) => {
      const place = attempt.places[f];
      if (place === undefined || !isStored(f)) return { osd: 0, version: 0 };
      return { osd: place.id, version: FIRST_VERSION };
    });
    return {
      compression: 0,
      objectId: attempt.objectId,
      uploadId: this.#request.uploadId,
      gcEpoch: attempt.epoch,
      ownerEpoch: this.#request.ownerEpoch,
      policy,
      presetVersion: this.#preset.presetVersion,
      cellBytes: CLUSTER_BYTES,
      cellTableBytes: 0,
      keyId: 0,
      rawBytes: this.#request.bytes,
      storedBytes: fragments.filter(({ osd }) => osd !== 0).length * each,
      unitBytes: this.#layout.unitBytes,
      stripes: this.#layout.stripes,
      fragments,
      inline: new Uint8Array(0),
    };
  }

  async #commit(attempt: Attempt): Promise<"done" | "stale-epoch" | "stale-info"> {
    const { registry, world } = this.#host;
    const { namespace, name, extras } = this.#request;
    this.#checkView();
    const isStored = (f: number) => attempt.isAcked(f) && this.#isThere(attempt, f);
    const manifest = this.#manifest(attempt, isStored);
    this.#checkWidth(manifest);
    const commit = { namespace, name, manifest, infoRevision: this.#view.infoRevision, extras };
    const outcome = await commitObject(registry, world, commit, () => this.#host.isStopping());
    if (outcome.kind !== "done") return outcome.kind;
    this.#revision = outcome.revision;
    this.#committed = outcome.manifest;
    // Otherwise another proxy was faster with the same upload: ours is garbage.
    if (!outcome.mine) attempt.discard(this.#host.late);
    return "done";
  }

  /** False: the OSD that has stored the fragment was declared gone meanwhile. */
  #isThere(attempt: Attempt, f: number): boolean {
    return this.#host.pool.get(attempt.places[f]!.id) !== null;
  }

  /** An upload may take long: what it has stored first may be gone before it has stored enough. */
  #checkWidth({ policy, fragments }: Manifest): void {
    const stored = fragments.filter(({ osd }) => osd !== 0).length;
    if (stored >= policy.c) return;
    throw new StorageError(
      "OVS_UNAVAILABLE",
      `${this.#request.name} has ${stored} of ${policy.c} fragments: OSDs were taken out meanwhile`,
    );
  }

  #result(): PutResult {
    const { storedBytes, fragments } = this.#committed!;
    const stored = fragments.filter(({ osd }) => osd !== 0).length;
    return { revision: this.#revision, fragments: stored, storedBytes };
  }

  #settleMarks(attempt: Attempt, manifest: Manifest): void {
    for (let f = 0; f < attempt.places.length; f++) {
      const osd = attempt.places[f]!.id;
      const isNamed = equalBytes(manifest.objectId, attempt.objectId);
      if (isNamed && manifest.fragments[f]!.osd === osd) {
        this.#host.late.add(osd, attempt.mark(f));
      }
    }
  }

  async #addLate(attempt: Attempt): Promise<void> {
    const manifest = this.#committed!;
    if (!equalBytes(manifest.objectId, attempt.objectId)) return;
    const places = new Map<number, { osd: number; version: number }>();
    for (let f = 0; f < attempt.places.length; f++) {
      if (manifest.fragments[f]!.osd !== 0) continue;
      if (!attempt.isAcked(f) || !this.#isThere(attempt, f)) continue;
      places.set(f, { osd: attempt.places[f]!.id, version: FIRST_VERSION });
    }
    if (places.size === 0) return;
    const wider = withPlaces(manifest, places);
    const { registry, world } = this.#host;
    const { namespace, name } = this.#request;
    const { epoch } = attempt;
    const revisionNow = this.#revision;
    const change = { namespace, name, revision: revisionNow, manifest: wider, epoch, removed: [] };
    const revision = await changeManifest(registry, world, change, () => this.#host.isStopping());
    if (revision === null) return;
    this.#host.counters.lateFragments += places.size;
    for (const f of places.keys()) {
      this.#host.late.add(attempt.places[f]!.id, attempt.mark(f));
    }
  }
}
