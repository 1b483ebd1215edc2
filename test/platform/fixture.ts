// SPDX-License-Identifier: Apache-2.0
// A small real world for tests of sockets: clock, arena, turn, network and a quiet log.

import { randomBytes, randomInt } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MIB } from "../../src/base/units.js";
import { Arena } from "../../src/platform/arena.js";
import type { Log, LogFields } from "../../src/platform/log.js";
import type { Network } from "../../src/platform/network.js";
import { openNetwork } from "../../src/platform/node/network.js";
import { Turn } from "../../src/platform/turn.js";
import type { Clock, Random } from "../../src/platform/world.js";

export class QuietLog implements Log {
  readonly lines: string[];

  constructor(lines: string[] = []) {
    this.lines = lines;
  }

  debug(message: string, fields?: LogFields): void {
    this.lines.push(`${message} ${JSON.stringify(fields ?? {})}`);
  }

  info = this.debug;
  warn = this.debug;
  error = this.debug;

  child(): Log {
    return this;
  }
}

export interface SocketWorld {
  clock: Clock;
  random: Random;
  turn: Turn;
  arena: Arena;
  log: QuietLog;
  network: Network;
}

export const realClock: Clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  after: (delayMs, work) => {
    const timer = setTimeout(work, delayMs);
    return { cancel: () => clearTimeout(timer) };
  },
  immediate: (work) => void setImmediate(work),
  sleep: (delayMs) => new Promise((resolve) => setTimeout(resolve, delayMs)),
};

const random: Random = {
  below: (limit) => randomInt(limit),
  bytes: (count) => new Uint8Array(randomBytes(count)),
};

/**
 * A world with an arena of `arenaMib` MiB, of which 64 MiB + `poolMib` MiB are the receive pool.
 */
export function socketWorld(arenaMib = 256, poolMib = 0): SocketWorld {
  const arena = new Arena(new ArrayBuffer(arenaMib * MIB));
  const turn = new Turn((work) => void setImmediate(work));
  const log = new QuietLog();
  const network = openNetwork({
    arena,
    clock: realClock,
    turn,
    log,
    receivePoolBytes: (64 + poolMib) * MIB,
  });
  return { clock: realClock, random, turn, arena, log, network };
}

/** A folder of its own; `remove` when done. */
export function temporaryFolder(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), "ovs-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** Waits until `condition` holds; throws after `limitMs`. */
export async function until(
  condition: () => boolean,
  what: string,
  limitMs = 10_000,
): Promise<void> {
  const end = performance.now() + limitMs;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`in ${limitMs} ms it did not come to: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
