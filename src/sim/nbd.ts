// SPDX-License-Identifier: Apache-2.0
// The NBD engine of a simulated thread: what the addon `nbd` is in the real world, with clients
// that are objects (nbdclient.ts). They talk over the sockets of the simulated network, so that all
// that happens to connections happens to theirs.

import type { Codec } from "../platform/codec.js";
import type { NbdEngine, NbdListenerEngine, NbdServerEngine, ReplyMode } from "../platform/nbd.js";
import type { Life } from "./life.js";
import { SimNbdListener } from "./nbdlistener.js";
import { SimNbdServer } from "./nbdserver.js";
import type { NetHost } from "./nethost.js";
import type { SimSocket } from "./netsocket.js";

/** The engine for the World of one thread of a process on `host`. */
export class SimNbdEngine implements NbdEngine {
  readonly Server: NbdEngine["Server"];
  readonly Listener: NbdEngine["Listener"];
  readonly #host: NetHost;
  /** Sockets that negotiated here and that nobody has adopted yet. */
  readonly #kept = new Map<number, SimSocket>();

  constructor(host: NetHost, life: Life, codec: Pick<Codec, "crc32cClusters">) {
    this.#host = host;
    const keep = (socket: SimSocket) => this.#keep(socket);
    life.atEnd(() => this.#end());
    this.Server = class extends SimNbdServer implements NbdServerEngine {
      constructor(
        memory: ArrayBuffer,
        offset: number,
        slots: number,
        columns: unknown[],
        limits: { connections: number; stallMs: number },
        onReady: (count: number) => void,
        onClosed: (connection: number, id: number, reason: string) => void,
      ) {
        super({ host, life, codec, memory, offset, slots, columns, limits, onReady, onClosed });
      }
    };
    this.Listener = class extends SimNbdListener implements NbdListenerEngine {
      constructor(
        _requestBytesMax: number,
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
      ) {
        super({ host, life, negotiationMs, keep, onNegotiated, onRefused });
      }
    };
  }

  closeSocket(fd: number): void {
    const { descriptors } = this.#host;
    const socket = descriptors.get(fd);
    descriptors.delete(fd);
    socket?.close();
  }

  #keep(socket: SimSocket): number {
    const { descriptors } = this.#host;
    // What was adopted or closed is another's.
    for (const [fd, kept] of this.#kept) if (descriptors.get(fd) !== kept) this.#kept.delete(fd);
    const fd = this.#host.nextFd();
    socket.owner = null;
    descriptors.set(fd, socket);
    this.#kept.set(fd, socket);
    return fd;
  }

  /** The kernel closes what nobody has adopted. */
  #end(): void {
    for (const [fd, socket] of this.#kept) {
      if (this.#host.descriptors.get(fd) === socket) this.closeSocket(fd);
    }
  }
}
