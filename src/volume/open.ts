// SPDX-License-Identifier: Apache-2.0
// Opening a vDisk on a thread: fence, map, journal, then service. The caller has claimed the epoch
// in the registry before (P-A4), and admits requests only after this returns.
//
//   fence (P-C5) ─► map up to the last TLog (P-A9) ─► journal replayed (P-A3) ─► new segment ─►
// serve

import type { ObjectStore } from "../backend/store.js";
import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { CLUSTER_BYTES, GIB, MIB } from "../base/units.js";
import type { MapMark } from "../wire/generated/map.js";
import type { VolumeConfig, VolumeMarks } from "./config.js";
import { DirtyMap } from "./dirty.js";
import { Journal, MARKER_BYTES, SEGMENTS_FREE } from "./journal.js";
import { VolumeMap } from "./map.js";
import { EPOCH_MAX } from "./names.js";
import { catchUp } from "./rebuild.js";
import type { Recovered } from "./recovery.js";
import { RECOVERY_MEMORY_BYTES, Recovery } from "./recovery.js";
import { journalPath } from "./remove.js";
import type { VolumeThread } from "./thread.js";
import { Volume } from "./volume.js";

const SEGMENT_BYTES_MAX = 64 * MIB;
const SEGMENT_BYTES_MIN = MIB;
const SEGMENTS_MIN = 4;
const BATCH_BYTES_MAX = 64 * MIB;

/** Smallest journal of one vDisk. */
export const JOURNAL_BYTES_MIN = SEGMENTS_MIN * SEGMENT_BYTES_MIN;

/** Bytes of a segment, chosen by the size of the journal. */
function segmentBytesOf(journalBytes: number): number {
  const wanted = Math.floor(journalBytes / 16 / MIB) * MIB;
  return Math.max(SEGMENT_BYTES_MIN, Math.min(SEGMENT_BYTES_MAX, wanted));
}

/**
 * Bytes of journal files that each vDisk of a thread may have beyond the budget of `journalBytes`
 * that all of them share: without them a vDisk could not be served at all. A marker of this start
 * may lie beside one of the last.
 */
export function journalBytesFree(journalBytes: number): number {
  return SEGMENTS_FREE * segmentBytesOf(journalBytes) + 2 * MARKER_BYTES;
}

/**
 * Opens a vDisk. OVS_FENCED: a newer owner; OVS_UNAVAILABLE: the backend does not answer, try
 * again; OVS_CORRUPT: the journal or the chain is damaged, in words; OVS_LOST: the journal is gone
 * and had writes that are nowhere else.
 */
export async function openVolume(
  thread: VolumeThread,
  config: VolumeConfig,
  store: ObjectStore,
  marks: VolumeMarks,
): Promise<Volume> {
  checkConfig(config);
  const { namespace, epoch } = config;
  if (config.isNew) await store.createNamespace(namespace, epoch);
  else await store.raiseFence(namespace, epoch);
  const owner = thread.takeOwner();
  try {
    return await open(thread, config, store, marks, owner);
  } catch (error) {
    thread.giveOwner(owner);
    throw error;
  }
}

async function open(
  thread: VolumeThread,
  config: VolumeConfig,
  store: ObjectStore,
  marks: VolumeMarks,
  owner: number,
): Promise<Volume> {
  const { world, kv } = thread;
  const empty = emptyMark(config);
  const map = new VolumeMap({ kv, pages: thread.pages, codec: world.codec }, owner, empty);
  const { namespace, name, vdiskId } = config;
  const { wasDamaged } = await catchUp({ thread, kv, store, namespace, name, vdiskId, map, empty });
  const sizes = journalSizes(config);
  const dirty = new DirtyMap();
  const folder = await journalFolder(thread, config);
  const recovered = await recover(thread, config, {
    folder,
    dirty,
    mapSequence: map.mark.sequence,
    mapEpoch: map.mark.sequenceEpoch,
    batchBytes: sizes.batchBytes,
  });
  const volumeBox: { volume: Volume | null } = { volume: null };
  const journal = new Journal(
    world,
    { headers: thread.headers, budget: thread.budget, zeroes: thread.zeroes },
    {
      folder,
      identity: { clusterUuid: config.clusterUuid, vdiskUuid: config.vdiskId, epoch: config.epoch },
      routerUuid: config.routerUuid,
      incarnation: config.incarnation,
      ...sizes,
    },
    {
      onHeader: () => {
        volumeBox.volume?.writer.advance();
        volumeBox.volume?.freeSegments();
      },
      onRoom: () => volumeBox.volume?.onRoom(),
      onSynced: () => volumeBox.volume?.onSynced(),
      onFailed: (what) => volumeBox.volume?.halt("unavailable", what),
    },
  );
  thread.budget.forget(folder);
  journal.adopt(recovered.segments);
  const sizeBytes = Math.max(config.sizeBytes, map.mark.sizeBytes, recovered.sizeBytes);
  try {
    await journal.start(recovered.sequence + 1, sizeBytes);
  } catch (error) {
    await journal.close();
    throw error;
  }
  journal.free(map.mark.sequence);
  const volume = new Volume({
    thread,
    config,
    store,
    marks,
    owner,
    dirty,
    map,
    journal,
    sequence: recovered.sequence,
    sizeBytes,
    isDirty: config.wasDirty || !dirty.empty,
    batchBytes: sizes.batchBytes,
  });
  volumeBox.volume = volume;
  if (wasDamaged) volume.counts.corruptions++;
  if (dirty.closedCount > 0) volume.destager.kick();
  return volume;
}

function checkConfig(config: VolumeConfig): void {
  assert(config.epoch > 0 && config.epoch <= EPOCH_MAX, "an epoch was claimed");
  assert(
    config.sizeBytes > 0 && config.sizeBytes % CLUSTER_BYTES === 0,
    "a vDisk is whole clusters",
  );
  assert(
    config.scoBytes % CLUSTER_BYTES === 0 && config.scoBytes >= 16 * CLUSTER_BYTES,
    "a SCO is whole clusters",
  );
  assert(config.scoBytes <= 64 * MIB, "a SCO is an object");
  if (config.journalBytes >= JOURNAL_BYTES_MIN) return;
  throw new StorageError(
    "OVS_INVALID",
    `a journal has at least ${JOURNAL_BYTES_MIN} bytes, not ${config.journalBytes}`,
  );
}

function emptyMark(config: VolumeConfig): MapMark {
  return {
    clusterUuid: config.clusterUuid,
    vdiskUuid: config.vdiskId,
    tlogNumber: 0,
    tlogEpoch: 0,
    sequence: 0,
    sequenceEpoch: 0,
    sizeBytes: config.sizeBytes,
    checkpointNumber: 0,
    scoIdLast: 0,
  };
}

function journalSizes(config: VolumeConfig): {
  segmentBytes: number;
  segmentsMax: number;
  batchBytes: number;
} {
  const segmentBytes = config.segmentBytes ?? segmentBytesOf(config.journalBytes);
  const segmentsMax = Math.max(SEGMENTS_MIN, Math.floor(config.journalBytes / segmentBytes));
  // So many that the SCOs of a batch are full: what is in flight at its close comes on top.
  const scos = Math.max(1, Math.floor(BATCH_BYTES_MAX / config.scoBytes));
  const full = scos * config.scoBytes - (config.scoBytes > 4 * MIB ? MIB + MIB / 2 : 0);
  const batchBytes = config.batchBytes ?? Math.min(full, (segmentBytes * segmentsMax) / 4);
  assert(segmentBytes <= GIB / 4, "blocks of a segment fit the dirty map");
  return { segmentBytes, segmentsMax, batchBytes };
}

/** Path of the journal folder; refuses when it is lost and needed. */
async function journalFolder(thread: VolumeThread, config: VolumeConfig): Promise<string> {
  const { files } = thread.world.disk;
  const parent = `${config.dir}/journal`;
  const folder = journalPath(config.dir, config.vdiskId);
  const stat = await files.stat(folder);
  const names = stat === null ? [] : await files.list(folder);
  const isThere = names.some((name) => name.endsWith(".seg"));
  if (!isThere && !config.isNew) refuseLoss(config, `is gone (${folder})`);
  if (stat === null) {
    await files.makeFolder(folder);
    await files.syncFolder(parent);
    await files.syncFolder(config.dir);
  }
  return folder;
}

/** OVS_LOST when the registry says that the journal is needed, unless that is accepted. */
function refuseLoss(config: VolumeConfig, what: string): void {
  if (!config.wasDirty || config.acceptLoss) return;
  throw new StorageError(
    "OVS_LOST",
    `the journal of ${config.name} ${what}, and writes were acknowledged that are not in the ` +
      `backend. Bring it back, or go on without them by \`ovs vdisk recover ${config.name} ` +
      "--accept-loss`",
  );
}

async function recover(
  thread: VolumeThread,
  config: VolumeConfig,
  parts: {
    folder: string;
    dirty: DirtyMap;
    mapSequence: number;
    mapEpoch: number;
    batchBytes: number;
  },
): Promise<Recovered> {
  const memory = await thread.destagePool.take(RECOVERY_MEMORY_BYTES);
  try {
    const recovery = new Recovery(thread.world, parts.dirty, {
      folder: parts.folder,
      name: config.name,
      clusterUuid: config.clusterUuid,
      vdiskId: config.vdiskId,
      mapSequence: parts.mapSequence,
      mapEpoch: parts.mapEpoch,
      batchBytes: parts.batchBytes,
      acceptLoss: config.acceptLoss,
      memory,
    });
    const recovered = await recovery.run();
    if (recovered.epochLast >= config.epoch) {
      for (const { file } of recovered.segments) await thread.world.disk.close(file);
      throw new StorageError(
        "OVS_FENCED",
        `the journal of ${config.name} has epoch ${recovered.epochLast}, not older than the claimed ${config.epoch}`,
      );
    }
    if (recovered.epochLast === 0 && !config.isNew) {
      refuseLoss(config, `has no segment with a right header (${parts.folder})`);
    }
    thread.world.log.info("journal recovered", {
      vdisk: config.name,
      segments: recovered.segments.length,
      sequence: recovered.sequence,
      torn: recovered.torn,
    });
    return recovered;
  } finally {
    thread.destagePool.give(memory);
  }
}
