// SPDX-License-Identifier: Apache-2.0
// Names of a vDisk's objects and registry keys, and the numbers in them.

import { assert } from "../base/assert.js";
import { fixedNumber } from "../registry/registry.js";

/** SCO ids of an epoch: epoch × this + counter. So an id is never used twice, whoever crashed. */
const SCOS_PER_EPOCH = 2 ** 28;
export const EPOCH_MAX = 2 ** 25 - 1;

export const SCO_PREFIX = "sco/";
export const TLOG_PREFIX = "tlog/";
export const CHECKPOINT_PREFIX = "checkpoint/";

/** The id of the `counter`th SCO of an owner epoch; unique in the family (P-F2). */
export function scoIdOf(epoch: number, counter: number): number {
  assert(epoch > 0 && epoch <= EPOCH_MAX, "epochs are within their limit");
  assert(counter > 0 && counter < SCOS_PER_EPOCH, "SCOs of an epoch are within their limit");
  return epoch * SCOS_PER_EPOCH + counter;
}

/** The object's name of a SCO. */
export function scoName(id: number): string {
  return SCO_PREFIX + fixedNumber(id);
}

/** The object's name of a TLog. */
export function tlogName(number: number): string {
  return TLOG_PREFIX + fixedNumber(number);
}

/** The object's name of a part of the checkpoint at a TLog. */
export function checkpointName(tlogNumber: number, part: number): string {
  return `${CHECKPOINT_PREFIX}${fixedNumber(tlogNumber)}/${part.toString(16).padStart(6, "0")}`;
}

/** The number at the end of a name with a prefix. */
export function numberOf(name: string, prefix: string): number {
  assert(name.startsWith(prefix), "the name has the prefix");
  return Number.parseInt(name.slice(prefix.length, prefix.length + 14), 16);
}

/** Registry key, in the namespace's shard, of the number of the last TLog (P-A9). */
export function tlogKey(namespace: string): string {
  return `/ns/${namespace}/tlog`;
}
