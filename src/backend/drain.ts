// SPDX-License-Identifier: Apache-2.0
// Draining: an OSD takes no new fragments, and maintenance moves those that it has elsewhere. It is
// empty when a look finds nothing that began so long after the mark that no upload by an older view
// of the OSDs is under way any more (P-C5).

import { StorageError } from "../base/errors.js";
import type { Clock } from "../platform/world.js";
import type { Registry } from "../registry/registry.js";
import { OsdState } from "../wire/generated/osd.js";
import { setOsdState } from "./records.js";

/** After this long nothing that was uploaded by an old view of the OSDs can appear (P-C5). */
export const VIEW_SETTLED_MS = 60_000;
const LOOK_MS = 500;

/**
 * Marks the OSD and resolves when it is empty. `countFragments`: how many it has now, null when it
 * does not answer: then nobody knows, and it is asked again. OVS_TIMEOUT at `untilMs`, on the
 * clock; it stays marked, and the call can be made again.
 */
export async function drainOsd(
  { clock, registry }: { clock: Clock; registry: Registry },
  osd: number,
  countFragments: () => Promise<number | null>,
  untilMs: number,
): Promise<void> {
  await setOsdState(registry, osd, OsdState.draining);
  const settledMs = clock.nowMs() + VIEW_SETTLED_MS;
  for (;;) {
    const begunMs = clock.nowMs();
    const count = await countFragments();
    if (count === 0 && begunMs >= settledMs) return;
    if (begunMs > untilMs) {
      const why = count === null ? "does not answer" : `has ${count} fragments still`;
      throw new StorageError("OVS_TIMEOUT", `OSD ${osd} ${why}: try again`);
    }
    await clock.sleep(LOOK_MS);
  }
}
