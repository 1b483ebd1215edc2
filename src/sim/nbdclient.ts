// SPDX-License-Identifier: Apache-2.0
// A simulated NBD client: a process of its own on some host, with one connection to an export.
// Requests may be many at a time and are answered in any order; when the connection ends, those
// under way are of unknown outcome and nobody hears of them.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { describeErrno } from "../native/transport.js";
import { RequestKind } from "../nbd/target.js";
import { parseAddress } from "../platform/address.js";
import { ReplyMode } from "../platform/nbd.js";
import type { Address } from "../platform/network.js";
import type { Life } from "./life.js";
import { HELLO_ALLOCATION, type SimExport } from "./nbdlistener.js";
import { type NbdFields, NbdFrame, nbdFrame, packRange } from "./nbdwire.js";
import type { SimFrame } from "./netframe.js";
import type { NetHost } from "./nethost.js";
import { offer, push } from "./netoffer.js";
import { Ending, type SimSocket, type SocketOwner, SocketState } from "./netsocket.js";

const WAKE_MS = 0.002;
const CONNECT_MS = 5_000;
const NO_BYTES = new Uint8Array(0);

export interface NbdClientOptions {
  host: NetHost;
  /** The client's process: a dead one hears nothing, its sockets close. */
  life: Life;
  address: Address;
  /** "" for the first export. */
  name: string;
  mode?: ReplyMode;
  /** Asks for base:allocation, which a block status needs. */
  allocation?: boolean;
  connectMs?: number;
  /** Once, when the connection has ended, however; in words why. */
  onEnd?: (reason: string) => void;
}

/** What a server said to the first frame. */
interface Answer {
  kind: number;
  size: number;
  flags: number;
  text: string;
}

/** `data`: what a read has read or a block status tells; valid during the call. */
type Done = (errno: number, data: Uint8Array | null) => void;

export class SimNbdClient implements SocketOwner {
  /** Of the export, as it was agreed on. */
  sizeBytes = 0;
  /** Transmission flags. */
  flags = 0;
  open = false;
  readonly #options: NbdClientOptions;
  readonly #socket: SimSocket;
  readonly #waiting = new Map<number, Done>();
  readonly #wakeWork = () => this.#wake();
  readonly #first: SimFrame;
  #signalled = false;
  #over = false;
  #lastCookie = 0;
  #onAnswer: ((answer: Answer) => void) | null;
  #onFailed: ((reason: string) => void) | null;

  get lifeName(): string {
    return this.#options.life.name;
  }

  private constructor(
    options: NbdClientOptions,
    socket: SimSocket,
    first: SimFrame,
    onAnswer: (answer: Answer) => void,
    onFailed: (reason: string) => void,
  ) {
    this.#options = options;
    this.#socket = socket;
    this.#first = first;
    this.#onAnswer = onAnswer;
    this.#onFailed = onFailed;
    socket.owner = this;
    options.host.sockets.add(socket);
    options.life.atEnd(() => socket.close());
    options.life.after(options.connectMs ?? CONNECT_MS, () => {
      if (this.#onFailed !== null) this.#end("no answer");
    });
    this.ready();
  }

  /** Connects and agrees on an export. OVS_UNAVAILABLE in words. */
  static async connect(options: NbdClientOptions): Promise<SimNbdClient> {
    const { name, mode = ReplyMode.Extended, allocation = false } = options;
    const status = allocation ? HELLO_ALLOCATION : 0;
    const hello = nbdFrame(NbdFrame.Hello, { operation: mode, status, meta: Buffer.from(name) });
    const { client, answer } = await SimNbdClient.#talk(options, hello);
    if (answer.kind !== NbdFrame.Agreed) {
      client.close();
      throw new StorageError("OVS_UNAVAILABLE", `${options.address}: ${answer.text}`);
    }
    client.sizeBytes = answer.size;
    client.flags = answer.flags;
    return client;
  }

  /** The exports of a server. */
  static async list(options: NbdClientOptions): Promise<SimExport[]> {
    const { client, answer } = await SimNbdClient.#talk(options, nbdFrame(NbdFrame.List, {}));
    client.close();
    return JSON.parse(answer.text) as SimExport[];
  }

  static async #talk(
    options: NbdClientOptions,
    first: SimFrame,
  ): Promise<{ client: SimNbdClient; answer: Answer }> {
    const { host, address } = options;
    const at = parseAddress(address);
    const socket =
      at.kind === "unix"
        ? host.net.connectUnix(host, at.path)
        : host.net.connectTcp(host, await host.net.resolve(at.host), at.port);
    const failed = (why: string) =>
      new StorageError("OVS_UNAVAILABLE", `cannot connect to ${address}: ${why}`);
    if (typeof socket === "number") throw failed(describeErrno(-socket));
    if (options.life.state === "dead") throw failed("the client is gone");
    return await new Promise((resolve, reject) => {
      const onAnswer = (answer: Answer) => resolve({ client, answer });
      const onFailed = (reason: string) => reject(failed(reason));
      const client = new SimNbdClient(options, socket, first, onAnswer, onFailed);
    });
  }

  /** Requests under way. */
  get inFlight(): number {
    return this.#waiting.size;
  }

  /**
   * Sends a request; `data` is what a write writes (copied). `done` gets 0 or an errno; it is not
   * called when the connection ends before. Offset and length in bytes.
   */
  request(
    kind: number,
    flags: number,
    offset: number,
    length: number,
    data: Uint8Array | null,
    done: Done,
  ): void {
    assert((kind === RequestKind.Write) === (data !== null), "a write brings its data");
    assert(data === null || data.byteLength === length, "as much as it says");
    if (!this.open) return;
    const cookie = ++this.#lastCookie;
    this.#waiting.set(cookie, done);
    const body = data === null ? NO_BYTES : new Uint8Array(data);
    const meta = packRange(offset, length);
    this.#send({ operation: kind, status: flags, requestId: cookie, meta, body });
  }

  /** Says goodbye; what is under way is not answered. */
  close(): void {
    if (this.open) {
      this.#send({ operation: RequestKind.Disconnect, meta: packRange(0, 0) });
    }
    this.#end("closed by this side");
  }

  #send(fields: NbdFields): void {
    push(this.#socket, nbdFrame(NbdFrame.Request, fields));
    this.#offer();
  }

  #offer(): void {
    const socket = this.#socket;
    if (socket.error === 0) offer(socket, NO_BYTES, [], () => -1);
  }

  /** Once; who waits for an answer hears that there is none. */
  #end(reason: string): void {
    if (this.#over) return;
    this.#over = true;
    this.open = false;
    this.#waiting.clear();
    this.#socket.frames.drop([]);
    this.#socket.pushed = this.#socket.taken;
    this.#socket.close();
    const onFailed = this.#onFailed;
    const { life, onEnd } = this.#options;
    this.#onFailed = null;
    this.#onAnswer = null;
    if (onFailed !== null) onFailed(reason);
    else if (onEnd !== undefined) life.after(0, () => onEnd(reason));
  }

  ready(): void {
    if (this.#signalled || this.#over) return;
    this.#signalled = true;
    this.#options.life.after(WAKE_MS, this.#wakeWork);
  }

  #wake(): void {
    this.#signalled = false;
    const socket = this.#socket;
    if (this.#over) return;
    if (socket.state === SocketState.Connecting && !this.#connected()) return;
    if (socket.waitsForRoom) this.#offer();
    this.#read();
    if (this.#over) return;
    const sender = socket.peer;
    if (sender.read < sender.arrived) return;
    const isGone = sender.arrivedEnding !== Ending.None;
    if (socket.error !== 0) this.#end(describeErrno(socket.error));
    else if (isGone) this.#end("closed by the server");
  }

  #connected(): boolean {
    const socket = this.#socket;
    if (socket.error !== 0) {
      this.#end(describeErrno(socket.error));
      return false;
    }
    if (socket.peer === socket) return false;
    socket.state = SocketState.Open;
    push(socket, this.#first);
    this.#offer();
    return true;
  }

  #read(): void {
    const socket = this.#socket;
    const sender = socket.peer;
    const before = sender.read;
    while (!this.#over && this.#options.life.state === "alive") {
      const frame = sender.frames.toRead;
      if (frame === undefined || sender.arrived <= frame.start) break;
      sender.read = Math.min(sender.arrived, frame.end);
      if (sender.read < frame.end) break;
      const { net } = socket.host;
      if (!net.pass(frame, sender, "deliver", "before")) {
        // What else had come is gone with the host's memory, or waits until it goes on.
        if (socket.host.off) this.#end("its host has lost its power");
        else socket.host.whenRunning(() => this.ready());
        break;
      }
      sender.frames.wasRead();
      this.#onFrame(frame);
      net.pass(frame, sender, "deliver", "after");
      net.bodies.give(frame.body);
      frame.body = NO_BYTES;
    }
    if (sender.read > before) sender.onRead();
  }

  #onFrame(frame: SimFrame): void {
    if (this.#onAnswer !== null) {
      const onAnswer = this.#onAnswer;
      this.#onAnswer = null;
      this.#onFailed = null;
      this.open = true;
      onAnswer({
        kind: frame.kind,
        size: frame.requestId,
        flags: frame.status,
        text: Buffer.from(frame.body.subarray(0, frame.payloadBytes)).toString(),
      });
      return;
    }
    const done = this.#waiting.get(frame.requestId);
    assert(done !== undefined, "a reply belongs to a request");
    this.#waiting.delete(frame.requestId);
    const { payloadBytes } = frame;
    done(frame.status, payloadBytes === 0 ? null : frame.body.subarray(0, payloadBytes));
  }
}
