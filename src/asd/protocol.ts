// SPDX-License-Identifier: Apache-2.0
// What client and service of an ASD agree on, beside the formats of `wire/formats/asd.ts`.

import { z } from "zod";

/** Operation codes. `apply` and `multiGet` have binary bodies, the others control messages. */
export const AsdOperation = {
  apply: 16,
  multiGet: 17,
  getSmall: 18,
  exists: 19,
  range: 20,
  stats: 21,
  scrub: 22,
  dropCache: 23,
} as const;

export const ASD_PROTOCOL_VERSION = 1;
export const ASD_ROLE = "asd";
export const RANGE_LIMIT_MAX = 1000;
/** Keys of one getSmall or exists: they fit a frame's meta. */
export const KEYS_MAX = 200;
/** Bytes of values or keys in one answer; what does not fit is left to another request. */
export const ANSWER_BYTES_MAX = 48 * 1024;

/** Bits of the flags of an answer. */
export const AsdFlag = { NearlyFull: 1, Slow: 2 } as const;

const key = z.custom<Uint8Array>((value) => value instanceof Uint8Array);

export const keysSchema = z.object({ keys: z.array(key).min(1).max(KEYS_MAX) });
export const rangeSchema = z.object({
  first: key.nullable(),
  end: key.nullable(),
  limit: z.number().int().min(1).max(RANGE_LIMIT_MAX),
  reverse: z.boolean(),
});
export const rangeReplySchema = z.object({
  keys: z.array(key),
  lengths: z.array(z.number()),
  more: z.boolean(),
});
export const existsReplySchema = z.object({ exist: z.array(z.boolean()) });
export const smallReplySchema = z.object({ values: z.array(key.nullable()) });
export const scrubSchema = z.object({
  after: key.nullable(),
  pagesMax: z.number().int().min(1).max(1_048_576),
});
export const scrubReplySchema = z.object({
  /** Keys whose value is not what was written. */
  bad: z.array(key),
  /** Continue after this key; null: all was read. */
  next: key.nullable(),
  keys: z.number(),
  pages: z.number(),
});

export const statsSchema = z.object({
  clusterUuid: z.string(),
  diskUuid: z.string(),
  capacityBytes: z.number(),
  usedBytes: z.number(),
  freeBytes: z.number(),
  indexBytes: z.number(),
  keys: z.number(),
  full: z.boolean(),
  slow: z.boolean(),
  failed: z.string().nullable(),
  reads: z.number(),
  readBytes: z.number(),
  applies: z.number(),
  putBytes: z.number(),
  deletes: z.number(),
  commits: z.number(),
  corruptPages: z.number(),
  damagedKeys: z.number(),
  disputedPages: z.number(),
  readLatencyMs: z.number(),
  applyLatencyMs: z.number(),
  cacheBytes: z.number(),
  cacheHits: z.number(),
  cacheMisses: z.number(),
  queued: z.number(),
});

export type AsdStats = z.infer<typeof statsSchema>;
export type ScrubReply = z.infer<typeof scrubReplySchema>;
export type RangeReply = z.infer<typeof rangeReplySchema>;
