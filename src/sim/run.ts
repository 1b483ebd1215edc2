// SPDX-License-Identifier: Apache-2.0
// One seed: a cluster of its own kind is brought up, clients work while things go wrong, then all
// is healed and everything is looked at:
//
//   start ─► clients + nemesis, `seconds` ─► heal ─► every request ends ─► full width, verify clean
//   ─► all is read and right ─► clean stop, start ─► all is read and right again

import { messageOf, StorageError } from "../base/errors.js";
import { runInTicks } from "../platform/node/ticks.js";
import { JOURNAL_BYTES_MIN, journalBytesFree } from "../volume/open.js";
import { watchLogs } from "./alarms.js";
import { type ChoreOptions, Chores, EXTRAS_MAX, someChores } from "./chores.js";
import { type ClusterOptions, SimCluster, someCluster } from "./cluster.js";
import { COUNTS, countFaults } from "./counts.js";
import { Dice } from "./dice.js";
import { type NemesisOptions, someTroubles, type TroubleKind } from "./kinds.js";
import type { MemoryPool } from "./memory.js";
import { Meter } from "./meter.js";
import { Neighbour, type NeighbourOptions, someNeighbour } from "./neighbour.js";
import { Nemesis } from "./nemesis.js";
import { PrefixCheck, type ReadObject } from "./prefix.js";
import { Scene } from "./scene.js";
import type { TraceLine } from "./trace.js";
import { Witness } from "./witness.js";
import { type Habits, someHabits, Workload } from "./workload.js";

/** With faults healed everything must be well within this time. */
const QUIET_MS = 240_000;
const LOOK_MS = 250;
const PEEK_MS = 1000;
/** Requests a second of all clients together. */
const LOADS = [10, 15, 25, 40];
/** Of a client of a vDisk that is made meanwhile. */
const EXTRA_LOAD = 10;
/** How much longer one of full length goes on that would not count. */
const LONGER_MS = 60_000;
/** Of the router's disk: it counts what it meets of them. */
const DAMAGES: TroubleKind[] = ["damaged map", "rot of the read cache"];

export interface RunOptions {
  seed: number;
  /** Simulated seconds of trouble. */
  seconds: number;
  traceAll: boolean;
  /** An error that nobody has caught since the seed began, or null. */
  stray?: () => unknown;
  /** Memory of seeds that are over, and for those that follow. */
  pool?: MemoryPool;
}

export interface RunResult {
  seed: number;
  /** What must not be; empty for a seed that passed. */
  failure: string;
  digest: number;
  events: number;
  /** Simulated time, in milliseconds. */
  simulatedMs: number;
  acknowledged: number;
  refused: number;
  slowestMs: number;
  /** From the end of all troubles until all was repaired and read. */
  wellMs: number;
  /** Greatest share of their bound that the journals' files have taken. */
  fullest: number;
  faults: Record<string, number>;
  /** What the nemesis did, in order. */
  troubles: Array<{ number: number; kind: TroubleKind }>;
  /** Empty for a seed that passed, unless all of it was to be traced. */
  trace: TraceLine[];
  /** Processes and where they ran, and what clients got; empty unless all was to be traced. */
  nodes: Array<{ name: string; host: string }>;
  clients: Meter[];
}

/** What a seed consists of; for people, and for those who change one part of it. */
export interface Plan {
  cluster: ClusterOptions;
  habits: Habits[];
  nemesis: NemesisOptions;
  chores: ChoreOptions;
  /** Of vDisks that are made during the run. */
  extraHabits: Habits;
  neighbour: NeighbourOptions;
  /** After the clean stop the router's data are lost, and come back from the backend. */
  losesRouter: boolean;
}

/** The plan of a seed. */
export function planOf(seed: number): Plan {
  const dice = new Dice(seed);
  const cluster = someCluster(dice.fork("plan"));
  const perSecond = dice.fork("load").pick(LOADS) / cluster.vdisks.length;
  const habits = cluster.vdisks.map((_, i) => someHabits(dice.fork(`habits ${i}`), perSecond));
  const end = dice.fork("end");
  return {
    cluster,
    habits,
    nemesis: someTroubles(dice.fork("troubles")),
    chores: someChores(dice.fork("chores")),
    extraHabits: someHabits(dice.fork("extra habits"), EXTRA_LOAD),
    neighbour: someNeighbour(dice.fork("neighbour")),
    losesRouter: end.chance(0.5),
  };
}

/** Runs a seed. Never rejects for what the product did wrong: that is the result's `failure`. */
export async function runSeed(
  options: RunOptions,
  plan = planOf(options.seed),
): Promise<RunResult> {
  const run = new Run(options, plan);
  return await run.result();
}

class Run {
  readonly #options: RunOptions;
  readonly #scene: Scene;
  readonly #cluster: SimCluster;
  readonly #clients: Workload[] = [];
  readonly #meters: Meter[] = [];
  readonly #nemesis: Nemesis;
  readonly #chores: Chores;
  readonly #plan: Plan;
  readonly #neighbour: Neighbour;
  /** Greatest share of their bound that the journals' files have taken. */
  #fullest = 0;
  #wellMs = 0;
  #failure = "";
  #over = false;

  constructor(options: RunOptions, plan: Plan) {
    this.#options = options;
    this.#scene = new Scene(options.seed, options.traceAll, options.pool);
    this.#cluster = new SimCluster(this.#scene, plan.cluster);
    watchLogs(this.#cluster, (words) => this.#fail(words));
    this.#plan = plan;
    const there = plan.cluster.vdisks.map(({ name, sizeBytes }, i) => {
      return { name, client: this.#addClient(name, sizeBytes, plan.habits[i]!) };
    });
    this.#chores = new Chores(
      {
        cluster: this.#cluster,
        dice: this.#scene.dice.fork("chores at work"),
        chores: plan.chores,
        addClient: (name, bytes) => this.#addClient(name, bytes, plan.extraHabits),
        onViolation: (words) => this.#fail(words),
      },
      there,
    );
    this.#nemesis = new Nemesis(this.#cluster, plan.nemesis, () => {
      for (const client of this.#clients) client.powerLost();
    });
    this.#neighbour = this.#addNeighbour();
  }

  #addNeighbour(): Neighbour {
    const { neighbour, nemesis } = this.#plan;
    const dice = this.#scene.dice.fork("neighbour at work");
    // What it keeps on a disk does not move away when that is drained.
    const everyMs = nemesis.weights["drained disk"] > 0 ? 0 : neighbour.everyMs;
    return new Neighbour(
      this.#cluster,
      { ...neighbour, everyMs },
      {
        dice,
        asd: dice.pick(this.#nemesis.sturdy),
        onViolation: (words) => this.#fail(words),
      },
    );
  }

  #addClient(name: string, sizeBytes: number, habits: Habits): Workload {
    const meter = new Meter(`client ${name}`);
    if (this.#options.traceAll) this.#meters.push(meter);
    const client = new Workload({
      name: `client ${name}`,
      timeline: this.#scene.timeline,
      trace: this.#scene.trace,
      dice: this.#scene.dice.fork(`client ${this.#clients.length}`),
      habits,
      sizeBytes,
      connect: (onEnd) => this.#cluster.connect(name, onEnd),
      onAnswer: (tookMs) => meter.answered(this.#scene.timeline.nowMs, tookMs),
      onViolation: (words) => this.#fail(words),
    });
    this.#clients.push(client);
    return client;
  }

  async result(): Promise<RunResult> {
    const { timeline, faults, trace } = this.#scene;
    void this.#story().catch((error: unknown) => this.#broken(error));
    try {
      await timeline.run(() => this.#over || this.#hasStray());
      if (!this.#over) this.#fail("nothing is left to happen, and it is not over");
    } catch (error) {
      this.#broken(error);
    }
    // What the last event has caused is over as well.
    await runInTicks(() => false);
    this.#scene.memory.release();
    return {
      seed: this.#options.seed,
      failure: this.#failure,
      digest: timeline.digest,
      events: timeline.events,
      simulatedMs: timeline.nowMs,
      acknowledged: this.#sum((client) => client.acknowledged),
      refused: this.#sum((client) => client.refused),
      slowestMs: Math.max(...this.#clients.map((client) => client.slowestMs)),
      wellMs: this.#wellMs,
      fullest: this.#fullest,
      faults: Object.fromEntries(faults),
      troubles: this.#nemesis.begun,
      nodes: this.#options.traceAll ? this.#nodes() : [],
      clients: this.#meters,
      trace: this.#failure === "" && !this.#options.traceAll ? [] : trace.lines(),
    };
  }

  #nodes(): Array<{ name: string; host: string }> {
    return this.#cluster.processes.map(({ name, spec }) => ({ name, host: spec.host.name }));
  }

  async #story(): Promise<void> {
    const { timeline } = this.#scene;
    const sleep = (ms: number) =>
      new Promise<void>((resolve) => void timeline.after(ms, null, resolve));
    await this.#cluster.start();
    const prefix = this.#witness();
    for (const client of this.#clients) client.start();
    this.#nemesis.start();
    this.#chores.start();
    this.#neighbour.start();
    const untilMs = timeline.nowMs + this.#options.seconds * 1000;
    const looks = async (isOver: () => boolean) => {
      while (!isOver()) {
        await sleep(PEEK_MS);
        this.#journalsAreBounded();
      }
    };
    await looks(() => timeline.nowMs >= untilMs);
    if (this.#lacksFaults(untilMs)) this.#nemesis.press();
    await looks(() => !this.#lacksFaults(untilMs));
    this.#nemesis.heal();
    this.#chores.stop();
    this.#neighbour.stop();
    this.#scene.trace.note("run", "all troubles are over");
    const endMs = timeline.nowMs + QUIET_MS;
    const watch = async (what: string, isWell: () => Promise<boolean>) => {
      while (!(await isWell())) {
        if (timeline.nowMs > endMs) {
          await this.#ask(() => this.#cluster.backend.proxyStatuses(2_000));
          this.#sayWhoWaits();
          throw new Error(`with all healed it does not come to: ${what}`);
        }
        await sleep(LOOK_MS);
      }
    };
    await watch("all daemons serve", async () => this.#allServe());
    await watch("no disk is called full any more", async () => this.#haveRoom());
    await watch("clients get their work done", async () => !this.#lacksRequests());
    await watch("every chore ends", async () => this.#chores.underWay === 0);
    let stopped = 0;
    for (const client of this.#clients) void client.stop().then(() => stopped++);
    await watch("every request ends", async () => {
      return stopped === this.#clients.length && !this.#neighbour.isBusy;
    });
    await watch("every TLog is read", async () => prefix.underWay === 0);
    await this.#allIsWell(watch);
    this.#wellMs = timeline.nowMs - (endMs - QUIET_MS);
    await this.#cluster.stop();
    this.#scene.trace.note("run", "stopped in order");
    const wrong = this.#cluster.audit();
    if (wrong.length > 0) throw new Error(`the books are wrong: ${wrong.join("; ")}`);
    if (this.#plan.losesRouter) {
      this.#scene.trace.note("run", "the router's data are lost");
      this.#cluster.loseRouter();
    }
    await this.#cluster.startAgain();
    await this.#readAll(watch);
    await this.#sizesAreRight();
    this.#over = true;
  }

  /** Reads along from now on. */
  #witness(): PrefixCheck {
    const { timeline } = this.#scene;
    const parts = {
      registry: this.#cluster.operator,
      timeline,
      onViolation: (words: string) => this.#fail(words),
    };
    const read: ReadObject = (namespace, name, bytes) =>
      this.#cluster.objects.read(namespace, name, bytes);
    const prefix = new PrefixCheck({ ...parts, read });
    new Witness({ ...parts, prefix }).start();
    return prefix;
  }

  async #allIsWell(
    watch: (what: string, isWell: () => Promise<boolean>) => Promise<void>,
  ): Promise<void> {
    await this.#sizesAreRight();
    for (const { name } of this.#chores.expected()) {
      await watch(`${name} at full width`, async () => {
        const answer = await this.#ask(() => this.#cluster.routerClient.sync(name, 20_000));
        // Full is what the disks allow that the proxies see just now; in the end that is all.
        return answer?.full === true && answer.spareMin === this.#cluster.options.policy.m;
      });
    }
    // What sync has promised: nothing lacks a fragment, before anything more is repaired.
    const look = { namespaces: null, repair: false, leaks: false };
    const first = await this.#ask(() => this.#cluster.backend.verify(look, 60_000));
    if (first !== null && first.missing > 0) {
      throw new Error(`${first.missing} fragments are missing after a sync at full width`);
    }
    await watch("verify finds nothing", async () => {
      const options = { namespaces: null, repair: true, leaks: true };
      const report = await this.#ask(() => this.#cluster.backend.verify(options, 60_000));
      if (report === null) return false;
      const { missing, corrupt, misplaced, leaked, unreachable, lacking, unreadable } = report;
      // With a disk that is not reached yet, an object may be unreadable for the moment only.
      if (unreadable > 0 && unreachable === 0) {
        throw new Error(`${unreadable} objects cannot be read any more`);
      }
      return missing + corrupt + misplaced + leaked + unreachable + lacking === 0;
    });
    await this.#readAll(watch);
    await this.#nothingIsOdd();
  }

  /** The vDisks are those that the operator was told of, and have the sizes that were answered. */
  async #sizesAreRight(): Promise<void> {
    const vdisks = await this.#ask(() => this.#cluster.routerClient.list());
    if (vdisks === null) return;
    const words = (list: ReadonlyArray<{ name: string; sizeBytes: number }>) =>
      list
        .map(({ name, sizeBytes }) => `${name} ${sizeBytes}`)
        .sort()
        .join(", ");
    const [found, expected] = [words(vdisks), words(this.#chores.expected())];
    if (found !== expected) throw new Error(`there are ${found}; there should be ${expected}`);
  }

  #sum(of: (client: Workload) => number): number {
    return this.#clients.reduce((total, client) => total + of(client), 0);
  }

  #sayWhoWaits(): void {
    for (const client of this.#clients) {
      if (client.oldestMs > 0) this.#scene.trace.note(client.name, `waits ${client.oldestMs} ms`);
    }
  }

  #lacksFaults(untilMs: number): boolean {
    const { timeline, faults } = this.#scene;
    const isShort = this.#options.seconds < COUNTS.seconds;
    if (isShort || timeline.nowMs > untilMs + LONGER_MS) return false;
    const { crashes, others, troubles } = countFaults({
      faults: Object.fromEntries(faults),
      troubles: this.#nemesis.begun,
    });
    if (crashes < COUNTS.crashes || others < COUNTS.others) return true;
    return troubles < COUNTS.troubles;
  }

  #lacksRequests(): boolean {
    if (this.#options.seconds < COUNTS.seconds) return false;
    return this.#sum((client) => client.acknowledged) < 1.2 * COUNTS.acknowledged;
  }

  /** Back-pressure: the journals' files keep to what is promised, through any number of starts. */
  #journalsAreBounded(): void {
    const { journalBytes, threads, vdisks } = this.#cluster.options;
    const files = this.#cluster.front.storage.deviceOf("/router").filesUnder("/router");
    let usedBytes = 0;
    for (const { path, file } of files) {
      if (path.endsWith(".seg")) usedBytes += file.content.allocatedBytes;
    }
    const shard = Math.max(JOURNAL_BYTES_MIN, journalBytes / threads);
    const most = threads * shard + (vdisks.length + EXTRAS_MAX) * journalBytesFree(shard);
    this.#fullest = Math.max(this.#fullest, usedBytes / most);
    if (usedBytes > most) {
      throw new Error(`the journals take ${usedBytes} bytes, more than ${most}: no bound`);
    }
  }

  /** The router's disk did not lie, but where it was made to. */
  async #nothingIsOdd(): Promise<void> {
    const vdisks = (await this.#ask(() => this.#cluster.routerClient.list())) ?? [];
    const isDamaged = this.#nemesis.begun.some(({ kind }) => DAMAGES.includes(kind));
    for (const { name, corruptions } of isDamaged ? [] : vdisks) {
      if (corruptions > 0) throw new Error(`${name} counts ${corruptions} corruptions`);
    }
  }

  /** What an operator's call answers; null when it is refused: it is asked again. */
  async #ask<T>(call: () => Promise<T>): Promise<T | null> {
    try {
      const answer = await call();
      this.#scene.trace.note("operator", JSON.stringify(answer));
      return answer;
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#scene.trace.note("operator", `refused: ${messageOf(error)}`);
      return null;
    }
  }

  async #readAll(
    watch: (what: string, isWell: () => Promise<boolean>) => Promise<void>,
  ): Promise<void> {
    let read = 0;
    for (const client of this.#clients) void client.readAll().then(() => read++);
    await watch("everything is read", async () => read === this.#clients.length);
    let isRead = false;
    void this.#neighbour.readAll().then(() => (isRead = true));
    await watch("the neighbour's keys are read", async () => isRead);
  }

  #allServe(): boolean {
    if (this.#nemesis.underWay > 0) return false;
    return this.#cluster.processes.every((process) => process.isReady);
  }

  /** Every proxy answers, and to none of them a disk is full: those have room for far more. */
  async #haveRoom(): Promise<boolean> {
    const { backend, proxies } = this.#cluster;
    const statuses = await this.#ask(() => backend.proxyStatuses(2_000));
    if (statuses === null || statuses.length < proxies.length) return false;
    return statuses.every(({ osds }) => osds.every(({ full }) => !full));
  }

  #hasStray(): boolean {
    const stray = this.#options.stray?.() ?? null;
    if (stray !== null) this.#broken(stray);
    return stray !== null;
  }

  #broken(error: unknown): void {
    this.#fail(error instanceof Error ? (error.stack ?? error.message) : messageOf(error));
  }

  #fail(words: string): void {
    this.#scene.trace.note("run", `FAILED: ${words}`);
    if (this.#failure === "") this.#failure = words;
    this.#over = true;
  }
}
