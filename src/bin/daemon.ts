// SPDX-License-Identifier: Apache-2.0
// What the main of every daemon does: start, say ready, stop on SIGTERM, die with its supervisor.

import { messageOf, StorageError } from "../base/errors.js";

/** What `runDaemon` runs: `start` resolves when it serves, `stop` when it has ended. */
export interface Daemon {
  /** Resolves when it serves; a rejection is told to the supervisor. */
  start(): Promise<void>;
  /** A clean end. */
  stop(): Promise<void>;
}

function supervised(): boolean {
  return process.env.OVS_SUPERVISED === "1" && process.send !== undefined;
}

function tell(message: { kind: "ready" | "failed"; message?: string }): Promise<void> {
  return new Promise((resolve) => {
    if (supervised() && process.connected) process.send?.(message, () => resolve());
    else resolve();
  });
}

function dieHard(): void {
  process.kill(process.pid, "SIGKILL");
}

/**
 * Runs a daemon until SIGTERM or SIGINT; resolves with the exit code. A daemon whose supervisor
 * dies ends at once, as by a crash: what it acknowledged is durable, and a new supervisor must be
 * able to take its directory.
 */
export async function runDaemon(name: string, daemon: Daemon): Promise<number> {
  if (supervised()) {
    process.once("disconnect", dieHard);
    // It may have died while this program was loading, when nobody listened for it yet.
    if (!process.connected) dieHard();
  }
  const stopped = new Promise<void>((resolve) => {
    process.once("SIGTERM", resolve);
    process.once("SIGINT", resolve);
  });
  try {
    await daemon.start();
  } catch (error) {
    const message = messageOf(error);
    process.stderr.write(`${name}: ${message}\n`);
    await tell({ kind: "failed", message });
    return error instanceof StorageError && error.kind === "invalid" ? 2 : 1;
  }
  await tell({ kind: "ready" });
  if (!supervised()) process.stdout.write(`${name}: ready\n`);
  await stopped;
  await daemon.stop();
  return 0;
}
