// SPDX-License-Identifier: Apache-2.0
// What goes wrong with a simulated disk: chances by prefix of the path, single faults that are
// armed, and states of the whole device. Each fault is told when it happens, not when it is armed.

import type { Device } from "./device.js";
import type { Dice } from "./dice.js";

export const FaultKind = {
  /** Acknowledged and not done. */
  LostWrite: "lost write",
  /** Done at another place of the same file, not at its own. */
  MisdirectedWrite: "misdirected write",
  ReadError: "read error",
  WriteError: "write error",
  SyncError: "sync error",
  BitRot: "bit rot",
  BadRange: "unreadable range",
  Full: "full",
  Slow: "slow",
  SlowRead: "slow read",
  Dead: "dead device",
  Wiped: "wiped device",
  CorruptStore: "corrupt store",
  Hang: "hanging operation",
} as const;
export type FaultKind = (typeof FaultKind)[keyof typeof FaultKind];

/** After these a disk does not hold what it has acknowledged. */
const LIES: readonly FaultKind[] = [
  FaultKind.LostWrite,
  FaultKind.MisdirectedWrite,
  FaultKind.BitRot,
  FaultKind.BadRange,
  FaultKind.CorruptStore,
];

/** An operation on a file, before it has any effect. */
export interface DiskOperation {
  kind: "read" | "write" | "sync" | "other";
  path: string;
  /** In bytes; 0 for a sync. */
  offset: number;
  bytes: number;
  /** Others of its kind were asked for with it. */
  isBesideOthers: boolean;
}

/** An operation that may hang. */
interface Trap {
  isMeant: (operation: DiskOperation) => boolean;
  /** Told how it goes on. */
  onHang: (letGo: () => void) => void;
}

/** Chances of one operation, each in [0, 1]. */
export type FaultRates = Partial<Record<FaultKind, number>>;

export class Faults {
  readonly #device: Device;
  readonly #dice: Dice;
  /** Is told each fault that happened, and where. */
  onFault: (kind: FaultKind, path: string) => void = () => {};
  #rules: Array<{ prefix: string; rates: FaultRates }> = [];
  #armed: Array<{ prefix: string; kind: FaultKind }> = [];
  readonly #traps = new Set<Trap>();
  #slow = 1;
  #isDead = false;
  #isQuiet = true;
  #hasLied = false;

  constructor(device: Device, dice: Dice) {
    this.#device = device;
    this.#dice = dice;
  }

  /** Latencies are this many times longer. */
  get slowFactor(): number {
    return this.#slow;
  }

  /** Every operation fails with EIO. */
  get isDead(): boolean {
    return this.#isDead;
  }

  /** Something on it is not what was acknowledged, or was once. */
  get hasLied(): boolean {
    return this.#hasLied;
  }

  /** Sets the chances of what lies under a prefix (an absolute path); null: none any more. */
  rates(prefix: string, rates: FaultRates | null): void {
    this.#rules = this.#rules.filter((rule) => rule.prefix !== prefix);
    if (rates !== null) this.#rules.push({ prefix, rates });
    this.#settle();
  }

  /** The next operation under the prefix to which this can happen has it happen. */
  next(kind: FaultKind, prefix: string): void {
    this.#armed.push({ prefix, kind });
    this.#settle();
  }

  /**
   * The next operation that is meant hangs: it has no effect until it is let go, as `onHang` is
   * told; those behind it pass. Answers how to take it back.
   */
  hangNext(trap: Trap): () => void {
    this.#traps.add(trap);
    return () => void this.#traps.delete(trap);
  }

  /** What hears how an operation goes on that hangs from now on; null: it does not. */
  hangs(operation: DiskOperation): Trap["onHang"] | null {
    for (const trap of this.#traps) {
      if (!trap.isMeant(operation)) continue;
      this.#traps.delete(trap);
      this.#tell(FaultKind.Hang, operation.path);
      return trap.onHang;
    }
    return null;
  }

  /** Something may hang. */
  get hasTraps(): boolean {
    return this.#traps.size > 0;
  }

  /** Flips a bit in a file under the prefix; false when nothing is stored there. */
  rot(prefix: string): boolean {
    const files = this.#device
      .filesUnder(prefix)
      .filter(({ file }) => file.content.storedPages > 0);
    if (files.length === 0) return false;
    const { path, file } = this.#dice.pick(files);
    file.content.rot(this.#dice);
    this.#tell(FaultKind.BitRot, path);
    return true;
  }

  /** Reads that touch the range of a file fail until it is written; false: no such file. */
  spoil(path: string, offset: number, bytes: number): boolean {
    const found = this.#device.filesUnder(path).find((each) => each.path === path);
    if (found === undefined) return false;
    found.file.content.spoil(offset, bytes);
    this.#tell(FaultKind.BadRange, path);
    return true;
  }

  /** Damages a store under the prefix; false when there is none, or none with keys. */
  corruptStore(prefix: string): boolean {
    const stores = this.#device.storesUnder(prefix);
    if (stores.length === 0) return false;
    const { path, store } = this.#dice.pick(stores);
    if (!store.corrupt(this.#dice)) return false;
    this.#tell(FaultKind.CorruptStore, path);
    return true;
  }

  /** Size of the device; below what is used nothing fits any more. */
  capacity(bytes: number): void {
    this.#device.capacityBytes = bytes;
    if (this.#device.freeBytes === 0) this.#tell(FaultKind.Full, this.#device.mount);
  }

  /** Latencies are `factor` times those of a healthy one; 1: it is healthy again. */
  slow(factor: number): void {
    this.#slow = factor;
    if (factor > 1) this.#tell(FaultKind.Slow, this.#device.mount);
  }

  /** While it is dead every operation fails with EIO. */
  dead(isDead: boolean): void {
    if (isDead && !this.#isDead) this.#tell(FaultKind.Dead, this.#device.mount);
    this.#isDead = isDead;
  }

  /** An empty device stands in its place. */
  wipe(): void {
    this.#device.wipe();
    this.#tell(FaultKind.Wiped, this.#device.mount);
  }

  /** No fault by chance or armed any more; a device that is slow or dead stays so. */
  heal(): void {
    this.#rules = [];
    this.#armed = [];
    this.#settle();
  }

  /** True when the fault happens to this operation; it is told. */
  strikes(kind: FaultKind, path: string): boolean {
    if (this.#isQuiet || !this.#draws(kind, path)) return false;
    this.#tell(kind, path);
    return true;
  }

  #tell(kind: FaultKind, path: string): void {
    this.#hasLied ||= LIES.includes(kind);
    this.onFault(kind, path);
  }

  #draws(kind: FaultKind, path: string): boolean {
    const armed = this.#armed.findIndex((each) => each.kind === kind && lies(path, each.prefix));
    if (armed >= 0) {
      this.#armed.splice(armed, 1);
      this.#settle();
      return true;
    }
    for (const { prefix, rates } of this.#rules) {
      const rate = rates[kind] ?? 0;
      if (rate > 0 && lies(path, prefix) && this.#dice.chance(rate)) return true;
    }
    return false;
  }

  #settle(): void {
    this.#isQuiet = this.#rules.length === 0 && this.#armed.length === 0;
  }
}

/** True when the path is the prefix or lies below it. */
export function lies(path: string, prefix: string): boolean {
  if (!path.startsWith(prefix)) return false;
  return path.length === prefix.length || prefix.endsWith("/") || path[prefix.length] === "/";
}
