// SPDX-License-Identifier: Apache-2.0
// What a process has seen of the OSDs, for people and for tests.

import type { OsdPool } from "./osdpool.js";
import type { OsdStatus } from "./protocol.js";

/** What is known of every OSD of the topology, those that are gone too. */
export function osdStatuses(pool: OsdPool): OsdStatus[] {
  return [...pool.topology.osds.keys()].map((id) => {
    const osd = pool.get(id);
    const downMs = pool.downMs(id);
    return {
      id,
      up: osd?.up ?? false,
      full: osd?.full ?? false,
      slow: osd?.slow ?? false,
      freeBytes: osd?.freeBytes ?? 0,
      // null: gone for ever.
      downMs: Number.isFinite(downMs) ? Math.round(downMs) : null,
    };
  });
}
