// SPDX-License-Identifier: Apache-2.0
// Commits: the one registry transaction that makes an object exist, changes where its fragments
// are, or ends it. A transaction with unknown outcome is never taken for either: the same
// transaction is sent again until an answer comes (P-B1). That settles it, because all its compares
// stay false once they are (a fence and a gc epoch only grow, revisions never come back, names are
// not reused): a delayed first one can do nothing any more after the second was refused. Compares
// that a caller adds must be of that kind too.

import { equalBytes } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import type { World } from "../platform/world.js";
import {
  type Compare,
  fixedNumber,
  type Operation,
  REGISTRY_COMPARES_MAX,
  REGISTRY_OPERATIONS_MAX,
  type Registry,
  type RegistryEntry,
  type Transaction,
  type TransactionResult,
} from "../registry/registry.js";
import { decodeNamespaceRecord, NamespaceState } from "../wire/generated/backend.js";
import { type Manifest, packManifest } from "../wire/generated/manifest.js";
import { missingFragments, readManifest } from "./manifests.js";
import { epochCompare, fenceCompare, fencedOff } from "./namespaces.js";
import {
  fencePath,
  gcPath,
  infoPath,
  objectPath,
  objectsPrefix,
  readNumber,
  trashPath,
  widthPath,
} from "./paths.js";
import type { CommitExtras } from "./store.js";

const RETRY_MS_MIN = 20;
const RETRY_MS_MAX = 1000;
const REMOVALS_MAX = 30;
const REMOVE_TRIES_MAX = 20;
const NOTHING = new Uint8Array(0);

/** Sends a transaction until its outcome is known. `giveUp` ends the waiting with OVS_CLOSED. */
export async function transactSettled(
  registry: Registry,
  world: Pick<World, "clock" | "log">,
  transaction: Transaction,
  giveUp: () => boolean,
): Promise<TransactionResult & { repeated: boolean }> {
  let delayMs = RETRY_MS_MIN;
  for (let repeated = false; ; repeated = true) {
    try {
      return { ...(await registry.transact(transaction)), repeated };
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      // Full and refused ones were not applied; but only the first can say so of itself alone.
      const unknown = error.kind === "unavailable" || error.kind === "closed" || repeated;
      if (!unknown) throw error;
      if (giveUp()) {
        throw new StorageError("OVS_CLOSED", "ended before a commit's outcome was known", {
          cause: error,
        });
      }
      world.log.warn("a commit's outcome is unknown, asking again", { reason: error.message });
    }
    await world.clock.sleep(delayMs);
    delayMs = Math.min(2 * delayMs, RETRY_MS_MAX);
  }
}

export interface ObjectCommit {
  namespace: string;
  name: string;
  manifest: Manifest;
  /** Revision of the namespace's record that the upload began with. */
  infoRevision: number;
  extras: CommitExtras;
}

export type CommitOutcome =
  | { kind: "done"; revision: number; manifest: Manifest; mine: boolean }
  /** The upload's epoch is over: its marks may be collected. All must be uploaded anew. */
  | { kind: "stale-epoch" }
  /** The namespace's record has changed: read it and commit again. */
  | { kind: "stale-info" };

/**
 * Makes the object exist. OVS_FENCED (fence or a compare of `extras`), OVS_EXISTS, OVS_NOT_FOUND
 * (namespace), OVS_FULL; outcomes are settled inside. An object that has the manifest's upload id
 * already is this very upload, committed by another proxy or by a lost first try.
 */
export async function commitObject(
  registry: Registry,
  world: Pick<World, "clock" | "log">,
  commit: ObjectCommit,
  giveUp: () => boolean,
): Promise<CommitOutcome> {
  const { namespace, name, manifest, extras } = commit;
  const info = infoPath(namespace);
  const object = objectPath(namespace, name);
  const lacking = missingFragments(manifest).length > 0;
  const result = await transactSettled(
    registry,
    world,
    {
      compares: [
        { key: object, target: "version", is: "=", number: 0 },
        { key: info, target: "modRevision", is: "=", number: commit.infoRevision },
        fenceCompare(namespace, manifest.ownerEpoch),
        epochCompare(namespace, manifest.gcEpoch),
        ...extras.compares,
      ],
      success: [
        { kind: "put", key: object, value: packManifest(manifest) },
        // P-A10: whoever repairs finds it, also when this process dies now.
        ...(lacking ? [widthPut(namespace, name)] : []),
        ...extras.operations,
      ],
      failure: [object, info, fencePath(namespace), gcPath(namespace)].map((key) => ({
        kind: "get",
        key,
      })),
    },
    giveUp,
  );
  if (result.succeeded) return { kind: "done", revision: result.revision, manifest, mine: true };
  return refusal(commit, result.entries);
}

function refusal(commit: ObjectCommit, entries: Array<RegistryEntry | null>): CommitOutcome {
  const { namespace, name, manifest } = commit;
  const [object, info, fence, gc] = entries as [
    RegistryEntry | null,
    RegistryEntry | null,
    RegistryEntry | null,
    RegistryEntry | null,
  ];
  if (object !== null) {
    const there = readManifest(object);
    if (equalBytes(there.uploadId, manifest.uploadId)) {
      const mine = equalBytes(there.objectId, manifest.objectId);
      return { kind: "done", revision: object.createRevision, manifest: there, mine };
    }
    throw new StorageError("OVS_EXISTS", `object ${name} exists already in ${namespace}`);
  }
  if (info === null || decodeNamespaceRecord(info.value).state !== NamespaceState.active) {
    throw new StorageError("OVS_NOT_FOUND", `there is no namespace ${namespace}`);
  }
  if (fence !== null && readNumber(fence.value, fence.key) > manifest.ownerEpoch) {
    throw fencedOff(namespace, manifest.ownerEpoch, fence.value);
  }
  if (gc !== null && readNumber(gc.value, gc.key) > manifest.gcEpoch)
    return { kind: "stale-epoch" };
  if (info.modRevision !== commit.infoRevision) return { kind: "stale-info" };
  throw new StorageError(
    "OVS_FENCED",
    `the commit of ${name} in ${namespace} was refused: a condition of its owner does not hold`,
  );
}

export interface ManifestChange {
  namespace: string;
  name: string;
  /** Revision of the manifest that this replaces. */
  revision: number;
  manifest: Manifest;
  /** Upload epoch of the marks of the new fragments. */
  epoch: number;
  /** What the old manifest named and the new one does not: fragments to remove. */
  removed: ReadonlyArray<{ f: number; osd: number; version: number }>;
}

/**
 * Replaces a manifest; null when it has changed, is gone, or the epoch is over: the loser's
 * fragments are garbage (P-C6). Removes the object from the list of those that lack width when it
 * lacks none.
 */
export async function changeManifest(
  registry: Registry,
  world: Pick<World, "clock" | "log">,
  change: ManifestChange,
  giveUp: () => boolean,
): Promise<number | null> {
  const { namespace, name, revision, manifest, epoch, removed } = change;
  const key = objectPath(namespace, name);
  const value = packManifest(manifest);
  const lacking = missingFragments(manifest).length > 0;
  const result = await transactSettled(
    registry,
    world,
    {
      compares: [
        { key, target: "modRevision", is: "=", number: revision },
        epochCompare(namespace, epoch),
      ],
      success: [
        { kind: "put", key, value },
        lacking ? widthPut(namespace, name) : { kind: "delete", key: widthPath(namespace, name) },
        ...(removed.length > 0 ? [trashOf(change)] : []),
      ],
      failure: [{ kind: "get", key }],
    },
    giveUp,
  );
  if (result.succeeded) return result.revision;
  const there = result.entries[0] ?? null;
  // A lost first try that was applied after all.
  if (there !== null && result.repeated && equalBytes(there.value, value)) return there.modRevision;
  return null;
}

/** Puts the object on the list of those that repair looks at. */
export function widthPut(namespace: string, name: string): Operation {
  return { kind: "put", key: widthPath(namespace, name), value: NOTHING };
}

/** The record of fragments that a change leaves behind, on OSDs that may be away for long. */
function trashOf({ namespace, revision, manifest, removed }: ManifestChange): Operation {
  const fragments = manifest.fragments.map(() => ({ osd: 0, version: 0 }));
  for (const { f, osd, version } of removed) fragments[f] = { osd, version };
  return {
    kind: "put",
    key: trashPath(namespace, manifest.objectId, fixedNumber(revision)),
    value: packManifest({ ...manifest, fragments }),
  };
}

export interface Removal {
  namespace: string;
  names: readonly string[];
  ownerEpoch: number;
  extras: CommitExtras;
}

/**
 * Deletes objects under the owner's fence; missing ones are fine. Compares of `extras` join every
 * transaction, operations the last one. OVS_FENCED as commitObject. What is deleted when it fails
 * in the middle stays deleted.
 */
export async function removeObjects(
  registry: Registry,
  world: Pick<World, "clock" | "log">,
  removal: Removal,
  giveUp: () => boolean,
): Promise<void> {
  const { names, extras } = removal;
  // Each object takes a compare and three operations; a fence and the extras come on top.
  const room = REGISTRY_OPERATIONS_MAX - extras.operations.length;
  const compares = REGISTRY_COMPARES_MAX - 1 - extras.compares.length;
  const each = Math.max(1, Math.min(REMOVALS_MAX, compares, Math.floor(room / 3)));
  for (let at = 0; at === 0 || at < names.length; at += each) {
    const some = names.slice(at, at + each);
    const isLast = at + each >= names.length;
    const operations = isLast ? extras.operations : [];
    await removeSome(
      registry,
      world,
      { ...removal, names: some, extras: { ...extras, operations } },
      giveUp,
    );
  }
}

async function removeSome(
  registry: Registry,
  world: Pick<World, "clock" | "log">,
  removal: Removal,
  giveUp: () => boolean,
): Promise<void> {
  const { namespace, names, ownerEpoch, extras } = removal;
  for (let tries = 0; tries < REMOVE_TRIES_MAX; tries++) {
    const found = await readObjects(registry, namespace, names);
    const { succeeded, entries, repeated } = await transactSettled(
      registry,
      world,
      {
        compares: [
          fenceCompare(namespace, ownerEpoch),
          ...found.map(({ key, modRevision }) => unchanged(key, modRevision)),
          ...extras.compares,
        ],
        success: [...found.flatMap((entry) => removalOf(namespace, entry)), ...extras.operations],
        failure: [{ kind: "get", key: fencePath(namespace) }],
      },
      giveUp,
    );
    if (succeeded) return;
    const fence = entries[0] ?? null;
    if (fence === null)
      throw new StorageError("OVS_NOT_FOUND", `there is no namespace ${namespace}`);
    if (readNumber(fence.value, fence.key) > ownerEpoch) {
      throw fencedOff(namespace, ownerEpoch, fence.value);
    }
    const now = await readObjects(registry, namespace, names);
    // A lost first try that was applied after all: then none is left.
    if (repeated && found.length > 0 && now.length === 0) return;
    const isSame = now.every((entry, i) => entry.modRevision === found[i]?.modRevision);
    if (isSame && now.length === found.length) {
      throw new StorageError(
        "OVS_FENCED",
        `the removal from ${namespace} was refused: a condition of its owner does not hold`,
      );
    }
  }
  throw new StorageError(
    "OVS_CONFLICT",
    `objects of ${namespace} keep changing under their removal`,
  );
}

async function readObjects(
  registry: Registry,
  namespace: string,
  names: readonly string[],
): Promise<RegistryEntry[]> {
  if (names.length === 0) return [];
  const { entries } = await registry.transact({
    compares: [],
    success: names.map((name) => ({ kind: "get", key: objectPath(namespace, name) })),
    failure: [],
  });
  return entries.filter((entry) => entry !== null);
}

const unchanged = (key: string, number: number): Compare => {
  return { key, target: "modRevision", is: "=", number };
};

/** Deletes an object: its manifest becomes the record of what is still to be removed from OSDs. */
export function removalOf(namespace: string, entry: RegistryEntry): Operation[] {
  const name = entry.key.slice(objectsPrefix(namespace).length);
  const { objectId } = readManifest(entry);
  return [
    { kind: "delete", key: entry.key },
    { kind: "delete", key: widthPath(namespace, name) },
    { kind: "put", key: trashPath(namespace, objectId, "all"), value: entry.value },
  ];
}
