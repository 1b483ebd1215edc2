// SPDX-License-Identifier: Apache-2.0
// The world: all that a daemon gets from outside itself. Above this layer nobody reads a clock, a
// random number, a file or a socket in any other way, so that the whole cluster can run in one
// process under a seed. One World per thread; `node/` makes the real one, `sim/` the simulated one.

import type { Arena } from "./arena.js";
import type { Codec } from "./codec.js";
import type { Disk } from "./disk.js";
import type { KvFactory } from "./kv.js";
import type { Log } from "./log.js";
import type { NbdEngine } from "./nbd.js";
import type { Network } from "./network.js";
import type { Turn } from "./turn.js";

export interface Timer {
  /** The work does not run any more; fine when it has. */
  cancel(): void;
}

export interface Clock {
  /** Milliseconds that never jump (monotonic, fractional); the origin means nothing. */
  nowMs(): number;
  /** Milliseconds since 1970, as the host believes: for people and logs, never for decisions. */
  wallMs(): number;
  /** Runs `work` once after `delayMs`. */
  after(delayMs: number, work: () => void): Timer;
  /** Runs `work` once, as soon as the loop is free. */
  immediate(work: () => void): void;
  /** Resolves after `delayMs`. */
  sleep(delayMs: number): Promise<void>;
}

export interface Random {
  /** A whole number in [0, limit). */
  below(limit: number): number;
  /** `count` fresh random bytes. */
  bytes(count: number): Uint8Array;
}

export interface World {
  readonly clock: Clock;
  readonly random: Random;
  readonly turn: Turn;
  readonly arena: Arena;
  readonly disk: Disk;
  readonly network: Network;
  readonly kv: KvFactory;
  readonly codec: Codec;
  readonly nbd: NbdEngine;
  readonly log: Log;
  /** Identity of this boot of the host (the kernel's boot id, 16 bytes). */
  readonly bootId: Uint8Array;
}
