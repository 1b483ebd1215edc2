// SPDX-License-Identifier: Apache-2.0
// What a volume tells about itself.

import { CLUSTER_BYTES } from "../base/units.js";
import type { VolumeStatus } from "./config.js";
import type { Volume } from "./volume.js";

/** A snapshot of the volume's state and counters. */
export function volumeStatus(volume: Volume): VolumeStatus {
  const { map, journal, destager, readCounts, writer } = volume;
  return {
    name: volume.name,
    state: volume.state,
    reason: volume.reason,
    waiting: waitingFor(volume),
    sizeBytes: volume.sizeBytes,
    allocatedBytes: map.scos.liveClusters * CLUSTER_BYTES,
    dirtyBytes: volume.dirty.payloadBytes,
    journal: {
      usedBytes: journal.usedBytes,
      limitBytes: journal.options.segmentBytes * journal.options.segmentsMax,
      segments: journal.segments.length,
    },
    client: {
      readBytes: volume.counts.readBytes,
      writtenBytes: volume.counts.writtenBytes,
      zeroedBytes: volume.counts.zeroedBytes,
      flushes: volume.counts.flushes,
    },
    corruptions: volume.counts.corruptions,
    backend: {
      putBytes: destager.counts.putBytes,
      storedBytes: destager.counts.storedBytes,
      scos: map.scos.count,
      scoClusters: map.scos.totalClusters,
      liveClusters: map.scos.liveClusters,
      tlogNumber: map.mark.tlogNumber,
      checkpointNumber: map.mark.checkpointNumber,
      retries: destager.counts.retries,
    },
    reads: {
      zero: readCounts[0],
      journal: readCounts[1],
      memory: readCounts[2],
      disk: readCounts[3],
      backend: readCounts[4],
    },
    epoch: volume.config.epoch,
    sequence: writer.committed,
    flushedSequence: writer.flushed,
  };
}

function waitingFor(volume: Volume): string | null {
  if (volume.state === "halted") return null;
  const { destager, journal } = volume;
  if (volume.readsWaiting > 0) return "reads wait for the backend";
  if (volume.requestsWaiting > 0 && journal.obstacle !== null) {
    return destager.obstacle === null
      ? `writes wait: ${journal.obstacle}`
      : `writes wait: ${journal.obstacle}, and ${destager.obstacle}`;
  }
  return destager.obstacle;
}
