// SPDX-License-Identifier: Apache-2.0
// Verification: every fragment of an object is read where its manifest says it is, its checksums
// are compared on the OSD and here, and its places are held against the placement rules. And the
// other way round: every fragment on an OSD must be named by a manifest, or be known garbage.

import { equalBytes, toHex } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { CLUSTER_BYTES, KIB } from "../base/units.js";
import type { RegistryEntry } from "../registry/registry.js";
import { decodeRecovery, type Recovery } from "../wire/generated/backend.js";
import type { Manifest } from "../wire/generated/manifest.js";
import {
  type FragmentName,
  keyRange,
  markEnd,
  markPrefix,
  parseKey,
  parseMark,
  recoveryKey,
} from "./keys.js";
import { ObjectView, readManifest } from "./manifests.js";
import { listNamespaces } from "./namespaces.js";
import { type Osd, Priority } from "./osd.js";
import { objectPath, objectsPrefix, TRASH_PREFIX } from "./paths.js";
import { type FailedPiece, Failure } from "./pieces.js";
import { type Damage, type Needs, needsOf, type RepairHost, repairObject } from "./repair.js";

const SLICE_BYTES = 256 * KIB;
const OBJECTS_PER_PAGE = 200;
const KEYS_PER_STEP = 100;
const SAMPLES_MAX = 20;
const TIMEOUT_MS = 30_000;
const OPTIONS = { timeoutMs: TIMEOUT_MS, priority: Priority.Background } as const;

export interface VerifyReport {
  namespaces: number;
  objects: number;
  fragments: number;
  bytesRead: number;
  /** Fragments that the OSD does not have, or that no OSD has. */
  missing: number;
  /** Fragments that are not what was written. */
  corrupt: number;
  /** Fragments on OSDs that do not answer. */
  unreachable: number;
  /** Fragments where the placement rules do not want them. */
  misplaced: number;
  /** Fragments made anew. */
  repaired: number;
  /** Fragments that could not be made anew now. */
  lacking: number;
  /** Objects of which fewer than k good fragments are to be had now. */
  unreadable: number;
  /** Fragments on OSDs that nothing names. */
  leaked: number;
  /** Names of objects or fragments with something wrong, a few. */
  samples: string[];
  /** Fewest losses of OSDs that an object survives after all this; null: no objects. */
  spareMin: number | null;
}

export interface VerifyOptions {
  /** null: all. */
  namespaces: readonly string[] | null;
  repair: boolean;
  /** Look for fragments that nothing names, too. */
  leaks: boolean;
}

/** State of one object's fragments. */
export interface FragmentCheck {
  damage: Map<number, number>;
  missing: number;
  corrupt: number;
  unreachable: number;
  bytesRead: number;
}

/** Reads everything. Rejects when the registry does not answer. */
export async function verify(host: RepairHost, options: VerifyOptions): Promise<VerifyReport> {
  const report: VerifyReport = {
    namespaces: 0,
    objects: 0,
    fragments: 0,
    bytesRead: 0,
    missing: 0,
    corrupt: 0,
    unreachable: 0,
    misplaced: 0,
    repaired: 0,
    lacking: 0,
    unreadable: 0,
    leaked: 0,
    samples: [],
    spareMin: null,
  };
  const names = options.namespaces ?? (await listNamespaces(host.core.registry));
  for (const namespace of names) {
    report.namespaces++;
    await eachObject(host, namespace, (name, entry) =>
      verifyObject(host, namespace, name, entry, options.repair, report),
    );
  }
  if (options.leaks) {
    for (const osd of [...host.core.pool.all()]) if (osd.up) await findLeaks(host, osd, report);
  }
  return report;
}

/** Objects of a namespace, one after the other. */
export async function eachObject(
  host: RepairHost,
  namespace: string,
  work: (name: string, entry: RegistryEntry) => Promise<void>,
): Promise<void> {
  const prefix = objectsPrefix(namespace);
  let after: string | undefined;
  for (;;) {
    const limits = { limit: OBJECTS_PER_PAGE };
    const page = await host.core.registry.range(
      prefix,
      after === undefined ? limits : { ...limits, after },
    );
    for (const entry of page.entries) {
      if (host.isStopping()) throw new StorageError("OVS_CLOSED", "verification ends");
      await work(entry.key.slice(prefix.length), entry);
    }
    if (!page.more) return;
    after = page.entries.at(-1)!.key;
  }
}

async function verifyObject(
  host: RepairHost,
  namespace: string,
  name: string,
  listed: RegistryEntry,
  repair: boolean,
  report: VerifyReport,
): Promise<void> {
  const { registry } = host.core;
  for (let entry = listed; ; ) {
    const manifest = readManifest(entry);
    const check = await checkFragments(host, name, manifest);
    const { preset } = await host.namespaces.get(namespace);
    const needs = needsOf(host, manifest, preset, check.damage);
    const isWell = check.damage.size === 0 && check.unreachable === 0 && needs.wanted.length === 0;
    const now = isWell ? entry : await registry.get(objectPath(namespace, name));
    // Deleted, or repaired, since it was listed: what was missing then says nothing.
    if (now === null) return;
    if (now.modRevision === entry.modRevision) {
      await judgeObject(host, { namespace, name, manifest, check, needs, repair }, report);
      return;
    }
    entry = now;
  }
}

interface Checked {
  namespace: string;
  name: string;
  manifest: Manifest;
  check: FragmentCheck;
  needs: Needs;
  repair: boolean;
}

/** Enters an object, and mends it where that is wanted and can be. */
async function judgeObject(host: RepairHost, checked: Checked, report: VerifyReport) {
  const { namespace, name, manifest, check, needs, repair } = checked;
  report.objects++;
  report.fragments += manifest.fragments.length;
  report.bytesRead += check.bytesRead;
  report.missing += check.missing;
  report.corrupt += check.corrupt;
  report.unreachable += check.unreachable;
  report.misplaced += needs.wanted.filter((f) => isJustMisplaced(host, manifest, check, f)).length;
  let { spare } = needs;
  if (spare < 0) report.unreadable++;
  if (needs.wanted.length > 0 || spare < 0) sample(report, `${namespace}/${name}`);
  if (repair && needs.wanted.length > 0 && spare >= 0) {
    const result = await tryRepair(host, namespace, name, check.damage);
    report.repaired += result.repaired;
    report.lacking += result.lacking;
    spare += result.repaired;
  } else report.lacking += needs.wanted.length;
  if (report.spareMin === null || spare < report.spareMin) report.spareMin = spare;
}

function isJustMisplaced(
  host: RepairHost,
  manifest: Manifest,
  check: FragmentCheck,
  f: number,
): boolean {
  const { osd } = manifest.fragments[f]!;
  return osd !== 0 && !check.damage.has(f) && host.core.pool.isUp(osd);
}

async function tryRepair(host: RepairHost, namespace: string, name: string, damage: Damage) {
  try {
    return await repairObject(host, namespace, name, damage);
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    host.core.world.log.warn("repair failed", { namespace, object: name, reason: error.message });
    return { repaired: 0, lacking: damage.size, raced: false };
  }
}

/** Reads all fragments of an object that can be asked for. */
export async function checkFragments(
  host: RepairHost,
  name: string,
  manifest: Manifest,
): Promise<FragmentCheck> {
  const { core, rate } = host;
  const view = new ObjectView(name, 0, manifest);
  const fragmentBytes = manifest.unitBytes * manifest.stripes;
  const count = manifest.fragments.length;
  const sliceBytes = Math.min(SLICE_BYTES, fragmentBytes);
  const failures = new Map<number, Failure>();
  const check: FragmentCheck = {
    damage: new Map(),
    missing: 0,
    corrupt: 0,
    unreachable: 0,
    bytesRead: 0,
  };
  const memory = await core.memory.take(count * sliceBytes);
  try {
    for (let at = 0; at < fragmentBytes; at += sliceBytes) {
      const bytes = Math.min(sliceBytes, fragmentBytes - at);
      await rate.take(bytes * (count - failures.size));
      const call = core.pieces.begin({ ...OPTIONS, patient: true });
      for (let f = 0; f < count; f++) {
        if (failures.has(f)) continue;
        check.bytesRead += bytes;
        const into = memory + f * sliceBytes;
        core.pieces.add(call, view, f, at / CLUSTER_BYTES, bytes / CLUSTER_BYTES, into);
      }
      const failed = await new Promise<FailedPiece[]>((resolve) => core.pieces.send(call, resolve));
      for (const { fragment, failure } of failed) failures.set(fragment, failure);
    }
  } finally {
    core.memory.give(memory);
  }
  for (const [f, failure] of failures) judge(check, manifest, f, failure);
  return check;
}

function judge(check: FragmentCheck, manifest: Manifest, f: number, failure: Failure): void {
  if (failure === Failure.Down || failure === Failure.Slow) check.unreachable++;
  else if (failure === Failure.Missing) check.missing++;
  else check.corrupt++;
  const isDamaged = failure !== Failure.Down && failure !== Failure.Slow;
  if (isDamaged) check.damage.set(f, manifest.fragments[f]!.version);
}

function sample(report: VerifyReport, text: string): void {
  if (report.samples.length < SAMPLES_MAX) report.samples.push(text);
}

// ---- Leaks ----

/** Counts the fragments on an OSD that no manifest, no mark and no record of garbage names. */
async function findLeaks(host: RepairHost, osd: Osd, report: VerifyReport): Promise<void> {
  let { first, end } = keyRange("data");
  try {
    for (;;) {
      const page = await osd.range(first, end, KEYS_PER_STEP, OPTIONS);
      if (page.keys.length === 0) return;
      const names = page.keys.map(parseKey).filter((name) => name !== null);
      for (const name of await unnamed(host, osd, names)) {
        report.leaked++;
        sample(
          report,
          `OSD ${osd.id}: fragment ${name.fragment} of object ${toHex(name.objectId)}`,
        );
      }
      if (!page.more) return;
      first = Uint8Array.of(...page.keys.at(-1)!, 0);
    }
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    host.core.world.log.warn("leaks were not looked for", { osd: osd.id, reason: error.message });
  }
}

async function unnamed(
  host: RepairHost,
  osd: Osd,
  names: readonly FragmentName[],
): Promise<FragmentName[]> {
  const { registry } = host.core;
  const values = await osd.getSmall(names.map(recoveryKey), OPTIONS);
  const recoveries = values.map((value) => (value === null ? null : decodeRecovery(value)));
  const paths = recoveries.map((r) => (r === null ? "/none" : objectPath(r.namespace, r.name)));
  const { entries } = await registry.transact({
    compares: [],
    success: paths.map((key) => ({ kind: "get", key })),
    failure: [],
  });
  const suspects: Array<{ name: FragmentName; recovery: Recovery | null }> = [];
  names.forEach((name, i) => {
    const entry = entries[i] ?? null;
    if (entry !== null && isNamedBy(readManifest(entry), osd.id, name)) return;
    suspects.push({ name, recovery: recoveries[i]! });
  });
  const leaked: FragmentName[] = [];
  for (const { name, recovery } of suspects) {
    if (recovery === null || !(await isGarbage(host, osd, name, recovery))) leaked.push(name);
  }
  return leaked;
}

function isNamedBy(manifest: Manifest, osd: number, name: FragmentName): boolean {
  const place = manifest.fragments[name.fragment];
  return (
    equalBytes(manifest.objectId, name.objectId) &&
    place?.osd === osd &&
    place.version === name.version
  );
}

/** Marked, or in the trash; or it became named, or went, since the list was read. */
async function isGarbage(
  host: RepairHost,
  osd: Osd,
  name: FragmentName,
  recovery: Recovery,
): Promise<boolean> {
  const { registry } = host.core;
  const first = markPrefix(recovery.namespaceId);
  const marks = await osd.range(first, markEnd(recovery.namespaceId, 2 ** 52), 1000, OPTIONS);
  const isMarked = marks.keys.some((key) => {
    const mark = parseMark(key);
    return mark !== null && isSameName(mark.name, name);
  });
  if (isMarked || marks.more) return true;
  const prefix = `${TRASH_PREFIX}${recovery.namespace}/${toHex(name.objectId)}`;
  if ((await registry.range(prefix, { limit: 1 })).entries.length > 0) return true;
  const entry = await registry.get(objectPath(recovery.namespace, recovery.name));
  if (entry !== null && isNamedBy(readManifest(entry), osd.id, name)) return true;
  const [still] = await osd.getSmall([recoveryKey(name)], OPTIONS);
  return still === null;
}

function isSameName(a: FragmentName, b: FragmentName): boolean {
  return a.fragment === b.fragment && a.version === b.version && equalBytes(a.objectId, b.objectId);
}
