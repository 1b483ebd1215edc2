// SPDX-License-Identifier: Apache-2.0
// Namespaces: their creation, their fences and their end, and the cached view of one that an
// upload begins with. The view may be old: every commit compares what it was made from, so an old
// view costs a second try and never a wrong commit.

import { equalBytes } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import type { Clock, World } from "../platform/world.js";
import type { Compare, Registry } from "../registry/registry.js";
import {
  decodeNamespaceRecord,
  NamespaceState,
  packNamespaceRecord,
} from "../wire/generated/backend.js";
import { NAMESPACE_ID_BYTES } from "./keys.js";
import {
  checkNamespace,
  DELETING_PREFIX,
  fencePath,
  gcPath,
  infoPath,
  NAMESPACE_LIST_PREFIX,
  numberValue,
  presetPath,
  readNumber,
} from "./paths.js";
import { readAll } from "./records.js";

export const NAMESPACES_MAX = 100_000;
const VIEWS_MAX = 4096;
/** Younger than the time between two passes of garbage collection: seldom is an epoch over. */
const VIEW_AGE_MS = 120_000;

/** A namespace as an upload sees it. */
export interface NamespaceView {
  readonly namespace: string;
  readonly id: Uint8Array;
  readonly preset: string;
  /** Revision of its record: compared in every commit. */
  readonly infoRevision: number;
  /** Lowest valid upload epoch when this was read. */
  readonly gc: number;
}

/**
 * Upload epoch of an upload that begins with this view: valid until `gc` was raised twice (P-C6).
 */
export function uploadEpoch(view: NamespaceView): number {
  return view.gc + 1;
}

/** Holds while the owner's epoch is not fenced off (P-C5). */
export function fenceCompare(namespace: string, ownerEpoch: number): Compare {
  return {
    key: fencePath(namespace),
    target: "value",
    is: "<",
    value: numberValue(ownerEpoch + 1),
  };
}

/** Holds while uploads of that epoch may be committed (P-C6). */
export function epochCompare(namespace: string, epoch: number): Compare {
  return { key: gcPath(namespace), target: "value", is: "<", value: numberValue(epoch + 1) };
}

/** Cached views; one reading at a time for each namespace. */
export class Namespaces {
  readonly #registry: Registry;
  readonly #clock: Clock;
  readonly #views = new Map<string, { view: Promise<NamespaceView>; readMs: number }>();

  constructor(registry: Registry, clock: Clock) {
    this.#registry = registry;
    this.#clock = clock;
  }

  /** OVS_NOT_FOUND when there is no such namespace or it is being deleted. */
  get(namespace: string): Promise<NamespaceView> {
    const nowMs = this.#clock.nowMs();
    const known = this.#views.get(namespace);
    if (known !== undefined && nowMs - known.readMs < VIEW_AGE_MS) return known.view;
    const view = readView(this.#registry, namespace);
    if (this.#views.size >= VIEWS_MAX) this.#views.clear();
    this.#views.set(namespace, { view, readMs: nowMs });
    view.catch(() => this.#views.delete(namespace));
    return view;
  }

  /** The next `get` reads anew. */
  forget(namespace: string): void {
    this.#views.delete(namespace);
  }
}

async function readView(registry: Registry, namespace: string): Promise<NamespaceView> {
  checkNamespace(namespace);
  const { entries } = await registry.transact({
    compares: [],
    success: [
      { kind: "get", key: infoPath(namespace) },
      { kind: "get", key: gcPath(namespace) },
    ],
    failure: [],
  });
  const info = entries[0] ?? null;
  const gc = entries[1] ?? null;
  const record = info === null ? null : decodeNamespaceRecord(info.value);
  if (record === null || record.state !== NamespaceState.active || info === null) {
    throw new StorageError("OVS_NOT_FOUND", `there is no namespace ${namespace}`);
  }
  if (gc === null) throw new StorageError("OVS_CORRUPT", `namespace ${namespace} has no gc epoch`);
  return {
    namespace,
    id: record.id,
    preset: record.preset,
    infoRevision: info.modRevision,
    gc: readNumber(gc.value, gcPath(namespace)),
  };
}

/**
 * Creates a namespace, or raises the fence of one that exists. OVS_FENCED, OVS_BUSY while it is
 * being deleted.
 */
export async function createNamespace(
  registry: Registry,
  world: Pick<World, "clock" | "random">,
  namespace: string,
  options: { ownerEpoch: number; preset: string },
): Promise<void> {
  checkNamespace(namespace);
  const info = packNamespaceRecord({
    state: NamespaceState.active,
    id: world.random.bytes(NAMESPACE_ID_BYTES),
    createdMs: world.clock.wallMs(),
    preset: options.preset,
  });
  const { succeeded, entries } = await registry.transact({
    compares: [
      { key: infoPath(namespace), target: "version", is: "=", number: 0 },
      { key: presetPath(options.preset), target: "version", is: ">", number: 0 },
    ],
    success: [
      { kind: "put", key: infoPath(namespace), value: info },
      { kind: "put", key: fencePath(namespace), value: numberValue(options.ownerEpoch) },
      { kind: "put", key: gcPath(namespace), value: numberValue(0) },
      {
        kind: "put",
        key: `${NAMESPACE_LIST_PREFIX}${namespace}`,
        value: new Uint8Array(0),
      },
    ],
    failure: [{ kind: "get", key: infoPath(namespace) }],
  });
  if (succeeded) return;
  const old = entries[0] ?? null;
  if (old === null) {
    throw new StorageError("OVS_NOT_FOUND", `there is no preset "${options.preset}"`);
  }
  if (decodeNamespaceRecord(old.value).state !== NamespaceState.active) {
    throw new StorageError("OVS_BUSY", `namespace ${namespace} is still being deleted`);
  }
  await raiseFence(registry, namespace, options.ownerEpoch);
}

/**
 * Raises the fence; OVS_FENCED when it stands higher, OVS_NOT_FOUND without the namespace (P-C5).
 */
export async function raiseFence(
  registry: Registry,
  namespace: string,
  ownerEpoch: number,
): Promise<void> {
  checkNamespace(namespace);
  const key = fencePath(namespace);
  const value = numberValue(ownerEpoch);
  const { succeeded, entries } = await registry.transact({
    compares: [
      { key: infoPath(namespace), target: "version", is: ">", number: 0 },
      { key, target: "value", is: "<", value },
    ],
    success: [{ kind: "put", key, value }],
    failure: [{ kind: "get", key }],
  });
  if (succeeded) return;
  const fence = entries[0] ?? null;
  if (fence === null) throw new StorageError("OVS_NOT_FOUND", `there is no namespace ${namespace}`);
  if (equalBytes(fence.value, value)) return;
  throw fencedOff(namespace, ownerEpoch, fence.value);
}

/** The error of an owner whose time is over. */
export function fencedOff(namespace: string, ownerEpoch: number, fence: Uint8Array): StorageError {
  const stands = readNumber(fence, fencePath(namespace));
  return new StorageError(
    "OVS_FENCED",
    `namespace ${namespace} belongs to owner epoch ${stands}: ${ownerEpoch} may not change it`,
  );
}

/** From now on nothing is committed to the namespace; its removal may begin. Missing is fine. */
export async function markDeleting(
  registry: Registry,
  namespace: string,
  ownerEpoch: number,
): Promise<void> {
  checkNamespace(namespace);
  for (;;) {
    const info = await registry.get(infoPath(namespace));
    if (info === null) return;
    const record = decodeNamespaceRecord(info.value);
    if (record.state === NamespaceState.deleting) return;
    const value = packNamespaceRecord({ ...record, state: NamespaceState.deleting });
    const { succeeded, entries } = await registry.transact({
      compares: [
        { key: info.key, target: "modRevision", is: "=", number: info.modRevision },
        fenceCompare(namespace, ownerEpoch),
      ],
      success: [
        { kind: "put", key: info.key, value },
        { kind: "put", key: `${DELETING_PREFIX}${namespace}`, value: new Uint8Array(0) },
      ],
      failure: [{ kind: "get", key: fencePath(namespace) }],
    });
    if (succeeded) return;
    const fence = entries[0] ?? null;
    if (fence !== null && readNumber(fence.value, fence.key) > ownerEpoch) {
      throw fencedOff(namespace, ownerEpoch, fence.value);
    }
  }
}

/** Names of all namespaces. */
export async function listNamespaces(registry: Registry): Promise<string[]> {
  const { entries } = await readAll(registry, NAMESPACE_LIST_PREFIX, NAMESPACES_MAX);
  return entries.map((entry) => entry.key.slice(NAMESPACE_LIST_PREFIX.length));
}
