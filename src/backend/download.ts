// SPDX-License-Identifier: Apache-2.0
// Reads of parts of objects: all-or-error, every byte checked. One request to each OSD for all
// parts of a call; a unit that is lost, damaged or late is computed from any k others (decode.ts).
//
//   parts ─► manifests (cache, else one transaction) ─► pieces ─► one read per OSD ─► done
//                     ▲                                    │ failed
//                     └── moved? read the manifest again ──┴──► decode

import { alignUp } from "../base/bytes.js";
import { messageOf, StorageError } from "../base/errors.js";
import { Semaphore } from "../base/sync.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { ArenaPool } from "../platform/arena.js";
import type { World } from "../platform/world.js";
import { decodePieces } from "./decode.js";
import type { Hedge } from "./hedge.js";
import { bytesToUnitEnd, fragmentAt, offsetInFragment } from "./layout.js";
import type { ManifestCache } from "./manifestcache.js";
import type { ObjectView } from "./manifests.js";
import type { OsdPool } from "./osdpool.js";
import { type FailedPiece, Failure, type PieceCall, type PieceReader } from "./pieces.js";
import type { ReadPart } from "./store.js";

const CALLS_MAX = 256;
const WAITING_MAX = 16_384;
/** A manifest that names an OSD without connection is read again when it is older. */
const RECHECK_MS = 5000;

export interface ReadCounters {
  reads: number;
  parts: number;
  bytes: number;
  decodedPieces: number;
  decodedBytes: number;
}

export interface ReadHost {
  readonly world: Pick<World, "clock" | "log" | "codec">;
  readonly pool: OsdPool;
  readonly manifests: ManifestCache;
  readonly pieces: PieceReader;
  readonly hedge: Hedge;
  /** For fragments that are decoded from. */
  readonly memory: ArenaPool;
  readonly counters: ReadCounters;
  /** A fragment is missing or damaged on an OSD that answers. */
  onDamage(namespace: string, name: string, fragment: number): void;
}

export interface ReadOptions {
  timeoutMs: number;
  /** 0 client, 1 background. */
  priority: 0 | 1;
}

export class Reader {
  readonly #host: ReadHost;
  readonly #room = new Semaphore(CALLS_MAX, WAITING_MAX);
  readonly #rechecked = new Map<string, number>();

  constructor(host: ReadHost) {
    this.#host = host;
  }

  /**
   * Reads parts. Borrows the list and the memory until it settles. OVS_NOT_FOUND,
   * OVS_OUT_OF_RANGE, OVS_UNAVAILABLE, OVS_CORRUPT as ObjectStore.read.
   */
  async read(namespace: string, parts: readonly ReadPart[], options: ReadOptions): Promise<void> {
    await this.#room.acquire();
    try {
      this.#host.counters.reads++;
      const views = this.#views(namespace, parts) ?? (await this.#fetchViews(namespace, parts));
      const failed = await this.#readOnce(parts, views, options);
      if (failed.length > 0) await this.#recover(namespace, parts, failed, options);
    } finally {
      this.#room.release();
    }
  }

  /** The manifests of the parts; null when one is not known. */
  #views(namespace: string, parts: readonly ReadPart[]): ObjectView[] | null {
    const views: ObjectView[] = [];
    for (let i = 0; i < parts.length; i++) {
      const part = parts[i]!;
      const isSame = i > 0 && parts[i - 1]!.name === part.name;
      const view = isSame ? views[i - 1] : this.#host.manifests.get(namespace, part.name);
      if (view === undefined) return null;
      checkPart(part, view);
      views.push(view);
    }
    return views;
  }

  async #fetchViews(namespace: string, parts: readonly ReadPart[]): Promise<ObjectView[]> {
    const { manifests } = this.#host;
    const missing = (part: ReadPart) => manifests.get(namespace, part.name) === undefined;
    const names = parts.filter(missing).map(({ name }) => name);
    const fetched = await manifests.fetch(namespace, names);
    return parts.map((part) => {
      const view = manifests.get(namespace, part.name) ?? fetched.get(part.name);
      if (view === undefined) throw notFound(namespace, part.name);
      checkPart(part, view);
      return view;
    });
  }

  #readOnce(
    parts: readonly ReadPart[],
    views: readonly ObjectView[],
    options: ReadOptions,
  ): Promise<FailedPiece[]> {
    const { pieces } = this.#host;
    const { timeoutMs, priority } = options;
    const call = pieces.begin({ timeoutMs, priority, patient: false });
    for (let i = 0; i < parts.length; i++) this.#addPart(call, views[i]!, parts[i]!);
    return new Promise((resolve) => pieces.send(call, resolve));
  }

  #addPart(call: PieceCall, view: ObjectView, part: ReadPart): void {
    const { counters, pieces } = this.#host;
    counters.parts++;
    counters.bytes += part.bytes;
    const end = part.offset + part.bytes;
    for (let at = part.offset; at < end; ) {
      const bytes = Math.min(end - at, bytesToUnitEnd(view, at));
      const page = offsetInFragment(view, at) / CLUSTER_BYTES;
      const into = part.into + (at - part.offset);
      pieces.add(call, view, fragmentAt(view, at), page, bytes / CLUSTER_BYTES, into);
      at += bytes;
    }
  }

  /** What the first round left: moved fragments are read where they are now, others decoded. */
  async #recover(
    namespace: string,
    parts: readonly ReadPart[],
    failed: FailedPiece[],
    options: ReadOptions,
  ): Promise<void> {
    const { clock } = this.#host.world;
    const deadlineMs = clock.nowMs() + options.timeoutMs;
    this.#recheck(namespace, failed);
    const left = await this.#readMoved(namespace, failed, options);
    for (const { view, fragment, failure } of left) {
      if (failure !== Failure.Missing && failure !== Failure.Corrupt) continue;
      this.#host.onDamage(namespace, view.name, fragment);
    }
    if (left.length === 0) return;
    const { priority } = options;
    await decodePieces(this.#host, left, { parts, deadlineMs, priority });
  }

  /**
   * Pieces that the OSD does not have: reads the manifest again, and where it has changed, the
   * piece.
   */
  async #readMoved(
    namespace: string,
    failed: FailedPiece[],
    options: ReadOptions,
  ): Promise<FailedPiece[]> {
    const { manifests, pieces } = this.#host;
    const suspects = new Set<string>();
    for (const { view, failure } of failed) {
      if (failure === Failure.Missing || failure === Failure.Error) suspects.add(view.name);
    }
    if (suspects.size === 0) return failed;
    await manifests.refresh(namespace, [...suspects]);
    const left: FailedPiece[] = [];
    const call = pieces.begin({ ...options, patient: false });
    for (const piece of failed) {
      const { view, fragment, page, pages, into } = piece;
      const now = manifests.get(namespace, view.name);
      if (now === undefined && suspects.has(view.name)) throw this.#notFound(call, namespace, view);
      if (now === undefined || now.revision === view.revision) left.push(piece);
      else pieces.add(call, now, fragment, page, pages, into);
    }
    const again = await new Promise<FailedPiece[]>((resolve) => pieces.send(call, resolve));
    return [...left, ...again];
  }

  /**
   * Ends the call (its reads borrow the caller's memory no longer than the caller waits: none was
   * sent).
   */
  #notFound(call: PieceCall, namespace: string, view: ObjectView): StorageError {
    call.groups.length = 0;
    this.#host.pieces.send(call, () => undefined);
    return notFound(namespace, view.name);
  }

  /** In the background: a manifest that names silent OSDs may have changed since. */
  #recheck(namespace: string, failed: FailedPiece[]): void {
    const { manifests, world } = this.#host;
    const nowMs = world.clock.nowMs();
    const names: string[] = [];
    for (const { view, failure } of failed) {
      const key = `${namespace}/${view.name}`;
      if (failure !== Failure.Down || nowMs < (this.#rechecked.get(key) ?? 0)) continue;
      if (this.#rechecked.size > 10_000) this.#rechecked.clear();
      this.#rechecked.set(key, nowMs + RECHECK_MS);
      names.push(view.name);
    }
    if (names.length === 0) return;
    manifests.fetch(namespace, names).catch((error: unknown) => {
      if (!(error instanceof StorageError)) throw error;
      world.log.debug("cannot read manifests again", { reason: messageOf(error) });
    });
  }
}

function notFound(namespace: string, name: string): StorageError {
  return new StorageError("OVS_NOT_FOUND", `there is no object ${name} in ${namespace}`);
}

function checkPart(part: ReadPart, view: ObjectView): void {
  const { offset, bytes } = part;
  const isWhole = offset % CLUSTER_BYTES === 0 && bytes % CLUSTER_BYTES === 0;
  if (!isWhole || offset < 0 || bytes <= 0) {
    throw new StorageError("OVS_INVALID", `${bytes} bytes at ${offset} are not whole 4 KiB`);
  }
  if (offset + bytes > alignUp(view.rawBytes, CLUSTER_BYTES)) {
    throw new StorageError(
      "OVS_OUT_OF_RANGE",
      `${bytes} bytes at ${offset} lie behind the end of ${part.name} (${view.rawBytes} bytes)`,
    );
  }
}
