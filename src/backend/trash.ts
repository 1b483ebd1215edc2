// SPDX-License-Identifier: Apache-2.0
// Removal of fragments that no object names any more: those of deleted objects, and those that
// repair has replaced. A record in the registry names them until every OSD that has one has let it
// go, so nothing leaks when an OSD is away for a week.

import { StorageError } from "../base/errors.js";
import type { World } from "../platform/world.js";
import type { Operation, Registry, RegistryEntry } from "../registry/registry.js";
import type { Manifest } from "../wire/generated/manifest.js";
import { dataKey, recoveryKey } from "./keys.js";
import { readManifest } from "./manifests.js";
import { NO_CHANGE, Priority } from "./osd.js";
import type { OsdPool } from "./osdpool.js";
import { TRASH_PREFIX } from "./paths.js";

const RECORDS_PER_PASS = 500;
const KEYS_PER_APPLY = 512;
const TIMEOUT_MS = 15_000;
const DELETES_PER_TRANSACTION = 100;

export interface TrashHost {
  readonly world: Pick<World, "clock" | "log">;
  readonly registry: Registry;
  readonly pool: OsdPool;
}

export interface TrashResult {
  /** Records that are done with. */
  emptied: number;
  /** Records that wait for OSDs. */
  waiting: number;
  /** Where the next pass goes on; undefined: from the beginning. */
  after: string | undefined;
}

/** Works off some records below `prefix`. Rejects when the registry does not answer. */
export async function emptyTrash(
  host: TrashHost,
  options: { prefix?: string; after?: string | undefined },
): Promise<TrashResult> {
  const { registry } = host;
  const prefix = options.prefix ?? TRASH_PREFIX;
  const { after } = options;
  const limits = { limit: RECORDS_PER_PASS };
  const page = await registry.range(prefix, after === undefined ? limits : { ...limits, after });
  const keys = new Map<number, Uint8Array[]>();
  const users = new Map<string, Set<number>>();
  for (const entry of page.entries) users.set(entry.key, collect(host, entry, keys));
  const failed = await deleteAll(host, keys);
  const done = page.entries.filter((entry) => {
    for (const osd of users.get(entry.key)!) if (failed.has(osd)) return false;
    return true;
  });
  for (let at = 0; at < done.length; at += DELETES_PER_TRANSACTION) {
    const success: Operation[] = done
      .slice(at, at + DELETES_PER_TRANSACTION)
      .map(({ key }) => ({ kind: "delete", key }));
    await registry.transact({ compares: [], success, failure: [] });
  }
  const last = page.entries.at(-1)?.key;
  return {
    emptied: done.length,
    waiting: page.entries.length - done.length,
    after: page.more ? last : undefined,
  };
}

/** Adds the record's keys to those of each OSD; returns the OSDs that have to let go. */
function collect(
  host: TrashHost,
  entry: RegistryEntry,
  keys: Map<number, Uint8Array[]>,
): Set<number> {
  const users = new Set<number>();
  let manifest: Manifest;
  try {
    manifest = readManifest(entry);
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    host.world.log.error("a record of garbage is damaged and stays", { reason: error.message });
    return users.add(-1);
  }
  manifest.fragments.forEach(({ osd, version }, fragment) => {
    // An OSD that is gone for ever has nothing to let go.
    if (osd === 0 || host.pool.get(osd) === null) return;
    users.add(osd);
    const name = { objectId: manifest.objectId, chunk: 0, fragment, version };
    const list = keys.get(osd) ?? [];
    list.push(dataKey(name), recoveryKey(name));
    keys.set(osd, list);
  });
  return users;
}

/** Returns the OSDs where not all keys are known to be gone. */
async function deleteAll(host: TrashHost, keys: Map<number, Uint8Array[]>): Promise<Set<number>> {
  const failed = new Set<number>([-1]);
  const work = [...keys].map(async ([id, list]) => {
    const osd = host.pool.get(id);
    if (osd === null || !osd.up) {
      failed.add(id);
      return;
    }
    try {
      for (let at = 0; at < list.length; at += KEYS_PER_APPLY) {
        const deletes = list.slice(at, at + KEYS_PER_APPLY);
        const options = { timeoutMs: TIMEOUT_MS, priority: Priority.Background };
        await osd.apply({ ...NO_CHANGE, deletes }, options);
      }
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      failed.add(id);
      host.world.log.debug("fragments wait for their removal", { osd: id, reason: error.message });
    }
  });
  await Promise.all(work);
  return failed;
}
