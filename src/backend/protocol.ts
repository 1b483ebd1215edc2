// SPDX-License-Identifier: Apache-2.0
// What a proxy and its clients agree on. Control messages, and for objects a payload:
//
//   put   request payload  | the object's bytes | CRC-32C of each page, u32 | extras as MessagePack
// |
//   read  answer payload   | the parts' bytes, one after the other |
//
// The outcome of a put is a message of its own, never a status: an error that the transport
// reports means that the outcome is unknown, one in the message means that nothing was committed.

import { z } from "zod";
import { ERROR_KINDS, type ErrorCode } from "../base/errors.js";
import { OBJECT_BYTES_MAX } from "./store.js";

export const PROXY_ROLE = "proxy";

export const ProxyOperation = {
  put: 32,
  read: 33,
  verify: 34,
  repair: 35,
  status: 36,
} as const;

/** Bytes of one read through a proxy. */
export const PROXY_READ_BYTES_MAX = 8 * 1024 * 1024;
export const PROXY_READ_PARTS_MAX = 512;

const bytes = z.custom<Uint8Array>((value) => value instanceof Uint8Array);
const count = z.number().int().min(0);
const sign = z.enum(["=", "<", ">", "!="]);

const compareSchema = z.union([
  z.object({
    key: z.string(),
    target: z.enum(["version", "createRevision", "modRevision"]),
    is: sign,
    number: count,
  }),
  z.object({ key: z.string(), target: z.literal("value"), is: sign, value: bytes }),
]);

const operationSchema = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("put"), key: z.string(), value: bytes, lease: z.string().optional() }),
  z.object({ kind: z.literal("delete"), key: z.string() }),
  z.object({ kind: z.literal("deletePrefix"), prefix: z.string() }),
  z.object({ kind: z.literal("get"), key: z.string() }),
]);

export const extrasSchema = z.object({
  compares: z.array(compareSchema).max(100),
  operations: z.array(operationSchema).max(100),
});

export const putSchema = z.object({
  namespace: z.string().max(64),
  name: z.string().max(128),
  uploadId: bytes,
  bytes: z.number().int().min(1).max(OBJECT_BYTES_MAX),
  ownerEpoch: count,
  /** Upload epoch that the caller read. */
  epoch: count,
  /** Bytes of extras behind the checksums. */
  extrasBytes: count,
});

const codes = Object.keys(ERROR_KINDS) as [ErrorCode, ...ErrorCode[]];

export const putReplySchema = z.discriminatedUnion("ok", [
  z.object({ ok: z.literal(true), revision: count, fragments: count, storedBytes: count }),
  z.object({ ok: z.literal(false), code: z.enum(codes), message: z.string() }),
]);

export const readSchema = z.object({
  namespace: z.string().max(64),
  parts: z
    .array(z.object({ name: z.string().max(128), offset: count, bytes: count }))
    .min(1)
    .max(PROXY_READ_PARTS_MAX),
});

export const verifySchema = z.object({
  namespaces: z.array(z.string()).nullable(),
  repair: z.boolean(),
  leaks: z.boolean(),
});

export const verifyReportSchema = z.object({
  namespaces: count,
  objects: count,
  fragments: count,
  bytesRead: count,
  missing: count,
  corrupt: count,
  unreachable: count,
  misplaced: count,
  repaired: count,
  lacking: count,
  unreadable: count,
  leaked: count,
  samples: z.array(z.string()),
  spareMin: z.number().int().nullable(),
});

export const maintenanceSchema = z.object({
  leader: z.boolean(),
  waitingObjects: count,
  repairedFragments: count,
  failedRepairs: count,
  collectedFragments: count,
  trashWaiting: count,
  lastPassMs: z.number(),
});

export const osdStatusSchema = z.object({
  id: count,
  up: z.boolean(),
  full: z.boolean(),
  slow: z.boolean(),
  freeBytes: z.number(),
  downMs: z.number().nullable(),
});

export const proxyStatusSchema = z.object({
  id: z.string(),
  state: z.enum(["starting", "serving", "stopped"]),
  topologyAgeMs: z.number().nullable(),
  osds: z.array(osdStatusSchema),
  maintenance: maintenanceSchema,
  counters: z.record(z.string(), z.number()),
});

export type ProxyStatus = z.infer<typeof proxyStatusSchema>;
export type OsdStatus = z.infer<typeof osdStatusSchema>;
