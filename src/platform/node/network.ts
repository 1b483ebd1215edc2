// SPDX-License-Identifier: Apache-2.0
// The real network over node:net. Frames are laid out and checked in JavaScript; payloads are
// copied once between the socket's buffers and the arena.

import { rmSync } from "node:fs";
import net from "node:net";
import { assert } from "../../base/assert.js";
import { messageOf, StorageError } from "../../base/errors.js";
import { formatTcp, parseAddress } from "../address.js";
import { type Arena, ArenaPool } from "../arena.js";
import type { Log } from "../log.js";
import {
  type Address,
  type Connection,
  type ConnectionHandler,
  type Frame,
  type Listener,
  META_BYTES_MAX,
  type Network,
  PAYLOAD_BYTES_MAX,
  type ReceivedFrame,
  type Segments,
} from "../network.js";
import { copySegments, segmentsBytes } from "../segments.js";
import { FlushStage, type Turn } from "../turn.js";

export interface NetworkOptions {
  arena: Arena;
  turn: Turn;
  log: Log;
  /** Bytes of the arena for payloads that nobody expects; a longer one ends its connection. */
  receivePoolBytes: number;
}

const HEADER_BYTES = 64;
const MAGIC = 0x5446564f; // "OVFT"
const VERSION = 1;
const CRC = makeTable();

/** Opens the network of a thread. */
export function openNetwork(options: NetworkOptions): Network {
  return new NodeNetwork(options);
}

function makeTable(): Uint32Array {
  return Uint32Array.from({ length: 256 }, (_, value) => {
    let crc = value;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    return crc;
  });
}

function crc32c(bytes: Uint8Array, seed: number): number {
  let crc = ~seed;
  for (let i = 0; i < bytes.length; i++) crc = CRC[(crc ^ bytes[i]!) & 0xff]! ^ (crc >>> 8);
  return ~crc >>> 0;
}

class NodeNetwork implements Network {
  readonly arena: Arena;
  readonly turn: Turn;
  readonly log: Log;
  readonly pool: ArenaPool;
  readonly connections = new Set<NodeConnection>();
  readonly staged: NodeConnection[] = [];
  readonly #listeners = new Set<NodeListener>();
  #ids = 0;

  constructor(options: NetworkOptions) {
    this.arena = options.arena;
    this.turn = options.turn;
    this.log = options.log;
    const offset = options.arena.region(options.receivePoolBytes, "network receive pool");
    this.pool = new ArenaPool(offset, options.receivePoolBytes);
    this.turn.atEnd(FlushStage.Network, () => this.#flush());
  }

  nextId(): number {
    return ++this.#ids;
  }

  async listen(
    address: Address,
    accept: (connection: Connection) => ConnectionHandler,
  ): Promise<Listener> {
    const listener = new NodeListener(this, address, accept);
    await listener.open();
    this.#listeners.add(listener);
    return listener;
  }

  async connect(
    address: Address,
    handler: ConnectionHandler,
    timeoutMs: number,
  ): Promise<Connection> {
    const parsed = parseAddress(address);
    const socket =
      parsed.kind === "unix" ? net.connect(parsed.path) : net.connect(parsed.port, parsed.host);
    await new Promise<void>((resolve, reject) => {
      const fail = (reason: string) => {
        clearTimeout(timer);
        socket.destroy();
        reject(new StorageError("OVS_UNAVAILABLE", `cannot connect to ${address}: ${reason}`));
      };
      const timer = setTimeout(() => fail(`no answer in ${timeoutMs} ms`), timeoutMs);
      socket.once("error", (error) => fail(error.message));
      socket.once("connect", () => {
        clearTimeout(timer);
        socket.removeAllListeners("error");
        resolve();
      });
    });
    const connection = new NodeConnection(this, socket, address);
    connection.attach(handler);
    return connection;
  }

  release(payload: number): void {
    this.pool.give(payload);
    for (const connection of this.connections) connection.roomAgain();
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#listeners].map((listener) => listener.close()));
    const closed = [...this.connections].map((connection) => connection.closed);
    for (const connection of this.connections) connection.close("the network stops");
    await Promise.all(closed);
  }

  forgetListener(listener: NodeListener): void {
    this.#listeners.delete(listener);
  }

  #flush(): void {
    for (const connection of this.staged) connection.flush();
    this.staged.length = 0;
  }
}

class NodeListener implements Listener {
  address: Address;
  readonly #network: NodeNetwork;
  readonly #server: net.Server;

  constructor(
    network: NodeNetwork,
    address: Address,
    accept: (connection: Connection) => ConnectionHandler,
  ) {
    this.#network = network;
    this.address = address;
    this.#server = net.createServer({ pauseOnConnect: true }, (socket) => {
      const peer = socket.remoteAddress
        ? formatTcp(socket.remoteAddress, socket.remotePort!)
        : address;
      const connection = new NodeConnection(network, socket, peer);
      network.turn.begin();
      connection.attach(accept(connection));
      network.turn.end();
    });
  }

  async open(): Promise<void> {
    const parsed = parseAddress(this.address);
    if (parsed.kind === "unix") await removeStale(parsed.path);
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", (error) => {
        reject(
          new StorageError("OVS_UNAVAILABLE", `cannot listen on ${this.address}: ${error.message}`),
        );
      });
      if (parsed.kind === "unix") this.#server.listen(parsed.path, resolve);
      else this.#server.listen(parsed.port, parsed.host, resolve);
    });
    const bound = this.#server.address();
    if (parsed.kind === "tcp" && bound !== null && typeof bound === "object") {
      this.address = formatTcp(parsed.host, bound.port);
    }
  }

  async close(): Promise<void> {
    this.#network.forgetListener(this);
    // Connections live on: only the listening ends now, the callback would wait for them.
    this.#server.close();
  }
}

/** Removes the socket file of a dead process; OVS_BUSY when somebody listens there. */
async function removeStale(path: string): Promise<void> {
  const lives = await new Promise<boolean>((resolve) => {
    const probe = net.connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
  if (lives) throw new StorageError("OVS_BUSY", `another process listens on unix:${path}`);
  rmSync(path, { force: true });
}

class NodeConnection implements Connection {
  readonly id: number;
  readonly peer: Address;
  open = true;
  readonly closed: Promise<void>;
  readonly #network: NodeNetwork;
  readonly #socket: net.Socket;
  readonly #expected = new Map<number, Segments>();
  readonly #frame: ReceivedFrame;
  readonly #unsent = new Set<() => void>();
  #handler: ConnectionHandler | null = null;
  #reason = "closed by the other side";
  #queuedBytes = 0;
  #corked = false;
  #wanted = true;
  #buffered: Buffer[] = [];
  #bufferedBytes = 0;
  /** The payload that is arriving: where it goes, and how far it is. */
  #into: Segments | null = null;
  #pool = 0;
  #payloadBytes = 0;
  #done = 0;
  #crc = 0;
  #payloadCrc = 0;
  #haveHeader = false;
  #metaBytes = 0;
  #metaCrc = 0;
  #noRoom = false;

  constructor(network: NodeNetwork, socket: net.Socket, peer: Address) {
    this.id = network.nextId();
    this.peer = peer;
    this.#network = network;
    this.#socket = socket;
    const meta = new Uint8Array(0);
    this.#frame = {
      kind: 0,
      operation: 0,
      status: 0,
      priority: 0,
      requestId: 0,
      timeoutMs: 0,
      meta,
      payload: 0,
      payloadBytes: 0,
    };
    socket.setNoDelay(true);
    network.connections.add(this);
    this.closed = new Promise((resolve) => socket.once("close", () => resolve(this.#onClosed())));
    socket.on("error", (error) => {
      this.#reason = error.message;
    });
    socket.on("end", () => this.close("closed by the other side"));
  }

  attach(handler: ConnectionHandler): void {
    this.#handler = handler;
    this.#socket.on("data", (data) => {
      this.#network.turn.begin();
      this.#buffered.push(data);
      this.#bufferedBytes += data.length;
      this.#parse();
      this.#network.turn.end();
    });
    this.#resume();
  }

  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  send(
    frame: Frame,
    meta: Uint8Array | null,
    payload: Segments | null,
    onSent: (() => void) | null,
  ): void {
    if (!this.open) {
      if (onSent) setImmediate(onSent);
      return;
    }
    const pieces = payload ? copySegments(payload) : null;
    const head = this.#encode(frame, meta, pieces);
    const total = head.length + (pieces ? segmentsBytes(pieces) : 0);
    this.#queuedBytes += total;
    this.#stage();
    const sent = () => {
      if (!this.#unsent.delete(sent)) return;
      this.#queuedBytes -= total;
      onSent?.();
    };
    this.#unsent.add(sent);
    const count = pieces ? pieces.count : 0;
    this.#socket.write(head, count === 0 ? sent : undefined);
    for (let i = 0; i < count; i++) {
      const piece = this.#network.arena.slice(pieces!.list[2 * i]!, pieces!.list[2 * i + 1]!);
      this.#socket.write(piece, i === count - 1 ? sent : undefined);
    }
  }

  #stage(): void {
    if (this.#corked) return;
    this.#corked = true;
    this.#socket.cork();
    this.#network.staged.push(this);
    this.#network.turn.request();
  }

  flush(): void {
    this.#corked = false;
    this.#socket.uncork();
  }

  expect(requestId: number, into: Segments): void {
    if (this.open) this.#expected.set(requestId, copySegments(into));
  }

  forget(requestId: number): void {
    const arriving = this.#haveHeader && this.#into !== null && this.#frame.requestId === requestId;
    if (!this.#expected.delete(requestId) && !arriving) return;
    if (arriving) this.close(`the answer to request ${requestId} was not complete in time`);
  }

  reading(on: boolean): void {
    this.#wanted = on;
    if (on) setImmediate(() => this.roomAgain());
    else this.#socket.pause();
  }

  roomAgain(): void {
    if (!this.open) return;
    this.#network.turn.begin();
    this.#noRoom = false;
    this.#parse();
    this.#network.turn.end();
  }

  close(reason: string): void {
    if (!this.open) return;
    this.open = false;
    this.#reason = reason;
    this.#socket.destroy();
  }

  #onClosed(): void {
    this.open = false;
    this.#network.connections.delete(this);
    if (this.#pool !== 0) this.#network.pool.give(this.#pool);
    this.#network.turn.begin();
    for (const sent of this.#unsent) sent();
    this.#handler?.onClose(this, this.#reason);
    this.#network.turn.end();
  }

  #resume(): void {
    if (this.#wanted && !this.#noRoom && this.open) this.#socket.resume();
  }

  #encode(frame: Frame, meta: Uint8Array | null, pieces: Segments | null): Buffer {
    const metaBytes = meta === null ? 0 : meta.byteLength;
    const payloadBytes = pieces === null ? 0 : segmentsBytes(pieces);
    assert(
      metaBytes <= META_BYTES_MAX && payloadBytes <= PAYLOAD_BYTES_MAX,
      "a frame has its limits",
    );
    const head = Buffer.alloc(HEADER_BYTES + metaBytes);
    if (meta !== null) head.set(meta, HEADER_BYTES);
    let crc = 0;
    for (let i = 0; pieces !== null && i < pieces.count; i++) {
      crc = crc32c(this.#network.arena.slice(pieces.list[2 * i]!, pieces.list[2 * i + 1]!), crc);
    }
    head.writeUInt32LE(MAGIC, 0);
    head[4] = VERSION;
    head[5] = frame.kind;
    head.writeUInt16LE(frame.operation, 6);
    head.writeUInt16LE(frame.status, 8);
    head[10] = frame.priority;
    head.writeBigUInt64LE(BigInt(frame.requestId), 16);
    head.writeUInt32LE(frame.timeoutMs, 24);
    head.writeUInt32LE(metaBytes, 28);
    head.writeUInt32LE(payloadBytes, 32);
    head.writeUInt32LE(crc32c(head.subarray(HEADER_BYTES), 0), 36);
    head.writeUInt32LE(crc, 40);
    head.writeUInt32LE(crc32c(head.subarray(0, 60), 0), 60);
    return head;
  }

  #parse(): void {
    try {
      while (this.open && this.#wanted && this.#step());
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      this.#network.log.warn("connection ended", { peer: this.peer, reason: messageOf(error) });
      this.close(messageOf(error));
    }
    if (this.#noRoom) this.#socket.pause();
    else this.#resume();
  }

  /** One step of the state machine; false when more bytes or room are needed. */
  #step(): boolean {
    if (!this.#haveHeader) {
      if (this.#bufferedBytes < HEADER_BYTES) return false;
      this.#decode(this.#take(HEADER_BYTES));
      return true;
    }
    if (this.#payloadBytes > 0 && this.#into === null && !this.#place()) return false;
    if (this.#frame.meta.byteLength < this.#metaBytes) {
      if (this.#bufferedBytes < this.#metaBytes) return false;
      this.#frame.meta = this.#take(this.#metaBytes);
    }
    this.#receive();
    if (this.#done < this.#payloadBytes) return false;
    this.#deliver();
    return true;
  }

  #take(bytes: number): Buffer {
    const all = this.#buffered.length === 1 ? this.#buffered[0]! : Buffer.concat(this.#buffered);
    this.#buffered = all.length > bytes ? [all.subarray(bytes)] : [];
    this.#bufferedBytes -= bytes;
    return all.subarray(0, bytes);
  }

  #decode(head: Buffer): void {
    const bad = head.readUInt32LE(0) !== MAGIC || head[4] !== VERSION;
    if (bad || crc32c(head.subarray(0, 60), 0) !== head.readUInt32LE(60)) {
      throw new StorageError("OVS_PROTOCOL", "a frame header is damaged or not ours");
    }
    const frame = this.#frame;
    frame.kind = head[5]!;
    frame.operation = head.readUInt16LE(6);
    frame.status = head.readUInt16LE(8);
    frame.priority = head[10]!;
    frame.requestId = Number(head.readBigUInt64LE(16));
    frame.timeoutMs = head.readUInt32LE(24);
    frame.meta = head.subarray(0, 0);
    this.#metaBytes = head.readUInt32LE(28);
    this.#payloadBytes = head.readUInt32LE(32);
    this.#metaCrc = head.readUInt32LE(36);
    this.#payloadCrc = head.readUInt32LE(40);
    if (
      this.#metaBytes > META_BYTES_MAX ||
      this.#payloadBytes > PAYLOAD_BYTES_MAX ||
      frame.kind > 2
    ) {
      throw new StorageError("OVS_PROTOCOL", "a frame header asks for too much");
    }
    this.#haveHeader = true;
    this.#done = 0;
    this.#crc = 0;
  }

  /** Finds the memory for a payload; false when the pool has no room now. */
  #place(): boolean {
    const expected = this.#frame.kind === 1 ? this.#expected.get(this.#frame.requestId) : undefined;
    if (expected) {
      if (segmentsBytes(expected) < this.#payloadBytes) {
        throw new StorageError("OVS_PROTOCOL", "a payload is longer than what was expected");
      }
      this.#into = expected;
      return true;
    }
    if (this.#payloadBytes > this.#network.pool.bytes) {
      throw new StorageError(
        "OVS_PROTOCOL",
        `a payload of ${this.#payloadBytes} bytes is too long here`,
      );
    }
    this.#pool = this.#network.pool.tryTake(this.#payloadBytes);
    this.#noRoom = this.#pool === 0;
    if (this.#noRoom) return false;
    this.#into = { list: Uint32Array.of(this.#pool, this.#payloadBytes), count: 1 };
    return true;
  }

  #receive(): void {
    const bytes = Math.min(this.#bufferedBytes, this.#payloadBytes - this.#done);
    if (bytes === 0) return;
    const data = this.#take(bytes);
    this.#crc = crc32c(data, this.#crc);
    const { list, count } = this.#into!;
    let skip = this.#done;
    let from = 0;
    for (let i = 0; i < count && from < data.length; i++) {
      const length = list[2 * i + 1]!;
      const part = Math.min(length - Math.min(skip, length), data.length - from);
      this.#network.arena.bytes.set(data.subarray(from, from + part), list[2 * i]! + skip);
      from += part;
      skip = Math.max(0, skip - length);
    }
    this.#done += bytes;
    assert(this.#done <= this.#payloadBytes, "a payload has its length");
  }

  #deliver(): void {
    const frame = this.#frame;
    if (crc32c(frame.meta, 0) !== this.#metaCrc || this.#crc !== this.#payloadCrc) {
      throw new StorageError("OVS_PROTOCOL", "a frame's body is damaged");
    }
    frame.payload = this.#pool;
    frame.payloadBytes = this.#payloadBytes;
    if (frame.kind === 1) this.#expected.delete(frame.requestId);
    this.#pool = 0;
    this.#into = null;
    this.#haveHeader = false;
    this.#handler!.onFrame(this, frame);
  }
}
