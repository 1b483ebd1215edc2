// SPDX-License-Identifier: Apache-2.0
// What all hosts of one simulation share: time, chance, the network between them, the trace, and
// the count of faults that happened.

import { Dice } from "./dice.js";
import { Memory, type MemoryPool } from "./memory.js";
import { SimNet } from "./network.js";
import { Timeline } from "./timeline.js";
import { Trace } from "./trace.js";

export class Scene {
  readonly seed: number;
  readonly timeline = new Timeline();
  readonly dice: Dice;
  readonly trace: Trace;
  readonly net: SimNet;
  readonly memory: Memory;
  /** Kinds of faults, and how often each had an effect. */
  readonly faults = new Map<string, number>();

  /** `traceAll`: keeps every line of the trace. `pool`: memory of scenes that are over. */
  constructor(seed: number, traceAll: boolean, pool?: MemoryPool) {
    this.seed = seed;
    this.memory = new Memory(pool);
    this.dice = new Dice(seed);
    this.trace = new Trace(this.timeline, traceAll);
    this.net = new SimNet({
      timeline: this.timeline,
      dice: this.dice.fork("net"),
      onFault: (kind) => this.count(`net ${kind}`),
    });
  }

  /** A fault has had an effect. */
  count(kind: string): void {
    this.faults.set(kind, (this.faults.get(kind) ?? 0) + 1);
  }
}
