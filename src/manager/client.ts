// SPDX-License-Identifier: Apache-2.0
// Calls operations of a running `ovs up` over the socket in its data directory. The input travels
// in the frame's meta; the output, which may be long, as MessagePack in its payload.

import { Packr } from "msgpackr";
import { messageOf, StorageError } from "../base/errors.js";
import type { World } from "../platform/world.js";
import { RpcClient } from "../rpc/client.js";
import { encodeControl } from "../rpc/control.js";
import type { Operation } from "./operations/operations.js";

/** The one operation code of the management service: a call by name. */
export const MANAGER_CALL = 1;
const CALL_TIMEOUT_MS = 12 * 3600 * 1000;
const packr = new Packr({ useRecords: false });

/** Address of the management socket of a data directory (absolute path). */
export function managerAddress(data: string): string {
  return `unix:${data}/run/ovs.sock`;
}

/** Bytes of an operation's output. */
export function packOutput(output: unknown): Uint8Array {
  return packr.pack(output);
}

/** Calls one operation; the answer is checked by its schema. Errors are those of the operation. */
export async function callOperation<Input, Output>(
  world: World,
  data: string,
  operation: Operation<Input, Output>,
  input: Input,
): Promise<Output> {
  const client = new RpcClient(world, {
    address: managerAddress(data),
    self: { role: "cli", id: "", cluster: null },
    wants: { role: "manager", id: null, cluster: null },
    whileDown: "fail",
  });
  try {
    const meta = encodeControl({ name: operation.name, input });
    const answer = await client.call(MANAGER_CALL, meta, null, null, {
      timeoutMs: CALL_TIMEOUT_MS,
    });
    const bytes = world.arena.slice(answer.payload, answer.payloadBytes);
    const output = operation.output.parse(packr.unpack(bytes));
    world.network.release(answer.payload);
    return output;
  } catch (error) {
    if (error instanceof StorageError && error.kind === "unavailable" && !client.connected) {
      throw new StorageError(
        error.code,
        `no answer from \`ovs up\` on ${data}: ${messageOf(error)} (is it running?)`,
        { cause: error },
      );
    }
    throw error;
  } finally {
    await client.close();
  }
}
