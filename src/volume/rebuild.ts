// SPDX-License-Identifier: Apache-2.0
// Brings the map of a vDisk to the end of its chain of TLogs (P-A9): by the TLogs after its mark,
// or, when there is no map, or one that is not on the chain, from the last checkpoint and all TLogs
// after it. Needs nothing but the backend.

import type { ObjectInfo, ObjectStore } from "../backend/store.js";
import { equalBytes } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import type { KvStore } from "../platform/kv.js";
import type { Checkpoint, MapMark } from "../wire/generated/map.js";
import { decodeCheckpoint } from "../wire/generated/map.js";
import type { Tlog } from "../wire/generated/tlog.js";
import { decodeTlog } from "../wire/generated/tlog.js";
import type { VolumeMap } from "./map.js";
import { CHECKPOINT_PREFIX, numberOf, TLOG_PREFIX, tlogName } from "./names.js";
import { listAll, readObject } from "./objects.js";
import type { VolumeThread } from "./thread.js";

const BATCH_BYTES = 1024 * 1024;

export interface RebuildParts {
  thread: VolumeThread;
  kv: KvStore;
  store: ObjectStore;
  namespace: string;
  name: string;
  vdiskId: Uint8Array;
  map: VolumeMap;
  /** Mark of a map that has nothing in it. */
  empty: MapMark;
}

/**
 * Brings the map to the last TLog. Resolves with whether the stored one was damaged. Throws
 * OVS_CORRUPT when the chain has a gap.
 */
export async function catchUp(parts: RebuildParts): Promise<{ wasDamaged: boolean }> {
  const { map, store, namespace, thread } = parts;
  const loaded = await loadMap(map);
  const isLoaded = loaded === "loaded";
  if (!isLoaded || !(await isOnChain(parts))) await fromCheckpoint(parts, isLoaded);
  const first = map.mark.tlogNumber;
  const objects = await listAll(
    store,
    namespace,
    TLOG_PREFIX,
    first === 0 ? undefined : tlogName(first),
  );
  for (const object of objects) await map.apply(await readTlog(parts, object));
  if (map.mark.tlogNumber > first) {
    const fields = { vdisk: parts.name, from: first, to: map.mark.tlogNumber };
    thread.world.log.info("the map was brought up by TLogs", fields);
  }
  return { wasDamaged: loaded === "damaged" };
}

async function loadMap(map: VolumeMap): Promise<"loaded" | "missing" | "damaged"> {
  try {
    return (await map.load()) ? "loaded" : "missing";
  } catch (error) {
    if (error instanceof StorageError && error.kind === "corrupt") return "damaged";
    throw error;
  }
}

/**
 * Whether the TLog of the map's mark is the one that the backend has, and those after it are there.
 */
async function isOnChain(parts: RebuildParts): Promise<boolean> {
  const { map, store, namespace } = parts;
  const { tlogNumber, tlogEpoch } = map.mark;
  const objects = await listAll(store, namespace, TLOG_PREFIX);
  const first = objects.length > 0 ? numberOf(objects[0]!.name, TLOG_PREFIX) : 0;
  if (tlogNumber === 0) return first <= 1;
  const own = objects.find((object) => object.name === tlogName(tlogNumber));
  if (own !== undefined) return (await readTlog(parts, own)).ownerEpoch === tlogEpoch;
  // Its TLog went with a checkpoint: then the chain goes on right behind it, or ended there.
  if (first !== 0) return first === tlogNumber + 1;
  const checkpoint = await lastCheckpoint(parts);
  return checkpoint?.tlogNumber === tlogNumber && checkpoint.tlogEpoch === tlogEpoch;
}

async function readTlog(parts: RebuildParts, object: ObjectInfo): Promise<Tlog> {
  const number = numberOf(object.name, TLOG_PREFIX);
  const tlog = decodeTlog(await readObject(parts.thread, parts.store, parts.namespace, object));
  if (tlog.number !== number || !equalBytes(tlog.vdiskUuid, parts.vdiskId)) {
    throw new StorageError("OVS_CORRUPT", `${object.name} of ${parts.name} is another TLog`);
  }
  if (parts.map.mark.tlogNumber < number - 1) {
    throw new StorageError(
      "OVS_CORRUPT",
      `${parts.name} has no TLog ${parts.map.mark.tlogNumber + 1}, but ${number}`,
    );
  }
  return tlog;
}

/** Empties the map and fills it from the last checkpoint; without one it begins empty. */
async function fromCheckpoint(parts: RebuildParts, had: boolean): Promise<void> {
  const { map, thread, empty } = parts;
  await map.wipe();
  map.mark = empty;
  const last = await lastCheckpoint(parts);
  if (had || last !== null)
    thread.world.log.warn("the map is rebuilt from the backend", {
      vdisk: parts.name,
      checkpoint: last?.tlogNumber ?? 0,
      reason: had ? "its mark is not on the chain" : "there was none",
    });
  if (last === null) return;
  for (const part of last.parts) {
    const checkpoint = await readCheckpoint(parts, part);
    for (const sco of checkpoint.scos) map.scos.extend(sco.scoId, sco.total);
    await restorePages(parts, checkpoint);
  }
  await map.restored({
    ...empty,
    tlogNumber: last.tlogNumber,
    tlogEpoch: last.tlogEpoch,
    sequence: last.content.sequence,
    sequenceEpoch: last.content.sequenceEpoch,
    sizeBytes: last.content.sizeBytes,
    checkpointNumber: last.tlogNumber,
    scoIdLast: last.content.scoIdLast,
  });
}

async function restorePages(parts: RebuildParts, checkpoint: Checkpoint): Promise<void> {
  let batch = parts.kv.batch();
  for (const page of checkpoint.pages) {
    parts.map.restorePage(batch, page.level, page.index, page.content);
    if (batch.bytes < BATCH_BYTES) continue;
    await parts.kv.write(batch, { sync: false });
    batch = parts.kv.batch();
  }
  await parts.kv.write(batch, { sync: false });
}

interface FoundCheckpoint {
  tlogNumber: number;
  tlogEpoch: number;
  parts: ObjectInfo[];
  /** Its last part. */
  content: Checkpoint;
}

/** The newest checkpoint that is complete: its last part, which is put last, is there. */
async function lastCheckpoint(parts: RebuildParts): Promise<FoundCheckpoint | null> {
  const objects = await listAll(parts.store, parts.namespace, CHECKPOINT_PREFIX);
  const byNumber = new Map<number, ObjectInfo[]>();
  for (const object of objects) {
    const number = numberOf(object.name, CHECKPOINT_PREFIX);
    byNumber.set(number, [...(byNumber.get(number) ?? []), object]);
  }
  for (const number of [...byNumber.keys()].sort((a, b) => b - a)) {
    const list = byNumber.get(number)!;
    const content = await readCheckpoint(parts, list[list.length - 1]!);
    if (content.isLast === 1 && content.part === list.length - 1 && content.tlogNumber === number) {
      return { tlogNumber: number, tlogEpoch: content.tlogEpoch, parts: list, content };
    }
  }
  return null;
}

async function readCheckpoint(parts: RebuildParts, object: ObjectInfo): Promise<Checkpoint> {
  const checkpoint = decodeCheckpoint(
    await readObject(parts.thread, parts.store, parts.namespace, object),
  );
  if (!equalBytes(checkpoint.vdiskUuid, parts.vdiskId)) {
    throw new StorageError("OVS_CORRUPT", `${object.name} of ${parts.name} is of another vDisk`);
  }
  return checkpoint;
}
