// SPDX-License-Identifier: Apache-2.0
// Sizes: constants of the system and the reading and printing of IEC sizes.

import { assert } from "./assert.js";
import { StorageError } from "./errors.js";

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

/** The map's unit: 4 KiB of a vDisk; also the unit of O_DIRECT and of fragment checksums. */
export const CLUSTER_BYTES = 4096;
export const VDISK_BYTES_MAX = 64 * TIB;

const SUFFIXES: Record<string, number> = { "": 1, K: KIB, M: MIB, G: GIB, T: TIB };

/** Reads `10G`, `4096` or `16M` (IEC only, whole numbers); throws OVS_INVALID for anything else. */
export function parseSize(text: string): number {
  const match = /^(\d+)([KMGT]?)$/.exec(text);
  const bytes = match ? Number(match[1]) * (SUFFIXES[match[2] ?? ""] ?? 0) : Number.NaN;
  if (!Number.isSafeInteger(bytes)) {
    throw new StorageError(
      "OVS_INVALID",
      `"${text}" is not a size: write a whole number with K, M, G or T (10G = 10 GiB)`,
    );
  }
  return bytes;
}

/** Prints a size as the largest unit that divides it exactly: `10G`, `1536M`, `4095`. */
export function formatSize(bytes: number): string {
  assert(Number.isSafeInteger(bytes) && bytes >= 0, "sizes are whole and not negative");
  for (const [suffix, unit] of [
    ["T", TIB],
    ["G", GIB],
    ["M", MIB],
    ["K", KIB],
  ] as const) {
    if (bytes >= unit && bytes % unit === 0) return `${bytes / unit}${suffix}`;
  }
  return String(bytes);
}
