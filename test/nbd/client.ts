// SPDX-License-Identifier: Apache-2.0
// An NBD client of the tests' own, close to the bytes: it sends what it is told, right or wrong,
// and reads what comes, with a deadline on every wait.

import { once } from "node:events";
import type { Socket } from "node:net";
import { connect } from "node:net";

export const Opt = {
  ExportName: 1,
  Abort: 2,
  List: 3,
  StartTls: 5,
  Info: 6,
  Go: 7,
  StructuredReply: 8,
  ListMeta: 9,
  SetMeta: 10,
  ExtendedHeaders: 11,
} as const;

export const Rep = {
  Ack: 1,
  Server: 2,
  Info: 3,
  Meta: 4,
  Unsupported: 0x80000001,
  Policy: 0x80000002,
  Invalid: 0x80000003,
  Unknown: 0x80000006,
  TooBig: 0x80000009,
  ExtendedHeaders: 0x8000000a,
} as const;

export const Cmd = {
  Read: 0,
  Write: 1,
  Disconnect: 2,
  Flush: 3,
  Trim: 4,
  Cache: 5,
  WriteZeroes: 6,
  BlockStatus: 7,
} as const;

export type Style = "simple" | "structured" | "extended";

export interface OptionReply {
  type: number;
  data: Buffer;
}

/** One reply, its chunks put together. */
export interface Reply {
  cookie: bigint;
  error: number;
  message: string;
  data: Buffer;
  /** Types of its chunks; empty for a simple reply. */
  chunks: number[];
  extents: Array<[bytes: number, flags: number]>;
}

const DEADLINE_MS = 20_000;
const ENDS = ["error", "close", "end"] as const;
const OPTION_MAGIC = 0x49484156454f5054n;
const REPLY_MAGIC = 0x3e889045565a9n;

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

/** A string with its length in front. */
export function named(text: string): Buffer {
  return Buffer.concat([u32(Buffer.byteLength(text)), Buffer.from(text)]);
}

export function optionBytes(option: number, data: Uint8Array): Buffer {
  return Buffer.concat([u64(OPTION_MAGIC), u32(option), u32(data.byteLength), data]);
}

/** Data of INFO and GO. */
export function goBytes(name: string, infos: number[] = []): Buffer {
  return Buffer.concat([named(name), u16(infos.length), ...infos.map(u16)]);
}

export function metaBytes(name: string, queries: string[]): Buffer {
  return Buffer.concat([named(name), u32(queries.length), ...queries.map(named)]);
}

export class Client {
  readonly socket: Socket;
  style: Style = "simple";
  /** Size of the export, once it is agreed on. */
  sizeBytes = 0;
  #parts: Buffer[] = [];
  #bytes = 0;
  #ended = false;
  #wake: () => void = () => {};

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", this.#onData);
    for (const event of ENDS) socket.on(event, this.#onEnd);
  }

  readonly #onData = (part: Buffer) => {
    this.#parts.push(part);
    this.#bytes += part.byteLength;
    this.#wake();
  };

  readonly #onEnd = () => {
    this.#ended = true;
    this.#wake();
  };

  /** Connects to `unix:PATH` or `tcp:HOST:PORT`. */
  static async connect(address: string): Promise<Client> {
    const [, kind, rest] = /^(unix|tcp):(.*)$/.exec(address)!;
    const at = rest!.lastIndexOf(":");
    const socket =
      kind === "unix"
        ? connect(rest!)
        : connect(Number(rest!.slice(at + 1)), rest!.slice(0, at).replace(/[[\]]/g, ""));
    const client = new Client(socket);
    await once(socket, "connect");
    return client;
  }

  /** Connects, says hello and agrees on an export. */
  static async open(
    address: string,
    options: { name?: string; style?: Style; meta?: boolean } = {},
  ): Promise<Client> {
    const client = await Client.connect(address);
    try {
      await client.#agree(options);
    } catch (error) {
      client.close();
      throw error;
    }
    return client;
  }

  async #agree(options: { name?: string; style?: Style; meta?: boolean }): Promise<void> {
    await this.hello(3);
    const { name = "", style = "simple", meta = false } = options;
    if (style !== "simple") await this.use(style);
    if (meta) await this.option(Opt.SetMeta, metaBytes(name, ["base:allocation"]));
    const replies = await this.option(Opt.Go, goBytes(name));
    if (replies.at(-1)!.type !== Rep.Ack) throw new Error(`GO: ${replies.at(-1)!.data}`);
    const info = replies.find(({ type, data }) => type === Rep.Info && data.readUInt16BE(0) === 0);
    this.sizeBytes = Number(info?.data.readBigUInt64BE(2) ?? 0);
  }

  /** Leaves the socket, from which nothing is unread, to the caller. */
  handOver(): Socket {
    if (this.#bytes > 0) throw new Error("bytes are unread");
    this.socket.off("data", this.#onData);
    for (const event of ENDS) this.socket.off(event, this.#onEnd);
    return this.socket;
  }

  /** Everything that came, up to the end of the stream. */
  async rest(): Promise<Buffer> {
    await this.#until(() => this.#ended);
    return Buffer.concat(this.#parts);
  }

  async read(count: number): Promise<Buffer> {
    await this.#until(() => this.#bytes >= count || this.#ended);
    if (this.#bytes < count) throw new Error(`the server closed; ${this.#bytes} of ${count} bytes`);
    const all = Buffer.concat(this.#parts);
    this.#parts = [all.subarray(count)];
    this.#bytes -= count;
    return all.subarray(0, count);
  }

  async #until(met: () => boolean): Promise<void> {
    const deadline = Date.now() + DEADLINE_MS;
    while (!met()) {
      const left = deadline - Date.now();
      if (left <= 0) throw new Error("nothing came before the deadline");
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        timer = setTimeout(resolve, left);
      });
      clearTimeout(timer);
    }
  }

  send(...parts: Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  async hello(flags: number): Promise<void> {
    const greeting = await this.read(18);
    if (greeting.toString("latin1", 0, 16) !== "NBDMAGICIHAVEOPT") throw new Error("no greeting");
    this.send(u32(flags));
  }

  async use(style: "structured" | "extended"): Promise<void> {
    const option = style === "structured" ? Opt.StructuredReply : Opt.ExtendedHeaders;
    const replies = await this.option(option, Buffer.alloc(0));
    if (replies[0]!.type !== Rep.Ack) throw new Error(`${style} was refused`);
    this.style = style;
  }

  /** Sends an option and reads its replies up to the final one. */
  async option(option: number, data: Uint8Array = Buffer.alloc(0)): Promise<OptionReply[]> {
    this.send(optionBytes(option, data));
    return await this.optionReplies(option);
  }

  async optionReplies(option: number): Promise<OptionReply[]> {
    const replies: OptionReply[] = [];
    do {
      const header = await this.read(20);
      if (header.readBigUInt64BE(0) !== REPLY_MAGIC) throw new Error("not an option's reply");
      if (header.readUInt32BE(8) !== option) throw new Error("a reply to another option");
      const data = await this.read(header.readUInt32BE(16));
      replies.push({ type: header.readUInt32BE(12), data });
    } while (replies.at(-1)!.type > 1 && replies.at(-1)!.type < 0x80000000);
    return replies;
  }

  requestBytes(
    type: number,
    cookie: bigint,
    offset: number | bigint,
    bytes: number | bigint,
    flags = 0,
  ): Buffer {
    const extended = this.style === "extended";
    return Buffer.concat([
      u32(extended ? 0x21e41c71 : 0x25609513),
      u16(flags),
      u16(type),
      u64(cookie),
      u64(offset),
      extended ? u64(bytes) : u32(Number(bytes)),
    ]);
  }

  request(
    type: number,
    cookie: bigint,
    offset: number | bigint,
    bytes: number | bigint,
    flags = 0,
  ): void {
    this.send(this.requestBytes(type, cookie, offset, bytes, flags));
  }

  write(cookie: bigint, offset: number | bigint, data: Uint8Array, flags = 0): void {
    const payload = this.style === "extended" ? 32 : 0;
    this.send(this.requestBytes(Cmd.Write, cookie, offset, data.byteLength, flags | payload), data);
  }

  /** Sends a request and reads its reply. */
  async ask(
    type: number,
    offset: number | bigint,
    bytes: number | bigint,
    flags = 0,
  ): Promise<Reply> {
    const cookie = BigInt(Math.floor(Math.random() * 2 ** 50));
    this.request(type, cookie, offset, bytes, flags);
    const reply = await this.reply(type === Cmd.Read ? Number(bytes) : 0);
    if (reply.cookie !== cookie) throw new Error("a reply to another request");
    return reply;
  }

  async put(offset: number | bigint, data: Uint8Array, flags = 0): Promise<Reply> {
    this.write(7n, offset, data, flags);
    return await this.reply(0);
  }

  /** Reads the next reply. `readBytes`: payload of a simple reply to a READ that succeeds. */
  async reply(readBytes: number): Promise<Reply> {
    const reply: Reply = {
      cookie: 0n,
      error: 0,
      message: "",
      data: Buffer.alloc(0),
      chunks: [],
      extents: [],
    };
    let done = false;
    while (!done) {
      const magic = (await this.read(4)).readUInt32BE(0);
      if (magic === 0x67446698) {
        const rest = await this.read(12);
        reply.error = rest.readUInt32BE(0);
        reply.cookie = rest.readBigUInt64BE(4);
        if (reply.error === 0 && this.style === "simple") reply.data = await this.read(readBytes);
        done = true;
      } else {
        done = await this.#chunk(magic, reply);
      }
    }
    return reply;
  }

  async #chunk(magic: number, reply: Reply): Promise<boolean> {
    const extended = this.style === "extended";
    if (magic !== (extended ? 0x6e8a278c : 0x668e33ef)) {
      throw new Error(`a reply with the magic number ${magic.toString(16)}`);
    }
    const header = await this.read(extended ? 28 : 16);
    const type = header.readUInt16BE(2);
    reply.cookie = header.readBigUInt64BE(4);
    const length = extended ? Number(header.readBigUInt64BE(20)) : header.readUInt32BE(12);
    const payload = await this.read(length);
    reply.chunks.push(type);
    if (type === 0x8001) {
      reply.error = payload.readUInt32BE(0);
      reply.message = payload.toString("utf8", 6, 6 + payload.readUInt16BE(4));
    } else if (type === 1) {
      reply.data = Buffer.concat([reply.data, payload.subarray(8)]);
    } else if (type === 5) {
      for (let at = 4; at < length; at += 8) {
        reply.extents.push([payload.readUInt32BE(at), payload.readUInt32BE(at + 4)]);
      }
    } else if (type === 6) {
      for (let at = 8; at < length; at += 16) {
        const bytes = Number(payload.readBigUInt64BE(at));
        reply.extents.push([bytes, Number(payload.readBigUInt64BE(at + 8))]);
      }
    }
    return (header.readUInt16BE(0) & 1) !== 0;
  }

  close(): void {
    this.socket.destroy();
  }
}
