// SPDX-License-Identifier: Apache-2.0
// The status field of responses: 0 is success, every error code has its number, and the message
// travels as UTF-8 in meta. Numbers are part of the protocol: they are never changed or reused.

import { assert } from "../base/assert.js";
import { ERROR_KINDS, type ErrorCode, StorageError } from "../base/errors.js";

export const STATUS_OK = 0;
/** Longest message of an error on the wire; longer ones are cut. */
export const MESSAGE_BYTES_MAX = 4096;

export const STATUS_OF: Readonly<Record<ErrorCode, number>> = {
  OVS_INVALID: 1,
  OVS_OUT_OF_RANGE: 2,
  OVS_NOT_FOUND: 3,
  OVS_EXISTS: 4,
  OVS_PROTOCOL: 5,
  OVS_WRONG_IDENTITY: 6,
  OVS_WRONG_VERSION: 7,
  OVS_UNSUPPORTED: 8,
  OVS_FULL: 9,
  OVS_BUSY: 10,
  OVS_UNAVAILABLE: 11,
  OVS_TIMEOUT: 12,
  OVS_DISK_FAILED: 13,
  OVS_FENCED: 14,
  OVS_CONFLICT: 15,
  OVS_CORRUPT: 16,
  OVS_LOST: 17,
  OVS_CLOSED: 18,
};

const CODE_OF: ReadonlyMap<number, ErrorCode> = new Map(
  (Object.keys(ERROR_KINDS) as ErrorCode[]).map((code) => [STATUS_OF[code], code]),
);
assert(CODE_OF.size === Object.keys(ERROR_KINDS).length, "every code has a number of its own");

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The code of a status; null for 0 and for numbers that this version does not know. */
export function codeOf(status: number): ErrorCode | null {
  return CODE_OF.get(status) ?? null;
}

/** Meta of an error response. */
export function encodeMessage(message: string): Uint8Array {
  const bytes = encoder.encode(message);
  return bytes.byteLength <= MESSAGE_BYTES_MAX ? bytes : bytes.subarray(0, MESSAGE_BYTES_MAX);
}

/** The error that a response stands for; a status of a newer version becomes OVS_PROTOCOL. */
export function errorOf(status: number, meta: Uint8Array): StorageError {
  assert(status !== STATUS_OK, "the response is an error");
  const code = codeOf(status);
  const message = decoder.decode(meta);
  if (code === null)
    return new StorageError("OVS_PROTOCOL", `unknown status ${status}: ${message}`);
  return new StorageError(code, message === "" ? code : message);
}
