// SPDX-License-Identifier: Apache-2.0
// Worker threads: each has a World of its own and shares nothing; they talk in messages.

export interface Port {
  /** Sends a copy of a plain value (numbers, strings, byte arrays, lists, records). */
  post(message: unknown): void;
  /** The one receiver of messages. */
  onMessage(handler: (message: unknown) => void): void;
}

export interface Thread extends Port {
  /** Ends the thread at once, whatever it does. */
  terminate(): Promise<void>;
}

export interface Threads {
  /**
   * Starts a thread that runs the named role with `data`. `onEnd` is called once when it ends,
   * however: with the reason in words, or "" after `terminate`.
   */
  spawn(role: string, data: unknown, onEnd: (reason: string) => void): Thread;
}
