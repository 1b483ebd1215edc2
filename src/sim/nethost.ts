// SPDX-License-Identifier: Apache-2.0
// The kernel of a simulated host, as far as the network is concerned: what it has taken from its
// processes and not sent yet, who listens where, and whether it runs at all.
//
//   process ──apply──► kernel (tx) ──drain──► the way ──arrive──► kernel ──wake──► process
//             taken                 departed           arrived             read
//
// A frozen host keeps what is in its kernel; one without power forgets it and tells nobody.

import type { SimSocket } from "./netsocket.js";
import type { SimNet } from "./network.js";

const FIRST_PORT = 32_768;
const PORTS = 28_000;
/** Time from a system call to the wire. */
const DRAIN_MS = 0.004;
const DRAIN_JITTER_MS = 0.012;

const EADDRINUSE = 98;
const EADDRNOTAVAIL = 99;

/** A listening socket, and who knocked and was not accepted yet. */
export class Listening {
  /** "" for TCP. */
  readonly path: string;
  /** "" for all addresses of the host. */
  readonly ip: string;
  /** 0 for a socket file. */
  readonly port: number;
  readonly queue: SimSocket[] = [];
  /** Tells the process that somebody is in the queue. */
  readonly wake: () => void;

  constructor(at: { path: string; ip: string; port: number }, wake: () => void) {
    this.path = at.path;
    this.ip = at.ip;
    this.port = at.port;
    this.wake = wake;
  }
}

/** The network of one host: its sockets, listeners, and what waits to leave it. */
export class NetHost {
  readonly name: string;
  readonly ip: string;
  readonly index: number;
  readonly net: SimNet;
  /** Sockets that processes of this host have open. */
  readonly sockets = new Set<SimSocket>();
  /** Listeners on socket files; null: the file is there and nobody listens. */
  readonly files = new Map<string, Listening | null>();
  readonly ports = new Map<number, Listening>();
  /** Sockets on their way from one thread to another. */
  readonly descriptors = new Map<number, SimSocket>();
  #boots = 0;
  #off = false;
  #frozen = false;
  #tx: SimSocket[] = [];
  #draining = false;
  #held: Array<() => void> = [];
  #nextPort = FIRST_PORT;
  #nextFd = 10;

  constructor(net: SimNet, name: string, ip: string, index: number) {
    this.net = net;
    this.name = name;
    this.ip = ip;
    this.index = index;
  }

  /** How often it was started again. */
  get boots(): number {
    return this.#boots;
  }

  /** No power: whoever sends to it hears nothing. */
  get off(): boolean {
    return this.#off;
  }

  /** Its kernel stands still: nothing is acknowledged, nothing refused. */
  get frozen(): boolean {
    return this.#frozen;
  }

  /** Listens on a socket file; replaces one that nobody listens on. -EADDRINUSE for a live one. */
  listenUnix(path: string, wake: () => void): Listening | number {
    if (this.files.get(path)) return -EADDRINUSE;
    const listening = new Listening({ path, ip: "", port: 0 }, wake);
    this.files.set(path, listening);
    return listening;
  }

  /** `ip`: one of this host's, or 0.0.0.0; port 0: one is chosen. -errno when that cannot be. */
  listenTcp(ip: string, port: number, wake: () => void): Listening | number {
    const isAny = ip === "0.0.0.0";
    if (!isAny && ip !== this.ip && !ip.startsWith("127.")) return -EADDRNOTAVAIL;
    if (port !== 0 && this.ports.has(port)) return -EADDRINUSE;
    const real = port === 0 ? this.nextPort() : port;
    const listening = new Listening({ path: "", ip: isAny ? "" : ip, port: real }, wake);
    this.ports.set(real, listening);
    return listening;
  }

  /** Who waits in the queue is turned away. The file of a process that was killed stays. */
  unlisten(listening: Listening, { killed }: { killed: boolean }): void {
    const { path, port } = listening;
    if (this.ports.get(port) === listening) this.ports.delete(port);
    if (this.files.get(path) === listening) {
      if (killed) this.files.set(path, null);
      else this.files.delete(path);
    }
    for (const socket of listening.queue.splice(0)) socket.close();
  }

  /** A number for a descriptor that no other of this host has. */
  nextFd(): number {
    return this.#nextFd++;
  }

  /** A port that nobody listens on. */
  nextPort(): number {
    for (;;) {
      const port = FIRST_PORT + (this.#nextPort++ % PORTS);
      if (!this.ports.has(port)) return port;
    }
  }

  /** Something of this socket is to be sent. */
  transmit(socket: SimSocket): void {
    if (this.#off || socket.inTx) return;
    socket.inTx = true;
    this.#tx.push(socket);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#draining || this.#frozen || this.#tx.length === 0) return;
    this.#draining = true;
    const { timeline, dice } = this.net;
    timeline.after(DRAIN_MS + dice.share() * DRAIN_JITTER_MS, null, () => this.#drain());
  }

  #drain(): void {
    this.#draining = false;
    // Hooks at a departure may stop the host in the middle.
    while (this.#tx.length > 0 && !this.#frozen && !this.#off) {
      const socket = this.#tx[0]!;
      const isDone = socket.depart();
      if (isDone && this.#tx[0] === socket) {
        this.#tx.shift();
        socket.inTx = false;
      }
    }
  }

  /** Runs `work` of the kernel now, or when the host goes on. */
  whenRunning(work: () => void): void {
    if (this.#off) return;
    if (this.#frozen) this.#held.push(work);
    else work();
  }

  /** The whole host stands still: what is in its kernel stays there. Freeze its lives too. */
  freeze(): void {
    if (this.#frozen || this.#off) return;
    this.#frozen = true;
    this.net.tell("freeze");
  }

  /** The kernel goes on with what came meanwhile. Thaw its lives too. */
  thaw(): void {
    if (!this.#frozen) return;
    this.#frozen = false;
    const held = this.#held;
    this.#held = [];
    for (const work of held) this.net.timeline.after(0, null, () => this.whenRunning(work));
    this.#schedule();
  }

  /**
   * Power is gone: connections vanish and nobody is told. End its lives right after it. What had
   * left the host still arrives.
   */
  powerOff(): void {
    if (this.#off) return;
    this.#off = true;
    this.#frozen = false;
    this.#held = [];
    for (const socket of this.#tx) socket.inTx = false;
    this.#tx = [];
    for (const socket of [...this.sockets]) socket.vanish();
    this.sockets.clear();
    for (const listening of [...this.files.values(), ...this.ports.values()]) {
      for (const socket of listening?.queue.splice(0) ?? []) socket.vanish();
    }
    for (const path of this.files.keys()) this.files.set(path, null);
    this.ports.clear();
    this.descriptors.clear();
    this.net.tell("power");
  }

  /** Nothing listens yet; connections of before are unknown, and answered with a reset. */
  powerOn(): void {
    if (this.#off) this.#boots++;
    this.#off = false;
  }
}
