// SPDX-License-Identifier: Apache-2.0
// A simulated host: its disks, its place in the network, its clock, and the lives on it. Without
// power all of them end at once, and what was not synced is lost.

import type { Disk } from "../platform/disk.js";
import type { KvFactory } from "../platform/kv.js";
import type { NbdEngine } from "../platform/nbd.js";
import type { Network } from "../platform/network.js";
import type { World } from "../platform/world.js";
import type { HostTime } from "./clock.js";
import { Device } from "./device.js";
import type { Dice } from "./dice.js";
import { createSimDisk } from "./disk.js";
import { Kernel } from "./kernel.js";
import { SimKv } from "./kv.js";
import type { Life } from "./life.js";
import type { LossChooser } from "./loss.js";
import { SimNbdEngine } from "./nbd.js";
import type { NetHost } from "./nethost.js";
import type { Scene } from "./scene.js";
import { Storage } from "./storage.js";
import type { Timeline } from "./timeline.js";
import type { Trace } from "./trace.js";

/** Clocks run this much too fast or too slow at most. */
const DRIFT = 0.001;

export class SimHost {
  readonly scene: Scene;
  readonly name: string;
  readonly dice: Dice;
  readonly time: HostTime;
  readonly storage: Storage;
  readonly net: NetHost;
  readonly #lives = new Set<Life>();
  readonly #kernels = new Map<Life, Kernel>();
  #bootId: Uint8Array;
  #births = 0;
  #isOn = true;
  #freezes = 0;

  /** `mounts`: paths that are devices of their own, beside "/". */
  constructor(scene: Scene, name: string, ip: string, mounts: readonly string[] = []) {
    this.scene = scene;
    this.name = name;
    this.dice = scene.dice.fork(`host ${name}`);
    this.time = {
      rate: 1 + DRIFT * (2 * this.dice.share() - 1),
      originMs: this.dice.below(1e9),
      skewMs: this.dice.between(-2000, 2000),
    };
    const devices = ["/", ...mounts].map((mount) => this.#device(mount));
    this.storage = new Storage(devices);
    this.net = scene.net.host(name, ip);
    this.#bootId = this.dice.bytes(16);
  }

  /** The one of the scene; events of processes belong to their lives. */
  get timeline(): Timeline {
    return this.scene.timeline;
  }

  /** The one of the scene. */
  get trace(): Trace {
    return this.scene.trace;
  }

  /** 16 bytes, others after each loss of power. */
  get bootId(): Uint8Array {
    return this.#bootId;
  }

  /** It has power; it may be frozen all the same. */
  get isOn(): boolean {
    return this.#isOn;
  }

  /** Worlds that were made here. */
  nextBirth(): number {
    return ++this.#births;
  }

  /** A life begins here: it ends with the host's power. */
  adopt(life: Life): void {
    this.#lives.add(life);
    for (let i = 0; i < this.#freezes; i++) life.freeze();
    life.atEnd(() => this.#lives.delete(life));
  }

  /**
   * All lives end, unsynced data are lost by chance or choice, peers see silence. `choose` is asked
   * when the lives have ended: what they had under way may be among the unsynced.
   */
  powerOff(choose?: () => LossChooser): void {
    if (!this.#isOn) return;
    this.#isOn = false;
    this.#freezes = 0;
    this.scene.count("power loss");
    this.trace.note(this.name, "loses power");
    for (const life of [...this.#lives]) life.end();
    this.net.powerOff();
    this.storage.losePower(choose?.());
  }

  /** It boots. Who kept processes running there starts them again: the host does not. */
  powerOn(): void {
    if (this.#isOn) return;
    this.#isOn = true;
    this.trace.note(this.name, "has power again");
    this.#bootId = this.dice.bytes(16);
    this.net.powerOn();
  }

  /**
   * The whole host stands still: nothing leaves it either. Answers what ends it: what should have
   * happened meanwhile happens then, also to its processes. A loss of power ends it as well.
   */
  freeze(): () => void {
    if (!this.#isOn) return () => {};
    const bootId = this.#bootId;
    this.#freezes++;
    for (const life of this.#lives) life.freeze();
    this.net.freeze();
    return () => {
      if (!this.#isOn || this.#bootId !== bootId) return;
      this.#freezes--;
      for (const life of this.#lives) life.thaw();
      if (this.#freezes === 0) this.net.thaw();
    };
  }

  /** The disks of this host as a process sees them; what it has in flight ends with `life`. */
  openDisk(life: Life, world: Pick<World, "arena" | "turn">): Disk {
    return createSimDisk(this.#kernelOf(life), world);
  }

  /** Stores on the disks of this host, as a process opens them; closed at the end of `life`. */
  openKv(life: Life): KvFactory {
    return new SimKv(this.#kernelOf(life));
  }

  /** The network of one thread of a process; takes its receive pool from the world's arena. */
  openNetwork(
    life: Life,
    world: Pick<World, "arena" | "clock" | "turn" | "log" | "codec">,
    receivePoolBytes: number,
  ): Network {
    return this.scene.net.open(this.net, life, world, receivePoolBytes);
  }

  /** An NBD engine for one process of this host. */
  openNbd(life: Life, world: Pick<World, "codec">): NbdEngine {
    return new SimNbdEngine(this.net, life, world.codec);
  }

  #kernelOf(life: Life): Kernel {
    let kernel = this.#kernels.get(life);
    if (kernel === undefined) {
      const dice = this.dice.fork(`kernel ${life.name}`);
      kernel = new Kernel(life, this.storage, dice, this.nextBirth() + 1000);
      this.#kernels.set(life, kernel);
      life.atEnd(() => this.#kernels.delete(life));
    }
    return kernel;
  }

  #device(mount: string): Device {
    const device = new Device(mount, this.dice.fork(`device ${mount}`), this.scene.memory);
    device.faults.onFault = (kind, path) => {
      this.scene.count(`disk ${kind}`);
      this.trace.note(this.name, `disk ${kind}: ${path}`);
    };
    return device;
  }
}
