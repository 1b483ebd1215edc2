// SPDX-License-Identifier: Apache-2.0
// The stories of the crash-point sweep: short, and all that keeps data happens in them once.

import { RequestKind } from "../nbd/target.js";
import type { ScriptedRequest } from "./workload.js";

/** What a story can have done. Each step goes on until it is done, whatever dies meanwhile. */
export interface Steps {
  /** Requests at the same time; those that are lost with a connection are not made again. */
  ask(...requests: ScriptedRequest[]): Promise<void>;
  /** All that was answered is in the backend, at full width. */
  sync(): Promise<void>;
  /** The router is stopped in order and started again. */
  restart(): Promise<void>;
  /** The router is killed; its supervisor starts it again. */
  kill(): Promise<void>;
  /** The disk of an ASD is replaced by an empty one. */
  replaceDisk(asd: number): Promise<void>;
  /** Repair and collection of garbage until nothing is found any more. */
  clean(): Promise<void>;
}

export interface Story {
  name: string;
  /** Without crashes; they fall later. */
  before(steps: Steps): Promise<void>;
  /** Its crashes fall here. */
  tell(steps: Steps): Promise<void>;
}

// Units of 512 bytes; eight are a cluster.

function write(first: number, count: number, fua = false): ScriptedRequest {
  return { kind: RequestKind.Write, first, count, fua };
}

function trim(first: number, count: number): ScriptedRequest {
  return { kind: RequestKind.Trim, first, count, fua: false };
}

function zero(first: number, count: number, fua = false): ScriptedRequest {
  return { kind: RequestKind.WriteZeroes, first, count, fua };
}

const FLUSH: ScriptedRequest = { kind: RequestKind.Flush, first: 0, count: 0, fua: false };

const LINE: Story = {
  name: "line",
  before: async () => {},
  tell: async (steps) => {
    await steps.ask(write(0, 32));
    // Two that overlap, and one that is part of a cluster.
    await steps.ask(write(64, 16), write(72, 16), write(101, 3));
    await steps.ask(FLUSH);
    await steps.ask(write(0, 8));
    await steps.ask(trim(8, 8));
    await steps.ask(write(40, 8, true));
    await steps.sync();
    // What is around them is only in the backend.
    await steps.ask(write(2, 3), trim(66, 4), zero(30, 4));
    await steps.ask(write(0, 48), FLUSH);
    await steps.ask(zero(44, 8, true));
    await steps.restart();
    await steps.ask(write(60, 3));
    await steps.ask(trim(64, 32));
    await steps.kill();
    await steps.ask(write(120, 8));
    await steps.sync();
  },
};

const REPAIR: Story = {
  name: "repair",
  before: async (steps) => {
    await steps.ask(write(0, 32), write(200, 16));
    await steps.sync();
    await steps.ask(write(0, 32), trim(200, 16));
    await steps.sync();
  },
  tell: async (steps) => {
    await steps.replaceDisk(2);
    await steps.ask(write(4, 8));
    await steps.clean();
    await steps.sync();
  },
};

export const STORIES: readonly Story[] = [LINE, REPAIR];
