// SPDX-License-Identifier: Apache-2.0
// Garbage collection (P-C6): fragments that a dead uploader or repairer left, found by their marks
// and never by guessing. `gc` of the namespace is raised first: no upload with a lower epoch can
// commit after that, so what its marks point at and no manifest names will never be named.
//
// Uploads take epoch gc + 1, so raising gc once ends only those that began before the raising
// before: with minutes between two passes no living upload ever notices.

import { equalBytes, toHex } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import type { World } from "../platform/world.js";
import type { Registry } from "../registry/registry.js";
import { decodeNamespaceRecord } from "../wire/generated/backend.js";
import type { Manifest } from "../wire/generated/manifest.js";
import {
  dataKey,
  keyRange,
  type MarkName,
  markEnd,
  markPrefix,
  parseMark,
  recoveryKey,
} from "./keys.js";
import { readManifest } from "./manifests.js";
import { listNamespaces } from "./namespaces.js";
import { NO_CHANGE, type Osd, Priority } from "./osd.js";
import type { OsdPool } from "./osdpool.js";
import { gcPath, infoPath, numberValue, objectPath, readNumber } from "./paths.js";

const MARKS_PER_STEP = 200;
const GETS_MAX = 100;
const TIMEOUT_MS = 15_000;
const EPOCH_MAX = 2 ** 52;
const OPTIONS = { timeoutMs: TIMEOUT_MS, priority: Priority.Background } as const;

export interface GcHost {
  readonly world: Pick<World, "log">;
  readonly registry: Registry;
  readonly pool: OsdPool;
}

export interface GcResult {
  /** Marks of committed fragments that were taken away. */
  marks: number;
  /** Fragments that no manifest names, removed. */
  fragments: number;
  /** OSDs that did not answer: theirs wait for another pass. */
  skipped: number;
}

interface Mark {
  key: Uint8Array;
  mark: MarkName;
  /** Name of the object, the mark's value. */
  name: string;
}

/** One pass over a namespace. Rejects when the registry does not answer. */
export async function collectGarbage(host: GcHost, namespace: string): Promise<GcResult> {
  const result: GcResult = { marks: 0, fragments: 0, skipped: 0 };
  const info = await host.registry.get(infoPath(namespace));
  if (info === null) return result;
  const { id } = decodeNamespaceRecord(info.value);
  if (!(await hasMarks(host, id, result))) return result;
  const gc = await raiseGc(host.registry, namespace, 1);
  const range = { first: markPrefix(id), end: markEnd(id, gc) };
  await eachOsd(host, result, async (osd) => {
    await eachMark(osd, range, async (marks) => {
      const manifests = await manifestsOf(host.registry, namespace, marks);
      await settle(osd, marks, (mark) => isNamed(manifests.get(mark.name), osd.id, mark), result);
    });
  });
  return result;
}

/**
 * Removes what has marks of namespaces that do not exist any more: nothing can be committed to
 * them. Their list is read after the marks, and a namespace exists before its first mark.
 */
export async function collectOrphans(host: GcHost): Promise<GcResult> {
  const result: GcResult = { marks: 0, fragments: 0, skipped: 0 };
  const found = new Map<string, Uint8Array>();
  await eachOsd(host, result, async (osd) => {
    for (const id of await namespaceIds(osd)) found.set(toHex(id), id);
  });
  if (found.size === 0) return result;
  for (const namespace of await listNamespaces(host.registry)) {
    const info = await host.registry.get(infoPath(namespace));
    if (info !== null) found.delete(toHex(decodeNamespaceRecord(info.value).id));
  }
  for (const id of found.values()) {
    const range = { first: markPrefix(id), end: markEnd(id, EPOCH_MAX) };
    await eachOsd(host, result, async (osd) => {
      await eachMark(osd, range, (marks) => settle(osd, marks, () => false, result));
    });
  }
  return result;
}

/**
 * Raises the lowest valid upload epoch; returns the new one. OVS_NOT_FOUND without the namespace.
 */
export async function raiseGc(registry: Registry, namespace: string, by: number): Promise<number> {
  const key = gcPath(namespace);
  for (;;) {
    const entry = await registry.get(key);
    if (entry === null)
      throw new StorageError("OVS_NOT_FOUND", `there is no namespace ${namespace}`);
    const next = readNumber(entry.value, key) + by;
    const { succeeded } = await registry.transact({
      compares: [{ key, target: "modRevision", is: "=", number: entry.modRevision }],
      success: [{ kind: "put", key, value: numberValue(next) }],
      failure: [],
    });
    if (succeeded) return next;
  }
}

/** Living uploads have marks too, for moments; without any there is nothing to raise `gc` for. */
async function hasMarks(host: GcHost, id: Uint8Array, result: GcResult): Promise<boolean> {
  let found = false;
  const skipped = { ...result };
  await eachOsd(host, skipped, async (osd) => {
    const page = await osd.range(markPrefix(id), markEnd(id, EPOCH_MAX), 1, OPTIONS);
    if (page.keys.length > 0) found = true;
  });
  if (!found) result.skipped = skipped.skipped;
  return found;
}

async function eachOsd(
  host: GcHost,
  result: GcResult,
  work: (osd: Osd) => Promise<void>,
): Promise<void> {
  for (const osd of [...host.pool.all()]) {
    try {
      if (!osd.up) throw new StorageError("OVS_UNAVAILABLE", "no connection");
      await work(osd);
    } catch (error) {
      // Whoever did not answer, the OSD or the registry: only this OSD's part has to wait.
      if (!(error instanceof StorageError)) throw error;
      result.skipped++;
      host.world.log.debug("garbage stays for another pass", {
        osd: osd.id,
        reason: error.message,
      });
    }
  }
}

async function eachMark(
  osd: Osd,
  range: { first: Uint8Array; end: Uint8Array },
  work: (marks: Mark[]) => Promise<void>,
): Promise<void> {
  let first = range.first;
  for (;;) {
    const page = await osd.range(first, range.end, MARKS_PER_STEP, OPTIONS);
    if (page.keys.length === 0) return;
    const names = await osd.getSmall(page.keys, OPTIONS);
    const marks: Mark[] = [];
    page.keys.forEach((key, i) => {
      const mark = parseMark(key);
      const name = names[i] ?? null;
      if (mark !== null && name !== null) {
        marks.push({ key, mark, name: Buffer.from(name).toString() });
      }
    });
    await work(marks);
    if (!page.more) return;
    first = after(page.keys.at(-1)!);
  }
}

/** The manifests that the marks' objects have now; consistent. */
async function manifestsOf(
  registry: Registry,
  namespace: string,
  marks: readonly Mark[],
): Promise<Map<string, Manifest>> {
  const names = [...new Set(marks.map(({ name }) => name))];
  const manifests = new Map<string, Manifest>();
  for (let at = 0; at < names.length; at += GETS_MAX) {
    const some = names.slice(at, at + GETS_MAX);
    const { entries } = await registry.transact({
      compares: [],
      success: some.map((name) => ({ kind: "get", key: objectPath(namespace, name) })),
      failure: [],
    });
    entries.forEach((entry, i) => {
      if (entry !== null) manifests.set(some[i]!, readManifest(entry));
    });
  }
  return manifests;
}

/** True when the manifest names exactly this fragment version on this OSD. */
function isNamed(manifest: Manifest | undefined, osd: number, { mark }: Mark): boolean {
  if (manifest === undefined || !equalBytes(manifest.objectId, mark.name.objectId)) return false;
  const place = manifest.fragments[mark.name.fragment];
  return place !== undefined && place.osd === osd && place.version === mark.name.version;
}

/** Takes away the marks of named fragments, and unnamed fragments with their marks. */
async function settle(
  osd: Osd,
  marks: readonly Mark[],
  isNamedHere: (mark: Mark) => boolean,
  result: GcResult,
): Promise<void> {
  const named = marks.filter(isNamedHere);
  if (named.length > 0) {
    await osd.apply({ ...NO_CHANGE, deletes: named.map(({ key }) => key) }, OPTIONS);
    result.marks += named.length;
  }
  for (const entry of marks) {
    if (named.includes(entry)) continue;
    const { name } = entry.mark;
    const deletes = [dataKey(name), recoveryKey(name), entry.key];
    try {
      await osd.apply({ ...NO_CHANGE, present: [entry.key], deletes }, OPTIONS);
      result.fragments++;
    } catch (error) {
      // Someone else has taken the mark away meanwhile: then it is not ours to judge.
      if (!(error instanceof StorageError) || error.code !== "OVS_CONFLICT") throw error;
    }
  }
}

/** Ids of the namespaces that have marks on the OSD. */
async function namespaceIds(osd: Osd): Promise<Uint8Array[]> {
  const ids: Uint8Array[] = [];
  let { first, end } = keyRange("mark");
  for (;;) {
    const page = await osd.range(first, end, 1, OPTIONS);
    const mark = page.keys.length === 0 ? null : parseMark(page.keys[0]!);
    if (mark === null) return ids;
    ids.push(mark.namespaceId);
    first = markEnd(mark.namespaceId, EPOCH_MAX);
  }
}

/** The first key behind one. */
function after(key: Uint8Array): Uint8Array {
  const next = new Uint8Array(key.byteLength + 1);
  next.set(key);
  return next;
}
