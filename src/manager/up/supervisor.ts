// SPDX-License-Identifier: Apache-2.0
// The supervisor: keeps a list of daemons running. What dies is restarted, with a back-off that
// doubles from 100 ms to 5 s and begins anew after half a minute of life, and it is said aloud.
//
//   starting ──ready──► running ──exit──► waiting ──back-off──► starting …
//        └────exit────────────────────────► waiting
//   any ──stop──► stopping ──exit──► stopped

import { assert } from "../../base/assert.js";
import { messageOf, StorageError } from "../../base/errors.js";
import { type Deferred, deferred } from "../../base/sync.js";
import type { Log } from "../../platform/log.js";
import type { Child, ChildExit, Processes } from "../../platform/processes.js";
import type { Clock, Timer } from "../../platform/world.js";

const BACKOFF_FIRST_MS = 100;
const BACKOFF_LAST_MS = 5_000;
const STEADY_MS = 30_000;
const PROCESSES_MAX = 256;

export type ProcessState = "starting" | "running" | "waiting" | "stopping" | "stopped";

/** A daemon to keep running. */
export interface ProcessSpec {
  role: string;
  id: string;
  /** Where it serves, for people. */
  address: string;
  /** Arguments of `ovs`. */
  args: string[];
  /** How long a clean stop may take. */
  stopMs: number;
  /** Called when the process was reaped unexpectedly, before its restart (P-C3). */
  onDeath: (() => Promise<void>) | null;
}

/** What is told of a daemon. */
export interface ProcessStatus {
  role: string;
  id: string;
  pid: number;
  state: ProcessState;
  address: string;
  restarts: number;
  /** Why it last ended, in words; empty when it never did. */
  lastExit: string;
}

interface Supervised {
  spec: ProcessSpec;
  child: Child | null;
  state: ProcessState;
  restarts: number;
  backoffMs: number;
  startedMs: number;
  timer: Timer | null;
  lastExit: string;
  failure: string;
  ready: Deferred<void>;
  gone: Deferred<void>;
}

/** Starts daemons, restarts those that die, stops them in order. */
export class Supervisor {
  readonly #processes: Processes;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #list = new Map<string, Supervised>();
  #stopping = false;

  constructor(processes: Processes, clock: Clock, log: Log) {
    this.#processes = processes;
    this.#clock = clock;
    this.#log = log;
  }

  /**
   * Starts a daemon and keeps it. Resolves when it is ready; rejects with its own words when the
   * first start fails, or with OVS_TIMEOUT; it is not kept then.
   */
  async add(spec: ProcessSpec, timeoutMs: number): Promise<void> {
    const entry = this.#make(spec);
    const timer = this.#clock.after(timeoutMs, () => {
      entry.ready.reject(
        new StorageError("OVS_TIMEOUT", `${spec.id} was not ready in ${timeoutMs / 1000} s`),
      );
    });
    try {
      await this.#spawn(entry);
      await entry.ready.promise;
    } catch (error) {
      await this.remove(spec.id);
      throw error;
    } finally {
      timer.cancel();
    }
  }

  /**
   * As `add`, but a daemon that does not become ready stays in the list and is tried again: for
   * those that the cluster can live without. Resolves with whether it runs.
   */
  async keep(spec: ProcessSpec, timeoutMs: number): Promise<boolean> {
    const entry = this.#make(spec);
    const timer = this.#clock.after(timeoutMs, () => entry.ready.resolve());
    try {
      await this.#spawn(entry);
      await entry.ready.promise;
    } catch (error) {
      this.#log.warn(`${spec.id} is not ready: ${messageOf(error)}`);
    } finally {
      timer.cancel();
    }
    return entry.state === "running";
  }

  /** From its next start on the daemon runs with these arguments. */
  amend(spec: ProcessSpec): void {
    const entry = this.#list.get(spec.id);
    assert(entry !== undefined, "only a daemon of the list is amended");
    entry.spec = spec;
  }

  /** Stops one daemon and forgets it. */
  async remove(id: string): Promise<void> {
    const entry = this.#list.get(id);
    if (!entry) return;
    await this.#stop(entry);
    this.#list.delete(id);
  }

  /** Whether a daemon of that id is kept, running or not. */
  has(id: string): boolean {
    return this.#list.has(id);
  }

  /** All daemons, in the order in which they were added. */
  status(): ProcessStatus[] {
    return [...this.#list.values()].map((entry) => ({
      role: entry.spec.role,
      id: entry.spec.id,
      pid: entry.child?.pid ?? 0,
      state: entry.state,
      address: entry.spec.address,
      restarts: entry.restarts,
      lastExit: entry.lastExit,
    }));
  }

  /** Stops all, last added first: routers before proxies, ASDs and the registry that they need. */
  async stop(): Promise<void> {
    this.#stopping = true;
    const entries = [...this.#list.values()].reverse();
    const roles = [...new Set(entries.map((entry) => entry.spec.role))];
    for (const role of roles) {
      await Promise.all(
        entries.filter((entry) => entry.spec.role === role).map((entry) => this.#stop(entry)),
      );
    }
  }

  #make(spec: ProcessSpec): Supervised {
    assert(!this.#list.has(spec.id), "ids of processes are unique");
    assert(this.#list.size < PROCESSES_MAX, "the number of processes is bounded");
    const entry: Supervised = {
      spec,
      child: null,
      state: "starting",
      restarts: 0,
      backoffMs: BACKOFF_FIRST_MS,
      startedMs: this.#clock.nowMs(),
      timer: null,
      lastExit: "",
      failure: "",
      ready: deferred(),
      gone: deferred(),
    };
    entry.ready.promise.catch(() => undefined);
    this.#list.set(spec.id, entry);
    return entry;
  }

  async #spawn(entry: Supervised): Promise<void> {
    entry.state = "starting";
    entry.failure = "";
    entry.startedMs = this.#clock.nowMs();
    const child = await this.#processes.spawn(entry.spec.args, {
      onReady: () => this.#onReady(entry),
      onFailure: (message) => {
        entry.failure = message;
      },
      onExit: (exit) => this.#onExit(entry, exit),
    });
    entry.child = child;
    if ((entry.state as ProcessState) === "stopping") child.kill("SIGKILL");
  }

  #onReady(entry: Supervised): void {
    if (entry.state !== "starting") return;
    entry.state = "running";
    entry.ready.resolve();
    this.#log.info(`${entry.spec.id} runs`, { pid: entry.child?.pid ?? 0 });
  }

  #onExit(entry: Supervised, exit: ChildExit): void {
    const pid = entry.child?.pid ?? 0;
    entry.child = null;
    entry.lastExit =
      entry.failure || (exit.signal ? `killed by ${exit.signal}` : `exit ${exit.code}`);
    if (entry.state === "stopping" || this.#stopping) {
      entry.state = "stopped";
      entry.gone.resolve();
      return;
    }
    entry.ready.reject(new StorageError("OVS_UNAVAILABLE", `${entry.spec.id}: ${entry.lastExit}`));
    if (this.#clock.nowMs() - entry.startedMs > STEADY_MS) entry.backoffMs = BACKOFF_FIRST_MS;
    entry.state = "waiting";
    entry.restarts++;
    this.#log.warn(
      `${entry.spec.id} ended (${entry.lastExit}), restarting in ${entry.backoffMs} ms`,
      {
        pid,
        restarts: entry.restarts,
      },
    );
    entry.timer = this.#clock.after(entry.backoffMs, () => {
      entry.timer = null;
      void this.#restart(entry);
    });
    entry.backoffMs = Math.min(entry.backoffMs * 2, BACKOFF_LAST_MS);
  }

  async #restart(entry: Supervised): Promise<void> {
    try {
      if (entry.spec.onDeath) await entry.spec.onDeath();
    } catch (error) {
      // The lease then runs out by itself: slower, not less safe.
      this.#log.warn(`after the death of ${entry.spec.id}: ${messageOf(error)}`);
    }
    if (entry.state !== "waiting" || this.#stopping) return;
    try {
      await this.#spawn(entry);
    } catch (error) {
      this.#onExit(entry, { code: null, signal: messageOf(error) });
    }
  }

  async #stop(entry: Supervised): Promise<void> {
    if (entry.state === "stopped") return;
    entry.timer?.cancel();
    const waiting = entry.state === "waiting";
    entry.state = "stopping";
    if (waiting || !entry.child) {
      entry.state = "stopped";
      return;
    }
    entry.child.kill("SIGTERM");
    const timer = this.#clock.after(entry.spec.stopMs, () => {
      this.#log.warn(`${entry.spec.id} did not stop in ${entry.spec.stopMs / 1000} s, killing it`);
      entry.child?.kill("SIGKILL");
    });
    await entry.gone.promise;
    timer.cancel();
  }
}
