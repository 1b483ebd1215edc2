// SPDX-License-Identifier: Apache-2.0
// When destage may rest. While clients write a lot and the journal has room, closed batches stay
// in the journal: CPU and disk belong to the clients, and destage makes up for it when they pause.
// It never rests when the journal is half full, when the oldest write is old, when somebody waits
// for it, or when another vDisk waits for room.

import type { Volume } from "./volume.js";

/** Bytes written between two ticks that make a vDisk busy. */
const BUSY_BYTES = 1024 * 1024;
/** How long it stays busy after that. */
const BUSY_MS = 1000;
/** However busy: the oldest write in the journal is not older than this when its batch begins. */
const REST_MS = 20_000;

export class Pace {
  readonly #volume: Volume;
  #busyUntilMs = 0;
  #bytesSeen = 0;

  constructor(volume: Volume) {
    this.#volume = volume;
  }

  /** A batch was closed because it is full. */
  onFull(nowMs: number): void {
    this.#busyUntilMs = nowMs + BUSY_MS;
  }

  /** Every half second while something is dirty. */
  tick(nowMs: number): void {
    const { writtenBytes } = this.#volume.counts;
    if (writtenBytes - this.#bytesSeen >= BUSY_BYTES) this.#busyUntilMs = nowMs + BUSY_MS;
    this.#bytesSeen = writtenBytes;
  }

  /** Whether the oldest closed batch may stay where it is for now. */
  mayRest(nowMs: number): boolean {
    const { dirty, journal, state } = this.#volume;
    const oldest = dirty.oldestClosed;
    if (oldest === null || state !== "serving" || nowMs >= this.#busyUntilMs) return false;
    return nowMs - oldest.openedMs < REST_MS && journal.hasHalf;
  }
}
