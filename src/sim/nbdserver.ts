// SPDX-License-Identifier: Apache-2.0
// The server half of a simulated NBD engine: the connections of one thread that are in
// transmission. Its order of things is that of native/nbd/server.cc: who has something is served
// until all is quiet, then ends are told, then the slots that are ready.

import { assert } from "../base/assert.js";
import type { Codec } from "../platform/codec.js";
import type { NbdServerEngine, ReplyMode, SlotTable } from "../platform/nbd.js";
import { RESULT_EXTENTS } from "../platform/nbd.js";
import type { Life } from "./life.js";
import { NbdSession, type NbdTargetState, type SessionHost } from "./nbdsession.js";
import { NbdSlots } from "./nbdslots.js";
import type { NetHost } from "./nethost.js";
import type { SimSocket, SocketOwner } from "./netsocket.js";

const WAKE_MS = 0.002;
const WAKE_JITTER_MS = 0.01;
const TIMER_MS = 1000;
/** As native/nbd/sockets.cc sets them: idle time and interval, all probes. */
const KEEPALIVE_MS = 15_000;
const KEEPALIVE_GIVE_UP_MS = 120_000;
/** Requests of one connection in one wake-up. */
const REQUESTS_MAX = 64;

/** In the order of SlotTable. */
type Columns = [
  kind: SlotTable["kind"],
  flags: SlotTable["flags"],
  offset: SlotTable["offset"],
  length: SlotTable["length"],
  memory: SlotTable["memory"],
  crcs: SlotTable["crcs"],
  cookieLow: SlotTable["cookieLow"],
  cookieHigh: SlotTable["cookieHigh"],
  connection: SlotTable["connection"],
  target: SlotTable["target"],
  ready: SlotTable["ready"],
  staged: SlotTable["staged"],
];

function tableOf(columns: Columns): SlotTable {
  const [kind, flags, offset, length, memory, crcs, ...rest] = columns;
  const [cookieLow, cookieHigh, connection, target, ready, staged] = rest;
  return {
    kind,
    flags,
    offset,
    length,
    memory,
    crcs,
    cookieLow,
    cookieHigh,
    connection,
    target,
    ready,
    staged,
  };
}

export interface SimServerOptions {
  host: NetHost;
  life: Life;
  codec: Pick<Codec, "crc32cClusters">;
  memory: ArrayBuffer;
  /** Of the slots in it. */
  offset: number;
  slots: number;
  columns: unknown[];
  limits: { connections: number; stallMs: number };
  /** So many entries of the columns are filled: requests for the targets. Within a turn. */
  onReady: (count: number) => void;
  /** A connection of target `id` has ended; the reason is for the log. */
  onClosed: (connection: number, id: number, reason: string) => void;
}

export class SimNbdServer implements NbdServerEngine, SessionHost, SocketOwner {
  readonly slots: NbdSlots;
  readonly memory: Uint8Array;
  readonly #options: SimServerOptions;
  readonly #table: SlotTable;
  readonly #targets = new Map<number, NbdTargetState>();
  readonly #sessions = new Map<SimSocket, NbdSession>();
  readonly #wakeWork = () => this.#wake();
  readonly totals = { requests: 0, errors: 0, bytesIn: 0, bytesOut: 0 };
  #ready: SimSocket[] = [];
  #marked: NbdSession[] = [];
  #ends: Array<{ connection: number; target: number; reason: string }> = [];
  #settling = false;
  #signalled = false;
  #timing = false;
  #closed = false;
  #nextConnection = 1;

  constructor(options: SimServerOptions) {
    this.#options = options;
    this.#table = tableOf(options.columns as Columns);
    this.memory = new Uint8Array(options.memory);
    this.slots = new NbdSlots(this.#table, options.offset, options.slots, options.codec);
    options.life.atEnd(() => this.#closeAll());
  }

  get lifeName(): string {
    return this.#options.life.name;
  }

  // Targets.

  setTarget(id: number, sizeBytes: number, readOnly: boolean, alive: boolean): void {
    this.#targets.set(id, { sizeBytes, readOnly, alive });
  }

  forgetTarget(id: number): void {
    this.#targets.delete(id);
  }

  /** Undefined for one that was removed, also while its connections still end. */
  target(id: number): NbdTargetState | undefined {
    return this.#targets.get(id);
  }

  adopt(fd: number, id: number, mode: ReplyMode, allocation: boolean): number {
    const { host, limits } = this.#options;
    const socket = host.descriptors.get(fd);
    // Its host or process may have lost it on the way.
    if (socket === undefined) return 0;
    host.descriptors.delete(fd);
    if (this.#sessions.size >= limits.connections) {
      socket.close();
      return 0;
    }
    const connection = this.#nextConnection++;
    const session = new NbdSession(this, socket, { connection, target: id, mode, allocation });
    this.#sessions.set(socket, session);
    socket.owner = this;
    socket.isReady = false;
    socket.keepAlive(KEEPALIVE_MS, KEEPALIVE_GIVE_UP_MS);
    this.ready(socket);
    return connection;
  }

  flush(count: number): void {
    const { staged } = this.#table;
    for (let i = 0; i < count; i++) {
      const result = staged[2 * i + 1]!;
      const isExtents = result >= RESULT_EXTENTS;
      const extents = isExtents ? result - RESULT_EXTENTS : 0;
      this.slots.complete(staged[2 * i]!, { errno: isExtents ? 0 : result, extents });
    }
    this.#settle();
  }

  drain(id: number): void {
    for (const session of this.#of(id)) session.drain("the export was closed");
    this.#settle();
  }

  destroy(id: number): void {
    for (const session of this.#of(id)) {
      session.end("the export was closed before all was answered");
    }
    this.#settle();
  }

  connections(id: number): number {
    return this.#of(id).length;
  }

  #of(id: number): NbdSession[] {
    return [...this.#sessions.values()].filter((session) => session.target === id);
  }

  counters(into: Float64Array): void {
    assert(into.length === 8, "there are eight counters");
    const { requests, errors, bytesIn, bytesOut } = this.totals;
    const { waits, free, waiting } = this.slots;
    into.set([requests, errors, bytesIn, bytesOut, waits, free, waiting, this.#sessions.size]);
  }

  close(): void {
    this.#closeAll();
  }

  #closeAll(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const session of this.#sessions.values()) session.socket.close();
    this.#sessions.clear();
  }

  // Waking.

  ready(socket: SimSocket): void {
    if (socket.isReady) return;
    socket.isReady = true;
    this.#ready.push(socket);
    this.#signal();
  }

  mark(session: NbdSession): void {
    if (session.isMarked) return;
    session.isMarked = true;
    this.#marked.push(session);
  }

  again(session: NbdSession): void {
    this.mark(session);
    this.ready(session.socket);
  }

  #signal(): void {
    if (this.#signalled || this.#closed) return;
    this.#signalled = true;
    const { life, host } = this.#options;
    life.after(WAKE_MS + WAKE_JITTER_MS * host.net.dice.share(), this.#wakeWork);
  }

  #wake(): void {
    this.#signalled = false;
    if (this.#closed) return;
    const { net } = this.#options.host;
    const most = net.hook === null ? REQUESTS_MAX : 1;
    const sockets = this.#ready;
    this.#ready = [];
    for (const socket of sockets) {
      socket.isReady = false;
      const session = this.#sessions.get(socket);
      if (session === undefined) continue;
      if (session.wantsInput && session.receive(most) === most) this.ready(socket);
      this.mark(session);
    }
    const { life } = this.#options;
    if (life.state === "frozen") {
      // What was read is handled when the process goes on; nothing more is read before.
      this.#signalled = true;
      life.hold(() => {
        this.#signalled = false;
        this.#handle();
      });
    } else if (!this.#closed) {
      this.#handle();
    }
  }

  #handle(): void {
    this.#settle();
    const ends = this.#ends;
    this.#ends = [];
    for (const { connection, target, reason } of ends) {
      this.#options.onClosed(connection, target, reason);
    }
    const count = this.#closed ? 0 : this.slots.takeReady();
    if (count > 0) this.#options.onReady(count);
  }

  /** Serves everyone whose state changed, and whom that set free, until all is quiet. */
  #settle(): void {
    if (this.#settling || this.#closed) return;
    this.#settling = true;
    do {
      for (let session = this.#marked.pop(); session; session = this.#marked.pop()) {
        session.isMarked = false;
        this.#serve(session);
      }
      this.slots.pump();
    } while (this.#marked.length > 0);
    this.#settling = false;
    if (this.slots.ready > 0 || this.#ends.length > 0) this.#signal();
    if (this.slots.waiting > 0) this.#startTimer();
  }

  #serve(session: NbdSession): void {
    session.send();
    const { socket } = session;
    if (session.finished) {
      if (!this.#sessions.delete(socket)) return;
      const { connection, target, reason } = session;
      this.#ends.push({ connection, target, reason });
      session.end("");
      socket.close();
      return;
    }
    // Who waited may go on with what has come meanwhile.
    if (session.hasInput) this.ready(socket);
  }

  /** Runs while somebody waits for slots: ends those who hold some and do not move. */
  #startTimer(): void {
    if (this.#timing) return;
    this.#timing = true;
    this.#options.life.after(TIMER_MS, () => {
      this.#timing = false;
      if (this.#closed) return;
      const isNeeded = this.slots.waiting > 0;
      for (const session of this.#sessions.values()) this.#watch(session, isNeeded);
      this.#settle();
      if (isNeeded) this.#startTimer();
    });
  }

  #watch(session: NbdSession, isNeeded: boolean): void {
    const isStill = session.holdsSlotsIdle && session.progress === session.seenProgress;
    session.seenProgress = session.progress;
    session.stillMs = isNeeded && isStill ? session.stillMs + TIMER_MS : 0;
    if (session.stillMs < this.#options.limits.stallMs) return;
    session.end("it held buffers without moving while others waited for them");
  }
}
