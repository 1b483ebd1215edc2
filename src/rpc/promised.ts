// SPDX-License-Identifier: Apache-2.0
// Turns the ends of calls into settled promises.

import type { AnswerHandler } from "./calls.js";
import type { Answer } from "./options.js";
import { errorOf, STATUS_OK } from "./status.js";

const NO_BYTES = new Uint8Array(0);

export class Promised implements AnswerHandler {
  readonly #resolves: Array<((answer: Answer) => void) | null> = [];
  readonly #rejects: Array<((error: unknown) => void) | null> = [];
  readonly #free: number[] = [];
  readonly #size: number;
  readonly #release: (payload: number) => void;

  /** Room for refused calls too: they end a moment later. */
  constructor(callsMax: number, release: (payload: number) => void) {
    this.#size = 2 * callsMax;
    this.#release = release;
  }

  /** A token whose `onAnswer` settles the promise; -1 when all are taken. */
  add(resolve: (answer: Answer) => void, reject: (error: unknown) => void): number {
    const token = this.#free.pop() ?? this.#resolves.length;
    if (token === this.#size) return -1;
    this.#resolves[token] = resolve;
    this.#rejects[token] = reject;
    return token;
  }

  /** Frees a token without settling its promise. */
  drop(token: number): void {
    this.#resolves[token] = null;
    this.#rejects[token] = null;
    this.#free.push(token);
  }

  onAnswer(
    token: number,
    status: number,
    meta: Uint8Array,
    payload: number,
    payloadBytes: number,
  ): void {
    const resolve = this.#resolves[token]!;
    const reject = this.#rejects[token]!;
    this.drop(token);
    if (status === STATUS_OK) {
      resolve({
        status,
        meta: meta.byteLength === 0 ? NO_BYTES : meta.slice(),
        payload,
        payloadBytes,
      });
      return;
    }
    if (payload !== 0) this.#release(payload);
    reject(errorOf(status, meta));
  }
}
