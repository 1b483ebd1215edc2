// SPDX-License-Identifier: Apache-2.0
// A simulated host for tests of disks and stores: devices that stay, processes that come and go.

import { MIB } from "../../src/base/units.js";
import { Arena } from "../../src/platform/arena.js";
import type { Disk } from "../../src/platform/disk.js";
import { Turn } from "../../src/platform/turn.js";
import { Device } from "../../src/sim/device.js";
import { Dice } from "../../src/sim/dice.js";
import { createSimDisk } from "../../src/sim/disk.js";
import { Kernel } from "../../src/sim/kernel.js";
import { SimKv } from "../../src/sim/kv.js";
import { Life } from "../../src/sim/life.js";
import type { LossChooser } from "../../src/sim/loss.js";
import { Storage } from "../../src/sim/storage.js";
import { Timeline } from "../../src/sim/timeline.js";

export interface Process {
  life: Life;
  disk: Disk;
  arena: Arena;
  turn: Turn;
  kv: SimKv;
}

export class Host {
  readonly timeline = new Timeline();
  readonly dice: Dice;
  readonly device: Device;
  readonly storage: Storage;
  readonly faults: string[] = [];
  readonly #arena: Arena;
  readonly lives: Life[] = [];

  constructor(seed: number, arenaBytes = 2 * MIB) {
    this.dice = new Dice(seed);
    this.device = new Device("/disk0", this.dice.fork("disk0"));
    this.device.faults.onFault = (kind) => void this.faults.push(kind);
    this.storage = new Storage([new Device("/", this.dice.fork("root")), this.device]);
    this.#arena = new Arena(new ArrayBuffer(arenaBytes));
  }

  /** Starts a process; all of them share the memory, of which tests take what they like. */
  start(): Process {
    const life = new Life(`process-${this.lives.length}`, this.timeline);
    const pid = 100 + this.lives.push(life);
    const kernel = new Kernel(life, this.storage, this.dice.fork(life.name), pid);
    const turn = new Turn((work) => void life.after(0, work));
    const arena = this.#arena;
    return {
      life,
      arena,
      turn,
      kv: new SimKv(kernel),
      disk: createSimDisk(kernel, { arena, turn }),
    };
  }

  /** The power fails: all processes end, what was not synced is left to the chooser. */
  losePower(chooser?: LossChooser): void {
    for (const life of this.lives) life.end();
    this.storage.losePower(chooser);
  }

  /** Lets time pass until `work` is done. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    let isOver = false;
    const working = work().finally(() => {
      isOver = true;
    });
    working.catch(() => undefined);
    while (!isOver) {
      await this.timeline.run(() => isOver);
      await new Promise((resolve) => void setImmediate(resolve));
    }
    return await working;
  }
}
