// SPDX-License-Identifier: Apache-2.0
// Every operation of management, declared once: name, input and output schema, errors. The service
// in `ovs up` checks what comes in, the command line checks what comes back; the HTTP API of a
// later stage is made from the same table.

import { z } from "zod";
import type { ErrorCode } from "../../base/errors.js";
import { vdiskStatusSchema as vdiskSchema } from "../../router/client.js";

/** One operation: `errors` are those that it adds to OVS_INVALID of its input. */
export interface Operation<Input, Output> {
  readonly name: string;
  readonly summary: string;
  readonly input: z.ZodType<Input>;
  readonly output: z.ZodType<Output>;
  readonly errors: readonly ErrorCode[];
}

function operation<Input, Output>(
  name: string,
  summary: string,
  input: z.ZodType<Input>,
  output: z.ZodType<Output>,
  errors: readonly ErrorCode[],
): Operation<Input, Output> {
  return { name, summary, input, output, errors };
}

const bytes = z.number().int().nonnegative();
const count = z.number().int().nonnegative();
const nothing = z.object({}).strict();
const byName = z.object({ name: z.string() }).strict();

export const processSchema = z.object({
  role: z.string(),
  id: z.string(),
  pid: count,
  state: z.string(),
  address: z.string(),
  restarts: count,
  lastExit: z.string(),
});

export type { VdiskStatus } from "../../router/client.js";

export const asdSchema = z.object({
  id: z.string(),
  osd: count,
  disk: z.string(),
  address: z.string(),
  /** up, failed or down, with ` draining` behind. */
  state: z.string(),
  capacityBytes: bytes,
  usedBytes: bytes,
  fragments: count,
  corruptions: count,
  full: z.boolean(),
  slow: z.boolean(),
});
export type AsdStatus = z.infer<typeof asdSchema>;

export const backendSchema = z.object({
  /** ok, degraded (reads and writes go on), readonly (fewer than c ASDs), down (fewer than k). */
  health: z.enum(["ok", "degraded", "readonly", "down"]),
  policy: z.string(),
  osds: count,
  osdsUp: count,
  capacityBytes: bytes,
  usedBytes: bytes,
  /** Objects that lack fragments, as far as the repair has looked. */
  objectsDegraded: count,
  repairedFragments: count,
  corruptFragments: count,
});
export type BackendStatus = z.infer<typeof backendSchema>;

export const verifySchema = z.object({
  namespaces: count,
  objects: count,
  fragments: count,
  bytesRead: bytes,
  /** Fragments that the ASD does not have, or that no ASD has. */
  missing: count,
  corrupt: count,
  /** Fragments on ASDs that do not answer. */
  unreachable: count,
  misplaced: count,
  /** Fragments made anew. */
  repaired: count,
  /** Fragments that could not be made anew now. */
  lacking: count,
  /** Objects of which fewer than k good fragments are to be had now. */
  unreadable: count,
  /** Fragments on ASDs that no manifest names and no upload marks. */
  leaked: count,
  /** Names of objects or fragments with something wrong, a few. */
  samples: z.array(z.string()),
  /** Fewest losses of ASDs that an object survives after all this; null: no objects. */
  spareMin: z.number().int().nullable(),
  /** Nothing was wrong. */
  clean: z.boolean(),
});
export type VerifyReport = z.infer<typeof verifySchema>;

export const syncSchema = z.object({
  full: z.boolean(),
  /** Losses of ASDs that every object survives now. */
  spareMin: z.number().int(),
});

/** All operations; the key is the handler's name. */
export const OPERATIONS = {
  status: operation(
    "status",
    "processes, vDisks, ASDs and the backend's health",
    nothing,
    z.object({
      data: z.string(),
      cluster: z.string(),
      processes: z.array(processSchema),
      vdisks: z.array(vdiskSchema),
      asds: z.array(asdSchema),
      backend: backendSchema,
      nbd: z.array(z.string()),
    }),
    ["OVS_UNAVAILABLE"],
  ),
  vdiskCreate: operation(
    "vdisk.create",
    "create a thin vDisk",
    z.object({ name: z.string(), sizeBytes: bytes }).strict(),
    vdiskSchema,
    ["OVS_INVALID", "OVS_EXISTS", "OVS_UNAVAILABLE"],
  ),
  vdiskList: operation("vdisk.list", "list vDisks", nothing, z.array(vdiskSchema), [
    "OVS_UNAVAILABLE",
  ]),
  vdiskInfo: operation("vdisk.info", "show one vDisk", byName, vdiskSchema, ["OVS_NOT_FOUND"]),
  vdiskResize: operation(
    "vdisk.resize",
    "grow a vDisk while it is in use",
    z.object({ name: z.string(), sizeBytes: bytes }).strict(),
    vdiskSchema,
    ["OVS_INVALID", "OVS_NOT_FOUND", "OVS_UNAVAILABLE"],
  ),
  vdiskDelete: operation("vdisk.delete", "delete a vDisk and all its data", byName, nothing, [
    "OVS_NOT_FOUND",
    "OVS_UNAVAILABLE",
  ]),
  vdiskSync: operation(
    "vdisk.sync",
    "bring everything written so far to the backend, at full width",
    z.object({ name: z.string(), timeoutMs: count }).strict(),
    syncSchema,
    ["OVS_NOT_FOUND", "OVS_UNAVAILABLE", "OVS_TIMEOUT"],
  ),
  vdiskRecover: operation(
    "vdisk.recover",
    "open a vDisk whose journal is lost, giving up what was only there",
    z.object({ name: z.string(), acceptLoss: z.boolean() }).strict(),
    vdiskSchema,
    ["OVS_NOT_FOUND", "OVS_INVALID", "OVS_UNAVAILABLE"],
  ),
  asdList: operation("asd.list", "list ASDs", nothing, z.array(asdSchema), ["OVS_UNAVAILABLE"]),
  asdAdd: operation(
    "asd.add",
    "add ASDs",
    z.object({ count: z.number().int().min(1).max(64) }).strict(),
    z.array(asdSchema),
    ["OVS_INVALID", "OVS_FULL"],
  ),
  asdReplace: operation(
    "asd.replace",
    "put an empty ASD in the place of one whose disk is gone",
    z.object({ id: z.string() }).strict(),
    asdSchema,
    ["OVS_NOT_FOUND", "OVS_INVALID"],
  ),
  asdRemove: operation(
    "asd.remove",
    "move all fragments off an ASD and take it out",
    z.object({ id: z.string() }).strict(),
    nothing,
    ["OVS_NOT_FOUND", "OVS_INVALID", "OVS_FULL", "OVS_UNAVAILABLE"],
  ),
  cacheDrop: operation("cache.drop", "empty the read caches", nothing, nothing, [
    "OVS_UNAVAILABLE",
  ]),
  backendInfo: operation(
    "backend.info",
    "policy, room and health of the backend",
    nothing,
    backendSchema,
    ["OVS_UNAVAILABLE"],
  ),
  backendVerify: operation(
    "backend.verify",
    "read every fragment, check checksums and placement, repair",
    nothing,
    verifySchema,
    ["OVS_UNAVAILABLE"],
  ),
} as const;

/** Operation of that name, for the service. */
export function findOperation(name: string): Operation<unknown, unknown> | null {
  for (const operation of Object.values(OPERATIONS)) {
    if (operation.name === name) return operation as unknown as Operation<unknown, unknown>;
  }
  return null;
}

/** The handlers of all operations, typed by their declarations. */
export type Handlers = {
  [Key in keyof typeof OPERATIONS]: (typeof OPERATIONS)[Key] extends Operation<
    infer Input,
    infer Output
  >
    ? (input: Input) => Promise<Output>
    : never;
};
