// SPDX-License-Identifier: Apache-2.0
// What an errno of a disk means: the code of the error, and its words.

import { getSystemErrorName } from "node:util";
import type { ErrorCode } from "../base/errors.js";
import { StorageError } from "../base/errors.js";

/** Codes of errnos by name; all others are OVS_DISK_FAILED. */
export const ERRNO_CODES: Readonly<Record<string, ErrorCode>> = {
  ENOENT: "OVS_NOT_FOUND",
  EEXIST: "OVS_EXISTS",
  ENOSPC: "OVS_FULL",
  EDQUOT: "OVS_FULL",
};

/** The error for `result` (-errno) of an operation on a path. */
export function diskError(what: string, file: string, result: number): StorageError {
  const name = getSystemErrorName(result);
  return new StorageError(
    ERRNO_CODES[name] ?? "OVS_DISK_FAILED",
    `cannot ${what} ${file}: ${name}`,
  );
}
