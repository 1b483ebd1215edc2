// SPDX-License-Identifier: Apache-2.0
// The control service of a router, as its callers see it.

import type { ZodType } from "zod";
import type { Address } from "../platform/network.js";
import type { World } from "../platform/world.js";
import { RpcClient } from "../rpc/client.js";
import { decodeControl, encodeControl } from "../rpc/control.js";
import {
  emptySchema,
  LIST_PAGE,
  listOutput,
  RouterOperation,
  syncOutput,
  type VdiskStatus,
  vdiskStatusSchema,
} from "./messages.js";

export { type VdiskStatus, vdiskStatusSchema } from "./messages.js";

const SHORT_MS = 10_000;
const LONG_MS = 600_000;

/** Whom to call, and as whom. */
export interface RouterClientOptions {
  address: Address;
  cluster: string;
  /** Role of the caller, for the router's log. */
  role: string;
}

/** Calls one router. Errors are the router's; OVS_UNAVAILABLE and OVS_TIMEOUT: no answer. */
export class RouterClient {
  readonly #rpc: RpcClient;

  constructor(world: World, options: RouterClientOptions) {
    this.#rpc = new RpcClient(world, {
      address: options.address,
      self: { role: options.role, id: "", cluster: options.cluster },
      wants: { role: "router", id: null, cluster: options.cluster },
    });
  }

  /** All vDisks that this router owns or tries to open, by name. */
  async list(timeoutMs = SHORT_MS): Promise<VdiskStatus[]> {
    const all: VdiskStatus[] = [];
    for (;;) {
      const after = all.at(-1)?.name ?? "";
      const page = await this.#call(
        RouterOperation.List,
        { after, limit: LIST_PAGE },
        listOutput,
        timeoutMs,
      );
      all.push(...page.vdisks);
      if (!page.more) return all;
    }
  }

  /** One vDisk by name, whatever its state; OVS_NOT_FOUND. */
  async info(name: string): Promise<VdiskStatus> {
    return await this.#call(RouterOperation.Info, { name }, vdiskStatusSchema, SHORT_MS);
  }

  /** Creates a vDisk and serves it. OVS_EXISTS; OVS_UNAVAILABLE when it cannot be opened. */
  async create(name: string, sizeBytes: number): Promise<VdiskStatus> {
    return await this.#call(
      RouterOperation.Create,
      { name, sizeBytes },
      vdiskStatusSchema,
      LONG_MS,
    );
  }

  /** Grows a served vDisk; OVS_INVALID when it would shrink. */
  async resize(name: string, sizeBytes: number): Promise<VdiskStatus> {
    return await this.#call(
      RouterOperation.Resize,
      { name, sizeBytes },
      vdiskStatusSchema,
      LONG_MS,
    );
  }

  /** Deletes a vDisk, its journal here and its objects in the backend. */
  async remove(name: string): Promise<void> {
    await this.#call(RouterOperation.Delete, { name }, emptySchema, LONG_MS);
  }

  /** Resolves when all written so far is in the backend; `full`: at full width (P-A10). */
  async sync(name: string, timeoutMs: number): Promise<{ full: boolean; spareMin: number }> {
    return await this.#call(
      RouterOperation.Sync,
      { name, timeoutMs },
      syncOutput,
      timeoutMs + SHORT_MS,
    );
  }

  /** Tries to open a vDisk that waits or has halted; one that is served is only shown. */
  async recover(name: string, acceptLoss: boolean): Promise<VdiskStatus> {
    return await this.#call(
      RouterOperation.Recover,
      { name, acceptLoss },
      vdiskStatusSchema,
      LONG_MS,
    );
  }

  /** Empties the read caches of all threads. */
  async dropCaches(): Promise<void> {
    await this.#call(RouterOperation.DropCaches, {}, emptySchema, LONG_MS);
  }

  /** Ends the connection. */
  async close(): Promise<void> {
    await this.#rpc.close();
  }

  async #call<T>(
    operation: number,
    input: unknown,
    output: ZodType<T>,
    timeoutMs: number,
  ): Promise<T> {
    const answer = await this.#rpc.call(operation, encodeControl(input), null, null, { timeoutMs });
    return decodeControl(answer.meta, output);
  }
}
