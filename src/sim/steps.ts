// SPDX-License-Identifier: Apache-2.0
// Chosen steps: something is done just before or after the Nth step of a kind from now on. So a
// crash or a freeze falls between two steps that lie too close together for a random instant: two
// events of one time, two effects of one group, a frame that was handed to the kernel and the
// moment at which it leaves the host.

import { assert } from "../base/assert.js";
import type { SimCluster } from "./cluster.js";
import { lies } from "./faults.js";
import type { SimHost } from "./host.js";
import type { SimProcess } from "./process.js";

export const STEPS = [
  /** An event of the process: between any two of them. */
  "event",
  /** The process hands what one connection sends to its kernel. */
  "send",
  /** A frame leaves the host: it was handed over before. */
  "departure",
  /** A frame is delivered to a process of the host. */
  "arrival",
  /** An effect on the files of the process. */
  "disk",
  /** A write or sync of a store of the process. */
  "store",
] as const;
export type StepKind = (typeof STEPS)[number];

export interface StepPoint {
  kind: StepKind;
  process: SimProcess;
  /** Where its files lie; "" for none. */
  folder: string;
  /** Steps from now until it; from 1. */
  number: number;
  /** Of an event or a sending it is always before. */
  when: "before" | "after";
}

interface Armed {
  point: StepPoint;
  left: number;
  work: () => void;
}

/** The steps that something waits for. */
export class Steps {
  readonly #cluster: SimCluster;
  readonly #armed = new Set<Armed>();

  constructor(cluster: SimCluster) {
    this.#cluster = cluster;
  }

  /** `work` is done at the point, once; answers how to take it back. */
  arm(point: StepPoint, work: () => void): () => void {
    assert(point.number >= 1, "steps are counted from 1");
    const armed = { point, left: point.number, work };
    this.#armed.add(armed);
    this.#listen();
    return () => {
      if (this.#armed.delete(armed)) this.#listen();
    };
  }

  /** Sets the hooks that are needed, and no others: each costs time. */
  #listen(): void {
    const { processes, hosts, scene } = this.#cluster;
    for (const process of processes) {
      const isMeant = this.#some(({ kind, process: one }) => isLife(kind) && one === process);
      process.watch(
        isMeant ? (step) => this.#pass(step, (point) => point.process === process) : null,
      );
    }
    const isFrame = this.#some(({ kind }) => kind === "departure" || kind === "arrival");
    scene.net.hook = isFrame
      ? ({ step, when, from, to }) => {
          const kind = step === "depart" ? "departure" : "arrival";
          const host = step === "depart" ? from : to;
          this.#pass(kind, (point) => point.process.spec.host.net === host && point.when === when);
        }
      : null;
    for (const host of hosts) this.#listenTo(host);
  }

  #listenTo(host: SimHost): void {
    const { storage } = host;
    const isDisk = ({ kind, process }: StepPoint) =>
      (kind === "disk" || kind === "store") && process.spec.host === host;
    const hook = (when: StepPoint["when"]) => {
      if (!this.#some((point) => isDisk(point) && point.when === when)) return null;
      return (_number: number, what: string, path: string) => {
        const isStore = storage.deviceOf(path).storesUnder(path).length > 0;
        const isWrite = what === "write" || what === "sync";
        const isMeant = (point: StepPoint) =>
          isDisk(point) && point.when === when && lies(path, point.folder);
        if (!isStore) this.#pass("disk", isMeant);
        else if (isWrite) this.#pass("store", isMeant);
      };
    };
    storage.beforeEffect = hook("before");
    storage.afterEffect = hook("after");
  }

  #some(isMeant: (point: StepPoint) => boolean): boolean {
    for (const { point } of this.#armed) if (isMeant(point)) return true;
    return false;
  }

  #pass(kind: StepKind, isMeant: (point: StepPoint) => boolean): void {
    for (const armed of [...this.#armed]) {
      const { point } = armed;
      if (point.kind !== kind || !isMeant(point) || --armed.left > 0) continue;
      this.#armed.delete(armed);
      this.#listen();
      armed.work();
    }
  }
}

function isLife(kind: StepKind): boolean {
  return kind === "event" || kind === "send";
}
