// SPDX-License-Identifier: Apache-2.0
// What the tests of networks stand on: two sides that talk, and who keeps what happens.

import { MIB } from "../../src/base/units.js";
import type { Arena } from "../../src/platform/arena.js";
import type {
  Address,
  Connection,
  ConnectionHandler,
  Frame,
  Network,
  ReceivedFrame,
} from "../../src/platform/network.js";

export interface Side {
  network: Network;
  arena: Arena;
  /** An offset of 72 MiB of the arena that are the test's. */
  memory: number;
}

/** Both sides have a receive pool of `CONTRACT_POOL_BYTES`. */
export interface ContractWorld {
  server: Side;
  client: Side;
  address: () => Address;
  /** Waits until a condition holds. */
  until: (condition: () => boolean, what: string) => Promise<void>;
  stop: () => Promise<void>;
}

export const CONTRACT_POOL_BYTES = 67 * MIB;

/** A copy of a frame that came. */
export interface Kept extends Frame {
  meta: Uint8Array;
  payload: number;
  payloadBytes: number;
}

/** Keeps what happens to one connection. */
export class Recorder implements ConnectionHandler {
  readonly frames: Kept[] = [];
  readonly closed: string[] = [];
  connection: Connection | null = null;
  onFrameToo: ((connection: Connection, frame: ReceivedFrame) => void) | null = null;

  onFrame(connection: Connection, frame: ReceivedFrame): void {
    this.frames.push({ ...frame, meta: frame.meta.slice() });
    this.onFrameToo?.(connection, frame);
  }

  onClose(_connection: Connection, reason: string): void {
    this.closed.push(reason);
  }
}

export function frameOf(kind: number, requestId: number, operation = 1): Frame {
  return { kind, operation, status: 0, priority: 0, requestId, timeoutMs: 0 };
}

/** Two connected sides. */
export async function connected(world: ContractWorld) {
  const down = new Recorder();
  const up = new Recorder();
  const listener = await world.server.network.listen(world.address(), (connection) => {
    down.connection = connection;
    return down;
  });
  up.connection = await world.client.network.connect(listener.address, up, 5000);
  await world.until(() => down.connection !== null, "the connection is accepted");
  return { listener, up, down, out: up.connection, back: down.connection! };
}
