// SPDX-License-Identifier: Apache-2.0
// What an operator does while clients work and things go wrong: vDisks grow, further ones are made
// and deleted. A call of unknown outcome is made again until it is known, as a person would.
//
// Checked here: what was answered holds. A vDisk has the size that was answered, and its new area
// reads zeroes (its client's history says so); one that was deleted is gone, and one that is made
// anew under its name has nothing of it.

import { hasCode, messageOf, StorageError } from "../base/errors.js";
import { KIB, MIB } from "../base/units.js";
import { RequestKind } from "../nbd/target.js";
import type { SimCluster } from "./cluster.js";
import type { Dice } from "./dice.js";
import { UNIT_BYTES } from "./history.js";
import type { Workload } from "./workload.js";

export const CHORES = ["grow", "make", "delete"] as const;
export type ChoreKind = (typeof CHORES)[number];

export interface ChoreOptions {
  /** Mean time between two chores in milliseconds. */
  everyMs: number;
  /** Weight of each kind; a kind with 0 is off. */
  weights: Record<ChoreKind, number>;
}

/** Chores of a seed: some have none. */
export function someChores(dice: Dice): ChoreOptions {
  const weights = Object.fromEntries(
    CHORES.map((kind) => [kind, dice.chance(0.6) ? dice.around(1) : 0]),
  ) as Record<ChoreKind, number>;
  return { everyMs: dice.pick([2_000, 5_000, 10_000]), weights };
}

const AGAIN_MS = 400;
/** Further vDisks at a time, and in all: each costs a reading of it in the end. */
export const EXTRAS_MAX = 3;
const NAMES = ["x0", "x1", "x2"] as const;
const BYTES_MAX = 20 * MIB;
const GROWTH_MAX = 2 * MIB;
const CLUSTER = 4 * KIB;
/** Requests that look at a new area. */
const LOOKS = 3;

interface Kept {
  name: string;
  client: Workload;
  /** A chore is under way. */
  isBusy: boolean;
}

export interface ChoresOptions {
  cluster: SimCluster;
  dice: Dice;
  chores: ChoreOptions;
  /** Makes the client of a vDisk that was made. */
  addClient: (name: string, sizeBytes: number) => Workload;
  /** Told what must not be, in words: the seed has failed. */
  onViolation: (words: string) => void;
}

export class Chores {
  readonly #options: ChoresOptions;
  readonly #kept: Kept[] = [];
  readonly #deleted = new Set<string>();
  #underWay = 0;
  #running = false;

  /** `clients`: of the vDisks that are there from the start. */
  constructor(options: ChoresOptions, clients: ReadonlyArray<{ name: string; client: Workload }>) {
    this.#options = options;
    for (const { name, client } of clients) this.#kept.push({ name, client, isBusy: false });
  }

  /** Chores that are not done yet. */
  get underWay(): number {
    return this.#underWay;
  }

  /** The vDisks that there are, once nothing is under way, and their sizes. */
  expected(): Array<{ name: string; sizeBytes: number }> {
    return this.#kept.map(({ name, client }) => ({ name, sizeBytes: client.sizeBytes }));
  }

  /** Begins; calls follow each other until `stop`. */
  start(): void {
    this.#running = true;
    this.#later();
  }

  /** Begins nothing any more; what is under way goes on until it is done. */
  stop(): void {
    this.#running = false;
  }

  #later(): void {
    const { cluster, dice, chores } = this.#options;
    cluster.scene.timeline.after(dice.around(chores.everyMs), null, () => {
      if (!this.#running) return;
      this.#begin();
      this.#later();
    });
  }

  #begin(): void {
    const { dice, chores } = this.#options;
    const kind = dice.weighted(CHORES, chores.weights);
    if (kind === null) return;
    this.#underWay++;
    const work = kind === "grow" ? this.#grow() : kind === "make" ? this.#make() : this.#delete();
    work.then(
      () => this.#underWay--,
      (error: unknown) => this.#options.onViolation(`${kind}: ${messageOf(error)}`),
    );
  }

  async #grow(): Promise<void> {
    const { cluster, dice } = this.#options;
    const kept = this.#someIdle(() => true);
    if (kept === null) return;
    const { client, name } = kept;
    const before = client.sizeBytes;
    const sizeBytes = before + CLUSTER * dice.between(1, GROWTH_MAX / CLUSTER);
    if (sizeBytes > BYTES_MAX) return;
    kept.isBusy = true;
    const status = await this.#insist(`grow ${name}`, () =>
      cluster.routerClient.resize(name, sizeBytes),
    );
    if (status.sizeBytes !== sizeBytes) {
      throw new Error(`${name} has ${status.sizeBytes} bytes, not ${sizeBytes}`);
    }
    cluster.scene.count("vDisk grown");
    client.grown(sizeBytes);
    for (let i = 0; i < LOOKS && !client.isGone; i++) {
      const count = dice.between(1, 8);
      const place = dice.between(before / UNIT_BYTES, sizeBytes / UNIT_BYTES - count);
      const kindOf = dice.chance(0.5) ? RequestKind.Read : RequestKind.Write;
      client.tryOnce({ kind: kindOf, first: place, count, fua: dice.chance(0.3) });
    }
    kept.isBusy = false;
  }

  async #make(): Promise<void> {
    const { cluster, dice, addClient } = this.#options;
    const free = NAMES.filter((name) => !this.#kept.some((kept) => kept.name === name));
    if (free.length <= NAMES.length - EXTRAS_MAX) return;
    const name = dice.pick(free);
    const sizeBytes = CLUSTER * dice.between(16, MIB / CLUSTER);
    const kept: Kept = { name, client: addClient(name, sizeBytes), isBusy: true };
    this.#kept.push(kept);
    let tries = 0;
    await this.#insist(`make ${name}`, async () => {
      try {
        await cluster.routerClient.create(name, sizeBytes);
      } catch (error) {
        // An earlier call of unknown outcome came true.
        if (!hasCode(error, "OVS_EXISTS") || tries++ === 0) throw error;
        await cluster.routerClient.info(name);
      }
    });
    cluster.scene.count(this.#deleted.has(name) ? "vDisk made anew" : "vDisk made");
    kept.client.start();
    kept.isBusy = false;
  }

  async #delete(): Promise<void> {
    const { cluster, dice } = this.#options;
    const kept = this.#someIdle(({ name }) => (NAMES as readonly string[]).includes(name));
    if (kept === null) return;
    const { name, client } = kept;
    kept.isBusy = true;
    // With clients at work, or without.
    if (dice.chance(0.5)) await client.stop();
    let tries = 0;
    await this.#insist(`delete ${name}`, async () => {
      try {
        await cluster.routerClient.remove(name);
      } catch (error) {
        if (!hasCode(error, "OVS_NOT_FOUND") || tries++ === 0) throw error;
      }
    });
    cluster.scene.count("vDisk deleted");
    client.abandon();
    this.#deleted.add(name);
    this.#kept.splice(this.#kept.indexOf(kept), 1);
  }

  #someIdle(isMeant: (kept: Kept) => boolean): Kept | null {
    const idle = this.#kept.filter((kept) => !kept.isBusy && isMeant(kept));
    return idle.length === 0 ? null : this.#options.dice.pick(idle);
  }

  /** Calls until it is answered; what says that the call is wrong is a failure. */
  async #insist<T>(what: string, call: () => Promise<T>): Promise<T> {
    const { timeline, trace } = this.#options.cluster.scene;
    for (;;) {
      try {
        const answer = await call();
        trace.note("operator", `${what}: done`);
        return answer;
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        trace.note("operator", `${what}: refused: ${messageOf(error)}`);
        if (hasCode(error, "OVS_INVALID")) throw error;
      }
      await new Promise<void>((resolve) => void timeline.after(AGAIN_MS, null, resolve));
    }
  }
}
