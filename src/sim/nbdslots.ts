// SPDX-License-Identifier: Apache-2.0
// The slots of a simulated NBD server: the rules of native/nbd/core/engine.h. A request holds all
// of its slots or none; who finds too few waits, in order, and nobody overtakes.
//
//   Free ──take──► Filling ──bytes are here──► Admitted ──complete──► Done ──sent──► Free
//                   (ours)                   (the target's)            (ours)

import { assert } from "../base/assert.js";
import { CLUSTER_BYTES } from "../base/units.js";
import { requestBytesMax, SLOT_BYTES } from "../nbd/limits.js";
import { RequestKind } from "../nbd/target.js";
import type { Codec } from "../platform/codec.js";
import { SLOT_CLUSTERS, type SlotTable } from "../platform/nbd.js";

const PART_BYTES = 32 * CLUSTER_BYTES;
export const NONE = -1;

export const SlotState = { Free: 0, Filling: 1, Admitted: 2, Done: 3 } as const;
export type SlotState = (typeof SlotState)[keyof typeof SlotState];

/** Whose requests fill slots. */
export interface SlotUser {
  readonly connection: number;
  readonly target: number;
  /** Slots that it waits for. */
  readonly need: number;
  /** They are there now. */
  resume(): void;
  /** All parts of a request are complete. */
  requestDone(first: number): void;
}

/** A request as it was judged. */
export interface NbdRequest {
  readonly type: number;
  readonly flags: number;
  readonly cookie: number;
  readonly offset: number;
  readonly bytes: number;
  /** An errno, 0 for none. */
  error: number;
}

interface Slot {
  user: SlotUser | null;
  state: SlotState;
  request: NbdRequest | null;
  offset: number;
  bytes: number;
  shift: number;
  first: number;
  next: number;
  /** Of the first: parts that are not done, the first error, extents of a block status. */
  pending: number;
  error: number;
  extents: number;
}

/** Slots that a request needs whose payload goes through memory. */
export function partsOf(offset: number, bytes: number): number {
  if (bytes <= PART_BYTES) return 1;
  const first = PART_BYTES - (offset % CLUSTER_BYTES);
  return 1 + Math.ceil((bytes - first) / PART_BYTES);
}

export class NbdSlots {
  readonly requestBytesMax: number;
  /** Requests that found too few slots. */
  waits = 0;
  ready = 0;
  readonly #table: SlotTable;
  readonly #memory: number;
  readonly #codec: Pick<Codec, "crc32cClusters">;
  readonly #slots: Slot[] = [];
  readonly #free: number[] = [];
  readonly #waiters: SlotUser[] = [];
  #pumping = false;

  /** `memory`: arena offset of the slots. */
  constructor(
    table: SlotTable,
    memory: number,
    slots: number,
    codec: Pick<Codec, "crc32cClusters">,
  ) {
    this.#table = table;
    this.#memory = memory;
    this.#codec = codec;
    this.requestBytesMax = requestBytesMax(slots);
    for (let i = slots - 1; i >= 0; i--) this.#free.push(i);
    for (let i = 0; i < slots; i++) this.#slots.push(emptySlot());
  }

  /** Slots that nobody has; those who wait come first. */
  get free(): number {
    return this.#free.length;
  }

  /** Users that wait for slots. */
  get waiting(): number {
    return this.#waiters.length;
  }

  /** A slot as it is now; it is used again after `release`. */
  slot(index: number): Readonly<Slot> {
    return this.#slots[index]!;
  }

  /** Where its payload lies: an arena offset, SLOT_BYTES long. */
  memoryOf(index: number): number {
    return this.#memory + index * SLOT_BYTES;
  }

  // Who may use them.

  /** True when the user may take `need` slots now; else it waits its turn and is resumed. */
  admit(user: SlotUser): boolean {
    if (this.#waiters.length === 0 && user.need <= this.#free.length) return true;
    this.#waiters.push(user);
    this.waits++;
    return false;
  }

  /** It is not resumed any more; one that does not wait may call it. */
  stopWaiting(user: SlotUser): void {
    const at = this.#waiters.indexOf(user);
    if (at >= 0) this.#waiters.splice(at, 1);
  }

  /** Gives freed slots to those who wait. */
  pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    while (this.#waiters.length > 0 && this.#waiters[0]!.need <= this.#free.length) {
      this.#waiters.shift()!.resume();
    }
    this.#pumping = false;
  }

  // Requests.

  /** One slot for a request without payload. */
  takeOne(user: SlotUser, request: NbdRequest): number {
    const index = this.#take(user, request);
    const slot = this.#slots[index]!;
    slot.offset = request.offset;
    slot.pending = 1;
    return index;
  }

  /** The slots of a read or write, cut at cluster borders; answers the first. */
  takeParts(user: SlotUser, request: NbdRequest): number {
    const end = request.offset + request.bytes;
    let first = NONE;
    let last = NONE;
    for (let offset = request.offset; offset < end; ) {
      const index = this.#take(user, request);
      const slot = this.#slots[index]!;
      slot.offset = offset;
      slot.shift = offset % CLUSTER_BYTES;
      // The last part may reach into the 33rd cluster of its slot.
      const isRest = end - offset <= PART_BYTES;
      slot.bytes = isRest ? end - offset : PART_BYTES - slot.shift;
      if (first === NONE) first = index;
      else this.#slots[last]!.next = index;
      slot.first = first;
      this.#slots[first]!.pending++;
      last = index;
      offset += slot.bytes;
      this.publish(index);
    }
    return first;
  }

  #take(user: SlotUser, request: NbdRequest): number {
    const index = this.#free.pop();
    assert(index !== undefined, "admit has said that there are slots");
    const slot = this.#slots[index]!;
    assert(slot.state === SlotState.Free, "a free slot is free");
    Object.assign(slot, emptySlot(), { user, request, first: index, state: SlotState.Filling });
    return index;
  }

  /** Writes the row of a slot into the shared table. */
  publish(index: number): void {
    const slot = this.#slots[index]!;
    const { user, request } = slot;
    const table = this.#table;
    const { type } = request!;
    const isCut = type === RequestKind.Read || type === RequestKind.Write;
    table.kind[index] = type;
    table.flags[index] = request!.flags;
    table.offset[index] = slot.offset;
    table.length[index] = isCut ? slot.bytes : request!.bytes;
    table.memory[index] = this.memoryOf(index) + slot.shift;
    table.cookieLow[index] = request!.cookie;
    table.cookieHigh[index] = Math.floor(request!.cookie / 2 ** 32);
    table.connection[index] = user!.connection;
    table.target[index] = user!.target;
  }

  /** The target gets it with the next callback. */
  makeReady(index: number): void {
    const slot = this.#slots[index]!;
    assert(slot.state === SlotState.Filling, "a slot is made ready once");
    slot.state = SlotState.Admitted;
    this.#table.ready[this.ready++] = index;
  }

  /** Slots that were made ready since the last call; they are in the table. */
  takeReady(): number {
    const count = this.ready;
    this.ready = 0;
    return count;
  }

  /** Checksums of the whole clusters of a write's part; 0 for the others. */
  checksum(index: number): void {
    const { shift, bytes } = this.#slots[index]!;
    const row = index * SLOT_CLUSTERS;
    const { crcs } = this.#table;
    const end = shift + bytes;
    const from = shift === 0 ? 0 : 1;
    const to = Math.floor(end / CLUSTER_BYTES);
    if (shift > 0) crcs[row] = 0;
    if (to > from) {
      const memory = this.memoryOf(index) + from * CLUSTER_BYTES;
      this.#codec.crc32cClusters(memory, to - from, crcs, row + from);
    }
    if (end % CLUSTER_BYTES !== 0) crcs[row + to] = 0;
  }

  /** Where the payload of a request lies: pairs of arena offset and bytes. */
  pieces(first: number): Uint32Array {
    const list: number[] = [];
    for (let part = first; part !== NONE; part = this.#slots[part]!.next) {
      const slot = this.#slots[part]!;
      list.push(this.memoryOf(part) + slot.shift, slot.bytes);
    }
    return Uint32Array.from(list);
  }

  // Results.

  /** The target's answer: an errno, or the number of extents of a block status. */
  complete(index: number, { errno, extents }: { errno: number; extents: number }): void {
    const slot = this.#slots[index]!;
    assert(slot.state === SlotState.Admitted, "the target completes what it has");
    if (slot.user === null) {
      this.release(index);
      return;
    }
    slot.state = SlotState.Done;
    const first = this.#slots[slot.first]!;
    if (extents > 0) first.extents = extents;
    else if (errno !== 0 && first.error === 0) first.error = errno;
    first.pending--;
    if (first.pending === 0) slot.user.requestDone(slot.first);
  }

  /** A request that no target sees is answered. */
  answer(first: number, errno: number): void {
    const slot = this.#slots[first]!;
    assert(slot.state === SlotState.Filling, "it was not given to the target");
    slot.state = SlotState.Done;
    slot.error = errno;
    slot.pending = 0;
    slot.user!.requestDone(first);
  }

  /** Gives one slot back. `pump` lets those who wait have it: after the last of a request. */
  release(index: number): void {
    const slot = this.#slots[index]!;
    assert(slot.state !== SlotState.Free, "a slot is released once");
    slot.state = SlotState.Free;
    slot.user = null;
    slot.request = null;
    this.#free.push(index);
  }

  /** Releases a request's parts; `rest`: all but the first. */
  releaseParts(first: number, { rest }: { rest: boolean }): void {
    let part = rest ? this.#slots[first]!.next : first;
    while (part !== NONE) {
      const { next } = this.#slots[part]!;
      this.release(part);
      part = next;
    }
    if (rest) this.#slots[first]!.next = NONE;
  }

  /** Gives up a request that will not be answered. */
  abandon(first: number): void {
    for (let part = first; part !== NONE; ) {
      const { next } = this.#slots[part]!;
      this.#orphan(part);
      part = next;
    }
  }

  /** Gives up all requests of a user. */
  forget(user: SlotUser): void {
    this.stopWaiting(user);
    for (const [index, slot] of this.#slots.entries()) {
      if (slot.state !== SlotState.Free && slot.user === user) this.#orphan(index);
    }
  }

  /** What the target has stays its until it completes it. */
  #orphan(index: number): void {
    const slot = this.#slots[index]!;
    if (slot.state === SlotState.Admitted) slot.user = null;
    else this.release(index);
  }
}

function emptySlot(): Slot {
  return {
    user: null,
    state: SlotState.Free,
    request: null,
    offset: 0,
    bytes: 0,
    shift: 0,
    first: NONE,
    next: NONE,
    pending: 0,
    error: 0,
    extents: 0,
  };
}
