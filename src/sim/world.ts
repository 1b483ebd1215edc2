// SPDX-License-Identifier: Apache-2.0
// The World of one thread of a simulated process: the same interfaces as the real one, made of the
// simulated parts of its host.

import { alignUp } from "../base/bytes.js";
import { CLUSTER_BYTES, MIB } from "../base/units.js";
import { ErasureSession } from "../native/erasure.js";
import { Arena } from "../platform/arena.js";
import type { Codec } from "../platform/codec.js";
import type { Disk } from "../platform/disk.js";
import type { KvFactory } from "../platform/kv.js";
import type { Log } from "../platform/log.js";
import type { NbdEngine } from "../platform/nbd.js";
import type { Network } from "../platform/network.js";
import { Turn } from "../platform/turn.js";
import type { Clock, Random, World } from "../platform/world.js";
import { SimClock } from "./clock.js";
import type { SimHost } from "./host.js";
import type { Life } from "./life.js";
import { SimLog } from "./trace.js";

export interface SimWorldOptions {
  arenaBytes: number;
  receivePoolBytes: number;
}

export class SimWorld implements World {
  readonly clock: Clock;
  readonly random: Random;
  readonly turn: Turn;
  readonly arena: Arena;
  readonly disk: Disk;
  readonly network: Network;
  readonly kv: KvFactory;
  readonly codec: Codec;
  readonly nbd: NbdEngine;
  readonly log: Log;
  readonly bootId: Uint8Array;

  /** The world of a life on a host; it ends with that. */
  constructor(host: SimHost, life: Life, options: SimWorldOptions) {
    this.clock = new SimClock(life, host.time);
    this.random = host.dice.fork(`${life.name} ${host.nextBirth()}`);
    this.turn = new Turn((work) => void life.after(0, work));
    const bytes = alignUp(options.arenaBytes + options.receivePoolBytes + MIB, CLUSTER_BYTES);
    this.arena = new Arena(host.scene.memory.arena(bytes));
    this.log = new SimLog(host.trace, life.name);
    this.bootId = host.bootId;
    // Work on whole fragments is done at once: what the worker pool does is not simulated.
    this.codec = new ErasureSession(this.arena.buffer, Number.POSITIVE_INFINITY);
    this.disk = host.openDisk(life, this);
    this.kv = host.openKv(life);
    this.network = host.openNetwork(life, this, options.receivePoolBytes);
    this.nbd = host.openNbd(life, this);
  }
}
