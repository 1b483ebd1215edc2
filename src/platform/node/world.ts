// SPDX-License-Identifier: Apache-2.0
// The real world of one thread: the host's clock, randomness, disks, sockets and stores. Parts
// that need an addon are made when they are first asked for, so that a daemon loads only what it
// uses. `stop` ends them in the order that lets each finish: network, then disk, then the log.

import { randomFillSync, randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { assert } from "../../base/assert.js";
import { alignDown, parseUuid } from "../../base/bytes.js";
import { CLUSTER_BYTES, MIB } from "../../base/units.js";
import { loadNbdAddon } from "../../native/nbd.js";
import type { Arena } from "../arena.js";
import type { Codec } from "../codec.js";
import type { Disk } from "../disk.js";
import type { KvFactory } from "../kv.js";
import type { Log } from "../log.js";
import type { NbdEngine } from "../nbd.js";
import type { Network } from "../network.js";
import { Turn } from "../turn.js";
import type { Clock, Random, Timer, World } from "../world.js";
import { nodeCodec } from "./codec.js";
import type { DiskEngineName } from "./engine.js";
import { createDisk, mapArena } from "./engine.js";
import { NodeKv } from "./kv.js";
import type { LogLevel } from "./log.js";
import { createLog } from "./log.js";
import { openNetwork } from "./network.js";

export interface WorldOptions {
  /** Of the daemon: `asd-1`, `router`; names the log file. */
  name: string;
  /**
   * Memory for all I/O of this thread, in bytes (whole clusters); only what is used becomes
   * resident.
   */
  arenaBytes?: number;
  /**
   * Part of the arena for payloads that come from sockets without being expected (default: a
   * quarter of the arena, at most 16 MiB); a longer payload than this ends its connection.
   */
  receivePoolBytes?: number;
  /** Folder of the log file (`DIR/log`); null or missing: no file. */
  logTo?: string | null;
  /** Lowest level in the file; OVS_LOG_LEVEL overrides. */
  logLevel?: LogLevel;
  /** Lowest level on the terminal; null: none. Without a log file warnings go there. */
  terminal?: LogLevel | null;
  /**
   * "fs" does without io_uring, as OVS_DISK=fs does; by default it is used where it is to be had.
   */
  disk?: DiskEngineName;
}

export interface NodeWorld extends World {
  /** Ends network and disk, waiting for what is in flight; idempotent. */
  stop(): Promise<void>;
}

const ARENA_BYTES_DEFAULT = 64 * MIB;

/** A timeout of the runtime that is longer comes at once. */
const TIMEOUT_MAX_MS = 2 ** 31 - 1;

/** Makes the world of this thread. */
export function createWorld(options: WorldOptions): NodeWorld {
  return new RealWorld(options);
}

class RealWorld implements NodeWorld {
  readonly clock: Clock = new NodeClock();
  readonly random: Random = new NodeRandom();
  readonly turn = new Turn((work) => void setImmediate(work));
  readonly log: Log;
  readonly bootId: Uint8Array;
  readonly #arenaBytes: number;
  readonly #receivePoolBytes: number;
  readonly #diskEngine: DiskEngineName;
  readonly #closeLog: () => void;
  #arena: Arena | null = null;
  #disk: Disk | null = null;
  #network: Network | null = null;
  #kv: KvFactory | null = null;
  #codec: Codec | null = null;
  #stopped: Promise<void> | null = null;

  constructor(options: WorldOptions) {
    this.#arenaBytes = options.arenaBytes ?? ARENA_BYTES_DEFAULT;
    assert(this.#arenaBytes % CLUSTER_BYTES === 0, "an arena is whole clusters");
    const quarter = alignDown(this.#arenaBytes / 4, CLUSTER_BYTES);
    this.#receivePoolBytes = options.receivePoolBytes ?? Math.min(16 * MIB, quarter);
    this.#diskEngine = options.disk ?? (process.env.OVS_DISK === "fs" ? "fs" : "io_uring");
    const folder = options.logTo ?? null;
    const { log, close } = createLog({
      name: options.name,
      folder,
      level: (process.env.OVS_LOG_LEVEL as LogLevel | undefined) ?? options.logLevel ?? "info",
      terminal: options.terminal === undefined ? (folder ? null : "warn") : options.terminal,
    });
    this.log = log;
    this.#closeLog = close;
    this.bootId = parseUuid(readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim());
  }

  get arena(): Arena {
    this.#arena ??= mapArena(this.#arenaBytes);
    return this.#arena;
  }

  get disk(): Disk {
    this.#disk ??= createDisk(this, this.#diskEngine);
    return this.#disk;
  }

  get network(): Network {
    this.#network ??= openNetwork({
      arena: this.arena,
      clock: this.clock,
      turn: this.turn,
      log: this.log,
      receivePoolBytes: this.#receivePoolBytes,
    });
    return this.#network;
  }

  get kv(): KvFactory {
    this.#kv ??= new NodeKv();
    return this.#kv;
  }

  get codec(): Codec {
    this.#codec ??= nodeCodec(this.arena);
    return this.#codec;
  }

  get nbd(): NbdEngine {
    return loadNbdAddon();
  }

  async stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    await this.#stopped;
  }

  async #stop(): Promise<void> {
    await this.#network?.stop();
    await this.#disk?.stop();
    this.#closeLog();
  }
}

class NodeClock implements Clock {
  nowMs(): number {
    return performance.now();
  }

  wallMs(): number {
    return Date.now();
  }

  after(delayMs: number, work: () => void): Timer {
    return new NodeTimer(delayMs, work);
  }

  immediate(work: () => void): void {
    setImmediate(work);
  }

  async sleep(delayMs: number): Promise<void> {
    await new Promise<void>((resolve) => void this.after(delayMs, resolve));
  }
}

/**
 * The runtime's timers may come up to a millisecond early, and those that are weeks away at once;
 * these do not.
 */
class NodeTimer implements Timer {
  readonly #dueMs: number;
  readonly #work: () => void;
  #timer: NodeJS.Timeout;

  constructor(delayMs: number, work: () => void) {
    assert(!Number.isNaN(delayMs), "a delay is a number");
    this.#dueMs = performance.now() + delayMs;
    this.#work = work;
    this.#timer = this.#wait(delayMs);
  }

  cancel(): void {
    clearTimeout(this.#timer);
  }

  #wait(delayMs: number): NodeJS.Timeout {
    return setTimeout(() => this.#onTime(), Math.min(Math.ceil(delayMs), TIMEOUT_MAX_MS));
  }

  #onTime(): void {
    const leftMs = this.#dueMs - performance.now();
    if (leftMs > 0) this.#timer = this.#wait(leftMs);
    else this.#work();
  }
}

class NodeRandom implements Random {
  below(limit: number): number {
    assert(Number.isSafeInteger(limit) && limit > 0, "a limit is a positive whole number");
    // randomInt takes ranges below 2^48; larger ones are put together from two halves.
    if (limit < 2 ** 48) return randomInt(limit);
    const high = randomInt(2 ** 21);
    const value = high * 2 ** 32 + randomInt(2 ** 32);
    return value < Number.MAX_SAFE_INTEGER - (Number.MAX_SAFE_INTEGER % limit)
      ? value % limit
      : this.below(limit);
  }

  bytes(count: number): Uint8Array {
    return randomFillSync(new Uint8Array(count));
  }
}
