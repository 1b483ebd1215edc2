// SPDX-License-Identifier: Apache-2.0
// The one table of expected errors. A code fixes its kind, and the kind fixes what a caller does,
// the NBD errno and the HTTP status; those are switches without `default`, so that a new kind
// does not compile until every one of them has an answer.

export type ErrorKind = "invalid" | "full" | "unavailable" | "fenced" | "corrupt" | "closed";

export const ERROR_KINDS = {
  /** The caller's mistake: bad argument, bad bytes on a socket, wrong size. */
  OVS_INVALID: "invalid",
  OVS_OUT_OF_RANGE: "invalid",
  OVS_NOT_FOUND: "invalid",
  OVS_EXISTS: "invalid",
  OVS_PROTOCOL: "invalid",
  OVS_WRONG_IDENTITY: "invalid",
  OVS_WRONG_VERSION: "invalid",
  OVS_UNSUPPORTED: "invalid",
  /** No room; trying again later may work. */
  OVS_FULL: "full",
  OVS_BUSY: "full",
  /** The other side does not answer, or not in time. */
  OVS_UNAVAILABLE: "unavailable",
  OVS_TIMEOUT: "unavailable",
  OVS_DISK_FAILED: "unavailable",
  /** A newer owner exists, or a compare of a transaction failed. */
  OVS_FENCED: "fenced",
  OVS_CONFLICT: "fenced",
  /** Bytes that are not what was written. */
  OVS_CORRUPT: "corrupt",
  OVS_LOST: "corrupt",
  /** This object was closed, or is closing. */
  OVS_CLOSED: "closed",
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERROR_KINDS;

/** An error that was foreseen: it says what was wrong, with which value, and what to do. */
export class StorageError extends Error {
  override name = "StorageError";
  readonly code: ErrorCode;
  readonly kind: ErrorKind;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
    this.kind = ERROR_KINDS[code];
  }
}

/** The message of anything that was thrown, for logs and for wrapping. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** True for a StorageError with that code. */
export function hasCode(error: unknown, code: ErrorCode): boolean {
  return error instanceof StorageError && error.code === code;
}
