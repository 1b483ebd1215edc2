// SPDX-License-Identifier: Apache-2.0
// One run of the crash-point sweep: a short story of a small cluster, with crashes at given points
// of it. A point is a change of a disk that takes effect, or a frame that leaves a host or is
// delivered: just before it, and just after. Points are counted through the story, so that a story
// with one crash has the same points up to it, and those of the recovery after it.
//
//   start ─► story, crashes ─► all is read and right ─► full width, verify clean ─► one of
//     flush ─► all hosts lose their power and what is unsynced ─► all is read and right
//     clean stop ─► the same, and the router's folder is lost ─► read, from the backend alone

import { assert } from "../base/assert.js";
import { messageOf, StorageError } from "../base/errors.js";
import { KIB, MIB } from "../base/units.js";
import { RequestKind } from "../nbd/target.js";
import { runInTicks } from "../platform/node/ticks.js";
import { FailureDomain } from "../wire/generated/manifest.js";
import { type ClusterOptions, SimCluster } from "./cluster.js";
import { UNIT_BYTES } from "./history.js";
import type { SimHost } from "./host.js";
import { Kills, Losses, unsyncedFate } from "./losses.js";
import type { MemoryPool } from "./memory.js";
import type { NetHost } from "./nethost.js";
import type { FramePoint } from "./network.js";
import type { SimProcess } from "./process.js";
import { Scene } from "./scene.js";
import { PrefixModel } from "./sweepmodel.js";
import { STORIES, type Steps, type Story } from "./sweepstory.js";
import type { TraceLine } from "./trace.js";
import { type ScriptedRequest, someHabits, Workload } from "./workload.js";

/** A place in a story where a crash may fall. */
export interface CrashPoint {
  /** Its number in the run; from 1. */
  at: number;
  what: "disk" | "frame";
  when: "before" | "after";
  /** Index in SimCluster.hosts whose disk, sender or receiver it is; 0: registry, proxy, router. */
  host: number;
  /** Whose frame it is; "" for changes of a disk, and for clients. */
  process: string;
  /** For people. */
  text: string;
}

/** What dies at a point, and what becomes of its disks. */
export interface Crash {
  at: number;
  /** Index of the host. */
  host: number;
  /** All on the host, all hosts, or the process of this name. */
  victim: "host" | "all" | (string & {});
  /** SIGKILL, or loss of power. */
  kind: "kill" | "power";
  /** Which of the ways in which it can end: of `Kills` or of `Losses`. */
  way: number;
}

export interface SweepOptions {
  seed: number;
  story: string;
  /** In the order of their points. */
  crashes: readonly Crash[];
  /** Keeps every line of the trace, and has one for each change of a disk. */
  traceAll?: boolean;
  /** Of runs that are over. */
  pool?: MemoryPool;
  /** An error that nobody has caught since the run began, or null. */
  stray?: () => unknown;
}

export interface SweepResult {
  failure: string;
  /** Of all events. */
  digest: number;
  /** Crashes that happened. */
  fired: number;
  /** Ways in which the last crash could end. */
  ways: number[];
  /** Of the story without crashes; else of the recovery from the last one. */
  points: CrashPoint[];
  trace: TraceLine[];
}

/** After all that happened the vDisk still takes requests. */
const LAST: ScriptedRequest = { kind: RequestKind.Write, first: 130, count: 3, fua: false };
const VDISK = "vd0";
const VDISK_BYTES = 256 * KIB;
const CLUSTER: ClusterOptions = {
  asds: 3,
  diskHosts: 3,
  domain: FailureDomain.disk,
  proxies: 1,
  apart: "none",
  threads: 1,
  policy: { k: 2, m: 1, c: 3, x: 1 },
  vdisks: [{ name: VDISK, sizeBytes: VDISK_BYTES }],
  journalBytes: 16 * MIB,
  scoBytes: 256 * KIB,
  cacheBytes: MIB,
  readCacheBytes: 0,
  asdBytes: 256 * MIB,
  lostAfterMs: 600_000,
  gcIntervalMs: 15_000,
};
const BACK_MS = 300;
/** For one step, and for all of the run. */
const STEP_MS = 120_000;
const RUN_MS = 600_000;
const LOOK_MS = 50;
const CALL_MS = 10_000;

/** Runs a story with these crashes. Never rejects for what the product did wrong. */
export async function sweepOnce(options: SweepOptions): Promise<SweepResult> {
  return await new Sweep(options).result();
}

class Sweep implements Steps {
  readonly #scene: Scene;
  readonly #cluster: SimCluster;
  readonly #client: Workload;
  readonly #story: Story;
  readonly #crashes: readonly Crash[];
  readonly #stray: () => unknown;
  readonly #tracesAll: boolean;
  /** The story ends when the last crash is recovered from. */
  readonly #isShort: boolean;
  readonly #model = new PrefixModel(VDISK_BYTES / UNIT_BYTES);
  readonly #values = new Uint32Array(VDISK_BYTES / UNIT_BYTES);
  readonly #points: CrashPoint[] = [];
  #records = false;
  #isFinishing = false;
  #failure = "";
  #fired = 0;
  #ways: number[] = [];
  #over = false;
  #at = 0;

  constructor(options: SweepOptions) {
    const { seed, story, crashes } = options;
    this.#tracesAll = options.traceAll ?? false;
    this.#scene = new Scene(seed, this.#tracesAll, options.pool);
    this.#cluster = new SimCluster(this.#scene, CLUSTER);
    this.#crashes = crashes;
    this.#isShort = (crashes.at(-1)?.way ?? 0) > 1;
    this.#stray = options.stray ?? (() => null);
    this.#story = STORIES.find(({ name }) => name === story)!;
    assert(this.#story !== undefined, "the story is one of those that there are");
    const dice = this.#scene.dice.fork("client");
    this.#client = new Workload({
      name: "client",
      timeline: this.#scene.timeline,
      trace: this.#scene.trace,
      dice,
      habits: { ...someHabits(dice, 1), depth: 0 },
      sizeBytes: VDISK_BYTES,
      connect: (onEnd) => this.#cluster.connect(VDISK, onEnd),
      onRead: (first, values) => this.#values.set(values, first),
      onViolation: (words) => this.#fail(words),
    });
  }

  async result(): Promise<SweepResult> {
    const { timeline, trace, memory } = this.#scene;
    void this.#run().catch((error: unknown) => this.#broken(error));
    timeline.after(RUN_MS, null, () => this.#fail("it takes for ever"));
    try {
      await timeline.run(() => this.#over || this.#hasStray());
    } catch (error) {
      this.#broken(error);
    }
    if (!this.#over) this.#fail("nothing is left to happen, and it is not over");
    // What the last event has caused is over as well.
    await runInTicks(() => false);
    this.#hasStray();
    memory.release();
    return {
      failure: this.#failure,
      digest: timeline.digest,
      fired: this.#fired,
      ways: this.#ways,
      points: this.#points,
      trace: this.#failure === "" && !this.#tracesAll ? [] : trace.lines(),
    };
  }

  #hasStray(): boolean {
    const error = this.#stray();
    if (error !== null) this.#broken(error);
    return error !== null;
  }

  async #run(): Promise<void> {
    await this.#cluster.start();
    this.#client.start();
    await this.#story.before(this);
    this.#arm();
    await this.#story.tell(this);
    await this.#readAll();
    this.#disarm();
    await this.#finish();
    this.#over = true;
  }

  /** All that was promised is there, on the disks and in the backend alone. */
  async #finish(): Promise<void> {
    const cluster = this.#cluster;
    this.#records = false;
    this.#isFinishing = true;
    await this.#readAll();
    if (this.#isShort) await this.ask(LAST);
    await this.sync();
    await this.#nothingIsMissing();
    await this.clean();
    await this.#nothingIsOdd();
    if (this.#isShort) return;
    const losesRouter = this.#isOdd();
    if (losesRouter) {
      await cluster.router.stop();
    } else {
      await this.ask(LAST);
      await this.ask({ kind: RequestKind.Flush, first: 0, count: 0, fua: false });
    }
    this.#note("the power of all hosts fails");
    this.#powerOff(cluster.hosts, 0);
    if (losesRouter) {
      this.#note("the router's data are lost");
      cluster.loseRouter();
      cluster.router.keep();
    }
    await this.#readAll();
    await this.#nothingIsOdd();
  }

  /** Half of the runs end in one way, half in another. */
  #isOdd(): boolean {
    return this.#crashes.reduce((sum, { at, way }) => sum + at + way, 0) % 2 === 1;
  }

  // Steps.

  async ask(...requests: ScriptedRequest[]): Promise<void> {
    await this.#ready();
    if (this.#isEnough) return;
    const group: Array<{ first: number; count: number; value: number }> = [];
    let answered = 0;
    const isDurable = requests.length === 1 && (requests[0]!.fua || isFlush(requests[0]!));
    this.#model.begin(group);
    const asked = requests.map((request) =>
      this.#client.perform(request, {
        begun: (operation) => {
          const { kind, first, count } = request;
          const value = kind === RequestKind.Write ? operation : 0;
          if (!isFlush(request)) group.push({ first, count, value });
        },
        ended: (ok) => {
          if (ok) answered++;
          // At once: what dies next dies after this answer.
          if (answered === requests.length) this.#model.answered(isDurable);
        },
      }),
    );
    await Promise.all(asked);
    if (answered < requests.length) await this.#readAll();
    this.#stepIsOver();
  }

  async sync(): Promise<void> {
    if (this.#isEnough) return;
    await this.#until("a sync at full width", async () => {
      const answer = await this.#cluster.routerClient.sync(VDISK, CALL_MS);
      return answer.full && answer.spareMin === CLUSTER.policy.m;
    });
    this.#stepIsOver();
  }

  async restart(): Promise<void> {
    if (this.#isEnough) return;
    await this.#cluster.router.stop();
    this.#cluster.router.keep();
    await this.#ready();
    this.#stepIsOver();
  }

  async kill(): Promise<void> {
    if (this.#isEnough) return;
    this.#model.killed();
    this.#cluster.router.kill("SIGKILL");
    await this.#ready();
    this.#stepIsOver();
  }

  async replaceDisk(asd: number): Promise<void> {
    if (this.#isEnough) return;
    await this.#cluster.replaceDisk(asd);
    this.#stepIsOver();
  }

  async clean(): Promise<void> {
    if (this.#isEnough) return;
    await this.#until("a clean verify", async () => {
      const report = await this.#verify(true);
      const { missing, corrupt, misplaced, leaked, unreachable, lacking, unreadable } = report;
      if (unreadable > 0 && unreachable === 0) throw new Error("an object cannot be read any more");
      return missing + corrupt + misplaced + leaked + unreachable + lacking === 0;
    });
    this.#stepIsOver();
  }

  /** What follows was said by other runs with a crash at the same point. */
  get #isEnough(): boolean {
    return this.#isShort && !this.#isFinishing && this.#fired === this.#crashes.length;
  }

  /** Connected, and what a router that died has left is known. */
  async #ready(): Promise<void> {
    for (;;) {
      await this.#until("a connection", async () => this.#client.isConnected);
      if (!this.#model.isUnsure) return;
      await this.#readAll();
    }
  }

  /** Reads all of the vDisk, which holds what it may. */
  async #readAll(): Promise<void> {
    await this.#client.readAll(64 * KIB);
    const wrong = this.#model.found(this.#values);
    if (wrong !== "") this.#fail(wrong);
  }

  #stepIsOver(): void {
    if (this.#fired === 0 || this.#fired < this.#crashes.length || this.#model.isUnsure) return;
    if (this.#cluster.processes.every(({ isReady }) => isReady)) this.#records = false;
  }

  /** What was committed is on c disks, synced: here on all of them, and nothing was mended. */
  async #nothingIsMissing(): Promise<void> {
    await this.#until("a verify that reaches all disks", async () => {
      const { missing, corrupt, unreadable, unreachable } = await this.#verify(false);
      if (missing + corrupt > 0)
        throw new Error(`after a sync: ${missing} missing, ${corrupt} bad`);
      if (unreadable > 0 && unreachable === 0) throw new Error("an object cannot be read any more");
      return unreachable === 0;
    });
  }

  async #nothingIsOdd(): Promise<void> {
    await this.#until("the list of vDisks", async () => {
      for (const { name, corruptions } of await this.#cluster.routerClient.list()) {
        if (corruptions > 0) throw new Error(`${name} counts ${corruptions} corruptions`);
      }
      return true;
    });
  }

  async #verify(repair: boolean) {
    const options = { namespaces: null, repair, leaks: repair };
    const report = await this.#cluster.backend.verify(options, CALL_MS);
    this.#note(`verify: ${JSON.stringify(report)}`);
    return report;
  }

  async #until(what: string, holds: () => Promise<boolean>): Promise<void> {
    const { timeline } = this.#scene;
    const endMs = timeline.nowMs + STEP_MS;
    for (;;) {
      try {
        if (await holds()) return;
      } catch (error) {
        if (!(error instanceof StorageError)) throw error;
        this.#note(`${what}: ${messageOf(error)}`);
      }
      if (timeline.nowMs > endMs) throw new Error(`it does not come to ${what}`);
      await new Promise<void>((resolve) => void timeline.after(LOOK_MS, null, resolve));
    }
  }

  // Points.

  #arm(): void {
    const { hosts } = this.#cluster;
    this.#records = this.#crashes.length === 0;
    for (const [host, { storage }] of hosts.entries()) {
      const tell = (when: CrashPoint["when"]) => (_number: number, what: string, path: string) => {
        this.#pass("disk", when, host, () => `${what} ${path}`);
      };
      storage.beforeEffect = tell("before");
      storage.afterEffect = tell("after");
    }
    const indexOf = (net: NetHost) => hosts.findIndex((host) => host.net === net);
    this.#scene.net.hook = ({ step, when, frame, from, to, life }: FramePoint) => {
      const [own, other] = step === "depart" ? [from, to] : [to, from];
      const host = indexOf(own) >= 0 ? indexOf(own) : indexOf(other);
      const where = `${step} ${from.name} > ${to.name} of ${life || "nobody"}`;
      this.#pass("frame", when, host, () => `${where}, ${frame.operation}`, life);
    };
  }

  #disarm(): void {
    for (const { storage } of this.#cluster.hosts) {
      storage.beforeEffect = null;
      storage.afterEffect = null;
    }
    this.#scene.net.hook = null;
    this.#records = false;
  }

  #pass(
    what: CrashPoint["what"],
    when: CrashPoint["when"],
    host: number,
    text: () => string,
    life = "",
  ): void {
    const at = ++this.#at;
    if (this.#tracesAll && what === "disk") this.#note(`${at} ${when} ${text()}`);
    const process = life.slice(0, Math.max(0, life.indexOf("#")));
    if (this.#records) this.#points.push({ at, what, when, host, process, text: text() });
    const crash = this.#crashes[this.#fired];
    if (crash?.at !== at) return;
    this.#fired++;
    this.#note(`crash ${this.#fired} ${when} ${text()}`);
    this.#strike(crash);
    if (this.#fired === this.#crashes.length) this.#records = true;
  }

  // Crashes.

  #strike({ host, victim, kind, way }: Crash): void {
    const { hosts, processes } = this.#cluster;
    const there = victim === "all" ? hosts : [hosts[host]!];
    const isWhole = victim === "all" || victim === "host";
    if (kind === "power") {
      assert(isWhole, "power is a host's");
      this.#ways = this.#powerOff(there, way);
      return;
    }
    const mine = processes.filter(({ spec }) => there.includes(spec.host));
    this.#kill(isWhole ? mine : mine.filter(({ name }) => name === victim), way);
  }

  #kill(victims: SimProcess[], way: number): void {
    assert(victims.length > 0, "somebody is killed");
    const kills = new Kills(way);
    for (const victim of victims) {
      const { storage } = victim.spec.host;
      storage.killPolicy = kills.fate;
      if (victim === this.#cluster.router) this.#model.killed();
      victim.kill("SIGKILL");
      storage.killPolicy = "chance";
    }
    this.#ways = kills.ways;
  }

  /** Answers the ways that there were, of the last of the hosts. */
  #powerOff(there: readonly SimHost[], way: number): number[] {
    const { front, processes } = this.#cluster;
    let ways: number[] = [];
    if (there.includes(front)) {
      this.#client.powerLost();
      this.#model.powerLost();
    }
    const mine = processes.filter(({ spec }) => there.includes(spec.host));
    for (const host of there) {
      host.storage.killPolicy = unsyncedFate;
      host.powerOff(() => {
        const losses = new Losses(host.storage.devices.map((device) => device.unsynced()));
        ways = Array.from({ length: losses.count }, (_, n) => n);
        return losses.chooser(way);
      });
      host.storage.killPolicy = "chance";
    }
    for (const process of mine) process.powerIsGone();
    this.#scene.timeline.after(BACK_MS, null, () => {
      for (const host of there) host.powerOn();
      for (const process of mine) process.powerIsBack();
    });
    return ways;
  }

  #note(text: string): void {
    this.#scene.trace.note("sweep", text);
  }

  #broken(error: unknown): void {
    this.#fail(error instanceof Error ? (error.stack ?? error.message) : messageOf(error));
  }

  #fail(words: string): void {
    if (this.#failure === "") this.#failure = words;
    this.#over = true;
  }
}

function isFlush({ kind }: ScriptedRequest): boolean {
  return kind === RequestKind.Flush;
}
