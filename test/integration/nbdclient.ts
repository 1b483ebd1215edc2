// SPDX-License-Identifier: Apache-2.0
// A small NBD client for tests under load: one connection, many requests in flight, simple
// replies. When the connection ends, everything in flight rejects.

import { once } from "node:events";
import { connect, type Socket } from "node:net";

const OPTION_MAGIC = 0x49484156454f5054n;
const REQUEST_MAGIC = 0x25609513;
const REPLY_MAGIC = 0x67446698;
const OPT_GO = 7;
const REP_ACK = 1;
const REP_INFO = 3;
const INFO_EXPORT = 0;

export const Command = { Read: 0, Write: 1, Disconnect: 2, Flush: 3, Trim: 4, WriteZeroes: 6 };
export const FLAG_FUA = 1;

interface Pending {
  bytes: number;
  resolve(data: Buffer): void;
  reject(error: Error): void;
}

/** An error that the server answered. */
export class NbdError extends Error {
  readonly errno: number;

  constructor(errno: number) {
    super(`NBD error ${errno}`);
    this.errno = errno;
  }
}

export class NbdClient {
  readonly #socket: Socket;
  readonly #pending = new Map<bigint, Pending>();
  #buffer: Buffer = Buffer.alloc(0);
  #nextCookie = 1n;
  #wake: (() => void) | null = null;
  #closed: Error | null = null;
  #negotiated = false;
  sizeBytes = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#buffer = this.#buffer.length === 0 ? chunk : Buffer.concat([this.#buffer, chunk]);
      if (this.#negotiated) this.#takeReplies();
      else this.#wake?.();
    });
    const end = () => this.#end(new Error("the connection ended"));
    socket.on("close", end);
    socket.on("error", end);
  }

  /** Connects to a unix socket and agrees on an export. */
  static async open(path: string, name: string): Promise<NbdClient> {
    const socket = connect(path);
    await once(socket, "connect");
    const client = new NbdClient(socket);
    try {
      await client.#negotiate(name);
    } catch (error) {
      socket.destroy();
      throw error;
    }
    return client;
  }

  get closed(): boolean {
    return this.#closed !== null;
  }

  read(offset: number, bytes: number): Promise<Buffer> {
    return this.#request(Command.Read, 0, offset, bytes, null);
  }

  async write(offset: number, data: Buffer, fua = false): Promise<void> {
    await this.#request(Command.Write, fua ? FLAG_FUA : 0, offset, data.length, data);
  }

  async flush(): Promise<void> {
    await this.#request(Command.Flush, 0, 0, 0, null);
  }

  async trim(offset: number, bytes: number): Promise<void> {
    await this.#request(Command.Trim, 0, offset, bytes, null);
  }

  async zero(offset: number, bytes: number): Promise<void> {
    await this.#request(Command.WriteZeroes, 0, offset, bytes, null);
  }

  /** Says goodbye and waits for the end. */
  async close(): Promise<void> {
    if (this.#closed) return;
    const closed = once(this.#socket, "close");
    this.#socket.end(this.#header(Command.Disconnect, 0, 0n, 0, 0));
    await closed;
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #header(command: number, flags: number, cookie: bigint, offset: number, bytes: number): Buffer {
    const header = Buffer.alloc(28);
    header.writeUInt32BE(REQUEST_MAGIC, 0);
    header.writeUInt16BE(flags, 4);
    header.writeUInt16BE(command, 6);
    header.writeBigUInt64BE(cookie, 8);
    header.writeBigUInt64BE(BigInt(offset), 16);
    header.writeUInt32BE(bytes, 24);
    return header;
  }

  #request(
    command: number,
    flags: number,
    offset: number,
    bytes: number,
    data: Buffer | null,
  ): Promise<Buffer> {
    if (this.#closed) return Promise.reject(this.#closed);
    const cookie = this.#nextCookie++;
    return new Promise((resolve, reject) => {
      const answer = command === Command.Read ? bytes : 0;
      this.#pending.set(cookie, { bytes: answer, resolve, reject });
      this.#socket.write(this.#header(command, flags, cookie, offset, bytes));
      if (data) this.#socket.write(data);
    });
  }

  #takeReplies(): void {
    let at = 0;
    while (this.#buffer.length - at >= 16) {
      if (this.#buffer.readUInt32BE(at) !== REPLY_MAGIC) {
        this.#end(new Error("the server sent no reply magic"));
        return;
      }
      const errno = this.#buffer.readUInt32BE(at + 4);
      const cookie = this.#buffer.readBigUInt64BE(at + 8);
      const pending = this.#pending.get(cookie);
      if (!pending) {
        this.#end(new Error("the server answered what was not asked"));
        return;
      }
      const bytes = errno === 0 ? pending.bytes : 0;
      if (this.#buffer.length - at < 16 + bytes) break;
      this.#pending.delete(cookie);
      if (errno !== 0) pending.reject(new NbdError(errno));
      else pending.resolve(Buffer.from(this.#buffer.subarray(at + 16, at + 16 + bytes)));
      at += 16 + bytes;
    }
    this.#buffer = this.#buffer.subarray(at);
  }

  #end(error: Error): void {
    if (this.#closed) return;
    this.#closed = error;
    this.#socket.destroy();
    this.#wake?.();
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
  }

  async #take(bytes: number): Promise<Buffer> {
    while (this.#buffer.length < bytes) {
      if (this.#closed) throw this.#closed;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const taken = this.#buffer.subarray(0, bytes);
    this.#buffer = this.#buffer.subarray(bytes);
    return taken;
  }

  async #negotiate(name: string): Promise<void> {
    await this.#take(18);
    const text = Buffer.from(name);
    const hello = Buffer.alloc(4 + 16 + 4 + text.length + 2);
    hello.writeUInt32BE(3, 0);
    hello.writeBigUInt64BE(OPTION_MAGIC, 4);
    hello.writeUInt32BE(OPT_GO, 12);
    hello.writeUInt32BE(4 + text.length + 2, 16);
    hello.writeUInt32BE(text.length, 20);
    text.copy(hello, 24);
    this.#socket.write(hello);
    for (;;) {
      const head = await this.#take(20);
      const kind = head.readUInt32BE(12);
      const data = await this.#take(head.readUInt32BE(16));
      if (kind === REP_ACK) break;
      if (kind !== REP_INFO) throw new Error(`the server refused: ${kind.toString(16)} ${data}`);
      if (data.readUInt16BE(0) === INFO_EXPORT) this.sizeBytes = Number(data.readBigUInt64BE(2));
    }
    this.#negotiated = true;
    this.#takeReplies();
  }
}
