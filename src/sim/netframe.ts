// SPDX-License-Identifier: Apache-2.0
// A frame on its way between two simulated processes. Its fields are those of the real header; what
// a checksum would find out is a flag. Its payload is copied twice, as by a kernel: out of the
// sender's arena when the kernel takes it, into the receiver's when that reads it, so that nobody
// looks at the memory of a process that is gone.

import type { Frame, Segments } from "../platform/network.js";

export const HEADER_BYTES = 64;
const NO_BYTES = new Uint8Array(0);
const NO_PIECES = new Uint32Array(0);

const METAS_BYTES = 64 * 1024;

/** Copies of metas. Many lie in one block: memory of its own for each costs a collector more. */
export class Metas {
  #block = new ArrayBuffer(METAS_BYTES);
  #used = 0;

  /** Borrows; the copy is never written over. */
  copyOf(meta: Uint8Array): Uint8Array {
    const bytes = meta.byteLength;
    if (bytes > METAS_BYTES / 8) return new Uint8Array(meta);
    if (this.#used + bytes > METAS_BYTES) {
      this.#block = new ArrayBuffer(METAS_BYTES);
      this.#used = 0;
    }
    const copy = new Uint8Array(this.#block, this.#used, bytes);
    copy.set(meta);
    this.#used += bytes;
    return copy;
  }
}

/** One frame, shared by its sender and its receiver. */
export class SimFrame {
  readonly kind: number;
  readonly priority: number;
  readonly operation: number;
  readonly status: number;
  readonly requestId: number;
  readonly timeoutMs: number;
  readonly meta: Uint8Array;
  /** Without pieces the sender puts that many bytes into `body` itself. */
  payloadBytes: number;
  readonly token: number;
  /** The sender's pieces, until the kernel has taken all. */
  pieces: Uint32Array;
  /** Where it begins and ends in the stream of its connection. */
  start = 0;
  end = 0;
  /** The payload as far as the kernel has taken it. */
  body: Uint8Array = NO_BYTES;
  /** Checksum when it was handed over, where the kernel could not take it at once; else -1. */
  crc = -1;
  /** The payload was changed while it was lent. */
  damaged = false;
  /** Receiver: it knows where the payload goes. */
  placed = false;
  /** Receiver: arena offset in the pool; 0 when there is no payload or it was expected. */
  pool = 0;
  /** Receiver: where the payload goes. */
  into: Uint32Array = NO_PIECES;
  /** Receiver: bytes of the payload that lie there. */
  copied = 0;

  /** Takes `meta`; copies the list of `payload`. */
  constructor(frame: Frame, meta: Uint8Array | null, payload: Segments | null, token: number) {
    this.kind = frame.kind;
    this.priority = frame.priority;
    this.operation = frame.operation;
    this.status = frame.status;
    this.requestId = frame.requestId;
    this.timeoutMs = frame.timeoutMs;
    this.meta = meta ?? NO_BYTES;
    this.pieces = payload === null ? NO_PIECES : payload.list.slice(0, 2 * payload.count);
    this.token = token;
    let bytes = 0;
    for (let i = 1; i < this.pieces.length; i += 2) bytes += this.pieces[i]!;
    this.payloadBytes = bytes;
  }

  /** Header and meta. */
  get headBytes(): number {
    return HEADER_BYTES + this.meta.byteLength;
  }

  /** All of it on the wire. */
  get bytes(): number {
    return this.headBytes + this.payloadBytes;
  }
}

/** Copies bytes [from, to) of what lies in `pieces` of the arena to the same place of `body`. */
export function gather(
  arena: Uint8Array,
  pieces: Uint32Array,
  range: { from: number; to: number },
  body: Uint8Array,
): void {
  let begin = 0;
  for (let i = 0; i < pieces.length && begin < range.to; i += 2) {
    const end = begin + pieces[i + 1]!;
    const from = Math.max(begin, range.from);
    const to = Math.min(end, range.to);
    if (from < to) {
      const at = pieces[i]! + from - begin;
      body.set(arena.subarray(at, at + to - from), from);
    }
    begin = end;
  }
}

/** The other way: bytes [from, to) of `body` to where they belong in `pieces` of the arena. */
export function scatter(
  body: Uint8Array,
  pieces: Uint32Array,
  range: { from: number; to: number },
  arena: Uint8Array,
): void {
  let begin = 0;
  for (let i = 0; i < pieces.length && begin < range.to; i += 2) {
    const end = begin + pieces[i + 1]!;
    const from = Math.max(begin, range.from);
    const to = Math.min(end, range.to);
    if (from < to) arena.set(body.subarray(from, to), pieces[i]! + from - begin);
    begin = end;
  }
}

const SMALLEST_BITS = 8;
const KEPT_BYTES_MAX = 16 * 1024 * 1024;

/** Memory of payloads under way, used again and again. */
export class Bodies {
  readonly #free: Uint8Array[][] = [];
  #keptBytes = 0;

  /** At least `bytes` long; not zeroed. */
  take(bytes: number): Uint8Array {
    if (bytes === 0) return NO_BYTES;
    const bits = Math.max(SMALLEST_BITS, 32 - Math.clz32(bytes - 1));
    const kept = this.#free[bits]?.pop();
    if (kept === undefined) return new Uint8Array(2 ** bits);
    this.#keptBytes -= kept.byteLength;
    return kept;
  }

  /**
   * Takes back what `take` has given, or any other memory; what is too much is left to the
   * collector.
   */
  give(body: Uint8Array): void {
    const bytes = body.byteLength;
    if (bytes < 2 ** SMALLEST_BITS || this.#keptBytes + bytes > KEPT_BYTES_MAX) return;
    this.#keptBytes += bytes;
    const bits = 31 - Math.clz32(bytes);
    this.#free[bits] ??= [];
    this.#free[bits].push(body);
  }
}
