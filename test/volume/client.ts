// SPDX-License-Identifier: Apache-2.0
// A client that puts requests into slots of an arena as the NBD server does.

import type { ErrorCode, ErrorKind } from "../../src/base/errors.js";
import { StorageError } from "../../src/base/errors.js";
import { Semaphore } from "../../src/base/sync.js";
import { CLUSTER_BYTES } from "../../src/base/units.js";
import type { BlockTarget, Requests } from "../../src/nbd/target.js";
import { RequestKind, SLOT_CLUSTERS_MAX } from "../../src/nbd/target.js";
import type { World } from "../../src/platform/world.js";

export const SLOTS = 64;
const SLOT_BYTES = SLOT_CLUSTERS_MAX * CLUSTER_BYTES;
const PART_BYTES = 32 * CLUSTER_BYTES;

const CODES: Record<ErrorKind, ErrorCode> = {
  invalid: "OVS_INVALID",
  full: "OVS_FULL",
  unavailable: "OVS_UNAVAILABLE",
  fenced: "OVS_FENCED",
  corrupt: "OVS_CORRUPT",
  closed: "OVS_CLOSED",
};

export interface TestRequest {
  kind: number;
  offset: number;
  length: number;
  flags?: number;
  payload?: Uint8Array;
}

/** Slots in an arena, with promises for whoever waits. */
export class TestRequests implements Requests {
  readonly slots = SLOTS;
  readonly kind = new Uint8Array(SLOTS);
  readonly flags = new Uint16Array(SLOTS);
  readonly offset = new Float64Array(SLOTS);
  readonly length = new Float64Array(SLOTS);
  readonly memory = new Uint32Array(SLOTS);
  readonly crcs = new Uint32Array(SLOTS * SLOT_CLUSTERS_MAX);
  readonly cookieLow = new Uint32Array(SLOTS);
  readonly cookieHigh = new Uint32Array(SLOTS);
  readonly connection = new Uint32Array(SLOTS);
  readonly base: number;
  readonly #free: number[] = [];
  readonly #permits = new Semaphore(SLOTS);
  readonly #done: Array<((result: { error: ErrorKind | null; count: number }) => void) | null> = [];
  readonly #world: World;
  completed = 0;

  constructor(world: World) {
    this.#world = world;
    this.base = world.arena.region(SLOTS * SLOT_BYTES, "slots");
    for (let slot = 0; slot < SLOTS; slot++) this.#free.push(slot);
  }

  complete(slot: number, error: ErrorKind | null): void {
    this.#end(slot, error, 0);
  }

  completeStatus(slot: number, count: number): void {
    this.#end(slot, null, count);
  }

  completeNotFast(slot: number): void {
    this.#end(slot, "invalid", 0);
  }

  /** One part: admits and waits; `use` sees the slot before it is given back. */
  async part<T>(
    target: BlockTarget,
    request: TestRequest,
    use: (slot: number, count: number) => T,
  ): Promise<T> {
    await this.#permits.acquire();
    const slot = this.#free.pop()!;
    try {
      this.#fill(slot, request);
      const result = new Promise<{ error: ErrorKind | null; count: number }>((resolve) => {
        this.#done[slot] = resolve;
      });
      this.#world.turn.begin();
      target.admit(slot);
      this.#world.turn.end();
      const { error, count } = await result;
      if (error) throw new StorageError(CODES[error], `request failed: ${error}`);
      return use(slot, count);
    } finally {
      this.#free.push(slot);
      this.#permits.release();
    }
  }

  #end(slot: number, error: ErrorKind | null, count: number): void {
    const done = this.#done[slot];
    if (!done) throw new Error(`slot ${slot} is completed twice`);
    this.#done[slot] = null;
    this.completed++;
    done({ error, count });
  }

  #fill(slot: number, request: TestRequest): void {
    const base = this.base + slot * SLOT_BYTES;
    const cut = request.offset % CLUSTER_BYTES;
    this.kind[slot] = request.kind;
    this.flags[slot] = request.flags ?? 0;
    this.offset[slot] = request.offset;
    this.length[slot] = request.length;
    this.memory[slot] = base + cut;
    this.cookieLow[slot]++;
    // What lay here before must not shine through.
    this.#world.arena.bytes.fill(0xee, base, base + SLOT_BYTES);
    if (!request.payload) return;
    this.#world.arena.bytes.set(request.payload, base + cut);
    const end = request.offset + request.length;
    const first = Math.floor(request.offset / CLUSTER_BYTES);
    for (let i = 0; (first + i) * CLUSTER_BYTES < end; i++) {
      const from = (first + i) * CLUSTER_BYTES;
      const isWhole = from >= request.offset && from + CLUSTER_BYTES <= end;
      const crc = isWhole
        ? this.#world.codec.crc32c(base + i * CLUSTER_BYTES, CLUSTER_BYTES, 0)
        : 0;
      this.crcs[slot * SLOT_CLUSTERS_MAX + i] = crc;
    }
  }
}

/** Requests as an NBD client makes them: any length, cut into parts. */
export class Client {
  readonly world: World;
  readonly requests: TestRequests;
  readonly target: BlockTarget;

  constructor(world: World, requests: TestRequests, target: BlockTarget) {
    this.world = world;
    this.requests = requests;
    this.target = target;
  }

  async write(offset: number, payload: Uint8Array, flags = 0): Promise<void> {
    const kind = RequestKind.Write;
    await Promise.all(
      parts(offset, payload.byteLength).map(([at, length]) => {
        const piece = payload.subarray(at - offset, at - offset + length);
        return this.#part({ kind, offset: at, length, flags, payload: piece });
      }),
    );
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    const result = new Uint8Array(length);
    await Promise.all(
      parts(offset, length).map(([at, bytes]) => {
        const request = { kind: RequestKind.Read, offset: at, length: bytes };
        return this.requests.part(this.target, request, (slot) => {
          result.set(this.world.arena.slice(this.requests.memory[slot]!, bytes), at - offset);
        });
      }),
    );
    return result;
  }

  async flush(): Promise<void> {
    await this.#part({ kind: RequestKind.Flush, offset: 0, length: 0 });
  }

  async zero(offset: number, length: number, flags = 0): Promise<void> {
    await this.#part({ kind: RequestKind.WriteZeroes, offset, length, flags });
  }

  async trim(offset: number, length: number, flags = 0): Promise<void> {
    await this.#part({ kind: RequestKind.Trim, offset, length, flags });
  }

  /** Extents as [bytes, flags]. */
  async status(offset: number, length: number, flags = 0): Promise<Array<[number, number]>> {
    const request = { kind: RequestKind.BlockStatus, offset, length, flags };
    return await this.requests.part(this.target, request, (slot, count) => {
      const { view } = this.world.arena;
      const extents: Array<[number, number]> = [];
      for (let i = 0; i < count; i++) {
        const at = this.requests.memory[slot]! + 12 * i;
        const bytes = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
        extents.push([bytes, view.getUint32(at + 8, true)]);
      }
      return extents;
    });
  }

  async #part(request: TestRequest): Promise<void> {
    await this.requests.part(this.target, request, () => undefined);
  }
}

function parts(offset: number, length: number): Array<[number, number]> {
  const list: Array<[number, number]> = [];
  for (let at = offset; at < offset + length; ) {
    const end = Math.min(offset + length, at - (at % CLUSTER_BYTES) + PART_BYTES);
    list.push([at, end - at]);
    at = end;
  }
  return list;
}
