// SPDX-License-Identifier: Apache-2.0
// Texts of keys that were asked for lately, found by their bytes. To make a text and its hash again
// for each part of each read costs more than all else that is done to find its entry.

import { assert } from "../base/assert.js";
import { keyText } from "./index.js";

/** A power of two. */
const ROWS = 1024;
/** Longer keys are made anew each time. */
const KEY_BYTES_MAX = 64;

export class KeyTexts {
  readonly #bytes = new Uint8Array(ROWS * KEY_BYTES_MAX);
  readonly #texts = new Array<string>(ROWS).fill("");

  /** The text of bytes [from, to), as `keyText`. */
  at(bytes: Uint8Array, from: number, to: number): string {
    const length = to - from;
    assert(from >= 0 && length >= 0 && to <= bytes.byteLength, "the key lies in the bytes");
    if (length > KEY_BYTES_MAX) return keyText(bytes.subarray(from, to));
    let hash = length;
    for (let i = from; i < to; i++) hash = (Math.imul(hash, 31) + bytes[i]!) | 0;
    const row = (hash ^ (hash >>> 15)) & (ROWS - 1);
    const text = this.#texts[row]!;
    const place = row * KEY_BYTES_MAX;
    return text.length === length && this.#isSame(bytes, from, place, length)
      ? text
      : this.#make(bytes, from, to, row);
  }

  #isSame(bytes: Uint8Array, from: number, place: number, length: number): boolean {
    const known = this.#bytes;
    for (let i = 0; i < length; i++) {
      if (known[place + i] !== bytes[from + i]) return false;
    }
    return true;
  }

  #make(bytes: Uint8Array, from: number, to: number, row: number): string {
    const text = keyText(bytes.subarray(from, to));
    this.#texts[row] = text;
    for (let i = from; i < to; i++) this.#bytes[row * KEY_BYTES_MAX + i - from] = bytes[i]!;
    return text;
  }
}
