// SPDX-License-Identifier: Apache-2.0
// What a volume is opened with, and what it tells its owner.

import { type ErrorKind, StorageError } from "../base/errors.js";
import { CLUSTER_BYTES, formatSize, VDISK_BYTES_MAX } from "../base/units.js";

export interface VolumeConfig {
  /** 16 bytes. */
  vdiskId: Uint8Array;
  /** For people: export name, logs. */
  name: string;
  /** Size that the registry has; the journal or the map may know a newer one. Whole clusters. */
  sizeBytes: number;
  /** Namespace of the backend; exists, unless `isNew`. */
  namespace: string;
  /** Owner epoch that was claimed for this start of service (P-A4): greater than all before. */
  epoch: number;
  /** Cluster of machines, 16 bytes. */
  clusterUuid: Uint8Array;
  /** This router, 16 bytes, and its incarnation. */
  routerUuid: Uint8Array;
  incarnation: number;
  /** Folder of this thread's data; the journal is in `<dir>/journal/<vdisk uuid>`. */
  dir: string;
  /** Most bytes of this vDisk's journal files. */
  journalBytes: number;
  scoBytes: number;
  /** True at the very first open: namespace and map are made. */
  isNew: boolean;
  /**
   * Whether the journal is needed, as the registry has it: "dirty" from `marks.dirty` on until
   * `marks.clean`. With "clean" a lost journal loses nothing.
   */
  wasDirty: boolean;
  /** An operator accepts that acknowledged writes are lost where they cannot be recovered. */
  acceptLoss: boolean;
  /** A batch is closed when it has brought this many bytes; null: chosen by the journal's size. */
  batchBytes: number | null;
  /** A batch is closed when its first write is this old. */
  batchAgeMs: number;
  /** Size of a journal segment; null: chosen by the journal's size. */
  segmentBytes: number | null;
}

/** Marks that the owner keeps in the registry. */
export interface VolumeMarks {
  /**
   * Before the first write after a clean state is acknowledged: from here on the journal is needed.
   */
  dirty(): Promise<void>;
  /** Everything up to TLog `tlogNumber` is in the backend, and nothing else was acknowledged. */
  clean(tlogNumber: number): Promise<void>;
}

export type VolumeState = "serving" | "stopping" | "stopped" | "halted";

export interface VolumeStatus {
  name: string;
  state: VolumeState;
  /** Why it is halted, null else. */
  reason: string | null;
  /** What requests or destage wait for now, in words; null when nothing waits. */
  waiting: string | null;
  sizeBytes: number;
  /** Bytes of clusters that the map names. */
  allocatedBytes: number;
  /** Payload in the journal that is not in the backend. */
  dirtyBytes: number;
  journal: { usedBytes: number; limitBytes: number; segments: number };
  client: { readBytes: number; writtenBytes: number; zeroedBytes: number; flushes: number };
  backend: {
    /** Bytes of SCOs and TLogs put. */
    putBytes: number;
    /** What the ASDs stored for them, fragments and all. */
    storedBytes: number;
    scos: number;
    scoClusters: number;
    liveClusters: number;
    tlogNumber: number;
    checkpointNumber: number;
    retries: number;
  };
  /** Clusters read, by where they came from. */
  reads: { zero: number; journal: number; memory: number; disk: number; backend: number };
  /** Checksums that were wrong, in journal, caches, map or backend. */
  corruptions: number;
  epoch: number;
  sequence: number;
  flushedSequence: number;
}

/** OVS_INVALID when a vDisk cannot have the new size. */
export function checkGrowth(
  { name, sizeBytes }: { name: string; sizeBytes: number },
  newBytes: number,
): void {
  if (newBytes % CLUSTER_BYTES !== 0 || newBytes > VDISK_BYTES_MAX) {
    throw new StorageError(
      "OVS_INVALID",
      `a vDisk cannot have ${formatSize(newBytes)}: whole 4 KiB, at most 64T`,
    );
  }
  if (newBytes >= sizeBytes) return;
  throw new StorageError("OVS_INVALID", `${name} has ${formatSize(sizeBytes)}: a vDisk only grows`);
}

export type { ErrorKind };
