// SPDX-License-Identifier: Apache-2.0
// vDisks in the registry: their keys and records, and the transactions that change them.
//
//   /cluster                 whose registry this is
//   /vdisk-name/<name>       the vDisk's id: makes names unique
//   /vdisk/<id>/record       name, size, namespace
//   /vdisk/<id>/owner        router, incarnation, epoch, state: changes by compare only (P-C1)
//   /router/<id>/alive       incarnation, on the router's lease

import { equalBytes, formatUuid, parseUuid } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import type { Random } from "../platform/world.js";
import type { Registry, RegistryEntry } from "../registry/registry.js";
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

export const nameKey = (name: string): string => `/vdisk-name/${name}`;
export const recordKey = (id: string): string => `${VDISKS_PREFIX}${id}/record`;
export const ownerKey = (id: string): string => `${VDISKS_PREFIX}${id}/owner`;
export const aliveKey = (router: string): string => `/router/${router}/alive`;

/** A vDisk's record, as it was read. */
export interface Vdisk {
  /** Uuid text. */
  id: string;
  record: VdiskRecord;
  revision: number;
}

/** An owner record, as it was read or written. */
export interface Owner {
  value: VdiskOwner;
  revision: number;
}

/** The value of the key that says that a router's incarnation is alive (P-C1). */
/** Bytes of `/router/<id>/alive`. */
export function encodeAlive(incarnation: Uint8Array, address: string): Uint8Array {
  return packRouterAlive({ incarnation, address });
}

function toVdisk(id: string, entry: RegistryEntry): Vdisk {
  const record = decodeVdiskRecord(entry.value);
  return { id, record, revision: entry.modRevision };
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

/** Creates a vDisk's records. OVS_EXISTS when the name is taken. */
export async function createVdisk(
  registry: Registry,
  random: Random,
  options: { name: string; sizeBytes: number; scoBytes: number; createdMs: number },
): Promise<Vdisk> {
  const bytes = random.bytes(16);
  const id = formatUuid(bytes);
  const record: VdiskRecord = {
    vdisk: bytes,
    sizeBytes: options.sizeBytes,
    scoBytes: options.scoBytes,
    createdMs: options.createdMs,
    name: options.name,
    namespace: id,
  };
  const result = await registry.transact({
    compares: [{ key: nameKey(options.name), target: "version", is: "=", number: 0 }],
    success: [
      { kind: "put", key: nameKey(options.name), value: bytes },
      { kind: "put", key: recordKey(id), value: packVdiskRecord(record) },
    ],
    failure: [],
  });
  if (!result.succeeded) {
    throw new StorageError("OVS_EXISTS", `there is a vDisk ${options.name} already`);
  }
  return { id, record, revision: result.revision };
}

/** Records a new size. OVS_CONFLICT when somebody else changed the record meanwhile. */
export async function resizeVdisk(
  registry: Registry,
  vdisk: Vdisk,
  sizeBytes: number,
): Promise<Vdisk> {
  const record = { ...vdisk.record, sizeBytes };
  const key = recordKey(vdisk.id);
  const result = await registry.transact({
    compares: [{ key, target: "modRevision", is: "=", number: vdisk.revision }],
    success: [{ kind: "put", key, value: packVdiskRecord(record) }],
    failure: [],
  });
  if (!result.succeeded) {
    throw new StorageError("OVS_CONFLICT", `${vdisk.record.name} was changed meanwhile: try again`);
  }
  return { id: vdisk.id, record, revision: result.revision };
}

/** Removes a vDisk's records; its name is free then. */
export async function deleteVdisk(registry: Registry, vdisk: Vdisk): Promise<void> {
  await registry.transact({
    compares: [],
    success: [
      { kind: "delete", key: nameKey(vdisk.record.name) },
      { kind: "delete", key: recordKey(vdisk.id) },
      { kind: "delete", key: ownerKey(vdisk.id) },
    ],
    failure: [],
  });
}

/** The owner record; null for a vDisk that nobody ever served. */
export async function readOwner(registry: Registry, id: string): Promise<Owner | null> {
  const entry = await registry.get(ownerKey(id));
  if (!entry) return null;
  const value = decodeVdiskOwner(entry.value);
  return { value, revision: entry.modRevision };
}

/**
 * Claims a vDisk for this life of a router, with an epoch above every earlier one (P-A4). The old
 * owner's record is unchanged and its life is over, compared in the same transaction (P-C1).
 * Resolves with the claim and the record that was replaced. OVS_BUSY: its owner is alive.
 */
export async function claimVdisk(
  registry: Registry,
  id: string,
  router: string,
  incarnation: Uint8Array,
): Promise<{ claim: Owner; before: VdiskOwner | null }> {
  const old = await readOwner(registry, id);
  const value: VdiskOwner = {
    epoch: (old?.value.epoch ?? 0) + 1,
    incarnation,
    state: OwnerState.recovering,
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
