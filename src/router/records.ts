// SPDX-License-Identifier: Apache-2.0
// vDisks in the registry: their keys and records, and the transactions that change them.
//
//   /cluster                 whose registry this is
//   /vdisk-name/<name>       the vDisk's id: makes names unique
//   /vdisk/<id>/record       name, size, namespace
//   /vdisk/<id>/owner        router, incarnation, epoch, state: changes by compare only (P-C1)
//   /router/<id>/alive       incarnation, on the router's lease

import { assert } from "../base/assert.js";
import { equalBytes, formatUuid, parseUuid } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import type { Clock, World } from "../platform/world.js";
import type { Registry, RegistryEntry } from "../registry/registry.js";
import { type Change, type Settled, settle } from "../registry/settle.js";
import {
  decodeRouterAlive,
  decodeVdiskOwner,
  decodeVdiskRecord,
  OwnerContent,
  OwnerState,
  packRouterAlive,
  packVdiskOwner,
  packVdiskRecord,
  type RouterAlive,
  type VdiskOwner,
  type VdiskRecord,
} from "../wire/generated/vdisk.js";

const VDISKS_PREFIX = "/vdisk/";
const PAGE = 256;

/** Key under which a vDisk's name leads to its id; names are taken by it. */
export const nameKey = (name: string): string => `/vdisk-name/${name}`;
/** Key of a vDisk's record. */
export const recordKey = (id: string): string => `${VDISKS_PREFIX}${id}/record`;
/** Key of a vDisk's owner record (P-C1). */
export const ownerKey = (id: string): string => `${VDISKS_PREFIX}${id}/owner`;
/** Key of a router's incarnation; the only one on its lease (P-C1). */
export const aliveKey = (router: string): string => `/router/${router}/alive`;

/** A vDisk's record, as it was read or written. Plain values: is posted between threads. */
export interface Vdisk {
  /** Uuid text. */
  id: string;
  record: VdiskRecord;
  /** What the registry has, for compares. */
  entry: RegistryEntry;
}

/** An owner record, as it was read or written. */
export interface Owner {
  value: VdiskOwner;
  revision: number;
}

/** Bytes of `/router/<id>/alive`. */
export function encodeAlive(incarnation: Uint8Array, address: string): Uint8Array {
  return packRouterAlive({ incarnation, address });
}

function toVdisk(id: string, entry: RegistryEntry): Vdisk {
  const record = decodeVdiskRecord(entry.value);
  return { id, record, entry };
}

/** All vDisks, in order of their ids. */
export async function listVdisks(registry: Registry): Promise<Vdisk[]> {
  const vdisks: Vdisk[] = [];
  let after: string | undefined;
  for (;;) {
    const page = await registry.range(VDISKS_PREFIX, { after, limit: PAGE });
    for (const entry of page.entries) {
      after = entry.key;
      const [, , id, leaf] = entry.key.split("/");
      if (leaf === "record" && id !== undefined) vdisks.push(toVdisk(id, entry));
    }
    if (!page.more) return vdisks;
  }
}

/** One vDisk; OVS_NOT_FOUND when it is gone. */
export async function readVdisk(registry: Registry, id: string): Promise<Vdisk> {
  const entry = await registry.get(recordKey(id));
  if (!entry) throw new StorageError("OVS_NOT_FOUND", `there is no vDisk with the id ${id}`);
  return toVdisk(id, entry);
}

/** How long the outcome of a change is looked for. */
const SETTLE_MS = 60_000;
const SETTLE_PAUSE_MS = 100;

/**
 * Creates a vDisk's records. OVS_EXISTS when the name is taken; OVS_TIMEOUT when the registry could
 * not tell in a minute whether it was created.
 */
export async function createVdisk(
  world: Pick<World, "clock" | "random">,
  registry: Registry,
  options: { name: string; sizeBytes: number; scoBytes: number; createdMs: number },
): Promise<Vdisk> {
  const bytes = world.random.bytes(16);
  const id = formatUuid(bytes);
  const record: VdiskRecord = {
    vdisk: bytes,
    sizeBytes: options.sizeBytes,
    scoBytes: options.scoBytes,
    createdMs: options.createdMs,
    name: options.name,
    namespace: id,
  };
  const value = packVdiskRecord(record);
  const key = recordKey(id);
  // P-B1: the id is new, so that the key of the name shows whose transaction was carried out.
  const change: Change = {
    key: nameKey(options.name),
    expected: null,
    value: bytes,
    operations: [{ kind: "put", key, value }],
  };
  const { outcome, entry } = await settleChange(world.clock, registry, change);
  if (outcome !== "applied" || entry === null) {
    throw new StorageError("OVS_EXISTS", `there is a vDisk ${options.name} already`);
  }
  const { createRevision, modRevision, version, lease } = entry;
  return { id, record, entry: { key, value, createRevision, modRevision, version, lease } };
}

/**
 * Sees that the record says at least `sizeBytes`; resolves with the record. Only the owner does
 * this. OVS_TIMEOUT when the registry could not tell in a minute whether it was changed.
 */
export async function growRecord(
  world: Pick<World, "clock">,
  registry: Registry,
  vdisk: Vdisk,
  sizeBytes: number,
): Promise<Vdisk> {
  let now = vdisk;
  while (now.record.sizeBytes < sizeBytes) {
    const record = { ...now.record, sizeBytes };
    // Sizes only grow, so that the value is one that was never there (P-B1).
    const value = packVdiskRecord(record);
    const change: Change = { key: recordKey(vdisk.id), expected: now.entry, value };
    const { outcome, entry } = await settleChange(world.clock, registry, change);
    if (entry === null) {
      throw new StorageError("OVS_NOT_FOUND", `${vdisk.record.name} was deleted meanwhile`);
    }
    now = outcome === "applied" ? { id: vdisk.id, record, entry } : toVdisk(vdisk.id, entry);
  }
  return now;
}

async function settleChange(clock: Clock, registry: Registry, change: Change): Promise<Settled> {
  return await settle(clock, registry, change, {
    deadlineMs: clock.nowMs() + SETTLE_MS,
    pauseMs: SETTLE_PAUSE_MS,
  });
}

/**
 * Removes the records of a vDisk that was claimed for its deletion; its name is free then.
 * OVS_FENCED when the claim stands no more. Can be called again when the outcome is unknown: once
 * the owner's record is gone its compare never holds again.
 */
export async function deleteVdisk(registry: Registry, vdisk: Vdisk, claim: Owner): Promise<void> {
  assert(claim.value.state === OwnerState.deleting, "it was claimed for its deletion");
  const key = ownerKey(vdisk.id);
  const { succeeded, entries } = await registry.transact({
    compares: [{ key, target: "modRevision", is: "=", number: claim.revision }],
    success: [
      { kind: "delete", key: nameKey(vdisk.record.name) },
      { kind: "delete", key: recordKey(vdisk.id) },
      { kind: "delete", key },
    ],
    failure: [{ kind: "get", key }],
  });
  if (succeeded || (entries[0] ?? null) === null) return;
  throw new StorageError("OVS_FENCED", `${vdisk.record.name} was claimed by another meanwhile`);
}

/** The owner record; null for a vDisk that nobody ever served. */
export async function readOwner(registry: Registry, id: string): Promise<Owner | null> {
  const entry = await registry.get(ownerKey(id));
  if (!entry) return null;
  const value = decodeVdiskOwner(entry.value);
  return { value, revision: entry.modRevision };
}

/** Who claims a vDisk, and what for. One whose deletion was begun is claimed for nothing else. */
export interface Claimer {
  router: string;
  incarnation: Uint8Array;
  purpose: "serve" | "delete";
}

/**
 * Claims a vDisk for this life of a router, with an epoch above every earlier one (P-A4). The old
 * owner's record is unchanged and its life is over, compared in the same transaction (P-C1).
 * Resolves with the claim and the record that was replaced, or with null when it is to be served
 * and is being deleted. OVS_BUSY: its owner is alive. An unknown outcome is settled by the next
 * claim, which finds it applied or changes the key that it compares (P-B1).
 */
export async function claimVdisk(
  registry: Registry,
  id: string,
  { router, incarnation, purpose }: Claimer,
): Promise<{ claim: Owner; before: VdiskOwner | null } | null> {
  const old = await readOwner(registry, id);
  if (purpose === "serve" && old?.value.state === OwnerState.deleting) return null;
  const value: VdiskOwner = {
    epoch: (old?.value.epoch ?? 0) + 1,
    incarnation,
    state: purpose === "serve" ? OwnerState.recovering : OwnerState.deleting,
    // Nothing is written between claim and service, so a clean vDisk stays clean.
    content: old?.value.content ?? OwnerContent.clean,
    router,
  };
  const key = ownerKey(id);
  const mine = old !== null && equalBytes(old.value.incarnation, incarnation);
  const alive = old !== null && !mine ? await registry.get(aliveKey(old.value.router)) : null;
  if (old && alive && equalBytes(decodeAlive(alive).incarnation, old.value.incarnation)) {
    throw new StorageError("OVS_BUSY", `router ${old.value.router} serves this vDisk and is alive`);
  }
  const result = await registry.transact({
    compares: [
      { key, target: "modRevision", is: "=", number: old?.revision ?? 0 },
      // Nobody owns what is deleted.
      { key: recordKey(id), target: "version", is: ">", number: 0 },
      // The key is absent, or it is the very one of another life that was read above.
      ...(old && !mine
        ? [
            {
              key: aliveKey(old.value.router),
              target: "modRevision" as const,
              is: "=" as const,
              number: alive?.modRevision ?? 0,
            },
          ]
        : []),
    ],
    success: [{ kind: "put", key, value: packVdiskOwner(value) }],
    failure: [],
  });
  if (!result.succeeded)
    throw new StorageError("OVS_CONFLICT", "another router claimed it meanwhile");
  return { claim: { value, revision: result.revision }, before: old?.value ?? null };
}

function decodeAlive(entry: RegistryEntry): RouterAlive {
  return decodeRouterAlive(entry.value);
}

/** The part of an owner record that its owner changes while it serves. */
export type OwnerChange = Partial<Pick<VdiskOwner, "state" | "content">>;

/**
 * Changes the owner's own record. OVS_FENCED when it is not ours any more. An outcome that is
 * unknown (OVS_TIMEOUT, OVS_UNAVAILABLE) is settled by calling again with the same change: only
 * this owner writes the key while the claim stands (P-B1).
 */
export async function changeOwner(
  registry: Registry,
  id: string,
  owner: Owner,
  change: OwnerChange,
): Promise<Owner> {
  const key = ownerKey(id);
  const value: VdiskOwner = { ...owner.value, ...change };
  const result = await registry.transact({
    compares: [{ key, target: "modRevision", is: "=", number: owner.revision }],
    success: [{ kind: "put", key, value: packVdiskOwner(value) }],
    failure: [{ kind: "get", key }],
  });
  if (result.succeeded) return { value, revision: result.revision };
  const entry = result.entries[0];
  const now = entry ? decodeVdiskOwner(entry.value) : null;
  if (entry && now && now.epoch === value.epoch && equalBytes(now.incarnation, value.incarnation)) {
    return await changeOwner(registry, id, { value: now, revision: entry.modRevision }, change);
  }
  throw new StorageError("OVS_FENCED", "a newer owner has claimed this vDisk");
}

/** Bytes of a vDisk's id. */
export function idBytes(id: string): Uint8Array {
  return parseUuid(id);
}
