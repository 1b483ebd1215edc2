// SPDX-License-Identifier: Apache-2.0
// The folder of an ASD: `identity` says which disk of which cluster it is and is written last when
// the folder is formatted, so a half formatted one is formatted again; `lock` is held while a
// process serves it.
//
//   identity   lock   extents/0000 …   index/ (RocksDB)

import { equalBytes, formatUuid, parseUuid } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { isLeftOf } from "../platform/smallfile.js";
import type { World } from "../platform/world.js";
import {
  ASD_FOLDER_VERSION,
  type DiskIdentity,
  decodeDiskIdentity,
  packDiskIdentity,
} from "../wire/generated/asd.js";

const IDENTITY_BYTES_MAX = 4096;

/** What a folder is, or shall be. Uuids as text. */
export interface AsdPlace {
  clusterUuid: string;
  /** null: whatever the folder has; a new one when it has to be formatted. */
  diskUuid: string | null;
  site: string;
  rack: string;
  node: string;
}

/**
 * Reads the identity of a folder, or formats it when it is empty and `format` is set. Refuses a
 * folder of another cluster or disk (OVS_WRONG_IDENTITY), of another version (OVS_WRONG_VERSION),
 * a damaged identity (OVS_CORRUPT) and a folder that has other things in it (OVS_INVALID).
 */
export async function openIdentity(
  world: World,
  path: string,
  place: AsdPlace,
  options: { format: boolean },
): Promise<DiskIdentity> {
  const content = await world.disk.files.readSmall(`${path}/identity`, IDENTITY_BYTES_MAX);
  if (content === null) return await formatFolder(world, path, place, options.format);
  const identity = decodeDiskIdentity(content);
  if (identity.folderVersion !== ASD_FOLDER_VERSION) {
    throw new StorageError(
      "OVS_WRONG_VERSION",
      `${path} has version ${identity.folderVersion}; this program reads ${ASD_FOLDER_VERSION}`,
    );
  }
  const wanted = [
    ["cluster", place.clusterUuid, identity.clusterUuid],
    ["disk", place.diskUuid, identity.diskUuid],
  ] as const;
  for (const [what, expected, found] of wanted) {
    if (expected === null || equalBytes(parseUuid(expected), found)) continue;
    throw new StorageError(
      "OVS_WRONG_IDENTITY",
      `${path} belongs to ${what} ${formatUuid(found)}, not to ${expected}`,
    );
  }
  return identity;
}

async function formatFolder(
  world: World,
  path: string,
  place: AsdPlace,
  isAllowed: boolean,
): Promise<DiskIdentity> {
  const { files } = world.disk;
  if (!isAllowed) throw new StorageError("OVS_INVALID", `${path} is not the folder of an ASD`);
  const all = await files.list(path);
  // Left by a start that was killed while it wrote the identity: nothing was stored yet.
  const halves = all.filter((name) => isLeftOf(name, "identity"));
  const found = all.filter((name) => name !== "lock" && !halves.includes(name));
  if (found.includes("index") || found.includes("extents")) {
    throw new StorageError("OVS_CORRUPT", `${path} has the data of a disk but no identity file`);
  }
  if (found.length > 0) {
    throw new StorageError(
      "OVS_INVALID",
      `${path} is not empty (${found[0]}): name an empty folder`,
    );
  }
  const identity: DiskIdentity = {
    folderVersion: ASD_FOLDER_VERSION,
    clusterUuid: parseUuid(place.clusterUuid),
    diskUuid: place.diskUuid === null ? world.random.bytes(16) : parseUuid(place.diskUuid),
    createdMs: world.clock.wallMs(),
    site: place.site,
    rack: place.rack,
    node: place.node,
  };
  for (const name of halves) await files.remove(`${path}/${name}`);
  await files.writeSmall(`${path}/identity`, packDiskIdentity(identity));
  return identity;
}
