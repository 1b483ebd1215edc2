// SPDX-License-Identifier: Apache-2.0
// The disk of a simulated process: the ring disk over an engine whose operations take effect on
// the host's devices at random instants.
//
//   submit ──► groups ──► [effect] ──► effect, completion ──► handlers, in one turn
//
// Operations of one submission are done in groups by chance: those of a group have their effect one
// after the other and complete together. Memory is read when a write takes effect, and written when
// a read does. A killed process leaves operations that were done, were not, or in part: a write may
// be cut at any page. Or it reaches the disk later, when the process is long gone.

import { assert } from "../base/assert.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { Arena } from "../platform/arena.js";
import type { Disk } from "../platform/disk.js";
import type { Engine } from "../platform/ringdisk.js";
import { RingDisk } from "../platform/ringdisk.js";
import type { SlotTable } from "../platform/slots.js";
import { DISK_SLOTS, DiskKind, SLOT_TABLE_BYTES, slotTable } from "../platform/slots.js";
import type { Turn } from "../platform/turn.js";
import { FaultKind } from "./faults.js";
import type { ChangeRecord } from "./file.js";
import { FILE_BYTES_MAX, SimDescriptors, SimFiles, type SimOpenFile } from "./files.js";
import type { Kernel } from "./kernel.js";
import type { Fate } from "./storage.js";

const EIO = 5;
const EFBIG = 27;
const ENOSPC = 28;
const SAME_GROUP_CHANCE = 0.6;
const EARLY_CHANCE = 0.5;
/** Writes of several pages of which the first can be seen before the others. */
const PARTIAL_CHANCE = 0.2;

/** Writes that reach the disk when their killed process is gone, and how long after it. */
const LATE_CHANCE = 0.3;
const LATE_MS = 5;
const LATE_LONG_MS = 1000;
/** Mean time that a read takes which the disk tries again and again. */
const SLOW_READ_MS = 1500;
/** What hangs when its process is killed is mostly never done. */
const HUNG_LOST_CHANCE = 0.7;

const State = { Free: 0, Pending: 1, Done: 2 } as const;

const NAMES: Record<DiskKind, string> = {
  [DiskKind.Read]: "read",
  [DiskKind.Write]: "write",
  [DiskKind.ReadScatter]: "read",
  [DiskKind.WriteGather]: "write",
  [DiskKind.Sync]: "sync",
  [DiskKind.Allocate]: "allocate",
  [DiskKind.Punch]: "punch",
  [DiskKind.Truncate]: "truncate",
  [DiskKind.ReadTogether]: "read",
};

/** Makes the disk of a process; borrows its arena for as long as operations are in flight. */
export function createSimDisk(kernel: Kernel, world: { arena: Arena; turn: Turn }): Disk {
  const descriptors = new SimDescriptors(kernel);
  const disk = new RingDisk({
    engine: (onDone) => new SimEngine(kernel, descriptors, world.arena, onDone),
    descriptors,
    files: new SimFiles(kernel),
    turn: world.turn,
    immediate: (work) => void kernel.life.after(0, work),
    arenaBytes: world.arena.buffer.byteLength,
  });
  // Last of all: what a killed process leaves behind is done on files that are open.
  kernel.life.atEnd(() => descriptors.closeAll());
  return disk;
}

class SimEngine implements Engine {
  readonly name = "simulated";
  readonly table: SlotTable = slotTable(new ArrayBuffer(SLOT_TABLE_BYTES));
  readonly #kernel: Kernel;
  readonly #descriptors: SimDescriptors;
  readonly #memory: Uint8Array;
  readonly #onDone: (count: number) => void;
  readonly #state = new Uint8Array(DISK_SLOTS);
  readonly #pieces: Array<Uint32Array | undefined> = new Array(DISK_SLOTS);
  readonly #records: Array<ChangeRecord | null> = new Array(DISK_SLOTS).fill(null);
  /** Of a sync: changes of the file that were acknowledged when it was asked for. */
  readonly #covers = new Float64Array(DISK_SLOTS);
  /** Slots of operations that hang. */
  readonly #hung = new Set<number>();
  #inFlight = 0;

  constructor(
    kernel: Kernel,
    descriptors: SimDescriptors,
    arena: Arena,
    onDone: (count: number) => void,
  ) {
    this.#kernel = kernel;
    this.#descriptors = descriptors;
    this.#memory = arena.bytes;
    this.#onDone = onDone;
    kernel.life.atEnd(() => this.#killed());
  }

  putPieces(slot: number, pieces: Uint32Array, count: number): void {
    let list = this.#pieces[slot];
    if (list === undefined || list.length < 2 * count) {
      list = new Uint32Array(2 * Math.max(count, 8));
      this.#pieces[slot] = list;
    }
    list.set(pieces.subarray(0, 2 * count));
    this.table.count[slot] = count;
  }

  submit(count: number): void {
    // A process that has ended itself may still be in its last turn.
    if (this.#kernel.life.state === "dead") return;
    const { staged, fd, kind } = this.table;
    const { dice } = this.#kernel;
    this.#inFlight += count;
    let group: number[] = [];
    for (let i = 0; i < count; i++) {
      const slot = staged[i]!;
      const { file, device } = this.#descriptors.at(fd[slot]!);
      this.#state[slot] = State.Pending;
      if (kind[slot] === DiskKind.Sync) this.#covers[slot] = file.content.completions;
      else this.#records[slot] = isRead(kind[slot]!) ? null : { completed: Infinity };
      if (device.faults.hasTraps && this.#hangs(slot, count)) continue;
      const isApart =
        group.length > 0 &&
        (device !== this.#descriptors.at(fd[group[0]!]!).device || !dice.chance(SAME_GROUP_CHANCE));
      if (isApart) {
        this.#start(group);
        group = [];
      }
      group.push(slot);
    }
    if (group.length > 0) this.#start(group);
  }

  /** Whether one of `count` staged ones hangs: it starts when let go, if its process lives. */
  #hangs(slot: number, count: number): boolean {
    const { staged, fd, kind, offset, length } = this.table;
    const { path, device } = this.#descriptors.at(fd[slot]!);
    const name = NAMES[kind[slot] as DiskKind];
    const same = staged.subarray(0, count).filter((other) => kind[other] === kind[slot]);
    const onHang = device.faults.hangs({
      kind: name === "read" || name === "write" || name === "sync" ? name : "other",
      path,
      offset: offset[slot]!,
      bytes: length[slot]!,
      isBesideOthers: same.length > 1,
    });
    if (onHang === null) return false;
    this.#hung.add(slot);
    onHang(() => {
      if (this.#kernel.life.state === "dead") return;
      this.#hung.delete(slot);
      this.#start([slot]);
    });
    return true;
  }

  close(): void {
    assert(this.#inFlight === 0, "nothing is in flight");
  }

  #start(group: number[]): void {
    const { fd, kind, length } = this.table;
    const { dice, life } = this.#kernel;
    const { device } = this.#descriptors.at(fd[group[0]!]!);
    let bytes = 0;
    let isSync = false;
    let isChange = false;
    for (const slot of group) {
      const isTransfer =
        kind[slot]! <= DiskKind.WriteGather || kind[slot] === DiskKind.ReadTogether;
      if (isTransfer) bytes += length[slot]!;
      isSync ||= kind[slot] === DiskKind.Sync;
      isChange ||= !isRead(kind[slot]!);
    }
    if (group.length > 1 && dice.chance(0.3)) group.reverse();
    let totalMs = device.latencyMs(isSync ? "sync" : "transfer", bytes);
    const { path } = this.#descriptors.at(fd[group[0]!]!);
    // The disk itself tries again, while others of its requests go on.
    const isHard = !isChange && device.faults.strikes(FaultKind.SlowRead, path);
    if (isHard) totalMs += dice.around(SLOW_READ_MS);
    if (isChange && dice.chance(EARLY_CHANCE)) {
      const work = dice.chance(PARTIAL_CHANCE)
        ? () => this.#affectInPart(group)
        : () => this.#affect(group);
      life.timeline.after(totalMs * dice.share(), null, work);
    }
    life.timeline.after(totalMs, null, () => this.#complete(group));
  }

  /** The first pages of a group's writes are on the disk before the others. */
  #affectInPart(group: number[]): void {
    const { fd, offset, length } = this.table;
    for (const slot of group) {
      if (this.#state[slot] !== State.Pending || !this.#isWrite(slot)) continue;
      const open = this.#descriptors.at(fd[slot]!);
      const bytes = Math.min(this.#cut(slot), length[slot]!);
      const place = offset[slot]!;
      const isOff = open.device.faults.isDead || place + length[slot]! > FILE_BYTES_MAX;
      if (isOff || bytes === length[slot]) continue;
      if (open.file.content.missingBytes(place, bytes) > open.device.freeBytes) continue;
      this.#put(slot, open, place, bytes);
    }
  }

  #affect(group: number[]): void {
    for (const slot of group) {
      if (this.#state[slot] !== State.Pending) continue;
      const { kind, fd } = this.table;
      const what = NAMES[kind[slot] as DiskKind];
      if (isRead(kind[slot]!)) this.#perform(slot, Infinity);
      else {
        const { path } = this.#descriptors.at(fd[slot]!);
        const isOff = () => this.#state[slot] !== State.Pending;
        this.#kernel.storage.effect(what, path, isOff, () => this.#perform(slot, Infinity));
      }
    }
  }

  #complete(group: number[]): void {
    this.#affect(group);
    // The end of the process may have come with an effect.
    if (this.#kernel.life.state === "dead") return;
    for (const slot of group) {
      const record = this.#records[slot];
      if (!record) continue;
      this.#descriptors.at(this.table.fd[slot]!).file.content.complete(record);
      this.#records[slot] = null;
    }
    this.#kernel.deliver(() => this.#tell(group));
  }

  #tell(group: number[]): void {
    const { done, result } = this.table;
    const { timeline } = this.#kernel.life;
    for (let i = 0; i < group.length; i++) {
      const slot = group[i]!;
      done[i] = slot;
      this.#state[slot] = State.Free;
      timeline.mix(result[slot]!);
    }
    this.#inFlight -= group.length;
    this.#onDone(group.length);
  }

  /** The process was killed: what was not done is done now, in part, or never. */
  #killed(): void {
    const policy = this.#kernel.storage.killPolicy;
    const { dice } = this.#kernel;
    for (let slot = 0; slot < DISK_SLOTS; slot++) {
      if (this.#state[slot] !== State.Pending) continue;
      this.#state[slot] = State.Done;
      if (this.#hung.has(slot) && dice.chance(HUNG_LOST_CHANCE)) continue;
      if (policy === "none" || isRead(this.table.kind[slot]!)) continue;
      if (typeof policy === "function") this.#end(slot, policy);
      else if (policy === "all") this.#perform(slot, Infinity);
      else if (this.#isWrite(slot) && dice.chance(LATE_CHANCE)) this.#performLate(slot);
      else if (dice.chance(0.5)) this.#perform(slot, this.#cut(slot));
    }
    this.#settle();
  }

  #isWrite(slot: number): boolean {
    const kind = this.table.kind[slot];
    return kind === DiskKind.Write || kind === DiskKind.WriteGather;
  }

  /** The system has taken the write already: it is on the disk some time after its process. */
  #performLate(slot: number): void {
    const { offset, fd, length } = this.table;
    const { file, device } = this.#descriptors.at(fd[slot]!);
    const { dice, life, storage } = this.#kernel;
    const place = offset[slot]!;
    const bytes = this.#gather(slot, Math.min(this.#cut(slot), length[slot]!));
    const losses = storage.losses;
    file.opens++;
    file.late++;
    const delayMs = dice.around(dice.chance(0.8) ? LATE_MS : LATE_LONG_MS);
    life.timeline.after(delayMs, null, () => {
      if (storage.losses !== losses) return;
      file.late--;
      const missing = file.content.missingBytes(place, bytes.byteLength);
      const fits = missing <= device.freeBytes && place + bytes.byteLength <= FILE_BYTES_MAX;
      if (!device.faults.isDead && fits) {
        const record: ChangeRecord = { completed: Infinity };
        file.content.write(place, bytes, 0, bytes.byteLength, record);
        file.content.complete(record);
        device.account(missing);
      }
      device.close(file);
    });
  }

  /** A copy of the first `bytes` that a slot writes. */
  #gather(slot: number, bytes: number): Uint8Array {
    const { kind, memory, count } = this.table;
    const at = memory[slot]!;
    if (kind[slot] === DiskKind.Write) return this.#memory.slice(at, at + bytes);
    const whole = new Uint8Array(bytes);
    const pieces = this.#pieces[slot]!;
    let sum = 0;
    for (let i = 0; i < count[slot]! && sum < bytes; i++) {
      const from = pieces[2 * i]!;
      const part = Math.min(pieces[2 * i + 1]!, bytes - sum);
      whole.set(this.#memory.subarray(from, from + part), sum);
      sum += part;
    }
    return whole;
  }

  /** What of a killed process has reached the file is covered by whoever syncs that from now on. */
  #settle(): void {
    for (let slot = 0; slot < DISK_SLOTS; slot++) {
      const record = this.#records[slot];
      if (!record) continue;
      this.#descriptors.at(this.table.fd[slot]!).file.content.complete(record);
      this.#records[slot] = null;
    }
  }

  #end(slot: number, policy: (what: string, path: string) => Fate): void {
    const { kind, fd } = this.table;
    const fate = policy(NAMES[kind[slot] as DiskKind], this.#descriptors.at(fd[slot]!).path);
    if (fate !== "not") this.#perform(slot, fate === "done" ? Infinity : CLUSTER_BYTES);
  }

  /** Bytes of a write that reach the disk when its process is killed. */
  #cut(slot: number): number {
    const { length } = this.table;
    const { dice } = this.#kernel;
    const pages = Math.ceil(length[slot]! / CLUSTER_BYTES);
    return pages < 2 || dice.chance(0.5) ? Infinity : dice.between(1, pages) * CLUSTER_BYTES;
  }

  /** Carries out a slot; of a write at most `bytesMax`. */
  #perform(slot: number, bytesMax: number): void {
    const { kind, fd, result } = this.table;
    const open = this.#descriptors.at(fd[slot]!);
    this.#state[slot] = State.Done;
    if (open.device.faults.isDead) {
      result[slot] = -EIO;
      return;
    }
    switch (kind[slot] as DiskKind) {
      case DiskKind.Read:
      case DiskKind.ReadScatter:
      case DiskKind.ReadTogether:
        result[slot] = this.#read(slot, open);
        return;
      case DiskKind.Write:
      case DiskKind.WriteGather:
        result[slot] = this.#write(slot, open, bytesMax);
        return;
      case DiskKind.Sync:
        result[slot] = this.#sync(slot, open);
        return;
      case DiskKind.Allocate:
      case DiskKind.Punch:
        result[slot] = this.#reshape(slot, open);
        return;
      default:
        assert(false, "the slot's kind is one of the table's");
    }
  }

  #read(slot: number, open: SimOpenFile): number {
    const { kind, offset, length, memory, count } = this.table;
    const { content } = open.file;
    const place = offset[slot]!;
    if (content.isBad(place, length[slot]!)) return -EIO;
    if (open.device.faults.strikes(FaultKind.ReadError, open.path)) return -EIO;
    if (kind[slot] !== DiskKind.ReadScatter) {
      return content.read(place, this.#memory, memory[slot]!, length[slot]!);
    }
    const pieces = this.#pieces[slot]!;
    let sum = 0;
    for (let i = 0; i < count[slot]!; i++) {
      const bytes = pieces[2 * i + 1]!;
      const done = content.read(place + sum, this.#memory, pieces[2 * i]!, bytes);
      sum += done;
      if (done < bytes) break;
    }
    return sum;
  }

  #write(slot: number, open: SimOpenFile, bytesMax: number): number {
    const { offset, length } = this.table;
    const { content } = open.file;
    const { faults } = open.device;
    const bytes = length[slot]!;
    let place = offset[slot]!;
    if (place + bytes > FILE_BYTES_MAX) return -EFBIG;
    if (faults.strikes(FaultKind.WriteError, open.path)) return -EIO;
    const missing = content.missingBytes(place, bytes);
    if (missing > open.device.freeBytes) {
      faults.onFault(FaultKind.Full, open.path);
      return -ENOSPC;
    }
    if (faults.strikes(FaultKind.LostWrite, open.path)) return bytes;
    const pages = Math.floor((content.sizeBytes - bytes) / CLUSTER_BYTES);
    if (pages > 0 && faults.strikes(FaultKind.MisdirectedWrite, open.path)) {
      const elsewhere = this.#kernel.dice.below(pages) * CLUSTER_BYTES;
      place = elsewhere === place ? pages * CLUSTER_BYTES : elsewhere;
    }
    this.#put(slot, open, place, Math.min(bytes, bytesMax));
    return bytes;
  }

  #put(slot: number, open: SimOpenFile, place: number, bytes: number): void {
    const { content } = open.file;
    const before = content.allocatedBytes;
    this.#putPieces(slot, open, place, bytes);
    open.device.account(content.allocatedBytes - before);
  }

  #putPieces(slot: number, open: SimOpenFile, place: number, bytes: number): void {
    const { kind, memory, count } = this.table;
    const { content } = open.file;
    const record = this.#records[slot]!;
    if (kind[slot] === DiskKind.Write) {
      content.write(place, this.#memory, memory[slot]!, bytes, record);
      return;
    }
    const pieces = this.#pieces[slot]!;
    let sum = 0;
    for (let i = 0; i < count[slot]! && sum < bytes; i++) {
      const part = Math.min(pieces[2 * i + 1]!, bytes - sum);
      content.write(place + sum, this.#memory, pieces[2 * i]!, part, record);
      sum += part;
    }
  }

  #sync(slot: number, open: SimOpenFile): number {
    if (open.device.faults.strikes(FaultKind.SyncError, open.path)) return -EIO;
    open.file.content.sync(this.#covers[slot]!, this.#kernel.dice.chance(0.5));
    return 0;
  }

  #reshape(slot: number, open: SimOpenFile): number {
    const { kind, offset, length } = this.table;
    const { content } = open.file;
    const { faults } = open.device;
    const [place, bytes] = [offset[slot]!, length[slot]!];
    const isPunch = kind[slot] === DiskKind.Punch;
    if (!isPunch && place + bytes > FILE_BYTES_MAX) return -EFBIG;
    if (faults.strikes(FaultKind.WriteError, open.path)) return -EIO;
    const before = content.allocatedBytes;
    const record = this.#records[slot]!;
    if (isPunch) {
      content.punch(place, bytes, record);
    } else {
      if (content.missingBytes(place, bytes) > open.device.freeBytes) {
        faults.onFault(FaultKind.Full, open.path);
        return -ENOSPC;
      }
      content.allocate(place, bytes, record);
    }
    open.device.account(content.allocatedBytes - before);
    return 0;
  }
}

function isRead(kind: number): boolean {
  return kind === DiskKind.Read || kind === DiskKind.ReadScatter || kind === DiskKind.ReadTogether;
}
