// SPDX-License-Identifier: Apache-2.0
// Calls between the threads of one router: a method's name and plain values there, a plain value or
// a StorageError back. Both sides may call. Ports are reliable, so there are no deadlines here; a
// thread that dies takes the process with it.

import { assert } from "../base/assert.js";
import { ERROR_KINDS, type ErrorCode, messageOf, StorageError } from "../base/errors.js";
import type { Port } from "../platform/threads.js";

/** Methods of one side: name → handler. */
export type Methods = Record<string, (input: never) => Promise<unknown>>;

type Message =
  | { kind: "call"; id: number; method: string; input: unknown }
  | { kind: "answer"; id: number; output: unknown }
  | { kind: "failure"; id: number; code: ErrorCode | ""; message: string };

interface Waiting {
  resolve(output: unknown): void;
  reject(error: unknown): void;
}

const WAITING_MAX = 65_536;

/** One end of a link. `Remote` is the type of the other side's methods. */
export class Link<Remote extends Methods> {
  readonly #port: Port;
  readonly #methods: Methods;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;

  constructor(port: Port, methods: Methods) {
    this.#port = port;
    this.#methods = methods;
    port.onMessage((message) => this.#onMessage(message as Message));
  }

  /** Calls a method of the other side; rejects with its StorageError. */
  call<Name extends keyof Remote & string>(
    method: Name,
    input: Parameters<Remote[Name]>[0],
  ): ReturnType<Remote[Name]> {
    assert(this.#waiting.size < WAITING_MAX, "calls between threads are bounded");
    const id = this.#nextId++;
    const promise = new Promise<unknown>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
    });
    this.#port.post({ kind: "call", id, method, input } satisfies Message);
    return promise as ReturnType<Remote[Name]>;
  }

  /** Fails every waiting call: the other side is gone. */
  fail(error: StorageError): void {
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
  }

  #onMessage(message: Message): void {
    if (message.kind === "call") {
      void this.#serve(message.id, message.method, message.input);
      return;
    }
    const waiting = this.#waiting.get(message.id);
    if (!waiting) return;
    this.#waiting.delete(message.id);
    if (message.kind === "answer") waiting.resolve(message.output);
    else if (message.code !== "") waiting.reject(new StorageError(message.code, message.message));
    else waiting.reject(new Error(message.message));
  }

  async #serve(id: number, method: string, input: unknown): Promise<void> {
    const handler = this.#methods[method] as ((input: unknown) => Promise<unknown>) | undefined;
    assert(handler !== undefined, "both threads know the same methods");
    let answer: Message;
    try {
      answer = { kind: "answer", id, output: await handler(input) };
    } catch (error) {
      if (!(error instanceof StorageError)) throw error; // Our own mistake: the thread dies.
      assert(error.code in ERROR_KINDS, "codes are of the table");
      answer = { kind: "failure", id, code: error.code, message: messageOf(error) };
    }
    this.#port.post(answer);
  }
}
