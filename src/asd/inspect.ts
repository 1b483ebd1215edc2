// SPDX-License-Identifier: Apache-2.0
// An ASD's folder in words, for `ovs inspect`: its identity, and what lies where in an extent file.
// It opens the folder as the daemon does, so the daemon must not run.

import { formatUuid } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { formatSize, MIB } from "../base/units.js";
import type { World } from "../platform/world.js";
import {
  ASD_PAGE_BYTES,
  AsdPartStatus,
  type DiskIdentity,
  decodeDiskIdentity,
} from "../wire/generated/asd.js";
import { printable } from "./index.js";
import { AsdStore, ReadJob } from "./store.js";

const SLICE_PAGES = 256;
/** Arena that an inspection needs. */
export const INSPECT_ARENA_BYTES = 20 * MIB;

/** True for the files of an ASD's folder that `inspectAsdFile` explains. */
export function isAsdFile(path: string): boolean {
  return /\/(identity|extents\/\d{4,})$/.test(path);
}

/** Explains `…/identity` or `…/extents/NNNN` line by line. */
export async function inspectAsdFile(
  world: World,
  path: string,
  print: (line: string) => void,
): Promise<void> {
  const match = /^(.*)\/(?:identity|extents\/(\d{4,}))$/.exec(path);
  if (!match) throw new StorageError("OVS_INVALID", `${path} is no file of an ASD's folder`);
  const folder = match[1]!;
  const content = await world.disk.files.readSmall(`${folder}/identity`, ASD_PAGE_BYTES);
  if (content === null) throw new StorageError("OVS_NOT_FOUND", `${folder} has no identity file`);
  const identity = decodeDiskIdentity(content);
  const disk = `disk ${formatUuid(identity.diskUuid)}`;
  print(`${disk} of cluster ${formatUuid(identity.clusterUuid)}`);
  print(`site ${identity.site}, rack ${identity.rack}, node ${identity.node}`);
  print(`folder version ${identity.folderVersion}`);
  if (match[2] !== undefined)
    await inspectExtents(world, folder, identity, Number(match[2]), print);
}

async function inspectExtents(
  world: World,
  folder: string,
  identity: DiskIdentity,
  file: number,
  print: (line: string) => void,
): Promise<void> {
  const store = await AsdStore.open(world, {
    path: folder,
    place: {
      clusterUuid: formatUuid(identity.clusterUuid),
      diskUuid: formatUuid(identity.diskUuid),
      site: identity.site,
      rack: identity.rack,
      node: identity.node,
    },
    format: false,
    capacityBytes: 0,
    cacheBytes: MIB,
    readBytes: 16 * MIB,
    onFatal: () => {},
  });
  try {
    const places = await store.placesIn(file);
    const used = places.reduce((sum, { pages }) => sum + pages, 0);
    print(
      `${places.length} runs with ${used} pages, ${formatSize(used * ASD_PAGE_BYTES)} together`,
    );
    for (const { key, page, pages, first } of places) {
      const bad = await badPages(store, key, { first, pages });
      const state = bad === 0 ? "ok" : `${bad} of its pages are damaged`;
      print(`pages ${page}-${page + pages - 1}: ${printable(key)} from page ${first}: ${state}`);
    }
  } finally {
    await store.close();
  }
}

/** Pages of a value's part that are not what was written. */
async function badPages(
  store: AsdStore,
  key: string,
  part: { first: number; pages: number },
): Promise<number> {
  let bad = 0;
  for (let done = 0; done < part.pages; done += SLICE_PAGES) {
    const pages = Math.min(SLICE_PAGES, part.pages - done);
    const job = new ReadJob();
    // A part for each page: each is told apart from its neighbours.
    for (let page = 0; page < pages; page++) job.add(key, part.first + done + page, 1);
    await store.read(job);
    for (let page = 0; page < pages; page++) {
      if (job.statuses[page] !== AsdPartStatus.ok) bad++;
    }
    store.reads.release(job);
  }
  return bad;
}
