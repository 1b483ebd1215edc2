// SPDX-License-Identifier: Apache-2.0
// How wide objects are (P-A10): how many losses of OSDs they survive, and whether they have all
// the fragments that the living OSDs allow.

import type { Registry } from "../registry/registry.js";
import type { Manifest } from "../wire/generated/manifest.js";
import { readManifest, spareOf } from "./manifests.js";
import type { OsdPool } from "./osdpool.js";
import { objectPath, objectsPrefix, widthPrefix } from "./paths.js";
import { countPerDomain } from "./placement.js";
import { fragmentsPossible } from "./policy.js";
import type { ObjectInfo } from "./store.js";

const PAGE = 500;

export interface WidthHost {
  readonly registry: Registry;
  readonly pool: OsdPool;
}

export interface Width {
  /** Every object has the width that the living OSDs allow. */
  full: boolean;
  /** Fewest losses that an object survives; null: there are no objects. */
  spareMin: number | null;
  /** Objects that are narrower than they could be. */
  narrow: number;
}

/** Looks at all objects of a namespace. `preset` is the namespace's. */
export async function widthOf(host: WidthHost, namespace: string, preset: string): Promise<Width> {
  const width: Width = { full: true, spareMin: null, narrow: 0 };
  const allowed = allowedBy(host, preset);
  await eachManifest(host.registry, namespace, (manifest) => {
    const spare = spareOf(manifest, (osd) => host.pool.isUp(osd));
    if (width.spareMin === null || spare < width.spareMin) width.spareMin = spare;
    if (spare + manifest.policy.k < allowed(manifest)) width.narrow++;
  });
  width.full = width.narrow === 0;
  return width;
}

/**
 * A quick answer where it is certain: no object lacks width by its record, and every OSD lives.
 * false: look with `widthOf`.
 */
export async function isSurelyFull(host: WidthHost, namespace: string): Promise<boolean> {
  for (const osd of host.pool.all()) if (!osd.up) return false;
  for (const id of host.pool.topology.osds.keys()) if (host.pool.get(id) === null) return false;
  const page = await host.registry.range(widthPrefix(namespace), { limit: 1 });
  return page.entries.length === 0;
}

/** Objects with a prefix, and the losses that each survives now. */
export async function listObjects(
  host: WidthHost,
  namespace: string,
  prefix: string,
  options: { after?: string; limit: number },
): Promise<ObjectInfo[]> {
  const objects: ObjectInfo[] = [];
  let after = options.after === undefined ? undefined : objectPath(namespace, options.after);
  // A page may be shorter than asked for: only its `more` tells of the end.
  for (;;) {
    const limit = Math.min(options.limit - objects.length, PAGE);
    const page = await host.registry.range(
      objectPath(namespace, prefix),
      after === undefined ? { limit } : { after, limit },
    );
    for (const entry of page.entries) {
      const manifest = readManifest(entry);
      objects.push({
        name: entry.key.slice(objectsPrefix(namespace).length),
        bytes: manifest.rawBytes,
        spare: spareOf(manifest, (osd) => host.pool.isUp(osd)),
      });
    }
    if (!page.more || objects.length >= options.limit) return objects;
    after = page.entries.at(-1)!.key;
  }
}

/** Fragments that the living OSDs allow an object. */
function allowedBy(host: WidthHost, preset: string): (manifest: Manifest) => number {
  const { pool } = host;
  const domain = pool.topology.preset(preset)?.domain ?? 2;
  const living = countPerDomain(pool.writable(true), domain);
  return (manifest) => fragmentsPossible(manifest.policy, living);
}

async function eachManifest(
  registry: Registry,
  namespace: string,
  work: (manifest: Manifest) => void,
): Promise<void> {
  const prefix = objectsPrefix(namespace);
  let after: string | undefined;
  for (;;) {
    const page = await registry.range(
      prefix,
      after === undefined ? { limit: PAGE } : { after, limit: PAGE },
    );
    for (const entry of page.entries) work(readManifest(entry));
    if (!page.more) return;
    after = page.entries.at(-1)!.key;
  }
}
