// SPDX-License-Identifier: Apache-2.0
// The frames of one stream, from the sending process to the receiving one, each in the order in
// which it was pushed. Three places in it move forward: the next to read, to depart, to take.

import { assert } from "../base/assert.js";
import type { SimFrame } from "./netframe.js";
import type { SimSocket } from "./netsocket.js";
import type { SimNet } from "./network.js";

const COMPACT_MIN = 64;

export class FrameQueue {
  readonly #frames: SimFrame[] = [];
  #read = 0;
  #depart = 0;
  #take = 0;

  /** The queue's limit is the sender's: it counts bytes that the kernel has not taken. */
  push(frame: SimFrame): void {
    this.#frames.push(frame);
  }

  /** The first that the receiver has not read whole. */
  get toRead(): SimFrame | undefined {
    return this.#frames[this.#read];
  }

  /** The first that the kernel has not taken whole. */
  get toTake(): SimFrame | undefined {
    return this.#frames[this.#take];
  }

  /** `toTake` is taken whole: the next one. */
  wasTaken(): void {
    this.#take++;
  }

  /** `toRead` is read whole: the next one. What is through is forgotten now and then. */
  wasRead(): void {
    this.#read++;
    if (this.#read < COMPACT_MIN || 2 * this.#read < this.#frames.length) return;
    const count = Math.min(this.#read, this.#depart, this.#take);
    this.#frames.splice(0, count);
    this.#read -= count;
    this.#depart -= count;
    this.#take -= count;
  }

  /** Drops what the kernel has not taken whole; gives their tokens. */
  drop(tokens: number[]): void {
    for (let i = this.#take; i < this.#frames.length; i++) {
      const { token } = this.#frames[i]!;
      if (token !== 0) tokens.push(token);
    }
    // The first may be half taken: the receiver must see that it is torn.
    this.#frames.length = Math.min(this.#frames.length, this.#take + 1);
    this.#take = this.#frames.length;
  }

  /** Numbers the frames that leave now; answers the place in the stream up to which they did. */
  depart(socket: SimSocket, net: SimNet): number {
    for (let frame = this.#frames[this.#depart]; frame !== undefined; ) {
      if (frame.end > socket.taken) break;
      if (!net.pass(frame, socket, "depart", "before"))
        return Math.max(socket.departed, frame.start);
      this.#depart++;
      if (!net.pass(frame, socket, "depart", "after")) return frame.end;
      frame = this.#frames[this.#depart];
    }
    assert(socket.departed <= socket.taken, "what departs was taken");
    return socket.taken;
  }
}
