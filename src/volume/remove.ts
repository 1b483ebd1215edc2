// SPDX-License-Identifier: Apache-2.0
// What a vDisk has on its thread's disk, and its removal.

import { formatUuid } from "../base/bytes.js";
import type { KvStore } from "../platform/kv.js";
import { treeRange } from "./page.js";
import { parseSegmentName } from "./segment.js";
import type { VolumeThread } from "./thread.js";

/** Folder of a vDisk's journal in the folder of its shard. */
export function journalPath(dir: string, vdiskId: Uint8Array): string {
  return `${dir}/journal/${formatUuid(vdiskId)}`;
}

/** Removes a vDisk's map from a store, durably; its mark goes with it. */
export async function wipeMap(kv: KvStore, vdiskId: Uint8Array): Promise<void> {
  const batch = kv.batch();
  for (const kind of ["page", "sco", "mark"] as const) {
    const { first, end } = treeRange(kind, vdiskId);
    batch.deleteRange(first, end);
  }
  await kv.write(batch, { sync: true });
}

/**
 * Counts the segments below the folder of a shard towards the thread's budget, before the first
 * vDisk is opened.
 */
export async function countJournals(thread: VolumeThread, dir: string): Promise<void> {
  const { files } = thread.world.disk;
  const parent = `${dir}/journal`;
  if ((await files.stat(parent)) === null) return;
  for (const vdisk of await files.list(parent)) {
    const folder = `${parent}/${vdisk}`;
    if ((await files.stat(folder))?.kind !== "folder") continue;
    for (const name of await files.list(folder)) {
      if (parseSegmentName(name) === null) continue;
      thread.budget.keep(folder, (await files.stat(`${folder}/${name}`))?.sizeBytes ?? 0);
    }
  }
}

/** Removes the journal and the map of a deleted vDisk, which is not open. Missing is fine. */
export async function removeVolume(
  thread: VolumeThread,
  where: { dir: string; vdiskId: Uint8Array },
): Promise<void> {
  const folder = journalPath(where.dir, where.vdiskId);
  await thread.world.disk.files.remove(folder);
  thread.budget.forget(folder);
  await wipeMap(thread.kv, where.vdiskId);
}
