// SPDX-License-Identifier: Apache-2.0
// Where NBD clients knock: listening sockets and negotiation. What it hands on is a ticket of
// plain values, so that it can be posted to the thread that owns the vDisk:
//
//   client ──► listener (negotiates) ──ticket──► NbdServer.adopt(ticket, target) in any thread
//
// A ticket holds an open socket: whoever gets one adopts it or gives it to `discardTicket`.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { formatTcp, parseAddress } from "../platform/address.js";
import type { Log } from "../platform/log.js";
import type { NbdEngine, NbdListenerEngine, ReplyMode } from "../platform/nbd.js";
import type { Address } from "../platform/network.js";
import { requestBytesMax, SLOTS_DEFAULT } from "./limits.js";

/** Longest name and description of an export in UTF-8 bytes: the protocol's limit for strings. */
export const EXPORT_TEXT_BYTES_MAX = 4096;

export interface NbdExport {
  name: string;
  /** A line for people; may be empty. */
  description: string;
  sizeBytes: number;
  readOnly: boolean;
}

/** A connection that has agreed on an export. Plain values: can be posted to another thread. */
export interface NbdTicket {
  readonly fd: number;
  readonly name: string;
  readonly mode: ReplyMode;
  /** base:allocation was negotiated. */
  readonly allocation: boolean;
  /** Bytes that the client has sent already. */
  readonly unread: Uint8Array;
  readonly peer: string;
}

export interface NbdListenerOptions {
  nbd: NbdEngine;
  log: Log;
  /** Inside a poll of the loop, outside any turn. Gives the ticket. */
  onNegotiated(ticket: NbdTicket): void;
  /** After a client left without an agreement. */
  onRefused?(): void;
  /** Slots of the servers that adopt (the smallest count of them): bounds a request's size. */
  slots?: number;
  /** Time for a client to agree on an export. */
  negotiationMs?: number;
}

// Transmission flags of the protocol; DF is added where structured replies were negotiated.
const HAS_FLAGS = 1;
const READ_ONLY = 2;
const SEND_FLUSH = 4;
const SEND_FUA = 8;
const SEND_TRIM = 32;
const SEND_WRITE_ZEROES = 64;
const CAN_MULTI_CONN = 256;
const SEND_CACHE = 1024;
const SEND_FAST_ZERO = 2048;

const READ_FLAGS = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN | SEND_CACHE;
const WRITE_FLAGS = SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO;

/** The transmission flags of an export. Every target here keeps one order over all connections. */
export function transmissionFlags(readOnly: boolean): number {
  return readOnly ? READ_FLAGS | READ_ONLY : READ_FLAGS | WRITE_FLAGS;
}

/** Closes the socket of a ticket that nobody adopts. */
export function discardTicket(nbd: NbdEngine, ticket: NbdTicket): void {
  nbd.closeSocket(ticket.fd);
}

export class NbdListener {
  readonly #native: NbdListenerEngine;
  readonly #addresses: Address[] = [];
  #closed = false;

  constructor(options: NbdListenerOptions) {
    const { log } = options;
    this.#native = new options.nbd.Listener(
      requestBytesMax(options.slots ?? SLOTS_DEFAULT),
      options.negotiationMs ?? 30_000,
      (fd, name, mode, allocation, unread, peer) => {
        log.info("a client has agreed on an export", { export: name, peer, mode });
        options.onNegotiated({ fd, name, mode, allocation, unread, peer });
      },
      (peer, reason) => {
        if (reason !== "") log.info("a client was turned away", { peer, reason });
        options.onRefused?.();
      },
    );
  }

  /** The addresses that it listens on, with real ports. */
  get addresses(): readonly Address[] {
    return this.#addresses;
  }

  /** Replaces the table of exports; the first one is also the default. For new clients only. */
  setExports(exports: readonly NbdExport[]): void {
    assert(!this.#closed, "the listener is open");
    const list: Array<string | number> = [];
    for (const item of exports) {
      assert(item.name !== "", "an export has a name");
      assert(Buffer.byteLength(item.name) <= EXPORT_TEXT_BYTES_MAX, "a name fits the protocol");
      assert(Buffer.byteLength(item.description) <= EXPORT_TEXT_BYTES_MAX, "and a description");
      assert(Number.isSafeInteger(item.sizeBytes) && item.sizeBytes >= 0, "a size is whole");
      list.push(item.name, item.description, item.sizeBytes, transmissionFlags(item.readOnly));
    }
    this.#native.setExports(list);
  }

  /**
   * Listens on `unix:/path` (mode 0600; a socket file that nobody serves is replaced) or
   * `tcp:host:port`. Answers the real address; OVS_INVALID or OVS_UNAVAILABLE in words.
   */
  listen(address: Address): Address {
    assert(!this.#closed, "the listener is open");
    const parsed = parseAddress(address);
    let real = address;
    if (parsed.kind === "unix") {
      this.#check(this.#native.listenUnix(parsed.path));
    } else {
      const port = this.#native.listenTcp(parsed.host, parsed.port);
      if (typeof port === "string") this.#check(port);
      else real = formatTcp(parsed.host, port);
    }
    this.#addresses.push(real);
    return real;
  }

  /**
   * Serves a stream socket that somebody else has opened: a listening or a connected one. Takes it.
   */
  listenFd(fd: number): void {
    assert(!this.#closed, "the listener is open");
    this.#check(this.#native.listenFd(fd));
  }

  /** Stops listening and ends what still negotiates. Tickets that were given stay valid. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#native.close();
  }

  #check(error: string): void {
    if (error !== "") throw new StorageError("OVS_UNAVAILABLE", `nbd: ${error}`);
  }
}
