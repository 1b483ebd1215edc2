// SPDX-License-Identifier: Apache-2.0
// Real worker threads. The program's main for threads picks the role by name.

import { Worker } from "node:worker_threads";
import { messageOf } from "../../base/errors.js";
import type { Thread, Threads } from "../threads.js";

export class NodeThreads implements Threads {
  readonly #program: string;

  /** `program`: the compiled main of threads. */
  constructor(program: string) {
    this.#program = program;
  }

  spawn(role: string, data: unknown, onEnd: (reason: string) => void): Thread {
    const worker = new Worker(this.#program, { workerData: { role, data } });
    let reason = "";
    let terminated = false;
    worker.on("error", (error) => {
      reason = error instanceof Error ? (error.stack ?? error.message) : messageOf(error);
    });
    worker.once("exit", (code) =>
      onEnd(terminated ? "" : reason || `thread ended with code ${code}`),
    );
    return {
      post: (message) => worker.postMessage(message),
      onMessage: (handler) => {
        worker.on("message", handler);
      },
      terminate: async () => {
        terminated = true;
        await worker.terminate();
      },
    };
  }
}
