// SPDX-License-Identifier: Apache-2.0
// Child processes, for `ovs up` alone: no daemon starts another.

export interface ChildExit {
  code: number | null;
  signal: string | null;
}

export interface Child {
  readonly pid: number;
  /** Asks the process to end (SIGTERM) or ends it (SIGKILL). */
  kill(signal: "SIGTERM" | "SIGKILL"): void;
}

export interface ChildEvents {
  /** The daemon serves. */
  onReady(): void;
  /** The daemon says why it cannot serve, in words; its exit follows. */
  onFailure(message: string): void;
  /** The process was reaped: it is certainly dead (P-C3). */
  onExit(exit: ChildExit): void;
}

export interface Processes {
  /**
   * Starts `ovs <args>` as a child that dies when this process does. Rejects when it cannot start.
   */
  spawn(args: readonly string[], events: ChildEvents): Promise<Child>;
}
