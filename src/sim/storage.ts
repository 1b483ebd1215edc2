// SPDX-License-Identifier: Apache-2.0
// The disks of one host, each mounted at a path, and the count of all that happens on them: every
// change of a disk that takes effect has a number, so that a test can end a process or the host
// just before or after the Nth.

import { assert } from "../base/assert.js";
import type { Device } from "./device.js";
import { lies } from "./faults.js";
import type { LossChooser } from "./loss.js";

/** A change under way when its process is killed is not done, is done, or (a write) in part. */
export type Fate = "not" | "done" | "part";

/** What becomes of the changes that a process had asked for when it is killed. */
export type KillPolicy = "chance" | "none" | "all" | ((what: string, path: string) => Fate);

/** Is called around each effect: its number, what it is ("write", "sync", …) and where. */
export type EffectHook = (number: number, what: string, path: string) => void;

export class Storage {
  readonly devices: readonly Device[];
  killPolicy: KillPolicy = "chance";
  beforeEffect: EffectHook | null = null;
  afterEffect: EffectHook | null = null;
  #effects = 0;
  #losses = 0;
  readonly #byMount: readonly Device[];

  /** One of the devices is mounted at "/". */
  constructor(devices: readonly Device[]) {
    this.devices = devices;
    this.#byMount = [...devices].sort((a, b) => b.mount.length - a.mount.length);
    assert(this.#byMount.at(-1)?.mount === "/", "something is mounted at the root");
  }

  /** Changes that took effect until now. */
  get effects(): number {
    return this.#effects;
  }

  /** Times that the power was lost until now. */
  get losses(): number {
    return this.#losses;
  }

  /** The device that holds the path. */
  deviceOf(path: string): Device {
    for (const device of this.#byMount) if (lies(path, device.mount)) return device;
    assert(false, "paths are absolute");
  }

  /** The host loses its power; its processes have ended before. */
  losePower(chooser?: LossChooser): void {
    this.#losses++;
    for (const device of this.devices) device.losePower(chooser);
  }

  /** Runs a change as the next effect, unless `isOff` says after the hook that it is no more. */
  effect(what: string, path: string, isOff: () => boolean, work: () => void): void {
    const number = ++this.#effects;
    this.beforeEffect?.(number, what, path);
    if (isOff()) return;
    work();
    this.afterEffect?.(number, what, path);
  }
}
