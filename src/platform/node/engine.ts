// SPDX-License-Identifier: Apache-2.0
// Which engine the real disk runs on: io_uring through the addon, or node:fs with a warning where
// the kernel, a container or a limit forbids io_uring. Also the arena, whose memory both use.

import { getSystemErrorName } from "node:util";
import { assert } from "../../base/assert.js";
import { StorageError } from "../../base/errors.js";
import type { DiskAddon, DiskTable, RingId } from "../../native/disk.js";
import { diskTable, loadDiskAddon, putPieces } from "../../native/disk.js";
import { Arena } from "../arena.js";
import type { Disk } from "../disk.js";
import type { Log } from "../log.js";
import type { Engine } from "../ringdisk.js";
import { RingDisk } from "../ringdisk.js";
import type { Turn } from "../turn.js";
import { NodeDescriptors } from "./descriptors.js";
import { NodeFiles } from "./files.js";
import { FsEngine } from "./fsdisk.js";

export type DiskEngineName = "io_uring" | "fs";

/** What a refused io_uring_setup means, in words. */
const REFUSALS: Record<string, string> = {
  EPERM: "the host or the container forbids io_uring",
  ENOSYS: "the kernel has no io_uring, or one older than 5.6",
  ENOMEM: "the limit of locked memory is too low (ulimit -l)",
};

/** Maps an arena: aligned, zeroed, not yet resident. OVS_FULL when the system has no room. */
export function mapArena(bytes: number): Arena {
  return new Arena(mapMemory(loadDiskAddon(), bytes));
}

/** Makes the disk of a thread over its arena; warns when it is not the engine that was wanted. */
export function createDisk(
  world: { arena: Arena; turn: Turn; log: Log },
  wanted: DiskEngineName,
  addon: DiskAddon = loadDiskAddon(),
): Disk {
  const memory = world.arena.buffer;
  return new RingDisk({
    engine: (onDone) => {
      const ring = wanted === "fs" ? "OVS_DISK=fs" : UringEngine.open(addon, memory, onDone);
      if (ring instanceof UringEngine) return ring;
      world.log.warn(`io_uring is not used: ${ring}; disks are slower`, { engine: "fs" });
      return new FsEngine(addon, memory, onDone);
    },
    descriptors: new NodeDescriptors(world.log, addon.flock),
    files: new NodeFiles(addon.flock),
    turn: world.turn,
    immediate: (work) => void setImmediate(work),
    arenaBytes: memory.byteLength,
  });
}

class UringEngine implements Engine {
  readonly name = "io_uring";
  readonly table: DiskTable;
  readonly #addon: DiskAddon;
  readonly #ring: RingId;

  private constructor(addon: DiskAddon, ring: RingId, table: DiskTable) {
    this.#addon = addon;
    this.#ring = ring;
    this.table = table;
  }

  /** The engine, or why there is none. */
  static open(
    addon: DiskAddon,
    arena: ArrayBuffer,
    onDone: (count: number) => void,
  ): UringEngine | string {
    const memory = mapMemory(addon, addon.layout.tableBytes);
    const ring = addon.ringOpen(arena, memory, onDone);
    if (ring >= 0) return new UringEngine(addon, ring, diskTable(addon, memory));
    const name = getSystemErrorName(ring);
    return REFUSALS[name] ?? `the kernel refused it with ${name}`;
  }

  putPieces(slot: number, pieces: Uint32Array, count: number): void {
    putPieces(this.table, slot, pieces, count);
  }

  submit(count: number): void {
    this.#addon.ringSubmit(this.#ring, count);
  }

  close(): void {
    this.#addon.ringClose(this.#ring);
  }
}

function mapMemory(addon: DiskAddon, bytes: number): ArrayBuffer {
  const memory = addon.mapMemory(bytes, false);
  if (memory === null) {
    throw new StorageError("OVS_FULL", `the system cannot map ${bytes} bytes of memory`);
  }
  assert(memory.byteLength === bytes, "a mapping has the size that was asked for");
  return memory;
}
