// SPDX-License-Identifier: Apache-2.0
// The end of a namespace, after it was marked as deleting (nothing is committed to it any more):
// its objects go to the trash, then its keys go, then its name is free. Every step may be repeated.

import type { World } from "../platform/world.js";
import { type Operation, REGISTRY_RANGE_MAX, type Registry } from "../registry/registry.js";
import { removalOf } from "./commit.js";
import {
  DELETING_PREFIX,
  infoPath,
  NAMESPACE_LIST_PREFIX,
  namespacePrefix,
  objectsPrefix,
  widthPrefix,
} from "./paths.js";

const OBJECTS_PER_STEP = 30;
const KEYS_PER_STEP = 100;
const NAMESPACES_PER_PASS = 100;

export interface UnmakeHost {
  readonly world: Pick<World, "log">;
  readonly registry: Registry;
  /** True once work is to end at its next step. */
  isStopping(): boolean;
}

/** Removes what namespaces that are being deleted still have; returns how many are done with. */
export async function removeNamespaces(host: UnmakeHost): Promise<number> {
  const page = await host.registry.range(DELETING_PREFIX, { limit: NAMESPACES_PER_PASS });
  let done = 0;
  for (const entry of page.entries) {
    const namespace = entry.key.slice(DELETING_PREFIX.length);
    await dropObjects(host, namespace);
    await dropKeys(host, namespacePrefix(namespace), infoPath(namespace));
    await dropKeys(host, widthPrefix(namespace), "");
    if (host.isStopping()) return done;
    await host.registry.transact({
      compares: [],
      success: [infoPath(namespace), `${NAMESPACE_LIST_PREFIX}${namespace}`, entry.key].map(
        (key) => ({ kind: "delete", key }),
      ),
      failure: [],
    });
    host.world.log.info("a namespace was removed", { namespace });
    done++;
  }
  return done;
}

async function dropObjects(host: UnmakeHost, namespace: string): Promise<void> {
  while (!host.isStopping()) {
    const page = await host.registry.range(objectsPrefix(namespace), { limit: OBJECTS_PER_STEP });
    if (page.entries.length === 0) return;
    // Repair may change one meanwhile: then this step is done again.
    await host.registry.transact({
      compares: page.entries.map(({ key, modRevision }) => {
        return { key, target: "modRevision", is: "=", number: modRevision };
      }),
      success: page.entries.flatMap((entry) => removalOf(namespace, entry)),
      failure: [],
    });
  }
}

/** Deletes all keys of a prefix but one, which says that the namespace is not yet gone. */
async function dropKeys(host: UnmakeHost, prefix: string, but: string): Promise<void> {
  let after: string | undefined;
  while (!host.isStopping()) {
    const limits = { limit: Math.min(KEYS_PER_STEP, REGISTRY_RANGE_MAX) };
    const page = await host.registry.range(
      prefix,
      after === undefined ? limits : { ...limits, after },
    );
    const success: Operation[] = page.entries
      .filter(({ key }) => key !== but)
      .map(({ key }) => ({ kind: "delete", key }));
    if (success.length > 0) await host.registry.transact({ compares: [], success, failure: [] });
    if (!page.more) return;
    after = page.entries.at(-1)!.key;
  }
}
