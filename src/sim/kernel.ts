// SPDX-License-Identifier: Apache-2.0
// What a process has asked of its host's kernel: each call takes effect some time after it was
// made, its answer comes later still, as an event of the process. The kernel goes on while the
// process is frozen; when it is killed, what had no effect yet has it now or never, by chance.

import { assert } from "../base/assert.js";
import type { Device, Weight } from "./device.js";
import { asDiskError, deadError } from "./device.js";
import type { Dice } from "./dice.js";
import type { Life } from "./life.js";
import type { Storage } from "./storage.js";

const EARLY_CHANCE = 0.5;

interface Call {
  readonly what: string;
  readonly path: string;
  readonly device: Device;
  readonly mutates: boolean;
  work: (() => void) | null;
}

/** Of a call: its name in errors, its path, and whether it changes the disk. */
export interface CallInfo {
  readonly what: string;
  readonly path: string;
  readonly weight: Weight;
  readonly mutates: boolean;
}

export class Kernel {
  readonly life: Life;
  readonly storage: Storage;
  readonly dice: Dice;
  /** Of the process: other processes meet it in the words of locks. */
  readonly pid: number;
  readonly #pending = new Set<Call>();

  constructor(life: Life, storage: Storage, dice: Dice, pid: number) {
    this.life = life;
    this.storage = storage;
    this.dice = dice;
    this.pid = pid;
    life.atEnd(() => this.#killed());
  }

  /** Makes a call; what `work` throws rejects, an errno as the error that callers see. */
  call<T>(info: CallInfo, work: (device: Device) => T): Promise<T> {
    const device = this.storage.deviceOf(info.path);
    return new Promise<T>((resolve, reject) => {
      let answer: () => void = () => assert(false, "a call that is answered has had its effect");
      const run = () => {
        try {
          if (device.faults.isDead) throw deadError(info.what, info.path);
          const value = work(device);
          answer = () => resolve(value);
        } catch (error) {
          answer = () => reject(asDiskError(error, info.what, info.path));
        }
      };
      this.start(device, info, run, () => answer());
    });
  }

  /** As call, without a promise: `work` takes effect, then `done` happens to the process. */
  start(device: Device, info: CallInfo, work: () => void, done: () => void): void {
    if (this.life.state === "dead") return;
    const { what, path, mutates } = info;
    const call: Call = { what, path, device, mutates, work };
    const { timeline } = this.life;
    const totalMs = device.latencyMs(info.weight, 0);
    this.#pending.add(call);
    if (mutates && this.dice.chance(EARLY_CHANCE)) {
      timeline.after(totalMs * this.dice.share(), null, () => this.#run(call));
    }
    timeline.after(totalMs, null, () => {
      this.#run(call);
      this.deliver(done);
    });
  }

  /** An event of the process, now: a frozen one has it later, a dead one never. */
  deliver(work: () => void): void {
    this.life.step("event");
    if (this.life.state === "alive") work();
    else if (this.life.state === "frozen") this.life.hold(work);
  }

  #run(call: Call): void {
    if (call.work === null) return;
    if (call.mutates) this.storage.effect(call.what, call.path, () => call.work === null, take);
    else take();
    function take(): void {
      const work = call.work;
      call.work = null;
      work!();
    }
    if (call.work === null) this.#pending.delete(call);
  }

  #killed(): void {
    const policy = this.storage.killPolicy;
    for (const call of this.#pending) {
      const work = call.work;
      call.work = null;
      if (typeof policy === "function") {
        if (call.mutates && work !== null && policy(call.what, call.path) !== "not") work();
        continue;
      }
      const isDone = policy === "all" || (policy === "chance" && this.dice.chance(0.5));
      if (call.mutates && isDone) work?.();
    }
    this.#pending.clear();
  }
}
