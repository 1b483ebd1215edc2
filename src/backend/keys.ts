// SPDX-License-Identifier: Apache-2.0
// Keys of what the backend keeps on an OSD. A fragment's name is used once only (P-C6), so a value
// never changes under its key. Numbers are big-endian: bytewise order is their order.
//
//   name      object id 16 | chunk u16 | fragment u8 | version u32
//   data      'f' | name                                 the fragment's bytes
//   recovery  'r' | name                                 a Recovery record
//   mark      'm' | namespace id 8 | epoch u64 | name    the object's name

import { assert } from "../base/assert.js";

export const OBJECT_ID_BYTES = 16;
export const NAMESPACE_ID_BYTES = 8;
export const FRAGMENT_NAME_BYTES = OBJECT_ID_BYTES + 2 + 1 + 4;
export const DATA_KEY_BYTES = 1 + FRAGMENT_NAME_BYTES;
export const MARK_KEY_BYTES = 1 + NAMESPACE_ID_BYTES + 8 + FRAGMENT_NAME_BYTES;

const DATA = 0x66;
const RECOVERY = 0x72;
const MARK = 0x6d;
const TWO_32 = 2 ** 32;

export interface FragmentName {
  objectId: Uint8Array;
  chunk: number;
  fragment: number;
  version: number;
}

/** Writes the key of a fragment's data at `at`; returns the offset after it. Makes no object. */
export function writeDataKey(
  target: Uint8Array,
  at: number,
  objectId: Uint8Array,
  fragment: number,
  version: number,
): number {
  target[at] = DATA;
  return writeName(target, at + 1, objectId, 0, fragment, version);
}

/** The key of a fragment's bytes on its OSD. */
export function dataKey(name: FragmentName): Uint8Array {
  return keyOf(DATA, name);
}

/** The key of a fragment's recovery info on its OSD. */
export function recoveryKey(name: FragmentName): Uint8Array {
  return keyOf(RECOVERY, name);
}

/** The key of a fragment's garbage mark, which carries the upload epoch (P-C6). */
export function markKey(namespaceId: Uint8Array, epoch: number, name: FragmentName): Uint8Array {
  const key = new Uint8Array(MARK_KEY_BYTES);
  key.set(markPrefix(namespaceId), 0);
  writeU64(key, 1 + NAMESPACE_ID_BYTES, epoch);
  writeNameOf(key, 1 + NAMESPACE_ID_BYTES + 8, name);
  return key;
}

/** All marks of a namespace begin with it; those of lower epochs come first. */
export function markPrefix(namespaceId: Uint8Array): Uint8Array {
  assert(namespaceId.byteLength === NAMESPACE_ID_BYTES, "a namespace id has 8 bytes");
  const prefix = new Uint8Array(1 + NAMESPACE_ID_BYTES);
  prefix[0] = MARK;
  prefix.set(namespaceId, 1);
  return prefix;
}

/** First key after all marks of the namespace with an epoch below `epoch`. */
export function markEnd(namespaceId: Uint8Array, epoch: number): Uint8Array {
  const end = new Uint8Array(1 + NAMESPACE_ID_BYTES + 8);
  end.set(markPrefix(namespaceId), 0);
  writeU64(end, 1 + NAMESPACE_ID_BYTES, epoch);
  return end;
}

/** Range of all keys of one kind: [first, end). */
export function keyRange(kind: "data" | "recovery" | "mark"): {
  first: Uint8Array;
  end: Uint8Array;
} {
  const letter = { data: DATA, recovery: RECOVERY, mark: MARK }[kind];
  return { first: Uint8Array.of(letter), end: Uint8Array.of(letter + 1) };
}

/** The name in a data or recovery key; null when it is none. */
export function parseKey(key: Uint8Array): FragmentName | null {
  if (key.byteLength !== DATA_KEY_BYTES || (key[0] !== DATA && key[0] !== RECOVERY)) return null;
  return readName(key, 1);
}

export interface MarkName {
  namespaceId: Uint8Array;
  epoch: number;
  name: FragmentName;
}

/** The parts of a mark's key; null when it is none. */
export function parseMark(key: Uint8Array): MarkName | null {
  if (key.byteLength !== MARK_KEY_BYTES || key[0] !== MARK) return null;
  const at = 1 + NAMESPACE_ID_BYTES;
  const epoch = readU32(key, at) * TWO_32 + readU32(key, at + 4);
  return { namespaceId: key.slice(1, at), epoch, name: readName(key, at + 8) };
}

function keyOf(letter: number, name: FragmentName): Uint8Array {
  const key = new Uint8Array(DATA_KEY_BYTES);
  key[0] = letter;
  writeNameOf(key, 1, name);
  return key;
}

function writeNameOf(target: Uint8Array, at: number, name: FragmentName): void {
  writeName(target, at, name.objectId, name.chunk, name.fragment, name.version);
}

function writeName(
  target: Uint8Array,
  at: number,
  objectId: Uint8Array,
  chunk: number,
  fragment: number,
  version: number,
): number {
  for (let i = 0; i < OBJECT_ID_BYTES; i++) target[at + i] = objectId[i]!;
  const next = at + OBJECT_ID_BYTES;
  target[next] = chunk >>> 8;
  target[next + 1] = chunk;
  target[next + 2] = fragment;
  writeU32(target, next + 3, version);
  return at + FRAGMENT_NAME_BYTES;
}

function readName(key: Uint8Array, at: number): FragmentName {
  const next = at + OBJECT_ID_BYTES;
  return {
    objectId: key.slice(at, next),
    chunk: key[next]! * 256 + key[next + 1]!,
    fragment: key[next + 2]!,
    version: readU32(key, next + 3),
  };
}

function writeU32(target: Uint8Array, at: number, value: number): void {
  target[at] = value >>> 24;
  target[at + 1] = value >>> 16;
  target[at + 2] = value >>> 8;
  target[at + 3] = value;
}

function writeU64(target: Uint8Array, at: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, "an epoch is a safe integer");
  writeU32(target, at, Math.floor(value / TWO_32));
  writeU32(target, at + 4, value % TWO_32);
}

function readU32(bytes: Uint8Array, at: number): number {
  return bytes[at]! * 2 ** 24 + bytes[at + 1]! * 2 ** 16 + bytes[at + 2]! * 2 ** 8 + bytes[at + 3]!;
}
