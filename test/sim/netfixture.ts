// SPDX-License-Identifier: Apache-2.0
// A small simulated world for tests of the network: a few hosts, and processes on them that have
// clock, turn, arena and network.

import { MIB } from "../../src/base/units.js";
import { Arena } from "../../src/platform/arena.js";
import type { Codec } from "../../src/platform/codec.js";
import type { FramedNetwork } from "../../src/platform/framed.js";
import { nodeCodec } from "../../src/platform/node/codec.js";
import { Turn } from "../../src/platform/turn.js";
import { SimClock } from "../../src/sim/clock.js";
import { Dice } from "../../src/sim/dice.js";
import { Life } from "../../src/sim/life.js";
import type { NetHost } from "../../src/sim/nethost.js";
import { SimNet, type SimNetOptions } from "../../src/sim/network.js";
import { Timeline } from "../../src/sim/timeline.js";
import { QuietLog } from "../platform/fixture.js";

export interface Process {
  life: Life;
  host: NetHost;
  clock: SimClock;
  turn: Turn;
  arena: Arena;
  codec: Codec;
  log: QuietLog;
  network: FramedNetwork;
  memory: number;
}

export class Bench {
  readonly timeline = new Timeline();
  readonly dice: Dice;
  readonly net: SimNet;
  readonly faults = new Map<string, number>();
  #over = false;
  #pumped: Promise<void> | null = null;

  constructor(seed: number, options: Partial<SimNetOptions> = {}) {
    this.dice = new Dice(seed);
    this.net = new SimNet({
      timeline: this.timeline,
      dice: this.dice.fork("network"),
      onFault: (kind) => this.faults.set(kind, (this.faults.get(kind) ?? 0) + 1),
      ...options,
    });
  }

  host(n: number): NetHost {
    return this.net.hosts[n - 1] ?? this.net.host(`host-${n}`, `10.0.0.${n}`);
  }

  process(
    host: NetHost,
    { arenaMib = 8, poolMib = 2, memoryMib = 4 }: Partial<Record<string, number>> = {},
  ): Process {
    const life = new Life(`process of ${host.name}`, this.timeline);
    const clock = new SimClock(life, { rate: 1, originMs: 0, skewMs: 0 });
    const turn = new Turn((work) => clock.immediate(work));
    const arena = new Arena(new ArrayBuffer(arenaMib * MIB));
    const log = new QuietLog();
    const codec = nodeCodec(arena);
    const parts = { life, host, clock, turn, arena, codec, log };
    const network = this.net.open(host, life, parts, poolMib * MIB);
    return { ...parts, network, memory: arena.region(memoryMib * MIB, "test") };
  }

  /** Lets time run while a test awaits. */
  pump(): void {
    const run = async () => {
      while (!this.#over) {
        await this.timeline.run(() => this.#over);
        await new Promise((resolve) => setImmediate(resolve));
      }
    };
    this.#pumped = run();
  }

  async stop(): Promise<void> {
    this.#over = true;
    await this.#pumped;
  }

  /** Lets time run until a condition holds; throws after `limitMs` of it. */
  async until(condition: () => boolean, what: string, limitMs = 20_000): Promise<void> {
    if (condition()) return;
    const end = this.timeline.nowMs + limitMs;
    if (this.#pumped === null) {
      this.timeline.after(limitMs, null, () => {});
      await this.timeline.run(() => condition() || this.timeline.nowMs >= end);
    } else {
      while (!condition() && this.timeline.nowMs < end) {
        await new Promise<void>((resolve) => void this.timeline.after(0.05, null, resolve));
      }
    }
    if (!condition()) throw new Error(`in ${limitMs} ms it did not come to: ${what}`);
  }

  /** Lets time run until a promise has settled. */
  async settle<T>(promise: Promise<T>): Promise<T> {
    let over = false;
    const done = promise.finally(() => {
      over = true;
    });
    done.catch(() => {});
    while (!over) {
      this.timeline.after(1000, null, () => {});
      await this.timeline.run(() => over);
      // What settled in the last step.
      await new Promise((resolve) => setImmediate(resolve));
    }
    return await done;
  }
}
