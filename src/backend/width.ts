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
/** A process that died is back before that: an OSD is waited for so long. */
const BACK_SOON_MS = 10_000;

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
  /** Those of them that become wider soon: they do not wait for an OSD to be lost. */
  repairable: number;
}

/**
 * Looks at all objects of a namespace. `preset` is the namespace's; an OSD that is away for longer
 * than `lostAfterMs` is lost.
 */
export async function widthOf(
  host: WidthHost,
  namespace: string,
  preset: string,
  lostAfterMs: number,
): Promise<Width> {
  const width: Width = { full: true, spareMin: null, narrow: 0, repairable: 0 };
  const allowed = allowedBy(host, preset);
  await eachManifest(host.registry, namespace, (manifest) => {
    const spare = spareOf(manifest, (osd) => host.pool.isUp(osd));
    if (width.spareMin === null || spare < width.spareMin) width.spareMin = spare;
    const wide = spare + manifest.policy.k;
    if (wide >= allowed(manifest)) return;
    width.narrow++;
    if (wide + awayIn(host, manifest, lostAfterMs) < allowed(manifest)) width.repairable++;
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

/** Fragments on OSDs that stay away and are not lost yet: repair leaves them alone. */
function awayIn({ pool }: WidthHost, manifest: Manifest, lostAfterMs: number): number {
  let away = 0;
  for (const { osd } of manifest.fragments) {
    if (osd === 0 || pool.isUp(osd)) continue;
    const downMs = pool.downMs(osd);
    if (downMs > BACK_SOON_MS && downMs <= lostAfterMs) away++;
  }
  return away;
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
