// SPDX-License-Identifier: Apache-2.0
// The backend's records in the registry and how they change: OSDs, presets, namespaces.

import { assert } from "../base/assert.js";
import { formatUuid, parseUuid } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import type { Registry, RegistryEntry } from "../registry/registry.js";
import {
  decodePreset,
  type FailureDomain,
  type Policy,
  type Preset,
  packPreset,
} from "../wire/generated/manifest.js";
import { decodeOsdRecord, OsdState, packOsdRecord } from "../wire/generated/osd.js";
import { OSD_PREFIX, osdIdOf, osdPath, presetPath } from "./paths.js";
import { invalidPreset } from "./policy.js";
import type { OsdInfo } from "./topology.js";

export const OSDS_MAX = 4096;
const PAGE = 500;
const ID_COUNTER = "/osd-next";

/**
 * All keys with a prefix; OVS_INVALID when there are more than `max`. The revision is that of the
 * last page.
 */
export async function readAll(
  registry: Registry,
  prefix: string,
  max: number,
): Promise<{ entries: RegistryEntry[]; revision: number }> {
  const entries: RegistryEntry[] = [];
  let after: string | undefined;
  let first = 0;
  for (;;) {
    const page = await registry.range(
      prefix,
      after === undefined ? { limit: PAGE } : { after, limit: PAGE },
    );
    if (first === 0) first = page.revision;
    entries.push(...page.entries);
    if (entries.length > max) {
      throw new StorageError(
        "OVS_INVALID",
        `the registry has more than ${max} keys below ${prefix}`,
      );
    }
    // The first page's revision: a watch from there misses nothing that a later page is too old
    // for.
    if (!page.more) return { entries, revision: first };
    after = page.entries.at(-1)!.key;
  }
}

export interface OsdRegistration extends Omit<OsdInfo, "id" | "state"> {}

/**
 * Enters an OSD under a fresh id, or brings the record of its disk up to date (address, domains,
 * capacity). Returns the id; a disk that was declared gone stays so (OVS_CONFLICT).
 */
export async function registerOsd(registry: Registry, osd: OsdRegistration): Promise<number> {
  for (;;) {
    const { entries } = await readAll(registry, OSD_PREFIX, OSDS_MAX);
    const old = entries.find((entry) => diskOf(entry) === osd.diskUuid);
    const counter = await registry.get(ID_COUNTER);
    const next = counter === null ? 1 : Number.parseInt(Buffer.from(counter.value).toString(), 10);
    assert(Number.isSafeInteger(next) && next >= 1, "the counter of OSD ids is a number");
    const id = old ? osdIdOf(old.key) : next;
    const state = old ? decodeOsdRecord(old.value).state : OsdState.active;
    if (state === OsdState.gone) {
      throw new StorageError(
        "OVS_CONFLICT",
        `disk ${osd.diskUuid} was declared gone: format it anew`,
      );
    }
    const value = packOsdRecord({
      state,
      clusterUuid: parseUuid(osd.clusterUuid),
      diskUuid: parseUuid(osd.diskUuid),
      protocolMin: 1,
      protocolMax: 1,
      capacityBytes: osd.capacityBytes,
      site: osd.site,
      rack: osd.rack,
      node: osd.node,
      address: osd.address,
    });
    if (old && Buffer.compare(old.value, value) === 0) return id;
    const key = osdPath(id);
    const { succeeded } = await registry.transact({
      compares: [
        { key, target: "modRevision", is: "=", number: old?.modRevision ?? 0 },
        { key: ID_COUNTER, target: "modRevision", is: "=", number: counter?.modRevision ?? 0 },
      ],
      success: [
        { kind: "put", key, value },
        ...(old
          ? []
          : [{ kind: "put", key: ID_COUNTER, value: Buffer.from(String(next + 1)) } as const]),
      ],
      failure: [],
    });
    if (succeeded) return id;
  }
}

function diskOf(entry: RegistryEntry): string {
  return osdIdOf(entry.key) === 0 ? "" : formatUuid(decodeOsdRecord(entry.value).diskUuid);
}

/** Changes what may be done with an OSD. OVS_NOT_FOUND when there is none. */
export async function setOsdState(registry: Registry, id: number, state: OsdState): Promise<void> {
  for (;;) {
    const entry = await registry.get(osdPath(id));
    if (entry === null) throw new StorageError("OVS_NOT_FOUND", `there is no OSD ${id}`);
    const record = decodeOsdRecord(entry.value);
    if (record.state === state) return;
    const { succeeded } = await registry.transact({
      compares: [{ key: entry.key, target: "modRevision", is: "=", number: entry.modRevision }],
      success: [{ kind: "put", key: entry.key, value: packOsdRecord({ ...record, state }) }],
      failure: [],
    });
    if (succeeded) return;
  }
}

export interface PresetOptions {
  policies: Policy[];
  domain: FailureDomain;
}

/**
 * Creates or changes a preset; its version grows only when something differs. OVS_INVALID in words.
 */
export async function ensurePreset(
  registry: Registry,
  name: string,
  options: PresetOptions,
): Promise<void> {
  const reason = invalidPreset(options.policies);
  if (reason !== null) throw new StorageError("OVS_INVALID", `preset ${name}: ${reason}`);
  const key = presetPath(name);
  for (;;) {
    const entry = await registry.get(key);
    const old = entry === null ? null : decodePreset(entry.value);
    const preset: Preset = {
      domain: options.domain,
      compression: 0,
      presetVersion: old?.presetVersion ?? 1,
      cellBytes: 4096,
      keyId: 0,
      policies: options.policies,
    };
    if (entry !== null && Buffer.compare(entry.value, packPreset(preset)) === 0) return;
    if (old !== null) preset.presetVersion++;
    const { succeeded } = await registry.transact({
      compares: [{ key, target: "modRevision", is: "=", number: entry?.modRevision ?? 0 }],
      success: [{ kind: "put", key, value: packPreset(preset) }],
      failure: [],
    });
    if (succeeded) return;
  }
}
