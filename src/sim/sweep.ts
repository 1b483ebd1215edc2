// SPDX-License-Identifier: Apache-2.0
// The crash-point sweep: one short story (write, flush, TRIM, destage, restart) is run again and
// again, each time with one crash more to the right: at every effect on a disk, and at every frame
// that leaves a host or arrives. After each the contract holds, whatever of the unsynced writes the
// disk has kept.

import { messageOf, StorageError } from "../base/errors.js";
import { KIB, MIB } from "../base/units.js";
import { RequestKind } from "../nbd/target.js";
import { type ClusterOptions, SimCluster } from "./cluster.js";
import type { SimHost } from "./host.js";
import { ChanceLoss, ChosenLoss, type LossChooser, lossesOf, PlainLoss } from "./loss.js";
import { Scene } from "./scene.js";
import type { TraceLine } from "./trace.js";
import { someHabits, Workload } from "./workload.js";

/** Where the crash falls: before the Nth effect on a disk of the host, or the Nth frame of all. */
export interface CrashPoint {
  what: "disk" | "frame";
  /** Index in SimCluster.hosts: 0 has router, proxies and registry, the others an ASD each. */
  host: number;
  /** Counted from the beginning of the story; from 1. */
  number: number;
}

/**
 * `kill`: every process of the host gets SIGKILL. Else its power fails, and its disk keeps what is
 * said of what was not synced: a number is the Nth of all ways, each page whole.
 */
export type CrashKind = "kill" | "nothing" | "everything" | "chance" | number;

export interface SweepResult {
  failure: string;
  /** The crash has happened. */
  fired: boolean;
  /** Ways in which the loss of power could end. */
  ways: number;
  /** Effects on the disks of each host, and frames, in the story. */
  effects: number[];
  frames: number;
  trace: TraceLine[];
}

const CLUSTER: ClusterOptions = {
  asds: 3,
  diskHosts: 3,
  proxies: 1,
  threads: 1,
  policy: { k: 2, m: 1, c: 3, x: 1 },
  vdisks: [{ name: "vd0", sizeBytes: MIB }],
  journalBytes: 16 * MIB,
  scoBytes: 256 * KIB,
  cacheBytes: MIB,
  readCacheBytes: 0,
  asdBytes: 256 * MIB,
  lostAfterMs: 600_000,
  gcIntervalMs: 15_000,
};
const BACK_MS = 300;
const LIMIT_MS = 120_000;
const LOOK_MS = 100;

/** Runs the story with one crash, or with none. */
export async function sweepOnce(
  seed: number,
  crash: { point: CrashPoint; kind: CrashKind } | null,
): Promise<SweepResult> {
  return await new Sweep(seed, crash).result();
}

class Sweep {
  readonly #scene: Scene;
  readonly #cluster: SimCluster;
  readonly #client: Workload;
  readonly #crash: { point: CrashPoint; kind: CrashKind } | null;
  #failure = "";
  #fired = false;
  #ways = 1;
  #over = false;
  #frames = 0;
  #before: number[] = [];

  constructor(seed: number, crash: { point: CrashPoint; kind: CrashKind } | null) {
    this.#scene = new Scene(seed, true);
    this.#cluster = new SimCluster(this.#scene, CLUSTER);
    this.#crash = crash;
    const dice = this.#scene.dice.fork("client");
    this.#client = new Workload({
      name: "client",
      timeline: this.#scene.timeline,
      trace: this.#scene.trace,
      dice,
      habits: { ...someHabits(dice, 1), depth: 0 },
      sizeBytes: MIB,
      connect: (onEnd) => this.#cluster.connect("vd0", onEnd),
      onViolation: (words) => this.#fail(words),
    });
  }

  async result(): Promise<SweepResult> {
    void this.#story().catch((error: unknown) => this.#broken(error));
    try {
      await this.#scene.timeline.run(() => this.#over);
    } catch (error) {
      this.#broken(error);
    }
    if (!this.#over) this.#fail("nothing is left to happen, and it is not over");
    const hosts = this.#cluster.hosts;
    return {
      failure: this.#failure,
      fired: this.#fired,
      ways: this.#ways,
      effects: hosts.map((host, i) => host.storage.effects - (this.#before[i] ?? 0)),
      frames: this.#frames,
      trace: this.#failure === "" ? [] : this.#scene.trace.lines(),
    };
  }

  async #story(): Promise<void> {
    const cluster = this.#cluster;
    await cluster.start();
    this.#client.start();
    this.#arm();
    await this.#write(0, 16, false);
    await this.#write(21, 2, false);
    await this.#ask(RequestKind.Flush, 0, 0, false);
    await this.#write(0, 8, false);
    await this.#ask(RequestKind.Trim, 8, 8, false);
    await this.#write(40, 8, true);
    await this.#sync();
    await this.#write(0, 24, false);
    await this.#ask(RequestKind.WriteZeroes, 44, 8, true);
    await this.#ask(RequestKind.Flush, 0, 0, false);
    await cluster.router.stop();
    cluster.router.keep();
    await this.#write(60, 3, false);
    await this.#sync();
    this.#disarm();
    await this.#client.readAll(64 * KIB);
    await this.#clean();
    this.#over = true;
  }

  async #write(first: number, count: number, fua: boolean): Promise<void> {
    await this.#ask(RequestKind.Write, first, count, fua);
  }

  async #ask(kind: number, first: number, count: number, fua: boolean): Promise<void> {
    await this.#client.perform({ kind, first, count, fua });
  }

  async #sync(): Promise<void> {
    await this.#until("a sync at full width", async () => {
      return (await this.#cluster.routerClient.sync("vd0", 5_000)).full;
    });
  }

  async #clean(): Promise<void> {
    await this.#until("a clean verify", async () => {
      const options = { namespaces: null, repair: true, leaks: true };
      const report = await this.#cluster.backend.verify(options, 10_000);
      const { missing, corrupt, misplaced, leaked, unreachable, lacking, unreadable } = report;
      return missing + corrupt + misplaced + leaked + unreachable + lacking + unreadable === 0;
    });
  }

  async #until(what: string, holds: () => Promise<boolean>): Promise<void> {
    const { timeline } = this.#scene;
    const endMs = timeline.nowMs + LIMIT_MS;
    for (;;) {
      try {
        if (await holds()) return;
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
      }
      if (timeline.nowMs > endMs) throw new Error(`it does not come to ${what}`);
      await new Promise<void>((resolve) => void timeline.after(LOOK_MS, null, resolve));
    }
  }

  #arm(): void {
    const { hosts } = this.#cluster;
    this.#before = hosts.map(({ storage }) => storage.effects);
    const point = this.#crash?.point ?? null;
    if (point?.what === "disk") {
      const host = hosts[point.host]!;
      const number = this.#before[point.host]! + point.number;
      host.storage.beforeEffect = (effect) => {
        if (effect === number) this.#strike(host);
      };
    }
    this.#scene.net.hook = ({ when }) => {
      if (when !== "before") return;
      this.#frames++;
      if (point?.what === "frame" && this.#frames === point.number) {
        this.#strike(hosts[point.host]!);
      }
    };
  }

  #disarm(): void {
    for (const { storage } of this.#cluster.hosts) storage.beforeEffect = null;
    this.#scene.net.hook = null;
  }

  #strike(host: SimHost): void {
    this.#fired = true;
    const { kind } = this.#crash!;
    const mine = this.#cluster.processes.filter((process) => process.spec.host === host);
    if (kind === "kill") {
      for (const process of mine) process.kill("SIGKILL");
      return;
    }
    if (host === this.#cluster.front) this.#client.powerLost();
    const unsynced = host.storage.devices[0]!.unsynced();
    this.#ways = lossesOf(unsynced);
    host.powerOff(typeof kind === "number" ? new ChosenLoss(unsynced, kind) : this.#chooser(kind));
    for (const process of mine) process.powerIsGone();
    this.#scene.timeline.after(BACK_MS, null, () => {
      host.powerOn();
      for (const process of mine) process.powerIsBack();
    });
  }

  #chooser(kind: "nothing" | "everything" | "chance"): LossChooser {
    if (kind === "nothing" || kind === "everything") return new PlainLoss(kind);
    return new ChanceLoss(this.#scene.dice.fork("loss"));
  }

  #broken(error: unknown): void {
    this.#fail(error instanceof Error ? (error.stack ?? error.message) : messageOf(error));
  }

  #fail(words: string): void {
    if (this.#failure === "") this.#failure = words;
    this.#over = true;
  }
}
