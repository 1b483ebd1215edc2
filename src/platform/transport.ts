// SPDX-License-Identifier: Apache-2.0
// Sockets as the network drives them: what has come lies in shared arrays, what was decided is
// staged and leaves with `apply`, once a turn. The addon `transport` in the real world.

import type { Frame, Segments } from "./network.js";

/** Word 0 of an event; the others as native/transport/core/hub.h has them. */
export const EventKind = { Frame: 1, Sent: 2, Closed: 3, Connected: 4, Accepted: 5 } as const;

export const EAGAIN = 11;
export const EADDRINUSE = 98;

/**
 * The sockets of one thread. Open until `stop`. Events, `eventWords` words each:
 *
 *   Frame      connection, kind | priority << 8, operation | status << 16, request id (low, high),
 *              timeoutMs, place and bytes of its meta in `metas`, payload (arena), payload bytes
 *   Sent       token
 *   Closed     connection, fault, errno
 *   Connected  connection
 *   Accepted   connection, listener
 */
export interface Transport {
  readonly events: Uint32Array;
  readonly eventWords: number;
  readonly metas: Uint8Array;
  /** Tokens of frames that were taken whole: the answer of `apply`. */
  readonly done: Uint32Array;
  readonly doneMax: number;
  /** Grows with every `apply`: what was staged before is then counted in `queuedBytes`. */
  readonly applied: number;
  /** True when something was staged that `apply` has not handed over. */
  readonly hasStaged: boolean;

  /** Id of a listener, or -errno. */
  listenUnix(path: string): number;
  /** Id of a listener, or -errno; port 0 takes any free one. */
  listenTcp(ip: string, port: number): number;
  /** The real port of a listener on TCP. */
  listenerPort(listener: number): number;
  /** Accepts no more, and removes the socket's file if it is still ours. Idempotent. */
  closeListener(listener: number): void;
  /** Id of a connection that is being made, or -errno. It does not read until it is told to. */
  connectUnix(path: string): number;
  /** As `connectUnix`. `ip`: an address, not a name. */
  connectTcp(ip: string, port: number): number;
  /** Address of the other side of a TCP connection; "" for others. */
  peer(connection: number): string;

  /** Bytes of a connection that were not taken yet, without those staged since `apply`. */
  queuedBytes(connection: number): number;
  /** False: `apply` before staging an entry of that size. */
  hasRoomFor(segments: number, metaBytes: number): boolean;
  /** Stages a frame; copies meta and list. Returns its bytes on the wire, without the header. */
  stageSend(
    connection: number,
    frame: Frame,
    meta: Uint8Array | null,
    payload: Segments | null,
    token: number,
  ): number;
  /**
   * Stages where the payload of the answer to `requestId` goes. Copies the list; borrows the memory
   * until the answer, `forget` or the connection's end.
   */
  stageExpect(connection: number, requestId: number, into: Segments): void;
  /** Stages the return of a payload (arena offset) that came without being expected to the pool. */
  stageRelease(payload: number): void;
  /** Stages that the socket is read, or is not any more: then its sender is held back. */
  stageReading(connection: number, on: boolean): void;
  /** Hands over what is staged; with `flush` sends it. Returns the number of tokens in `done`. */
  apply(flush: boolean): number;

  /** True when the payload of the response is arriving now; else it is not expected any more. */
  forget(connection: number, requestId: number): boolean;
  /** Closes at once: lent memory is free on return. Sent and Closed events follow. */
  close(connection: number): void;
  /** Ends everything without further events; nothing may be called after it. */
  stop(): void;
}
