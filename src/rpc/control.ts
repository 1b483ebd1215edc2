// SPDX-License-Identifier: Apache-2.0
// Control messages: small objects as MessagePack in a frame's meta, checked by a schema where they
// come in. Record structures are off: every message stands for itself. Byte strings that come out
// are copies, never views of the receive buffer.

import { Packr } from "msgpackr";
import type { ZodType } from "zod";
import { messageOf, StorageError } from "../base/errors.js";
import { META_BYTES_MAX } from "../platform/network.js";

const packr = new Packr({
  useRecords: false,
  copyBuffers: true,
  int64AsType: "number",
  encodeUndefinedAsNil: false,
});

/** Encodes a message; OVS_INVALID when it is too big for a frame's meta. */
export function encodeControl(message: unknown): Uint8Array {
  const bytes = packr.pack(message);
  if (bytes.byteLength > META_BYTES_MAX) {
    throw new StorageError(
      "OVS_INVALID",
      `a control message of ${bytes.byteLength} bytes is longer than ${META_BYTES_MAX}`,
    );
  }
  return bytes;
}

/**
 * Decodes and checks a message; OVS_PROTOCOL in words when it does not fit. Borrows `meta` during
 * the call.
 */
export function decodeControl<T>(meta: Uint8Array, schema: ZodType<T>): T {
  let message: unknown;
  try {
    message = packr.unpack(meta);
  } catch (error) {
    throw new StorageError("OVS_PROTOCOL", `not a control message: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const result = schema.safeParse(message);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const where = issue && issue.path.length > 0 ? ` at ${issue.path.join(".")}` : "";
  throw new StorageError(
    "OVS_PROTOCOL",
    `bad control message${where}: ${issue?.message ?? "refused"}`,
  );
}
