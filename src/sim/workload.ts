// SPDX-License-Identifier: Apache-2.0
// A client of one vDisk: random requests as NBD allows them, overlapping and many at a time, each
// told to the checker when it begins and when it is answered. When its connection ends it comes
// back; what was not answered is of unknown outcome until another router serves.

import { assert } from "../base/assert.js";
import { KIB } from "../base/units.js";
import { NbdErrno } from "../nbd/errno.js";
import { RequestFlag, RequestKind } from "../nbd/target.js";
import type { Dice } from "./dice.js";
import { History, UNIT_BYTES, type Violation } from "./history.js";
import { fillUnits, valuesOf } from "./pattern.js";
import type { Timeline } from "./timeline.js";
import type { Trace } from "./trace.js";

/** One connection to an export, as a workload drives it. Offsets and lengths in bytes. */
export interface BlockConnection {
  /**
   * Sends a request; `data` is what a write writes (copied). `done` gets 0 or an errno and what a
   * read has read, valid during the call; never after the connection's end.
   */
  request(
    kind: number,
    flags: number,
    offset: number,
    length: number,
    data: Uint8Array | null,
    done: (errno: number, data: Uint8Array | null) => void,
  ): void;
  /** At once: requests under way are never answered. `onEnd` is called as at every end. */
  close(): void;
}

/** Opens a connection; `onEnd` is called once when it has ended, however. */
export type Connect = (onEnd: () => void) => Promise<BlockConnection>;

/** How a client behaves. Shares are of all requests. */
export interface Habits {
  /** Requests at the same time. */
  depth: number;
  /** Mean time between two requests of a burst in milliseconds. */
  pauseMs: number;
  /** Requests that follow each other so; then it rests. */
  burst: number;
  /** Requests a second on the long run: what could not be asked for in an outage comes after it. */
  perSecond: number;
  readShare: number;
  flushShare: number;
  trimShare: number;
  zeroShare: number;
  /** Of the writes. */
  fuaShare: number;
  /** Writes and reads that are not whole clusters. */
  partialShare: number;
  /** Most bytes of one request. */
  bytesMax: number;
  /** Share of the vDisk that most requests go to. */
  hotShare: number;
  /** Requests that seek the clusters of one that is under way. */
  clashShare: number;
}

/** A client of its own kind: each seed has other weights. */
export function someHabits(dice: Dice, perSecond: number): Habits {
  const some = (most: number) => (dice.chance(0.3) ? 0 : dice.share() * most);
  return {
    depth: dice.pick([1, 2, 4, 8, 16]),
    pauseMs: dice.pick([0.5, 2, 10, 40]),
    burst: dice.pick([1, 4, 16, 64]),
    perSecond,
    readShare: dice.pick([0.1, 0.3, 0.5, 0.7]),
    flushShare: some(0.2),
    trimShare: some(0.1),
    zeroShare: some(0.1),
    fuaShare: some(0.3),
    partialShare: some(0.4),
    bytesMax: dice.pick([4096, 16_384, 65_536, 262_144]),
    hotShare: dice.pick([0.01, 0.1, 1]),
    clashShare: dice.pick([0, 0, 0.1, 0.4]),
  };
}

const nobody = (): void => {};

const RETRY_MS = 50;
/** How soon it looks again when it may not make a request now. */
const FULL_MS = 10;
const HOT = 0.8;
/** A cluster's. */
const CLASH_UNITS = 8;
const NOWHERE = { first: 0, count: 0 };

/** A request by its units of 512 bytes; both 0 for a flush. */
export interface ScriptedRequest {
  /** RequestKind. */
  kind: number;
  first: number;
  count: number;
  fua: boolean;
}

/** Who wants to know of one request. */
export interface Hearer {
  /** It is made, with this number. */
  begun(operation: number): void;
  /** Answered without an error, or not. */
  ended(ok: boolean): void;
}

const NOBODY: Hearer = { begun: nobody, ended: nobody };

interface Flight {
  kind: "read" | "write" | "flush";
  /** Its units; none of a flush. */
  first: number;
  count: number;
  beganMs: number;
  /** Called when it will never be answered. */
  onLost: () => void;
}

export interface WorkloadOptions {
  name: string;
  timeline: Timeline;
  trace: Trace;
  dice: Dice;
  habits: Habits;
  sizeBytes: number;
  connect: Connect;
  /** Told how long an answered request took. */
  onAnswer?: (tookMs: number) => void;
  /** Told what a read has found, unit by unit. */
  onRead?: (first: number, values: Uint32Array) => void;
  /** The checker has found what cannot be. */
  onViolation: (words: string) => void;
}

export class Workload {
  readonly history = new History();
  /** Requests that were answered without an error. */
  acknowledged = 0;
  /** Answered with one. */
  refused = 0;
  /** Longest time that a request was under way, and when the oldest one now began. */
  slowestMs = 0;
  readonly #options: WorkloadOptions;
  readonly #flights = new Map<number, Flight>();
  /** Of unknown outcome, until a router serves again. */
  readonly #lost = new Set<number>();
  #connection: BlockConnection | null = null;
  #last = 0;
  #running = false;
  #startMs = 0;
  /** Requests until now, and whether it could make the last one when it wanted to. */
  #made = 0;
  #isFree = true;
  #connecting = false;
  #gone = false;
  #sizeBytes: number;
  #idle: (() => void) | null = null;

  constructor(options: WorkloadOptions) {
    this.#options = options;
    this.#sizeBytes = options.sizeBytes;
  }

  /** Of the vDisk, as far as this client knows. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** It could make a request now. */
  get isConnected(): boolean {
    return this.#connection !== null;
  }

  /** Its vDisk was deleted. */
  get isGone(): boolean {
    return this.#gone;
  }

  /** An operator was told that the vDisk has this size: all of it is used from now on. */
  grown(sizeBytes: number): void {
    assert(sizeBytes >= this.#sizeBytes, "a vDisk only grows");
    this.#sizeBytes = sizeBytes;
  }

  /** The vDisk was deleted: ends for good, and what it held does not matter any more. */
  abandon(): void {
    this.#running = false;
    this.#gone = true;
    const [connection, lost] = [this.#connection, [...this.#flights.values()]];
    this.#connection = null;
    this.#flights.clear();
    this.#lost.clear();
    connection?.close();
    for (const { onLost } of lost) onLost();
    this.#idle?.();
  }

  /** Begins; runs until `stop`. */
  start(): void {
    assert(!this.#running, "a workload is started once");
    this.#running = true;
    this.#startMs = this.#options.timeline.nowMs;
    this.#connect();
    this.#later();
  }

  /** Makes no more requests; resolves when all that were made are answered or lost. */
  async stop(): Promise<void> {
    this.#running = false;
    if (this.#flights.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
  }

  /** Reads all of the vDisk and checks it, `step` bytes a request; for the end. */
  async readAll(step = 256 * KIB): Promise<void> {
    const sizeBytes = this.#sizeBytes;
    for (let offset = 0; offset < sizeBytes; offset += step) {
      await this.#readOnce(offset, Math.min(step, sizeBytes - offset));
    }
  }

  /** Its name in the trace. */
  get name(): string {
    return this.#options.name;
  }

  /** How long the oldest request has been under way. */
  get oldestMs(): number {
    let oldest = 0;
    for (const { beganMs } of this.#flights.values()) {
      oldest = Math.max(oldest, this.#options.timeline.nowMs - beganMs);
    }
    return oldest;
  }

  /** The power failed where the journal lies: what was not flushed may be gone. */
  powerLost(): void {
    const lost = [...this.#flights.values()];
    this.#flights.clear();
    this.#lost.clear();
    this.history.powerLost();
    for (const { onLost } of lost) onLost();
    this.#idle?.();
  }

  #later(): void {
    const { timeline, dice, habits } = this.#options;
    timeline.after(dice.around(this.#pauseMs()), null, () => {
      if (!this.#running) return;
      this.#isFree = this.#connection !== null && this.#flights.size < habits.depth;
      if (this.#isFree) {
        this.#made++;
        this.#someRequest();
      }
      this.#later();
    });
  }

  #pauseMs(): number {
    const { pauseMs, burst, perSecond } = this.#options.habits;
    if (!this.#isFree) return Math.max(pauseMs, FULL_MS);
    if (this.#made % burst !== 0) return pauseMs;
    const ranSeconds = (this.#options.timeline.nowMs - this.#startMs) / 1000;
    const due = ranSeconds * perSecond - this.#made;
    return Math.max(pauseMs, ((burst - due) / perSecond) * 1000);
  }

  #connect(): void {
    if (this.#connecting || this.#gone) return;
    this.#connecting = true;
    const { timeline, connect, trace, name } = this.#options;
    let ended = false;
    connect(() => {
      ended = true;
      this.#onEnd();
    }).then(
      (connection) => {
        this.#connecting = false;
        if (ended) {
          this.#onEnd();
          return;
        }
        if (this.#gone) {
          connection.close();
          return;
        }
        this.#connection = connection;
        trace.note(name, "connected");
      },
      () => {
        timeline.after(RETRY_MS, null, () => {
          this.#connecting = false;
          this.#connect();
        });
      },
    );
  }

  #onEnd(): void {
    const { trace, name } = this.#options;
    if (this.#connecting || this.#gone) return;
    trace.note(name, `the connection has ended, ${this.#flights.size} requests are lost`);
    this.#connection = null;
    for (const [id, { kind }] of this.#flights) {
      if (kind === "write") this.#lost.add(id);
      else if (kind === "read") this.history.readIsOver(id);
      else this.history.flushIsOver(id);
    }
    const lost = [...this.#flights.values()];
    this.#flights.clear();
    for (const { onLost } of lost) onLost();
    this.#idle?.();
    this.#connect();
  }

  /** Whoever answers now has recovered: what an earlier one did not do will not be done. */
  #answered(): void {
    for (const id of this.#lost) this.history.writeIsOver(id);
    this.#lost.clear();
  }

  /**
   * One request of a script, as soon as there is a connection. True when it was answered without
   * an error; one that is lost with its connection is not made again. `tell` hears at once of its
   * number, which is the value that it writes, and of its end.
   */
  async perform(request: ScriptedRequest, tell: Hearer = NOBODY): Promise<boolean> {
    const { kind, first, count, fua } = request;
    while (this.#connection === null) {
      await new Promise<void>((resolve) => {
        this.#options.timeline.after(1, null, resolve);
      });
    }
    return await new Promise<boolean>((resolve) => {
      const then = (ok: boolean) => {
        tell.ended(ok);
        resolve(ok);
      };
      if (kind === RequestKind.Flush) this.#flush(then);
      else if (kind === RequestKind.Read) this.#read(first, count, then);
      else if (kind === RequestKind.Write) this.#write(first, count, fua, then);
      else this.#clear(kind, { first, count, fua }, then);
      tell.begun(this.#last);
    });
  }

  /** A request beside the others, when there is a connection; nobody waits for it. */
  tryOnce({ kind, first, count, fua }: ScriptedRequest): void {
    if (this.#connection === null) return;
    if (kind === RequestKind.Read) this.#read(first, count, nobody);
    else this.#write(first, count, fua, nobody);
  }

  #someRequest(): void {
    const { dice, habits } = this.#options;
    const choice = dice.share();
    const { flushShare, trimShare, zeroShare, readShare } = habits;
    const { first, count } = this.#range();
    const fua = dice.chance(habits.fuaShare);
    const clears = flushShare + trimShare;
    const range = { first, count, fua };
    if (choice < flushShare) this.#flush(nobody);
    else if (choice < clears) this.#clear(RequestKind.Trim, range, nobody);
    else if (choice < clears + zeroShare) this.#clear(RequestKind.WriteZeroes, range, nobody);
    else if (dice.chance(readShare)) this.#read(first, count, nobody);
    else this.#write(first, count, fua, nobody);
  }

  /** Units, mostly whole clusters, mostly in the hot part. */
  #range(): { first: number; count: number } {
    const { dice, habits } = this.#options;
    const sizeBytes = this.#sizeBytes;
    if (dice.chance(habits.clashShare) && this.#flights.size > 0) return this.#clash();
    const step = dice.chance(habits.partialShare) ? UNIT_BYTES : 4096;
    const hot = dice.chance(HOT) ? habits.hotShare : 1;
    const places = Math.max(1, Math.floor((sizeBytes * hot) / step));
    const place = dice.below(places);
    const most = Math.min(habits.bytesMax / step, sizeBytes / step - place);
    const steps = 1 + Math.floor(Math.min(dice.around(2), most - 1));
    return { first: (place * step) / UNIT_BYTES, count: (steps * step) / UNIT_BYTES };
  }

  /** Units in and around the first or last cluster of a request that is under way. */
  #clash(): { first: number; count: number } {
    const { dice } = this.#options;
    const { first, count } = dice.pick([...this.#flights.values()]);
    const units = this.#sizeBytes / UNIT_BYTES;
    const edge = dice.chance(0.5) ? first : first + Math.max(0, count - 1);
    const begin = Math.max(0, Math.min(edge - dice.below(CLASH_UNITS), units - 1));
    const end = Math.min(units, edge + 1 + dice.below(CLASH_UNITS));
    return { first: begin, count: end - begin };
  }

  #begin(kind: Flight["kind"], range: { first: number; count: number }, onLost: () => void) {
    const id = ++this.#last;
    this.#flights.set(id, { kind, ...range, beganMs: this.#options.timeline.nowMs, onLost });
    return id;
  }

  /** False when its outcome does not matter any more: the connection or the power has gone. */
  #end(id: number): boolean {
    const flight = this.#flights.get(id);
    if (flight === undefined) return false;
    this.#flights.delete(id);
    const tookMs = this.#options.timeline.nowMs - flight.beganMs;
    this.slowestMs = Math.max(this.slowestMs, tookMs);
    this.#options.onAnswer?.(tookMs);
    this.#answered();
    return true;
  }

  #settled(): void {
    if (this.#flights.size === 0) this.#idle?.();
  }

  // Of all requests: `then` hears whether it was answered without an error.

  #flush(then: (ok: boolean) => void): void {
    const id = this.#begin("flush", NOWHERE, () => then(false));
    this.history.flushBegins(id);
    this.#connection!.request(RequestKind.Flush, 0, 0, 0, null, (errno) => {
      if (!this.#end(id)) return;
      if (errno === 0) {
        this.acknowledged++;
        this.history.flushEnds(id);
      } else {
        this.refused++;
        this.history.flushIsOver(id);
      }
      this.#settled();
      then(errno === 0);
    });
  }

  #write(first: number, count: number, fua: boolean, then: (ok: boolean) => void): void {
    if (this.history.isCrowded(first, count)) {
      then(false);
      return;
    }
    const id = this.#begin("write", { first, count }, () => then(false));
    this.history.writeBegins(id, first, count, false);
    const data = new Uint8Array(count * UNIT_BYTES);
    fillUnits(data, id, first);
    this.#change(id, { kind: RequestKind.Write, first, count, fua }, data, then);
  }

  #clear(
    kind: number,
    range: { first: number; count: number; fua: boolean },
    then: (ok: boolean) => void,
  ): void {
    const { first, count } = range;
    if (this.history.isCrowded(first, count)) {
      then(false);
      return;
    }
    const id = this.#begin("write", { first, count }, () => then(false));
    this.history.writeBegins(id, first, count, true);
    this.#change(id, { kind, ...range }, null, then);
  }

  #change(
    id: number,
    request: ScriptedRequest,
    data: Uint8Array | null,
    then: (ok: boolean) => void,
  ): void {
    const { kind, first, count, fua } = request;
    const flags = fua ? RequestFlag.Fua : 0;
    const [offset, bytes] = [first * UNIT_BYTES, count * UNIT_BYTES];
    this.#connection!.request(kind, flags, offset, bytes, data, (errno) => {
      if (!this.#end(id)) return;
      if (errno === 0) {
        this.acknowledged++;
        this.history.writeEnds(id, fua);
      } else {
        // It may have taken effect all the same, now or when the journal is read again.
        this.#refusal(errno);
        this.#lost.add(id);
      }
      this.#settled();
      then(errno === 0);
    });
  }

  #read(first: number, count: number, then: (ok: boolean) => void): void {
    const { name, onViolation } = this.#options;
    const id = this.#begin("read", { first, count }, () => then(false));
    this.history.readBegins(id, first, count);
    const [offset, bytes] = [first * UNIT_BYTES, count * UNIT_BYTES];
    this.#connection!.request(RequestKind.Read, 0, offset, bytes, null, (errno, data) => {
      if (!this.#end(id)) return;
      if (errno === 0) {
        this.acknowledged++;
        const values = valuesOf(data!, first);
        this.#options.onRead?.(first, values);
        const wrong = this.history.readEnds(id, values);
        if (wrong) onViolation(`${name}: ${describe(wrong)}`);
      } else {
        this.#refusal(errno);
        this.history.readIsOver(id);
      }
      this.#settled();
      then(errno === 0);
    });
  }

  /** What a client asks for lies within the vDisk, and is well formed. */
  #refusal(errno: number): void {
    const { name, onViolation } = this.#options;
    this.refused++;
    if (errno !== NbdErrno.Einval && errno !== NbdErrno.Enospc) return;
    onViolation(`${name}: a request within ${this.#sizeBytes} bytes was refused with ${errno}`);
  }

  async #readOnce(offset: number, bytes: number): Promise<void> {
    const { timeline } = this.#options;
    while (!this.#gone) {
      const isRead =
        this.#connection !== null &&
        (await new Promise<boolean>((resolve) =>
          this.#read(offset / UNIT_BYTES, bytes / UNIT_BYTES, resolve),
        ));
      if (isRead) return;
      await new Promise<void>((resolve) => void timeline.after(RETRY_MS, null, resolve));
    }
  }
}

function describe({ unit, found, allowed }: Violation): string {
  const value = found === 0xffff_ffff ? "garbage" : `what request ${found} wrote`;
  return `unit ${unit} (byte ${unit * UNIT_BYTES}) holds ${value}; allowed: ${allowed.join(", ")}`;
}
