// SPDX-License-Identifier: Apache-2.0
// The NBD engine: who speaks the protocol to clients. It owns sockets and the memory of slots, and
// shares a table of slots with the server (src/nbd): the addon `nbd` in the real world, clients
// without sockets in the simulated one. Names and order are those of native/nbd/binding.cc.

/** Clusters of memory, and of checksums, per slot. */
export const SLOT_CLUSTERS = 33;

/** `mode` of an agreement: how replies look. */
export const ReplyMode = { Simple: 0, Structured: 1, Extended: 2 } as const;
export type ReplyMode = (typeof ReplyMode)[keyof typeof ReplyMode];

/** Bit of a staged result: the rest is a number of extents, not an errno. */
export const RESULT_EXTENTS = 0x8000_0000;

/** The columns that the engine and the server share; a row per slot but where said otherwise. */
export interface SlotTable {
  readonly kind: Uint8Array;
  readonly flags: Uint16Array;
  readonly offset: Float64Array;
  readonly length: Float64Array;
  readonly memory: Uint32Array;
  /** SLOT_CLUSTERS rows per slot. */
  readonly crcs: Uint32Array;
  readonly cookieLow: Uint32Array;
  readonly cookieHigh: Uint32Array;
  readonly connection: Uint32Array;
  readonly target: Uint32Array;
  /** The slots of an `onReady`. */
  readonly ready: Uint32Array;
  /** Pairs (slot, result) for `flush`. */
  readonly staged: Uint32Array;
}

/** A table of `slots` requests, which the engine and the server share. */
export function makeSlotTable(slots: number): SlotTable {
  return {
    kind: new Uint8Array(slots),
    flags: new Uint16Array(slots),
    offset: new Float64Array(slots),
    length: new Float64Array(slots),
    memory: new Uint32Array(slots),
    crcs: new Uint32Array(slots * SLOT_CLUSTERS),
    cookieLow: new Uint32Array(slots),
    cookieHigh: new Uint32Array(slots),
    connection: new Uint32Array(slots),
    target: new Uint32Array(slots),
    ready: new Uint32Array(slots),
    staged: new Uint32Array(slots * 2),
  };
}

/** The connections of one thread that are in transmission. */
export interface NbdServerEngine {
  /** Adds or changes a target: requests are checked against this from now on. */
  setTarget(id: number, sizeBytes: number, readOnly: boolean, alive: boolean): void;
  /** Forgets a target that has no connections any more. */
  forgetTarget(id: number): void;
  /** Takes `fd`. Answers the connection's number, 0 when there are too many connections. */
  adopt(fd: number, id: number, mode: ReplyMode, allocation: boolean, unread: Uint8Array): number;
  /** Carries out staged[0 … 2 × count) and sends the replies. */
  flush(count: number): void;
  /** The connections of a target read no more and close when all is answered. */
  drain(id: number): void;
  /** Ends the connections of a target. */
  destroy(id: number): void;
  /** Connections of a target. */
  connections(id: number): number;
  /** Requests, errors, bytes in, bytes out, waits, free slots, waiting, connections. */
  counters(into: Float64Array): void;
  /** Ends all connections. Nothing may be called after it. */
  close(): void;
}

/** Sockets that listen, and connections that negotiate. */
export interface NbdListenerEngine {
  /** Replaces the table: name, description, size in bytes, transmission flags of each export. */
  setExports(list: Array<string | number>): void;
  /** Each answers "" (listenTcp: the real port) or what went wrong in words. */
  listenUnix(path: string): string;
  /** As listenUnix, but answers the real port. */
  listenTcp(host: string, port: number): number | string;
  /** A listening or a connected stream socket; takes it. */
  listenFd(fd: number): string;
  /** Ends listening and negotiating. Nothing may be called after it. */
  close(): void;
}

export interface NbdEngine {
  /** Uses slots × 33 clusters of `memory` from `offset` on; columns in the order of SlotTable. */
  readonly Server: new (
    memory: ArrayBuffer,
    offset: number,
    slots: number,
    columns: unknown[],
    limits: { connections: number; stallMs: number },
    onReady: (count: number) => void,
    onClosed: (connection: number, id: number, reason: string) => void,
  ) => NbdServerEngine;
  readonly Listener: new (
    requestBytesMax: number,
    negotiationMs: number,
    onNegotiated: (
      fd: number,
      name: string,
      mode: ReplyMode,
      allocation: boolean,
      unread: Uint8Array,
      peer: string,
    ) => void,
    onRefused: (peer: string, reason: string) => void,
  ) => NbdListenerEngine;
  /** Closes a socket that nobody adopts. */
  closeSocket(fd: number): void;
}
