// SPDX-License-Identifier: Apache-2.0
// Whom troubles may meet, and how far they may go: what all kinds of trouble share.
//
// An object that was just committed survives c - k losses, not m yet (P-A10): so many disks may
// lose or damage what they have acknowledged, chosen once a seed. All others may be away, slow and
// full.

import type { SimCluster } from "./cluster.js";
import type { Device } from "./device.js";
import type { Dice } from "./dice.js";
import type { SimHost } from "./host.js";
import type { SimProcess } from "./process.js";
import type { Scene } from "./scene.js";

/** One kind of trouble: begins it, and answers how to end it (null: it is over already). */
export type Trouble = (dice: Dice) => (() => void) | null;

interface Ears {
  /** Told before the power of the router's host fails. */
  onPowerLoss: () => void;
  /** Told more about the trouble that begins now. */
  meets: (words: string) => void;
}

export class Reach {
  readonly cluster: SimCluster;
  /** Disks whose stored data may be damaged: no more than the policy survives. */
  readonly weak: SimProcess[];
  /** In the operator's hands. */
  readonly held = new Set<SimProcess>();
  /** All is healed: nothing may go wrong any more. */
  isOver = false;
  readonly #ears: Ears;

  constructor(cluster: SimCluster, dice: Dice, ears: Ears) {
    this.cluster = cluster;
    this.#ears = ears;
    const { c, k } = cluster.options.policy;
    this.weak = dice.shuffle([...cluster.asds]).slice(0, c - k);
  }

  /** Of the cluster. */
  get scene(): Scene {
    return this.cluster.scene;
  }

  /** Whom the trouble that begins now meets. */
  meets(whom: string): void {
    this.#ears.meets(`meets ${whom}`);
  }

  /** Two hosts, of which half of the time one is the router's. */
  pair(dice: Dice): { from: SimHost; to: SimHost } {
    const { hosts, front } = this.cluster;
    const [from, other] = dice.shuffle([...hosts]) as [SimHost, SimHost];
    const isFront = dice.chance(0.5) && from !== front;
    const to = isFront ? front : other;
    this.meets(`${from.name} > ${to.name}`);
    return { from, to };
  }

  /** The disk of an ASD. */
  deviceOf(asd: SimProcess): Device {
    return asd.spec.host.storage.deviceOf(`/asd${this.cluster.asds.indexOf(asd)}`);
  }

  /** Where the files of a process lie; "" when it has none. */
  folderOf(process: SimProcess): string {
    const { cluster } = this;
    if (process === cluster.router) return "/router";
    if (process === cluster.registry) return "/registry";
    return cluster.asds.includes(process) ? this.deviceOf(process).mount : "";
  }

  /** One of the disks that may be damaged; it is told. */
  someWeak(dice: Dice): Device {
    const asd = dice.pick(this.weak);
    this.meets(asd.name);
    return this.deviceOf(asd);
  }

  /** Power fails; answers what brings it back, null when it is back already. */
  power(host: SimHost, dice: Dice): (() => void) | null {
    if (!host.isOn) return null;
    if (host === this.cluster.front) this.#ears.onPowerLoss();
    host.powerOff();
    const mine = this.cluster.processes.filter((process) => process.spec.host === host);
    for (const process of mine) process.powerIsGone();
    const back = () => {
      host.powerOn();
      for (const process of mine) process.powerIsBack();
    };
    if (dice.chance(0.3)) {
      back();
      return null;
    }
    return back;
  }
}
