// SPDX-License-Identifier: Apache-2.0
// Manifests: what a reader keeps of one, and what is asked of one.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import type { RegistryEntry } from "../registry/registry.js";
import { decodeManifest, type Manifest } from "../wire/generated/manifest.js";
import { DATA_KEY_BYTES, OBJECT_ID_BYTES, writeDataKey } from "./keys.js";
import { FRAGMENT_BYTES_MAX, type ObjectLayout, UNIT_BYTES_MAX } from "./layout.js";
import { invalidPolicy } from "./policy.js";

/** An object's manifest as reads need it: small, because many are kept. */
export class ObjectView implements ObjectLayout {
  readonly name: string;
  /** Registry revision of the manifest's last change. */
  readonly revision: number;
  readonly k: number;
  readonly m: number;
  readonly unitBytes: number;
  readonly stripes: number;
  readonly rawBytes: number;
  /** OSD of each fragment; 0: it is missing. */
  readonly osds: number[];
  /** Data keys of the fragments, DATA_KEY_BYTES each. */
  readonly keys: Uint8Array;

  constructor(name: string, revision: number, manifest: Manifest) {
    this.name = name;
    this.revision = revision;
    this.k = manifest.policy.k;
    this.m = manifest.policy.m;
    this.unitBytes = manifest.unitBytes;
    this.stripes = manifest.stripes;
    this.rawBytes = manifest.rawBytes;
    this.osds = manifest.fragments.map((place) => place.osd);
    this.keys = new Uint8Array(this.osds.length * DATA_KEY_BYTES);
    for (let f = 0; f < this.osds.length; f++) {
      const { version } = manifest.fragments[f]!;
      writeDataKey(this.keys, f * DATA_KEY_BYTES, manifest.objectId, f, version);
    }
  }
}

/** Decodes a manifest and checks that it makes sense; OVS_CORRUPT names the key. */
export function readManifest(entry: RegistryEntry): Manifest {
  let manifest: Manifest;
  try {
    manifest = decodeManifest(entry.value);
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    throw new StorageError(error.code, `${entry.key}: ${error.message}`, { cause: error });
  }
  const reason = invalidManifest(manifest);
  if (reason === null) return manifest;
  throw new StorageError("OVS_CORRUPT", `${entry.key}: the manifest ${reason}`);
}

function invalidManifest(manifest: Manifest): string | null {
  const { policy, unitBytes, stripes, fragments, rawBytes } = manifest;
  const reason = invalidPolicy(policy);
  if (reason !== null) return `has a policy that ${reason}`;
  if (fragments.length !== policy.k + policy.m) return `names ${fragments.length} fragments`;
  if (unitBytes === 0 || unitBytes % 4096 !== 0 || unitBytes > UNIT_BYTES_MAX) {
    return `has a stripe unit of ${unitBytes}`;
  }
  if (unitBytes * stripes > FRAGMENT_BYTES_MAX) return `has ${stripes} stripes`;
  if (rawBytes > unitBytes * stripes * policy.k) return `claims ${rawBytes} bytes`;
  if (manifest.compression !== 0 || manifest.keyId !== 0 || manifest.cellTableBytes !== 0) {
    return "has cells that this version cannot read";
  }
  return null;
}

/** Losses that an object survives when just these OSDs live; negative: it cannot be read now. */
export function spareOf(manifest: Manifest, isAlive: (osd: number) => boolean): number {
  let alive = 0;
  for (const { osd } of manifest.fragments) if (osd !== 0 && isAlive(osd)) alive++;
  return alive - manifest.policy.k;
}

/** Fragments that no OSD has. */
export function missingFragments(manifest: Manifest): number[] {
  const missing: number[] = [];
  manifest.fragments.forEach((place, f) => {
    if (place.osd === 0) missing.push(f);
  });
  return missing;
}

/** The manifest with some fragments elsewhere. */
export function withPlaces(
  manifest: Manifest,
  places: ReadonlyMap<number, { osd: number; version: number }>,
): Manifest {
  const fragments = manifest.fragments.map((place, f) => places.get(f) ?? place);
  const stored = fragments.filter((place) => place.osd !== 0).length;
  assert(manifest.objectId.byteLength === OBJECT_ID_BYTES, "an object has an id");
  const storedBytes = stored * manifest.unitBytes * manifest.stripes;
  return { ...manifest, fragments, storedBytes };
}
