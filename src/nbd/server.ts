// SPDX-License-Identifier: Apache-2.0
// The NBD connections of one thread. The addon speaks the protocol and owns sockets and slots;
// this class hands ready slots to their targets, a batch a turn, and results back, a batch a turn:
//
//   addon ──onReady(n)──► turn.begin, target.admit(slot) × n, turn.end ──► flush ──► replies
//   target ──requests.complete(slot)──► staged ──(end of the turn, stage Reply)──► flush
//
// A target is added with its first connection and stays until `drop`. Every slot that was admitted
// is completed exactly once, also when its connection is gone meanwhile.

import { assert } from "../base/assert.js";
import type { NbdServerEngine, SlotTable } from "../platform/nbd.js";
import { makeSlotTable } from "../platform/nbd.js";
import { FlushStage } from "../platform/turn.js";
import type { World } from "../platform/world.js";
import { requestBytesMax, SLOT_BYTES, SLOTS_DEFAULT } from "./limits.js";
import type { NbdTicket } from "./listener.js";
import { Results } from "./results.js";
import type { BlockTarget, Requests } from "./target.js";

const TARGETS_MAX = 65_536;
const CONNECTIONS_MAX = 512;
const STALL_MS = 30_000;

export interface NbdServerOptions {
  /** Slots of 132 KiB, cut from the arena. */
  slots?: number;
  connectionsMax?: number;
  /** A connection that holds slots and does not move while others wait for them ends after this. */
  stallMs?: number;
  /** After a connection has ended; `left` are still there. */
  onClosed?(left: number): void;
}

export interface NbdCounters {
  requests: number;
  errors: number;
  bytesIn: number;
  bytesOut: number;
  /** Requests that had to wait for slots. */
  waits: number;
  slotsFree: number;
  waiting: number;
  connections: number;
}

/** A target that is leaving, and who waits for that. */
interface Leaving {
  readonly target: BlockTarget;
  readonly waiters: Array<() => void>;
}

export class NbdServer {
  readonly requests: Requests;
  readonly #world: Pick<World, "turn" | "arena" | "clock" | "log" | "nbd">;
  readonly #native: NbdServerEngine;
  readonly #table: SlotTable;
  readonly #slots: number;
  readonly #results: Results;
  readonly #targets: Array<BlockTarget | null> = [];
  readonly #ids = new Map<BlockTarget, number>();
  readonly #leaving = new Map<number, Leaving>();
  readonly #tell: (left: number) => void;
  readonly #stopFlushing: () => void;
  #stopping = false;
  #closed = false;

  /** Cuts its slots from the world's arena, for as long as that lives. */
  constructor(
    world: Pick<World, "turn" | "arena" | "clock" | "log" | "nbd">,
    options: NbdServerOptions = {},
  ) {
    this.#world = world;
    this.#slots = options.slots ?? SLOTS_DEFAULT;
    assert(this.#slots >= 2, "a server has slots");
    this.#table = makeSlotTable(this.#slots);
    const offset = world.arena.region(this.#slots * SLOT_BYTES, "nbd slots");
    this.#native = new world.nbd.Server(
      world.arena.buffer,
      offset,
      this.#slots,
      Object.values(this.#table),
      {
        connections: options.connectionsMax ?? CONNECTIONS_MAX,
        stallMs: options.stallMs ?? STALL_MS,
      },
      (count) => this.#onReady(count),
      (connection, id, reason) => this.#onClosed(connection, id, reason),
    );
    this.#tell = (left) => options.onClosed?.(left);
    this.#results = new Results(this.#slots, this.#table, world.turn);
    this.requests = this.#results;
    this.#stopFlushing = world.turn.atEnd(FlushStage.Reply, () => this.#flush());
  }

  /** The largest READ or WRITE of its clients in bytes. */
  get requestBytesMax(): number {
    return requestBytesMax(this.#slots);
  }

  /**
   * Takes a ticket: its connection talks to `target` from now on. False, and the client is turned
   * away, when there are too many connections or the target (or the server) is on its way out:
   * a ticket may have been under way when that began.
   */
  adopt(ticket: NbdTicket, target: BlockTarget): boolean {
    const { fd, mode, allocation, unread, peer } = ticket;
    const known = this.#ids.get(target);
    if (this.#stopping || (known !== undefined && this.#leaving.has(known))) {
      this.#world.nbd.closeSocket(fd);
      this.#world.log.info("a client was turned away: its export is closing", { peer });
      return false;
    }
    const id = known ?? this.#add(target);
    const connection = this.#native.adopt(fd, id, mode, allocation, unread);
    if (connection === 0) {
      this.#world.log.warn("a client was turned away: too many connections", { peer });
      return false;
    }
    const fields = { connection, export: ticket.name, peer };
    this.#world.log.debug("a connection begins", fields);
    return true;
  }

  /** The target's size or mode has changed: requests from now on are checked against it. */
  resize(target: BlockTarget): void {
    const id = this.#ids.get(target);
    if (id === undefined || this.#leaving.has(id)) return;
    this.#native.setTarget(id, target.sizeBytes, target.readOnly, true);
  }

  /**
   * Ends a target's connections: what is in flight is answered, new requests are not read. After
   * `graceMs` they are cut. Resolves when the target has completed all it had been given.
   */
  async drop(target: BlockTarget, graceMs = 5_000): Promise<void> {
    const id = this.#ids.get(target);
    if (id === undefined || this.#closed) return;
    const found = this.#leaving.get(id);
    const leaving = found ?? { target, waiters: [] };
    const gone = new Promise<void>((resolve) => leaving.waiters.push(resolve));
    if (!found) {
      this.#leaving.set(id, leaving);
      this.#native.setTarget(id, target.sizeBytes, target.readOnly, false);
      this.#native.drain(id);
    }
    const timer = this.#world.clock.after(graceMs, () => {
      if (!this.#closed && this.#leaving.get(id) === leaving) this.#native.destroy(id);
    });
    this.#settle();
    await gone;
    timer.cancel();
  }

  /** Sums since the start, and what is free and open now; zeroes once it is closed. */
  counters(): NbdCounters {
    const raw = new Float64Array(8);
    if (!this.#closed) this.#native.counters(raw);
    return {
      requests: raw[0]!,
      errors: raw[1]!,
      bytesIn: raw[2]!,
      bytesOut: raw[3]!,
      waits: raw[4]!,
      slotsFree: raw[5]!,
      waiting: raw[6]!,
      connections: raw[7]!,
    };
  }

  /** Drops all targets, then closes. */
  async stop(graceMs = 5_000): Promise<void> {
    this.#stopping = true;
    await Promise.all([...this.#ids.keys()].map((target) => this.drop(target, graceMs)));
    if (this.#closed) return;
    this.#closed = true;
    this.#stopFlushing();
    this.#native.close();
  }

  #add(target: BlockTarget): number {
    let id = this.#targets.indexOf(null);
    if (id < 0) id = this.#targets.length;
    assert(id < TARGETS_MAX, "targets are bounded");
    this.#targets[id] = target;
    this.#ids.set(target, id);
    this.#native.setTarget(id, target.sizeBytes, target.readOnly, true);
    return id;
  }

  #onReady(count: number): void {
    const { turn } = this.#world;
    const { ready } = this.#table;
    turn.begin();
    for (let i = 0; i < count; i++) {
      const slot = ready[i]!;
      this.#targets[this.#results.admit(slot)]!.admit(slot);
    }
    turn.end();
  }

  #flush(): void {
    const count = this.#results.take();
    if (count === 0) return;
    if (!this.#closed) this.#native.flush(count);
    if (this.#leaving.size > 0) this.#settle();
  }

  #onClosed(connection: number, id: number, reason: string): void {
    const { log } = this.#world;
    if (reason === "") log.debug("a client has disconnected", { connection });
    else log.info("a connection has ended", { connection, reason });
    if (this.#leaving.has(id)) this.#settle();
    this.#tell(this.counters().connections);
  }

  /** Lets go of leaving targets that have no connection and no request any more. */
  #settle(): void {
    for (const [id, leaving] of this.#leaving) {
      if (this.#native.connections(id) > 0 || this.#results.inFlight(id) > 0) continue;
      this.#leaving.delete(id);
      this.#ids.delete(leaving.target);
      this.#targets[id] = null;
      this.#native.forgetTarget(id);
      for (const waiter of leaving.waiters) waiter();
    }
  }
}
