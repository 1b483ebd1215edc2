// SPDX-License-Identifier: Apache-2.0
// What the main thread knows of one vDisk, and what it does to have it served. It owns the state;
// the volume itself lives on a worker thread, which does as it is told.
//
//   opening ──► serving ──halted──► halted ──closed, back-off──► opening …
//      └──refused──► waiting ──back-off, or an operator──► opening …
//   any ──delete──► deleting ──► closed        (a start that finds `deleting` goes on with it)
//
// A halted vDisk is given up by its thread and opened anew, under a new epoch, from what lies on
// the disk: the same as a restart of the router does, for this vDisk alone (P-A2, P-A4). Until it
// serves again nobody can connect to it. What an operator must decide (a journal that is damaged or
// lost) waits for him; everything else is tried again, at longer and longer intervals.
//
// Invariant: one step (open, close, grow, delete) at a time.

import { StorageError } from "../base/errors.js";
import { Semaphore } from "../base/sync.js";
import type { Log } from "../platform/log.js";
import type { Clock, Timer } from "../platform/world.js";
import type { VdiskStatus } from "./messages.js";
import type { Vdisk } from "./records.js";

const RETRY_FIRST_MS = 500;
const RETRY_LAST_MS = 10_000;
/** One that served for this long and halts begins with the first interval again. */
const STEADY_MS = 60_000;

export type KeeperState = "opening" | "serving" | "halted" | "waiting" | "deleting" | "closed";

/** What opening came to: it serves, or its deletion was begun and has to be ended. */
export type Opened = { kind: "serving"; vdisk: Vdisk } | { kind: "deleting" };

/** The worker thread of one vDisk. All reject with StorageErrors. */
export interface KeeperHost {
  /**
   * Recovers and serves it, or finds that its deletion was begun. `acceptLoss`: also without a
   * journal that is lost.
   */
  open(acceptLoss: boolean): Promise<Opened>;
  /** Gives up a vDisk that halted; resolves with corruptions that it had met. */
  close(): Promise<{ corruptions: number }>;
  /** Resolves with the record of the larger vDisk, when it is served so. */
  grow(sizeBytes: number): Promise<Vdisk>;
  /** Deletes everything, the records last. Can be called again after a failure or a crash. */
  remove(): Promise<void>;
  /** What the volume says of itself; rejects when it is not open. */
  info(): Promise<VdiskStatus>;
}

export interface KeeperOptions {
  clock: Clock;
  log: Log;
  host: KeeperHost;
  thread: number;
  /** Called when it begins or ends to be served, or its size has changed. */
  onChange: () => void;
  /** Called once, when it is deleted. */
  onGone: () => Promise<void>;
}

/** One vDisk of a router. */
export class VdiskKeeper {
  readonly #options: KeeperOptions;
  readonly #steps = new Semaphore(1);
  #vdisk: Vdisk;
  #state: KeeperState = "opening";
  #reason = "";
  #backoffMs = RETRY_FIRST_MS;
  #servesSinceMs = 0;
  #timer: Timer | null = null;
  /** Damage met in earlier lives of the volume, and journals that were refused. */
  #corruptions = 0;
  #stopping = false;

  constructor(vdisk: Vdisk, options: KeeperOptions) {
    this.#vdisk = vdisk;
    this.#options = options;
  }

  /** The worker thread that it lives on. */
  get thread(): number {
    return this.#options.thread;
  }

  /** The vDisk's records, as last read or changed by this router. */
  get vdisk(): Vdisk {
    return this.#vdisk;
  }

  /** What becomes of it now; only in `serving` requests are answered. */
  get state(): KeeperState {
    return this.#state;
  }

  /** Why it does not serve; empty when it does. */
  get reason(): string {
    return this.#reason;
  }

  /**
   * Opens it, unless it serves. Resolves with why it does not serve, or null. What may pass is
   * tried again later, by itself.
   */
  async open(acceptLoss: boolean): Promise<StorageError | null> {
    return await this.#steps.with(() => this.#open(acceptLoss));
  }

  /** The volume halted by itself. */
  async onHalted(reason: string): Promise<void> {
    if (this.#state !== "serving" || this.#stopping) return;
    const { log, clock, onChange } = this.#options;
    this.#state = "halted";
    this.#reason = reason;
    onChange();
    log.error(`vDisk ${this.#vdisk.record.name} halted: ${reason}`);
    if (clock.nowMs() - this.#servesSinceMs > STEADY_MS) this.#backoffMs = RETRY_FIRST_MS;
    await this.#steps.with(() => this.#giveUp());
  }

  /** Grows a served vDisk; OVS_UNAVAILABLE when it is not served. */
  async grow(sizeBytes: number): Promise<void> {
    await this.#steps.with(async () => {
      this.assertServing();
      this.#vdisk = await this.#options.host.grow(sizeBytes);
      this.#options.onChange();
    });
  }

  /** Deletes it. Once begun it is not served again: what fails is tried until it is done. */
  async remove(): Promise<void> {
    await this.#steps.with(() => this.#remove());
  }

  /** No more attempts; waits for the step that runs. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#timer?.cancel();
    this.#timer = null;
    await this.#steps.with(() => Promise.resolve());
  }

  /** Throws OVS_UNAVAILABLE, with the reason, unless it serves. */
  assertServing(): void {
    if (this.#state === "serving") return;
    const { name } = this.#vdisk.record;
    const why = this.#reason === "" ? this.#state : `${this.#state}: ${this.#reason}`;
    throw new StorageError("OVS_UNAVAILABLE", `${name} is not served (${why})`);
  }

  /**
   * What the volume says, or, while it is not served, what its records say and why. Never rejects
   * for want of a volume.
   */
  async status(): Promise<VdiskStatus> {
    if (this.#state === "serving") {
      try {
        const status = await this.#options.host.info();
        return { ...status, corruptions: status.corruptions + this.#corruptions };
      } catch (error) {
        // It was closed meanwhile.
        if (!(error instanceof StorageError)) throw error;
      }
    }
    return this.#withoutVolume();
  }

  #withoutVolume(): VdiskStatus {
    const { record, id } = this.#vdisk;
    return {
      name: record.name,
      id,
      state: this.#state,
      reason: this.#reason,
      epoch: 0,
      sizeBytes: record.sizeBytes,
      allocatedBytes: 0,
      dirtyBytes: 0,
      journalBytes: 0,
      clientWrittenBytes: 0,
      clientReadBytes: 0,
      backendWrittenBytes: 0,
      cacheHits: 0,
      cacheMisses: 0,
      corruptions: this.#corruptions,
      thread: this.#options.thread,
    };
  }

  async #open(acceptLoss: boolean): Promise<StorageError | null> {
    if (this.#state === "serving" || this.#state === "closed" || this.#stopping) return null;
    if (this.#state === "deleting") return await this.#goOnRemoving();
    this.#timer?.cancel();
    this.#timer = null;
    const { host, clock, onChange } = this.#options;
    const before = this.#reason;
    // The reason stays until it serves: an attempt is no news.
    this.#state = "opening";
    try {
      const opened = await host.open(acceptLoss);
      if (opened.kind === "deleting") return await this.#goOnRemoving();
      this.#vdisk = opened.vdisk;
      this.#state = "serving";
      this.#reason = "";
      this.#servesSinceMs = clock.nowMs();
      onChange();
      return null;
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#refused(error, before);
      return error;
    }
  }

  #refused(error: StorageError, before: string): void {
    const { name } = this.#vdisk.record;
    this.#state = "waiting";
    this.#reason = error.message;
    if (error.message !== before) {
      if (error.code === "OVS_CORRUPT") this.#corruptions++;
      const fields = { code: error.code };
      this.#options.log.warn(`vDisk ${name} is not served: ${error.message}`, fields);
    }
    if (mayPass(error)) this.#retryLater();
  }

  /** The thread lets the halted volume go; then it is opened anew. */
  async #giveUp(): Promise<void> {
    if (this.#state !== "halted") return;
    try {
      this.#corruptions += (await this.#options.host.close()).corruptions;
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#options.log.warn(`closing ${this.#vdisk.record.name}: ${error.message}`);
    }
    this.#retryLater();
  }

  async #remove(): Promise<void> {
    if (this.#state === "closed") return;
    const { host, log, onChange, onGone } = this.#options;
    this.#timer?.cancel();
    this.#timer = null;
    this.#state = "deleting";
    onChange();
    try {
      await host.remove();
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#reason = error.message;
      log.warn(`vDisk ${this.#vdisk.record.name} is not deleted yet: ${error.message}`);
      this.#retryLater();
      throw error;
    }
    this.#state = "closed";
    await onGone();
  }

  /** A deletion that was begun is brought to its end. */
  async #goOnRemoving(): Promise<StorageError> {
    try {
      await this.#remove();
    } catch (error) {
      if (error instanceof StorageError) return error;
      throw error;
    }
    return new StorageError("OVS_NOT_FOUND", `${this.#vdisk.record.name} was being deleted`);
  }

  #retryLater(): void {
    if (this.#stopping) return;
    this.#timer?.cancel();
    this.#timer = this.#options.clock.after(this.#backoffMs, () => {
      this.#timer = null;
      void this.open(false);
    });
    this.#backoffMs = Math.min(this.#backoffMs * 2, RETRY_LAST_MS);
  }
}

/** Whether trying again may help by itself. */
function mayPass(error: StorageError): boolean {
  switch (error.kind) {
    case "unavailable":
    case "full":
      return true;
    case "fenced":
      return error.code === "OVS_CONFLICT";
    case "closed":
      return true;
    case "invalid":
    case "corrupt":
      return false;
  }
}
