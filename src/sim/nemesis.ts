// SPDX-License-Identifier: Apache-2.0
// Who makes things go wrong: at random times a random trouble, which ends after a while. Each seed
// has kinds of its own and weights of its own (swarm testing), so that rare combinations happen.
//
// What the policy does not promise to survive is not done: damage of stored data keeps to c - k
// disks, chosen once, and no other disk loses what it has acknowledged.

import { assert } from "../base/assert.js";
import type { SimCluster } from "./cluster.js";
import type { Device } from "./device.js";
import type { Dice } from "./dice.js";
import type { SimHost } from "./host.js";
import type { SimProcess } from "./process.js";
import type { Scene } from "./scene.js";

/** One kind of trouble: begins it, and answers how to end it (null: it is over already). */
type Trouble = (dice: Dice) => (() => void) | null;

export interface NemesisOptions {
  /** Mean time between two troubles in milliseconds. */
  everyMs: number;
  /** Weight of each kind; a kind with 0 is off. */
  weights: Record<TroubleKind, number>;
  /** Troubles that would happen and do not: all of a kind, or single ones by their number. */
  omit: (number: number, kind: TroubleKind) => boolean;
}

export const TROUBLES = [
  "kill router",
  "kill asd",
  "kill proxy",
  "kill registry",
  "freeze process",
  "freeze host",
  "power of a disk host",
  "power of the router's host",
  "partition",
  "one way",
  "slow link",
  "lossy link",
  "reset connections",
  "slow disk",
  "read errors",
  "full disk",
  "bit rot",
  "lost writes",
  "misdirected writes",
  "clock jump",
] as const;
/** Drawn apart from the others, so that what those do in a seed stays what it was. */
export const FURTHER_TROUBLES = [
  "wiped disk",
  "replaced disk",
  "stop process",
  "half-open connection",
  "late frames",
  "refused connections",
  "hanging connections",
  "narrow link",
  "write errors",
  "sync errors",
  "dead disk",
  "slow front disk",
] as const;
export const ALL_TROUBLES = [...TROUBLES, ...FURTHER_TROUBLES] as const;
export type TroubleKind = (typeof ALL_TROUBLES)[number];

/** Weights of a seed: about half of the kinds, some of them wild. */
export function someTroubles(dice: Dice): NemesisOptions {
  const weights = Object.fromEntries(
    TROUBLES.map((kind) => [kind, dice.chance(0.5) ? dice.around(1) : 0]),
  ) as Record<TroubleKind, number>;
  // A seed without a crash says little.
  weights["kill router"] += 0.3;
  const everyMs = dice.pick([500, 1000, 2000, 4000]);
  const more = dice.fork("further");
  for (const kind of FURTHER_TROUBLES) weights[kind] = more.chance(0.4) ? more.around(0.7) : 0;
  return { everyMs, weights, omit: () => false };
}

export class Nemesis {
  readonly #scene: Scene;
  readonly #cluster: SimCluster;
  readonly #dice: Dice;
  readonly #options: NemesisOptions;
  /** Told before the power of the router's host fails. */
  readonly #onPowerLoss: () => void;
  readonly #undo = new Set<() => void>();
  readonly #troubles: Record<TroubleKind, Trouble>;
  /** Disks whose stored data may be damaged: no more than the policy survives. */
  readonly #weak: SimProcess[];
  /** In the operator's hands. */
  readonly #held = new Set<SimProcess>();
  /** What was done, in order. */
  readonly begun: Array<{ number: number; kind: TroubleKind }> = [];
  #running = false;
  /** Of the trouble that began last; from 1. */
  #number = 0;

  constructor(cluster: SimCluster, options: NemesisOptions, onPowerLoss: () => void) {
    this.#scene = cluster.scene;
    this.#cluster = cluster;
    this.#dice = cluster.scene.dice.fork("nemesis");
    this.#options = options;
    this.#onPowerLoss = onPowerLoss;
    // An object that was just committed survives c - k losses, not m yet (P-A10).
    const { c, k } = cluster.options.policy;
    this.#weak = this.#dice.shuffle([...cluster.asds]).slice(0, c - k);
    this.#troubles = this.#makeTroubles();
  }

  /** Troubles begin, one after the other, until `heal`. */
  start(): void {
    this.#running = true;
    this.#later();
  }

  /** Ends all troubles; none begins any more. */
  heal(): void {
    this.#running = false;
    for (const undo of [...this.#undo]) undo();
  }

  /** Processes that are being stopped, or whose disk is being replaced. */
  get underWay(): number {
    return this.#held.size;
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
    this.#scene.timeline.after(dice.around(3000), null, undo);
  }

  /** Whom the trouble that begins now meets. */
  #meets(whom: string): void {
    this.#scene.trace.note("nemesis", `${this.#number} meets ${whom}`);
  }

  #kill(process: SimProcess): null {
    if (process.isAlive) this.#scene.count(`kill ${process.spec.role}`);
    process.kill("SIGKILL");
    return null;
  }

  /** Stopped in order under load, started again after a while. */
  #stop(process: SimProcess): (() => void) | null {
    if (!process.isReady || this.#held.has(process)) return null;
    this.#held.add(process);
    this.#scene.count(`stop ${process.spec.role}`);
    this.#meets(process.name);
    const stopped = process.stop();
    return () => {
      void stopped.then(() => {
        process.keep();
        this.#held.delete(process);
      });
    };
  }

  /** The disk's content is gone; the daemon must refuse it until an operator replaces the disk. */
  #wipe(asd: SimProcess): (() => void) | null {
    if (this.#held.has(asd)) return null;
    this.#held.add(asd);
    this.#meets(asd.name);
    asd.kill("SIGKILL");
    this.#deviceOf(asd).faults.wipe();
    return () => {
      assert(!asd.isReady, `${asd.name} serves an emptied disk as if it were its own`);
      this.#replaced(asd);
    };
  }

  #replace(asd: SimProcess): null {
    if (this.#held.has(asd)) return null;
    this.#held.add(asd);
    this.#meets(asd.name);
    this.#replaced(asd);
    return null;
  }

  #replaced(asd: SimProcess): void {
    this.#scene.count("disk replaced");
    const { asds } = this.#cluster;
    void this.#cluster.replaceDisk(asds.indexOf(asd)).then(() => this.#held.delete(asd));
  }

  #deviceOf(asd: SimProcess): Device {
    return asd.spec.host.storage.deviceOf(`/asd${this.#cluster.asds.indexOf(asd)}`);
  }

  #power(host: SimHost, dice: Dice): (() => void) | null {
    if (!host.isOn) return null;
    const { processes } = this.#cluster;
    host.powerOff();
    const mine = processes.filter((process) => process.spec.host === host);
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

  #makeTroubles(): Record<TroubleKind, Trouble> {
    return { ...this.#firstTroubles(), ...this.#furtherTroubles() };
  }

  #furtherTroubles(): Record<(typeof FURTHER_TROUBLES)[number], Trouble> {
    const { cluster, net } = { cluster: this.#cluster, net: this.#scene.net };
    const pair = (dice: Dice) => {
      const [from, other] = dice.shuffle([...cluster.hosts]) as [SimHost, SimHost];
      const isFront = dice.chance(0.5) && from !== cluster.front;
      const to = isFront ? cluster.front : other;
      this.#meets(`${from.name} > ${to.name}`);
      return { from, to };
    };
    const link = (dice: Dice) => {
      const { from, to } = pair(dice);
      return net.link(from.net, to.net);
    };
    const weak = (dice: Dice) => {
      const asd = dice.pick(this.#weak);
      this.#meets(asd.name);
      return this.#deviceOf(asd);
    };
    const rate = (dice: Dice, kind: "write error" | "sync error", most: number) => {
      const bad = weak(dice);
      bad.faults.rates(bad.mount, { [kind]: dice.share() * most });
      return () => bad.faults.rates(bad.mount, null);
    };
    return {
      "wiped disk": (dice) => this.#wipe(dice.pick(this.#weak)),
      "replaced disk": (dice) => this.#replace(dice.pick(this.#weak)),
      "stop process": (dice) => this.#stop(dice.pick(cluster.processes)),
      "half-open connection": (dice) => {
        const { from, to } = pair(dice);
        net.halfOpen(from.net, to.net);
        return null;
      },
      "late frames": (dice) => {
        const { from, to } = pair(dice);
        net.late(from.net, to.net, dice.around(2000));
        return null;
      },
      "refused connections": (dice) => {
        const way = link(dice);
        way.refuses = true;
        return () => way.heal();
      },
      "hanging connections": (dice) => {
        const way = link(dice);
        way.hangs = true;
        return () => way.heal();
      },
      "narrow link": (dice) => {
        const way = link(dice);
        way.bytesPerMs = 20 + dice.around(500);
        return () => way.heal();
      },
      "write errors": (dice) => rate(dice, "write error", 0.05),
      "sync errors": (dice) => rate(dice, "sync error", 0.1),
      "dead disk": (dice) => {
        const { faults } = weak(dice);
        faults.dead(true);
        return () => faults.dead(false);
      },
      "slow front disk": (dice) => {
        this.#meets(cluster.front.name);
        const { faults } = cluster.front.storage.deviceOf("/router");
        faults.slow(2 + dice.around(10));
        return () => faults.slow(1);
      },
    };
  }

  #firstTroubles(): Record<(typeof TROUBLES)[number], Trouble> {
    const { cluster, net } = { cluster: this.#cluster, net: this.#scene.net };
    const links = (dice: Dice) => {
      const [from, to] = dice.shuffle([...cluster.hosts]) as [SimHost, SimHost];
      this.#meets(`${from.name} > ${to.name}`);
      return { there: net.link(from.net, to.net), back: net.link(to.net, from.net) };
    };
    const device = (process: SimProcess) => {
      this.#meets(process.name);
      return this.#deviceOf(process);
    };
    const weak = (dice: Dice) => device(dice.pick(this.#weak));
    return {
      "kill router": () => this.#kill(cluster.router),
      "kill asd": (dice) => this.#kill(dice.pick(cluster.asds)),
      "kill proxy": (dice) => this.#kill(dice.pick(cluster.proxies)),
      "kill registry": () => this.#kill(cluster.registry),
      "freeze process": (dice) => {
        const process = dice.pick(cluster.processes);
        this.#scene.count("freeze process");
        this.#meets(process.name);
        process.freeze();
        return () => process.thaw();
      },
      "freeze host": (dice) => {
        const host = dice.pick(cluster.hosts);
        this.#scene.count("freeze host");
        this.#meets(host.name);
        host.freeze();
        return () => host.thaw();
      },
      "power of a disk host": (dice) => this.#power(dice.pick(cluster.diskHosts), dice),
      "power of the router's host": (dice) => {
        if (cluster.front.isOn) this.#onPowerLoss();
        return this.#power(cluster.front, dice);
      },
      partition: (dice) => {
        const { there, back } = links(dice);
        there.blocked = true;
        back.blocked = true;
        return () => {
          there.blocked = false;
          back.blocked = false;
        };
      },
      "one way": (dice) => {
        const { there } = links(dice);
        there.blocked = true;
        return () => {
          there.blocked = false;
        };
      },
      "slow link": (dice) => {
        const { there } = links(dice);
        there.delayMs = dice.around(50);
        there.jitterMs = dice.around(50);
        return () => there.heal();
      },
      "lossy link": (dice) => {
        const { there } = links(dice);
        there.lossRate = dice.share() * 0.2;
        return () => there.heal();
      },
      "reset connections": (dice) => {
        const { there } = links(dice);
        there.resetRate = dice.share() * 0.1;
        return () => there.heal();
      },
      "slow disk": (dice) => {
        const slow = device(dice.pick(cluster.asds));
        slow.faults.slow(2 + dice.around(20));
        return () => slow.faults.slow(1);
      },
      "read errors": (dice) => {
        const bad = weak(dice);
        bad.faults.rates(bad.mount, { "read error": dice.share() * 0.2 });
        return () => bad.faults.rates(bad.mount, null);
      },
      "full disk": (dice) => {
        const full = device(dice.pick(cluster.asds));
        full.faults.capacity(0);
        return () => full.faults.capacity(Number.MAX_SAFE_INTEGER);
      },
      "bit rot": (dice) => {
        const rotten = weak(dice);
        for (let i = dice.below(20); i >= 0; i--) rotten.faults.rot(`${rotten.mount}/extents`);
        return null;
      },
      "lost writes": (dice) => {
        const bad = weak(dice);
        bad.faults.rates(`${bad.mount}/extents`, { "lost write": dice.share() * 0.3 });
        return () => bad.faults.rates(`${bad.mount}/extents`, null);
      },
      "misdirected writes": (dice) => {
        const bad = weak(dice);
        bad.faults.rates(`${bad.mount}/extents`, { "misdirected write": dice.share() * 0.3 });
        return () => bad.faults.rates(`${bad.mount}/extents`, null);
      },
      "clock jump": (dice) => {
        const host = dice.pick(cluster.hosts);
        this.#meets(host.name);
        host.time.skewMs += dice.between(-10_000, 10_000);
        this.#scene.count("clock jump");
        return null;
      },
    };
  }
}
