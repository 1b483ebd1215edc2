// SPDX-License-Identifier: Apache-2.0
// A load that knows what must be there. Every 4 KiB block carries its number and a version; for
// each block the load remembers the version that was acknowledged last and those whose fate is
// unknown because the connection ended under them. A read must show one of these, whole.
//
// Only one operation is in flight per block, so the newest acknowledged version must survive the
// death of any process (the contract's line for WRITE), not only a flushed one.

import { NbdClient, NbdError } from "./nbdclient.js";

export const BLOCK_BYTES = 4096;
const BLOCKS_PER_WRITE_MAX = 16;

/** A small seeded generator (xorshift32): tests print and take its seed. */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0 || 1;
  }

  below(limit: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state % limit;
  }
}

/** Fills `target` with the content of a version of a block; version 0 is zeroes. */
export function fillBlock(target: Buffer, at: number, block: number, version: number): void {
  if (version === 0) {
    target.fill(0, at, at + BLOCK_BYTES);
    return;
  }
  let x = (block * 2654435761 + version * 40503) >>> 0 || 1;
  for (let i = 0; i < BLOCK_BYTES; i += 4) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    target.writeUInt32LE(x >>> 0, at + i);
  }
  target.writeUInt32LE(block, at);
  target.writeUInt32LE(version, at + 4);
}

export interface LoadCounters {
  writes: number;
  trims: number;
  reads: number;
  flushes: number;
  reconnects: number;
}

export class VerifiedLoad {
  readonly counters: LoadCounters = { writes: 0, trims: 0, reads: 0, flushes: 0, reconnects: 0 };
  /** What was found wrong, in words; empty when all is well. */
  readonly wrong: string[] = [];
  readonly #path: string;
  readonly #vdisk: string;
  readonly #blocks: number;
  readonly #dice: Dice;
  readonly #acknowledged: Uint32Array;
  readonly #unknown = new Map<number, Set<number>>();
  readonly #busy: Uint8Array;
  #version = 0;
  #client: NbdClient | null = null;
  #connecting: Promise<NbdClient> | null = null;
  #stopping = false;
  #runners: Promise<void>[] = [];

  constructor(socketPath: string, vdisk: string, blocks: number, seed: number) {
    this.#path = socketPath;
    this.#vdisk = vdisk;
    this.#blocks = blocks;
    this.#dice = new Dice(seed);
    this.#acknowledged = new Uint32Array(blocks);
    this.#busy = new Uint8Array(blocks);
  }

  /** Operations that were acknowledged so far. */
  get operations(): number {
    const { writes, trims, reads, flushes } = this.counters;
    return writes + trims + reads + flushes;
  }

  start(queueDepth: number): void {
    this.#stopping = false;
    this.#runners = Array.from({ length: queueDepth }, () =>
      this.#run().catch((error: unknown) => {
        this.wrong.push(`the load ended: ${String(error)}`);
      }),
    );
  }

  /** Stops after what is in flight. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#runners);
    await this.#client?.close().catch(() => undefined);
    this.#client = null;
  }

  /** Reads every block and compares. */
  async verifyAll(): Promise<void> {
    const step = 64;
    for (let first = 0; first < this.#blocks; first += step) {
      const count = Math.min(step, this.#blocks - first);
      const client = await this.#connected();
      const data = await client.read(first * BLOCK_BYTES, count * BLOCK_BYTES);
      for (let i = 0; i < count; i++) this.#check(first + i, data, i * BLOCK_BYTES);
    }
  }

  async #run(): Promise<void> {
    while (!this.#stopping && this.wrong.length < 10) {
      const client = await this.#connected();
      try {
        await this.#one(client);
      } catch (error) {
        if (error instanceof NbdError) this.wrong.push(`an operation failed: ${error.message}`);
        else if (!client.closed) throw error;
      }
    }
  }

  async #connected(): Promise<NbdClient> {
    if (this.#client && !this.#client.closed) return this.#client;
    this.#connecting ??= this.#reconnect();
    return await this.#connecting;
  }

  async #reconnect(): Promise<NbdClient> {
    const end = performance.now() + 60_000;
    for (;;) {
      try {
        this.#client = await NbdClient.open(this.#path, this.#vdisk);
        this.counters.reconnects++;
        this.#connecting = null;
        return this.#client;
      } catch (error) {
        if (performance.now() > end) throw error;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  }

  async #one(client: NbdClient): Promise<void> {
    const kind = this.#dice.below(100);
    if (kind < 2) {
      await client.flush();
      this.counters.flushes++;
      return;
    }
    const first = this.#dice.below(this.#blocks);
    const count = this.#lock(first, 1 + this.#dice.below(BLOCKS_PER_WRITE_MAX));
    if (count === 0) return;
    try {
      if (kind < 30) await this.#read(client, first, count);
      else await this.#change(client, first, count, { trim: kind < 36, fua: kind > 97 });
    } finally {
      this.#busy.fill(0, first, first + count);
    }
  }

  /** Takes up to `wanted` blocks that nobody uses; 0 when the first is in use. */
  #lock(first: number, wanted: number): number {
    let count = 0;
    while (count < wanted && first + count < this.#blocks && this.#busy[first + count] === 0) {
      this.#busy[first + count] = 1;
      count++;
    }
    return count;
  }

  async #read(client: NbdClient, first: number, count: number): Promise<void> {
    const data = await client.read(first * BLOCK_BYTES, count * BLOCK_BYTES);
    for (let i = 0; i < count; i++) this.#check(first + i, data, i * BLOCK_BYTES);
    this.counters.reads++;
  }

  async #change(
    client: NbdClient,
    first: number,
    count: number,
    how: { trim: boolean; fua: boolean },
  ): Promise<void> {
    const version = how.trim ? 0 : ++this.#version;
    const data = Buffer.alloc(how.trim ? 0 : count * BLOCK_BYTES);
    for (let i = 0; i < count && !how.trim; i++)
      fillBlock(data, i * BLOCK_BYTES, first + i, version);
    try {
      if (how.trim) await client.trim(first * BLOCK_BYTES, count * BLOCK_BYTES);
      else await client.write(first * BLOCK_BYTES, data, how.fua);
    } catch (error) {
      for (let i = 0; i < count; i++) this.#maybe(first + i, version);
      throw error;
    }
    for (let i = 0; i < count; i++) {
      this.#acknowledged[first + i] = version;
      this.#unknown.delete(first + i);
    }
    if (how.trim) this.counters.trims++;
    else this.counters.writes++;
  }

  #maybe(block: number, version: number): void {
    const set = this.#unknown.get(block) ?? new Set<number>();
    set.add(version);
    this.#unknown.set(block, set);
  }

  #check(block: number, data: Buffer, at: number): void {
    const found = data.readUInt32LE(at + 4);
    const unknown = this.#unknown.get(block);
    const expected = this.#acknowledged[block] ?? 0;
    if (found !== expected && !unknown?.has(found)) {
      this.wrong.push(`block ${block}: version ${found}, acknowledged was ${expected}`);
      return;
    }
    const right = Buffer.alloc(BLOCK_BYTES);
    fillBlock(right, 0, block, found);
    if (right.compare(data, at, at + BLOCK_BYTES) !== 0) {
      this.wrong.push(`block ${block}: the bytes of version ${found} are not whole`);
      return;
    }
    // What was read once must be read again: the outcome is settled now.
    if (unknown) {
      this.#acknowledged[block] = found;
      this.#unknown.delete(block);
    }
  }
}
