// SPDX-License-Identifier: Apache-2.0
// Real child processes. The IPC channel has two uses: the child reports ready or failure through
// it, and its end tells the child that its parent is gone (see bin/daemon.ts). Children get a
// session of their own, so that Ctrl-C in a terminal reaches only the supervisor, which then stops
// them in order.

import { fork } from "node:child_process";
import { once } from "node:events";
import { KIB, MIB } from "../../base/units.js";
import type { Child, ChildEvents, Processes } from "../processes.js";

interface ChildMessage {
  kind: "ready" | "failed";
  message?: string;
}

function isChildMessage(value: unknown): value is ChildMessage {
  if (typeof value !== "object" || value === null || !("kind" in value)) return false;
  return value.kind === "ready" || value.kind === "failed";
}

// For glibc: large arrays go back to the system when they are freed (tables of journals, memory of
// RocksDB), and the many threads of Node and RocksDB share two heaps. Otherwise each thread's heap
// keeps what it had at its busiest.
const FRUGAL_MALLOC = {
  MALLOC_ARENA_MAX: "2",
  MALLOC_MMAP_THRESHOLD_: String(128 * KIB),
  MALLOC_TRIM_THRESHOLD_: String(2 * MIB),
};

export class NodeProcesses implements Processes {
  readonly #program: string;

  /** `program`: the compiled main of `ovs`. */
  constructor(program: string) {
    this.#program = program;
  }

  async spawn(args: readonly string[], events: ChildEvents): Promise<Child> {
    const child = fork(this.#program, [...args], {
      detached: true,
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      env: { ...FRUGAL_MALLOC, ...process.env, OVS_SUPERVISED: "1" },
    });
    child.on("message", (message: unknown) => {
      if (!isChildMessage(message)) return;
      if (message.kind === "ready") events.onReady();
      else events.onFailure(message.message ?? "no reason given");
    });
    child.once("exit", (code, signal) => events.onExit({ code, signal }));
    await once(child, "spawn");
    child.on("error", () => undefined); // A failed kill: the exit tells all that matters.
    return {
      pid: child.pid ?? 0,
      kill: (signal) => {
        child.kill(signal);
      },
    };
  }
}
