// SPDX-License-Identifier: Apache-2.0
// Framed connections between daemons. A frame is a fixed header, a small `meta` (control fields,
// ≤ 64 KiB) and a payload (≤ 66 MiB) that lies in the arena on both sides and is never copied in
// JavaScript. What is staged in a turn leaves in one system call per connection at its end.
//
// Receiving: a payload of a frame with a request id for which `expect` was called lands directly
// in the segments named there. Any other payload lands in a run of the network's receive pool,
// which belongs to the handler until it calls `release`; while the pool has no room the socket is
// not read. A bad frame (magic, version, checksum, length) ends the connection with a reason.

import { FRAME_META_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX } from "../wire/generated/frame.js";

export const META_BYTES_MAX = FRAME_META_BYTES_MAX;
/** An object of the largest size goes to a proxy in one frame, with all that belongs to it. */
export const PAYLOAD_BYTES_MAX = FRAME_PAYLOAD_BYTES_MAX;

/** Addresses: `unix:/absolute/path` or `tcp:host:port`. */
export type Address = string;

/** Header fields of a frame. Mutable: the network hands out one object again and again. */
export interface Frame {
  /** 0 request, 1 response, 2 one-way. */
  kind: number;
  /** Operation code, meaning is the service's. */
  operation: number;
  /** 0 in requests; in responses 0 for success or a code of rpc/status.ts. */
  status: number;
  /** 0 normal, 1 background. */
  priority: number;
  /** Pairs requests and responses; unique per connection and direction; below 2^53. */
  requestId: number;
  /** Milliseconds that the sender still waits, 0 for no limit. */
  timeoutMs: number;
}

export interface ReceivedFrame extends Frame {
  /** View of the meta bytes, valid during the callback only: copy what is kept. */
  meta: Uint8Array;
  /**
   * Arena offset of a payload in the receive pool; 0 when there is none or it went to `expect`ed
   * segments.
   */
  payload: number;
  payloadBytes: number;
}

/** Pieces of arena memory: list[2i] = offset, list[2i+1] = bytes. */
export interface Segments {
  readonly list: Uint32Array;
  readonly count: number;
}

export interface ConnectionHandler {
  /**
   * Inside a turn. `frame` is valid during the call only. A thrown StorageError ends the
   * connection with its message; anything else is our own mistake and is not caught.
   */
  onFrame(connection: Connection, frame: ReceivedFrame): void;
  /**
   * Once, also after `close`, never inside a call of a method of the connection; nothing of this
   * connection happens after it, lent memory is free.
   */
  onClose(connection: Connection, reason: string): void;
}

export interface Connection {
  readonly id: number;
  /** Address of the other side as far as it is known. */
  readonly peer: Address;
  readonly open: boolean;
  /** Bytes staged or queued and not yet taken by the kernel. */
  readonly queuedBytes: number;
  /**
   * Stages a frame; asks for a turn where there is none. Copies `meta` and the list; borrows the
   * payload's memory until `onSent` runs: once, when the kernel has taken the whole frame (before
   * the onFrame of any answer to it) or the connection has ended (before onClose), never inside
   * this call. On a closed connection the frame is dropped (onSent still runs, soon).
   */
  send(
    frame: Frame,
    meta: Uint8Array | null,
    payload: Segments | null,
    onSent: (() => void) | null,
  ): void;
  /**
   * The payload of the response to `requestId` goes to these segments, in order; copies the list.
   * Holds for the first response with that id, with or without a payload; a payload longer than
   * the segments ends the connection.
   */
  expect(requestId: number, into: Segments): void;
  /**
   * Takes that back. When the payload is arriving right now, the connection is closed: memory must
   * not be written any more.
   */
  forget(requestId: number): void;
  /** As `forget`, but where that would close the connection it changes nothing: false. */
  tryForget(requestId: number): boolean;
  /**
   * Back-pressure: with `false` the socket is not read any more (a few frames that were read
   * already may still come), with `true` it is again.
   */
  reading(on: boolean): void;
  /** Staged and queued frames are dropped, the socket is closed; onClose follows soon. */
  close(reason: string): void;
}

export interface Listener {
  /** The address with the real port. */
  readonly address: Address;
  /** Accepts no more; connections that were accepted stay. Idempotent. */
  close(): Promise<void>;
}

export interface Network {
  /**
   * Accepts connections; `accept` gives the handler of a new one. A stale unix socket file is
   * replaced.
   */
  listen(
    address: Address,
    accept: (connection: Connection) => ConnectionHandler,
  ): Promise<Listener>;
  /**
   * Rejects with OVS_UNAVAILABLE in words. The connection's first onFrame or onClose comes in a
   * later turn.
   */
  connect(address: Address, handler: ConnectionHandler, timeoutMs: number): Promise<Connection>;
  /** Gives a received payload's memory back. */
  release(payload: number): void;
  /** Closes all connections and listeners. */
  stop(): Promise<void>;
}
