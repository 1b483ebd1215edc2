// SPDX-License-Identifier: Apache-2.0
// The real network of a thread: frames over the addon `transport`.

import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { messageOf, StorageError } from "../../base/errors.js";
import { TransportSession } from "../../native/transport.js";
import type { Arena } from "../arena.js";
import { FramedNetwork } from "../framed.js";
import type { Log } from "../log.js";
import type { Network } from "../network.js";
import type { Turn } from "../turn.js";
import type { Clock } from "../world.js";

export interface NetworkOptions {
  arena: Arena;
  clock: Clock;
  turn: Turn;
  log: Log;
  /** Bytes of the arena for payloads that nobody expects; a longer one ends its connection. */
  receivePoolBytes: number;
}

/** Opens the network of a thread. */
export function openNetwork(options: NetworkOptions): Network {
  const { arena, clock, turn, log, receivePoolBytes: bytes } = options;
  const offset = arena.region(bytes, "the network's receive pool");
  return new FramedNetwork({
    clock,
    turn,
    log,
    transport: (onEvents) => new TransportSession(arena.buffer, { offset, bytes }, onEvents),
    resolve: resolveHost,
  });
}

async function resolveHost(host: string): Promise<string> {
  if (isIP(host) !== 0) return host;
  try {
    return (await lookup(host)).address;
  } catch (error) {
    throw new StorageError("OVS_UNAVAILABLE", `no address for ${host}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}
