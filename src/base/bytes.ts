// SPDX-License-Identifier: Apache-2.0
// Arithmetic on bytes and offsets, and byte strings.

import { assert } from "./assert.js";

/** Smallest whole number ≥ value / unit. */
export function ceilDiv(value: number, unit: number): number {
  assert(unit > 0, "unit is positive");
  return Math.ceil(value / unit);
}

/** The multiple of `unit` at or above `value`. */
export function alignUp(value: number, unit: number): number {
  return ceilDiv(value, unit) * unit;
}

/** The multiple of `unit` at or below `value`. */
export function alignDown(value: number, unit: number): number {
  assert(unit > 0, "unit is positive");
  return Math.floor(value / unit) * unit;
}

/** The bytes in hex digits. Borrows `bytes`. */
export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

/** Bytes of a hex string of even length; asserts that it is one. */
export function fromHex(text: string): Uint8Array {
  assert(/^([0-9a-f]{2})*$/.test(text), "hex text has pairs of 0-9a-f");
  return new Uint8Array(Buffer.from(text, "hex"));
}

/** 16 bytes as 8-4-4-4-12 hex digits. */
export function formatUuid(bytes: Uint8Array): string {
  assert(bytes.byteLength === 16, "a uuid has 16 bytes");
  const hex = toHex(bytes);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

/** The 16 bytes of a uuid text; asserts its form. */
export function parseUuid(text: string): Uint8Array {
  assert(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text), "uuid text is 8-4-4-4-12 hex");
  return fromHex(text.replaceAll("-", ""));
}

/** Bytewise comparison, as etcd and RocksDB order keys: negative, 0 or positive. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  return Buffer.compare(a, b);
}

/** True when both hold the same bytes. Borrows both. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && Buffer.compare(a, b) === 0;
}
