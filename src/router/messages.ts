// SPDX-License-Identifier: Apache-2.0
// What is said to a router: the operations of its control service, and between its threads.

import { z } from "zod";

export const RouterOperation = {
  List: 1,
  Info: 2,
  Create: 3,
  Resize: 4,
  Delete: 5,
  Sync: 6,
  Recover: 7,
  DropCaches: 8,
} as const;

const count = z.number().int().nonnegative();

/** What is told of a vDisk. Counters begin anew each time it is opened. */
export const vdiskStatusSchema = z.object({
  name: z.string(),
  id: z.string(),
  /** opening, serving, waiting (could not be opened), halted, deleting, stopping, stopped. */
  state: z.string(),
  /** Why it does not serve, or what its requests wait for; empty when all is well. */
  reason: z.string(),
  epoch: count,
  sizeBytes: count,
  allocatedBytes: count,
  /** Acknowledged bytes that are not in the backend yet. */
  dirtyBytes: count,
  /** Bytes of journal in use. */
  journalBytes: count,
  clientWrittenBytes: count,
  clientReadBytes: count,
  backendWrittenBytes: count,
  cacheHits: count,
  cacheMisses: count,
  /** Checksum mismatches that were met and answered from elsewhere or refused. */
  corruptions: count,
  thread: count,
});

export type VdiskStatus = z.infer<typeof vdiskStatusSchema>;

/** Most vDisks in one answer: an answer's meta holds 64 KiB. */
export const LIST_PAGE = 64;

export const listInput = z.object({
  after: z.string(),
  limit: z.number().int().min(1).max(LIST_PAGE),
});
export const listOutput = z.object({ vdisks: z.array(vdiskStatusSchema), more: z.boolean() });
export const nameInput = z.object({ name: z.string().max(63) });
export const sizeInput = z.object({ name: z.string().max(63), sizeBytes: count });
export const syncInput = z.object({ name: z.string().max(63), timeoutMs: count });
export const syncOutput = z.object({ full: z.boolean(), spareMin: z.number().int() });
export const recoverInput = z.object({ name: z.string().max(63), acceptLoss: z.boolean() });
export const emptySchema = z.object({});
