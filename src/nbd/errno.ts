// SPDX-License-Identifier: Apache-2.0
// What an NBD client is told when a request fails: the protocol knows a handful of numbers.

import type { ErrorKind } from "../base/errors.js";

export const NbdErrno = {
  Eperm: 1,
  Eio: 5,
  Einval: 22,
  Enospc: 28,
  Eoverflow: 75,
  Enotsup: 95,
  Eshutdown: 108,
} as const;
export type NbdErrno = (typeof NbdErrno)[keyof typeof NbdErrno];

/** The errno for a kind of error. ESHUTDOWN makes a client disconnect and look elsewhere. */
export function errnoOf(kind: ErrorKind): NbdErrno {
  switch (kind) {
    case "invalid":
      return NbdErrno.Einval;
    case "full":
      return NbdErrno.Enospc;
    case "unavailable":
    case "corrupt":
      return NbdErrno.Eio;
    case "fenced":
    case "closed":
      return NbdErrno.Eshutdown;
  }
}
