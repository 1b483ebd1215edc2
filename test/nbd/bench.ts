// SPDX-License-Identifier: Apache-2.0
// What the tests of the NBD server share: a world with a listener on a unix socket, one server,
// and disks in memory or targets that hold on to their requests.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { alignUp } from "../../src/base/bytes.js";
import type { ErrorKind } from "../../src/base/errors.js";
import { MIB } from "../../src/base/units.js";
import { SLOT_BYTES } from "../../src/nbd/limits.js";
import type { NbdTicket } from "../../src/nbd/listener.js";
import { NbdListener } from "../../src/nbd/listener.js";
import { MemoryTarget } from "../../src/nbd/memory.js";
import type { NbdServerOptions } from "../../src/nbd/server.js";
import { NbdServer } from "../../src/nbd/server.js";
import type { BlockTarget, Requests } from "../../src/nbd/target.js";
import type { LogFields } from "../../src/platform/log.js";
import type { NodeWorld } from "../../src/platform/node/world.js";
import { createWorld } from "../../src/platform/node/world.js";

/** A target that keeps what it is given until it is told to complete it. */
export class HeldTarget implements BlockTarget {
  sizeBytes = 64 * MIB;
  readOnly = false;
  readonly held: number[] = [];
  readonly #requests: Requests;
  #wake: () => void = () => {};

  constructor(requests: Requests) {
    this.#requests = requests;
  }

  admit(slot: number): void {
    this.held.push(slot);
    this.#wake();
  }

  /** Resolves when `count` requests are held. */
  async holding(count: number): Promise<void> {
    while (this.held.length < count) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  completeAll(error: ErrorKind | null = null): void {
    for (const slot of this.held.splice(0)) this.#requests.complete(slot, error);
  }
}

export interface Bench {
  folder: string;
  world: NodeWorld;
  server: NbdServer;
  listener: NbdListener;
  address: string;
  /** Exports by name; new connections go to them. */
  targets: Map<string, BlockTarget>;
  /** Messages of the log with their fields. */
  lines: Array<{ message: string; fields: LogFields }>;
  publish(): void;
  memory(name: string, sizeBytes: number, readOnly?: boolean): MemoryTarget;
  hold(name: string): HeldTarget;
  stop(): Promise<void>;
}

export interface BenchOptions extends NbdServerOptions {
  slots: number;
  negotiationMs?: number;
  onTicket?(ticket: NbdTicket): void;
}

export function makeBench(options: BenchOptions): Bench {
  const folder = mkdtempSync(join(tmpdir(), "ovs-nbd-"));
  const { slots } = options;
  const world = createWorld({
    name: "test",
    arenaBytes: alignUp(slots * SLOT_BYTES + 4 * MIB, MIB),
    terminal: null,
  });
  const lines: Bench["lines"] = [];
  const note = (message: string, fields: LogFields = {}) => void lines.push({ message, fields });
  const log = { debug: note, info: note, warn: note, error: note, child: () => log };
  const server = new NbdServer({ ...pick(world), log }, options);
  const targets = new Map<string, BlockTarget>();
  const listener = new NbdListener({
    nbd: world.nbd,
    log,
    slots,
    ...(options.negotiationMs === undefined ? {} : { negotiationMs: options.negotiationMs }),
    onNegotiated:
      options.onTicket ?? ((ticket) => void server.adopt(ticket, targets.get(ticket.name)!)),
  });
  const address = listener.listen(`unix:${folder}/nbd.sock`);
  const publish = () => {
    listener.setExports(
      [...targets].map(([name, target]) => ({
        name,
        description: `the disk ${name}`,
        sizeBytes: target.sizeBytes,
        readOnly: target.readOnly,
      })),
    );
  };
  return {
    folder,
    world,
    server,
    listener,
    address,
    targets,
    lines,
    publish,
    memory(name, sizeBytes, readOnly = false) {
      const target = new MemoryTarget(world.arena, server.requests, sizeBytes, readOnly);
      targets.set(name, target);
      publish();
      return target;
    },
    hold(name) {
      const target = new HeldTarget(server.requests);
      targets.set(name, target);
      publish();
      return target;
    },
    async stop() {
      listener.close();
      await server.stop(100);
      await world.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function pick(world: NodeWorld): Pick<NodeWorld, "arena" | "turn" | "clock" | "nbd"> {
  return { arena: world.arena, turn: world.turn, clock: world.clock, nbd: world.nbd };
}
