// SPDX-License-Identifier: Apache-2.0
// Who makes things go wrong: at random times a random trouble, which ends after a while. Each seed
// has kinds of its own and weights of its own (swarm testing), so that rare combinations happen.
//
//   kinds.ts: which and how often     trouble*.ts: what each does     reach.ts: to whom it may
//
// What the policy does not promise to survive is not done: damage of stored data keeps to c - k
// disks, chosen once, and no other disk loses what it has acknowledged.

import type { SimCluster } from "./cluster.js";
import type { Dice } from "./dice.js";
import { ALL_TROUBLES, type NemesisOptions, pressed, type TroubleKind } from "./kinds.js";
import { Reach, type Trouble } from "./reach.js";
import type { Scene } from "./scene.js";
import { diskTroubles } from "./troubledisk.js";
import { hangTroubles } from "./troublehang.js";
import { netTroubles } from "./troublenet.js";
import { operatorTroubles } from "./troubleoperator.js";
import { processTroubles } from "./troubleprocess.js";
import { stepTroubles } from "./troublestep.js";

export class Nemesis {
  readonly #scene: Scene;
  readonly #dice: Dice;
  #options: NemesisOptions;
  readonly #reach: Reach;
  readonly #undo = new Set<() => void>();
  readonly #troubles: Record<TroubleKind, Trouble>;
  /** What was done, in order. */
  readonly begun: Array<{ number: number; kind: TroubleKind }> = [];
  #running = false;
  /** Of the trouble that began last; from 1. */
  #number = 0;

  /** `onPowerLoss` is told before the power of the router's host fails. */
  constructor(cluster: SimCluster, options: NemesisOptions, onPowerLoss: () => void) {
    this.#scene = cluster.scene;
    this.#dice = cluster.scene.dice.fork("nemesis");
    this.#options = options;
    const meets = (whom: string) => this.#scene.trace.note("nemesis", `${this.#number} ${whom}`);
    this.#reach = new Reach(cluster, this.#dice, { onPowerLoss, meets });
    this.#troubles = {
      ...processTroubles(this.#reach),
      ...diskTroubles(this.#reach),
      ...netTroubles(this.#reach),
      ...stepTroubles(this.#reach),
      ...hangTroubles(this.#reach),
      ...operatorTroubles(this.#reach),
    };
  }

  /** Troubles begin, one after the other, until `heal`. */
  start(): void {
    this.#running = true;
    this.#later();
  }

  /** From now on troubles are of kinds that count in any seed, and follow soon. */
  press(): void {
    this.#options = pressed(this.#options);
  }

  /** Ends all troubles; none begins any more. */
  heal(): void {
    this.#running = false;
    this.#reach.isOver = true;
    for (const undo of [...this.#undo]) undo();
  }

  /** Numbers of the ASDs whose disks lose nothing. */
  get sturdy(): number[] {
    const { asds } = this.#reach.cluster;
    return [...asds.keys()].filter((i) => !this.#reach.weak.includes(asds[i]!));
  }

  /** Processes that are being stopped, or whose disk is being replaced. */
  get underWay(): number {
    return this.#reach.held.size;
  }

  #later(): void {
    const { timeline } = this.#scene;
    timeline.after(this.#dice.around(this.#options.everyMs), null, () => {
      if (!this.#running) return;
      this.#strike();
      this.#later();
    });
  }

  #strike(): void {
    const kind = this.#dice.weighted(ALL_TROUBLES, this.#options.weights);
    if (kind === null) return;
    // Dice of its own, so that leaving one trouble out does not make others of those that follow.
    const number = ++this.#number;
    const dice = this.#dice.fork(`trouble ${number}`);
    if (this.#options.omit(number, kind)) return;
    this.#scene.trace.note("nemesis", `${number} ${kind}`);
    this.begun.push({ number, kind });
    const end = this.#troubles[kind](dice);
    if (end === null) return;
    this.#scene.trace.note("nemesis", `${number} goes on`);
    const undo = () => {
      if (!this.#undo.delete(undo)) return;
      this.#scene.trace.note("nemesis", `${number} ${kind} is over`);
      end();
    };
    this.#undo.add(undo);
    this.#scene.timeline.after(dice.around(this.#options.lastMs), null, undo);
  }
}
