// SPDX-License-Identifier: Apache-2.0
// The management service: answers operations by name. Input and output are checked by the schemas
// of the operation's declaration.

import { z } from "zod";
import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { ArenaPool } from "../platform/arena.js";
import type { Address } from "../platform/network.js";
import type { World } from "../platform/world.js";
import { decodeControl } from "../rpc/control.js";
import { RpcServer } from "../rpc/server.js";
import { MANAGER_CALL, packOutput } from "./client.js";
import { type Handlers, OPERATIONS, type Operation } from "./operations/operations.js";

const ANSWER_BYTES = 16 * 1024 * 1024;

const callSchema = z.object({ name: z.string().max(64), input: z.unknown() });

/** Answers operations over a socket, until it is stopped. */
export class ManagerService {
  readonly #world: World;
  readonly #handlers: Handlers;
  readonly #server: RpcServer<null>;
  readonly #pool: ArenaPool;

  constructor(world: World, cluster: string, handlers: Handlers) {
    this.#world = world;
    this.#handlers = handlers;
    this.#pool = new ArenaPool(
      world.arena.region(ANSWER_BYTES, "answers of operations"),
      ANSWER_BYTES,
    );
    this.#server = new RpcServer<null>(world, {
      self: { role: "manager", id: "", cluster },
      session: () => null,
    });
    this.#server.handle(MANAGER_CALL, async (request) => {
      const output = packOutput(await this.#call(decodeControl(request.meta, callSchema)));
      const at = await this.#pool.take(output.byteLength);
      this.#world.arena.bytes.set(output, at);
      const list = new Uint32Array([at, output.byteLength]);
      request.reply(null, { list, count: 1 }, () => this.#pool.give(at));
    });
  }

  /** Resolves when callers can connect. */
  async listen(address: Address): Promise<void> {
    await this.#server.listen(address);
  }

  /** Refuses new calls, resolves when the running ones have ended. */
  async stop(): Promise<void> {
    await this.#server.stop();
  }

  async #call(call: z.infer<typeof callSchema>): Promise<unknown> {
    for (const [key, operation] of Object.entries(OPERATIONS)) {
      if (operation.name !== call.name) continue;
      const handler = this.#handlers[key as keyof Handlers] as (input: unknown) => Promise<unknown>;
      assert(handler !== undefined, "every operation has a handler");
      return await this.#run(
        operation as unknown as Operation<unknown, unknown>,
        handler,
        call.input,
      );
    }
    throw new StorageError("OVS_NOT_FOUND", `there is no operation "${call.name}"`);
  }

  async #run(
    operation: Operation<unknown, unknown>,
    handler: (input: unknown) => Promise<unknown>,
    given: unknown,
  ): Promise<unknown> {
    const input = operation.input.safeParse(given);
    if (!input.success) {
      const issue = input.error.issues[0];
      const where = issue && issue.path.length > 0 ? `${issue.path.join(".")}: ` : "";
      throw new StorageError(
        "OVS_INVALID",
        `${operation.name}: ${where}${issue?.message ?? "refused"}`,
      );
    }
    return operation.output.parse(await handler(input.data));
  }
}
