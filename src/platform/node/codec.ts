// SPDX-License-Identifier: Apache-2.0
// The real codec: the addon `erasure` on the thread's arena.

import { ErasureSession } from "../../native/erasure.js";
import type { Arena } from "../arena.js";
import type { Codec } from "../codec.js";

/** The codec of one arena; one for each thread. */
export function nodeCodec(arena: Arena): Codec {
  return new ErasureSession(arena.buffer);
}
