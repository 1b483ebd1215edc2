// SPDX-License-Identifier: Apache-2.0
// What simulated clients write: every unit of 512 bytes says which operation wrote it and where, so
// that a read tells what it found, and a unit that is torn, misplaced or damaged is nobody's.

import { assert } from "../base/assert.js";
import { UNIT_BYTES } from "./history.js";

const WORDS = UNIT_BYTES / 4;
/** The value of a unit that no operation can have written. */
export const GARBAGE = 0xffff_ffff;

/** Fills whole units with what `operation` writes there; `first` is the number of the first one. */
export function fillUnits(bytes: Uint8Array, operation: number, first: number): void {
  assert(bytes.byteLength % UNIT_BYTES === 0, "units are written whole");
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  for (let at = 0, unit = first; at < words.length; at += WORDS, unit++) {
    words[at] = operation;
    words[at + 1] = unit;
    const salt = saltOf(operation, unit);
    for (let i = 2; i < WORDS; i++) words[at + i] = salt + i;
  }
}

/** The operation that wrote each unit; 0 for zeroes, GARBAGE for anything else. */
export function valuesOf(bytes: Uint8Array, first: number): Uint32Array {
  const copy = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const words = new Uint32Array(copy.buffer, copy.byteOffset, copy.byteLength / 4);
  const values = new Uint32Array(words.length / WORDS);
  for (let i = 0; i < values.length; i++) values[i] = valueAt(words, i * WORDS, first + i);
  return values;
}

function valueAt(words: Uint32Array, at: number, unit: number): number {
  const operation = words[at]!;
  if (operation === 0) {
    for (let i = 1; i < WORDS; i++) if (words[at + i] !== 0) return GARBAGE;
    return 0;
  }
  if (words[at + 1] !== unit) return GARBAGE;
  const salt = saltOf(operation, unit);
  for (let i = 2; i < WORDS; i++) if (words[at + i] !== (salt + i) >>> 0) return GARBAGE;
  return operation;
}

function saltOf(operation: number, unit: number): number {
  return (Math.imul(operation, 0x9e3779b1) ^ Math.imul(unit, 0x85ebca77)) >>> 0;
}
