// SPDX-License-Identifier: Apache-2.0
// A small NBD client for tests under load: one connection, many requests in flight, simple
// replies. When the connection ends, everything in flight rejects.

import { once } from "node:events";
import type { Socket } from "node:net";
import { Client, Cmd } from "../nbd/client.js";

const REPLY_MAGIC = 0x67446698;
const FLAG_FUA = 1;

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
  readonly sizeBytes: number;
  readonly #wire: Client;
  readonly #socket: Socket;
  readonly #pending = new Map<bigint, Pending>();
  #buffer: Buffer = Buffer.alloc(0);
  #nextCookie = 1n;
  #closed: Error | null = null;

  private constructor(wire: Client) {
    this.#wire = wire;
    this.sizeBytes = wire.sizeBytes;
    this.#socket = wire.handOver();
    this.#socket.on("data", (chunk: Buffer) => {
      this.#buffer = this.#buffer.length === 0 ? chunk : Buffer.concat([this.#buffer, chunk]);
      this.#takeReplies();
    });
    const end = () => this.#end(new Error("the connection ended"));
    this.#socket.on("close", end);
    this.#socket.on("error", end);
    if (this.#socket.destroyed) end();
  }

  /** Connects to a unix socket and agrees on an export. */
  static async open(path: string, name: string): Promise<NbdClient> {
    return new NbdClient(await Client.open(`unix:${path}`, { name }));
  }

  get closed(): boolean {
    return this.#closed !== null;
  }

  read(offset: number, bytes: number): Promise<Buffer> {
    return this.#request(Cmd.Read, 0, offset, bytes, null);
  }

  async write(offset: number, data: Buffer, fua = false): Promise<void> {
    await this.#request(Cmd.Write, fua ? FLAG_FUA : 0, offset, data.length, data);
  }

  async flush(): Promise<void> {
    await this.#request(Cmd.Flush, 0, 0, 0, null);
  }

  async trim(offset: number, bytes: number): Promise<void> {
    await this.#request(Cmd.Trim, 0, offset, bytes, null);
  }

  async zero(offset: number, bytes: number): Promise<void> {
    await this.#request(Cmd.WriteZeroes, 0, offset, bytes, null);
  }

  /** Says goodbye and waits for the end. */
  async close(): Promise<void> {
    if (this.#closed) return;
    const closed = once(this.#socket, "close");
    this.#socket.end(this.#wire.requestBytes(Cmd.Disconnect, 0n, 0, 0));
    await closed;
  }

  destroy(): void {
    this.#socket.destroy();
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
      const answer = command === Cmd.Read ? bytes : 0;
      this.#pending.set(cookie, { bytes: answer, resolve, reject });
      this.#socket.write(this.#wire.requestBytes(command, cookie, offset, bytes, flags));
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
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
  }
}
