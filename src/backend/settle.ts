// SPDX-License-Identifier: Apache-2.0
// Settles a put whose outcome is unknown (P-B1), without any proxy: one transaction that either
// finds the object, or raises `gc` beyond the epoch of its tries while the object is not there.
// After that no commit of them can succeed (P-C6), however late a proxy gets round to it.

import { equalBytes } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import type { World } from "../platform/world.js";
import type { Registry } from "../registry/registry.js";
import { transactSettled } from "./commit.js";
import { readManifest } from "./manifests.js";
import { gcPath, numberValue, objectPath, readNumber } from "./paths.js";
import type { PutResult } from "./store.js";

const RETRY_MS = 200;

export interface LostPut {
  namespace: string;
  name: string;
  uploadId: Uint8Array;
  /** Upload epoch of all its tries. */
  epoch: number;
}

/**
 * The result of the put when it was committed; null when it was not and never will be. OVS_EXISTS
 * when the name belongs to another upload, OVS_CLOSED when `giveUp` says so before it is known.
 */
export async function settlePut(
  registry: Registry,
  world: Pick<World, "clock" | "log">,
  put: LostPut,
  giveUp: () => boolean,
): Promise<PutResult | null> {
  const { namespace, name } = put;
  const key = gcPath(namespace);
  for (;;) {
    const gc = await readGc(registry, world, key, giveUp);
    if (gc === null) return null;
    const next = Math.max(readNumber(gc.value, key), put.epoch + 1);
    const { succeeded, entries } = await transactSettled(
      registry,
      world,
      {
        compares: [
          { key: objectPath(namespace, name), target: "version", is: "=", number: 0 },
          { key, target: "modRevision", is: "=", number: gc.modRevision },
        ],
        success: [{ kind: "put", key, value: numberValue(next) }],
        failure: [{ kind: "get", key: objectPath(namespace, name) }],
      },
      giveUp,
    );
    if (succeeded) return null;
    const there = entries[0] ?? null;
    // Otherwise `gc` was raised by someone else, or by a lost first try of this: once more.
    if (there === null) continue;
    const manifest = readManifest(there);
    if (!equalBytes(manifest.uploadId, put.uploadId)) {
      throw new StorageError("OVS_EXISTS", `object ${name} exists already in ${namespace}`);
    }
    const fragments = manifest.fragments.filter(({ osd }) => osd !== 0).length;
    return { revision: there.createRevision, fragments, storedBytes: manifest.storedBytes };
  }
}

async function readGc(
  registry: Registry,
  world: Pick<World, "clock" | "log">,
  key: string,
  giveUp: () => boolean,
) {
  for (;;) {
    try {
      return await registry.get(key);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      if (giveUp()) {
        throw new StorageError("OVS_CLOSED", "ended before a put's outcome was known", {
          cause: error,
        });
      }
      await world.clock.sleep(RETRY_MS);
    }
  }
}
