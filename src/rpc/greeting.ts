// SPDX-License-Identifier: Apache-2.0
// The client's half of a hello: one at a time, ended by the answer, the connection's end, or time.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import type { ReceivedFrame } from "../platform/network.js";
import type { Clock } from "../platform/world.js";
import { decodeControl } from "./control.js";
import { type Identity, welcomeSchema } from "./hello.js";
import { errorOf, STATUS_OK } from "./status.js";

export class Greeting {
  readonly #clock: Clock;
  #end: ((frame: ReceivedFrame | null, reason: string) => void) | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Who answers; rejects with the other side's refusal or OVS_UNAVAILABLE. */
  wait(timeoutMs: number): Promise<Identity> {
    assert(this.#end === null, "one hello at a time");
    return new Promise<Identity>((resolve, reject) => {
      const late = () => this.onEnd("no answer to the hello");
      const timer = this.#clock.after(timeoutMs, late);
      this.#end = (frame, reason) => {
        this.#end = null;
        timer.cancel();
        try {
          if (frame === null) throw new StorageError("OVS_UNAVAILABLE", reason);
          if (frame.status !== STATUS_OK) throw errorOf(frame.status, frame.meta);
          resolve(decodeControl(frame.meta, welcomeSchema).self);
        } catch (error) {
          reject(error);
        }
      };
    });
  }

  /** The answer has come. */
  onAnswer(frame: ReceivedFrame): void {
    this.#end?.(frame, "");
  }

  /** No answer will come. */
  onEnd(reason: string): void {
    this.#end?.(null, reason);
  }
}
