// SPDX-License-Identifier: Apache-2.0
// What the reader needs of a volume, and the ways in which a read can fail.

import type { ErrorKind } from "../base/errors.js";
import { StorageError } from "../base/errors.js";
import type { BatchSource } from "./backendreads.js";
import type { DirtyMap } from "./dirty.js";
import type { Journal } from "./journal.js";
import type { VolumeMap } from "./map.js";

/** What a volume shows to the reader. */
export interface ReadSource extends BatchSource {
  /** What is added to an index in a SCO to have its index in the read caches. */
  readonly cacheBase: number;
  readonly owner: number;
  readonly dirty: DirtyMap;
  readonly journal: Journal;
  readonly map: VolumeMap;
  readonly name: string;
  /** Set when the volume is halted or closed: reads fail with it. */
  readonly failed: ErrorKind | null;
  /** A job of this volume is done. */
  onRead(job: number, error: ErrorKind | null): void;
  /** The map in the store is damaged. */
  onMapDamaged(reason: string): void;
  /** Reads that wait for the backend. */
  readsWaiting: number;
  /** Counters of clusters, by where they came from. */
  readonly readCounts: Float64Array;
  /** `corruptions`: checksums that were wrong; the read is tried elsewhere or refused. */
  readonly counts: { corruptions: number };
}

export const Failure = {
  None: 0,
  NotFound: 1,
  Unavailable: 2,
  Corrupt: 3,
  Closed: 4,
  Fenced: 5,
} as const;
export type Failure = (typeof Failure)[keyof typeof Failure];

/** The failure that an error of a store stands for; throws what is no expected error. */
export function failureOf(error: unknown): Failure {
  if (!(error instanceof StorageError)) throw error;
  if (error.code === "OVS_NOT_FOUND") return Failure.NotFound;
  switch (error.kind) {
    case "corrupt":
      return Failure.Corrupt;
    case "closed":
      return Failure.Closed;
    case "fenced":
      return Failure.Fenced;
    case "invalid":
    case "full":
    case "unavailable":
      return Failure.Unavailable;
  }
}

/** What the client is told. */
export function kindOf(failure: Failure): ErrorKind {
  if (failure === Failure.Closed) return "closed";
  if (failure === Failure.Fenced) return "fenced";
  return failure === Failure.Unavailable ? "unavailable" : "corrupt";
}
