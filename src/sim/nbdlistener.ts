// SPDX-License-Identifier: Apache-2.0
// Where simulated NBD clients knock: who is let in agrees on an export, and becomes a number that
// any thread of the process may adopt. The rules are those of native/nbd/listener.cc.

import type { NbdListenerEngine } from "../platform/nbd.js";
import { ReplyMode } from "../platform/nbd.js";
import type { Life } from "./life.js";
import { NbdFrame, nbdFrame } from "./nbdwire.js";
import { Listening, type NetHost } from "./nethost.js";
import { offer, push } from "./netoffer.js";
import { Ending, type SimSocket, type SocketOwner, SocketState } from "./netsocket.js";

const WAKE_MS = 0.002;
const TALKS_MAX = 64;
const EADDRINUSE = 98;
/** Bit of a Hello: base:allocation is asked for. */
export const HELLO_ALLOCATION = 1;
const NO_BYTES = new Uint8Array(0);

/** An export as clients see it. */
export interface SimExport {
  name: string;
  description: string;
  sizeBytes: number;
  flags: number;
}

export interface SimListenerOptions {
  host: NetHost;
  life: Life;
  negotiationMs: number;
  /** Keeps a socket until somebody adopts it. */
  keep: (socket: SimSocket) => number;
  /** A client has chosen an export: `fd` (of `keep`) is the caller's from now on. */
  onNegotiated: (
    fd: number,
    name: string,
    mode: ReplyMode,
    allocation: boolean,
    unread: Uint8Array,
    peer: string,
  ) => void;
  /** A connection has ended before it chose an export; the reason is for the log. */
  onRefused: (peer: string, reason: string) => void;
}

export class SimNbdListener implements NbdListenerEngine, SocketOwner {
  readonly #options: SimListenerOptions;
  readonly #listening: Listening[] = [];
  /** Who negotiates, the oldest first. */
  readonly #talks = new Set<SimSocket>();
  readonly #onKnock = () => this.#signal();
  readonly #wakeWork = () => this.#wake();
  #exports: SimExport[] = [];
  #signalled = false;
  #closed = false;

  constructor(options: SimListenerOptions) {
    this.#options = options;
    options.life.atEnd(() => this.#close({ killed: true }));
  }

  get lifeName(): string {
    return this.#options.life.name;
  }

  setExports(list: Array<string | number>): void {
    this.#exports = [];
    for (let i = 0; i < list.length; i += 4) {
      const [name, description] = [String(list[i]), String(list[i + 1])];
      const [sizeBytes, flags] = [Number(list[i + 2]), Number(list[i + 3])];
      this.#exports.push({ name, description, sizeBytes, flags });
    }
  }

  listenUnix(path: string): string {
    const listening = this.#options.host.listenUnix(path, this.#onKnock);
    if (typeof listening === "number") return `${path} is in use by another process`;
    this.#listening.push(listening);
    return "";
  }

  listenTcp(host: string, port: number): number | string {
    const named = this.#options.host.net.hosts.find((one) => one.name === host);
    const ip = host === "localhost" ? "127.0.0.1" : (named?.ip ?? host);
    const listening = this.#options.host.listenTcp(ip, port, this.#onKnock);
    if (!(listening instanceof Listening)) {
      const why = listening === -EADDRINUSE ? "address in use" : "address not available";
      return `cannot listen on ${host} port ${port}: ${why}`;
    }
    this.#listening.push(listening);
    return listening.port;
  }

  listenFd(): string {
    return "the descriptor is not a stream socket";
  }

  close(): void {
    this.#close({ killed: false });
  }

  #close(how: { killed: boolean }): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const listening of this.#listening) this.#options.host.unlisten(listening, how);
    for (const socket of this.#talks) socket.close();
    this.#talks.clear();
  }

  ready(): void {
    this.#signal();
  }

  #signal(): void {
    if (this.#signalled || this.#closed) return;
    this.#signalled = true;
    this.#options.life.after(WAKE_MS, this.#wakeWork);
  }

  #wake(): void {
    this.#signalled = false;
    if (this.#closed) return;
    for (const { queue } of this.#listening) {
      while (queue.length > 0 && !this.#closed) this.#begin(queue.shift()!);
    }
    for (const socket of [...this.#talks]) if (!this.#closed) this.#step(socket);
  }

  #begin(socket: SimSocket): void {
    const { host, life, negotiationMs } = this.#options;
    if (this.#talks.size >= TALKS_MAX) {
      const oldest = this.#talks.values().next().value!;
      this.#refuse(oldest, "too many connections negotiate, and this was the oldest");
    }
    socket.state = SocketState.Open;
    socket.owner = this;
    host.sockets.add(socket);
    this.#talks.add(socket);
    life.after(negotiationMs, () => {
      if (this.#talks.has(socket)) this.#refuse(socket, "it did not finish negotiating in time");
    });
  }

  #step(socket: SimSocket): void {
    const sender = socket.peer;
    for (let frame = sender.frames.toRead; frame !== undefined; frame = sender.frames.toRead) {
      if (sender.arrived < frame.end || !this.#talks.has(socket)) break;
      sender.read = frame.end;
      sender.frames.wasRead();
      if (frame.kind === NbdFrame.List) this.#list(socket);
      else this.#agree(socket, Buffer.from(frame.meta).toString(), frame.operation, frame.status);
    }
    if (!this.#talks.has(socket)) return;
    if (socket.error !== 0) this.#refuse(socket, "connection reset by peer");
    else if (sender.arrivedEnding !== Ending.None) this.#refuse(socket, "closed by the client");
  }

  #list(socket: SimSocket): void {
    this.#say(socket, NbdFrame.Exports, Buffer.from(JSON.stringify(this.#exports)));
  }

  #say(socket: SimSocket, kind: NbdFrame, body: Uint8Array, fields = { size: 0, flags: 0 }): void {
    const { size: requestId, flags: status } = fields;
    push(socket, nbdFrame(kind, { body, requestId, status }));
    offer(socket, NO_BYTES, [], () => -1);
  }

  #agree(socket: SimSocket, name: string, mode: number, flags: number): void {
    const found = name === "" ? this.#exports[0] : this.#exports.find((one) => one.name === name);
    if (found === undefined) {
      this.#say(socket, NbdFrame.Refused, Buffer.from("there is no export of that name"));
      return;
    }
    const fields = { size: found.sizeBytes, flags: found.flags };
    this.#say(socket, NbdFrame.Agreed, NO_BYTES, fields);
    this.#talks.delete(socket);
    const { keep, onNegotiated } = this.#options;
    const allocation = mode !== ReplyMode.Simple && (flags & HELLO_ALLOCATION) !== 0;
    const fd = keep(socket);
    onNegotiated(fd, found.name, mode as ReplyMode, allocation, NO_BYTES, peerOf(socket));
  }

  #refuse(socket: SimSocket, reason: string): void {
    if (!this.#talks.delete(socket)) return;
    socket.close();
    this.#options.onRefused(peerOf(socket), reason);
  }
}

function peerOf(socket: SimSocket): string {
  return socket.isUnix ? "unix:pid 1" : socket.peerAddress;
}
