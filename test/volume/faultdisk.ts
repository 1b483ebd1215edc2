// SPDX-License-Identifier: Apache-2.0
// A disk that holds operations back, or fails them, when a test says so. Everything else goes
// straight to the real one.

import type {
  CompletionHandler,
  Disk,
  FileId,
  Files,
  HandlerId,
  OpenOptions,
} from "../../src/platform/disk.js";
import type { Turn } from "../../src/platform/turn.js";

export type FaultKind = "read" | "writeGather" | "write" | "sync";
export type Verdict = "pass" | "hold" | "fail";
const EIO = 5;

export class FaultDisk implements Disk {
  readonly #real: Disk;
  readonly #turn: Turn;
  readonly #handlers = new Map<HandlerId, CompletionHandler>();
  readonly #held: Array<() => void> = [];
  /** Decides what becomes of an operation. */
  judge: ((kind: FaultKind, file: FileId, offset: number) => Verdict) | null = null;

  constructor(real: Disk, turn: Turn) {
    this.#real = real;
    this.#turn = turn;
  }

  get held(): number {
    return this.#held.length;
  }

  /** Lets everything go that was held. */
  release(): void {
    this.judge = null;
    this.#turn.begin();
    for (const go of this.#held.splice(0, this.#held.length)) go();
    this.#turn.end();
  }

  get files(): Files {
    return this.#real.files;
  }
  get engine(): string {
    return this.#real.engine;
  }
  get inFlight(): number {
    return this.#real.inFlight;
  }
  open(path: string, options: OpenOptions): Promise<FileId> {
    return this.#real.open(path, options);
  }
  close(file: FileId): Promise<void> {
    return this.#real.close(file);
  }
  size(file: FileId): Promise<number> {
    return this.#real.size(file);
  }
  handler(handler: CompletionHandler): HandlerId {
    const id = this.#real.handler(handler);
    this.#handlers.set(id, handler);
    return id;
  }

  read(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    arena: number,
    bytes: number,
  ): void {
    this.#do("read", handler, tag, file, offset, () =>
      this.#real.read(handler, tag, file, offset, arena, bytes),
    );
  }
  readTogether(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    arena: number,
    bytes: number,
  ): void {
    this.#do("read", handler, tag, file, offset, () =>
      this.#real.readTogether(handler, tag, file, offset, arena, bytes),
    );
  }
  write(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    arena: number,
    bytes: number,
  ): void {
    this.#do("write", handler, tag, file, offset, () =>
      this.#real.write(handler, tag, file, offset, arena, bytes),
    );
  }
  writeGather(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    pieces: Uint32Array,
    count: number,
  ): void {
    const copy = pieces.slice(0, 2 * count);
    this.#do("writeGather", handler, tag, file, offset, () =>
      this.#real.writeGather(handler, tag, file, offset, copy, count),
    );
  }
  readScatter(
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    pieces: Uint32Array,
    count: number,
  ): void {
    this.#real.readScatter(handler, tag, file, offset, pieces, count);
  }
  sync(handler: HandlerId, tag: number, file: FileId): void {
    this.#do("sync", handler, tag, file, 0, () => this.#real.sync(handler, tag, file));
  }
  allocate(handler: HandlerId, tag: number, file: FileId, offset: number, bytes: number): void {
    this.#real.allocate(handler, tag, file, offset, bytes);
  }
  punch(handler: HandlerId, tag: number, file: FileId, offset: number, bytes: number): void {
    this.#real.punch(handler, tag, file, offset, bytes);
  }
  truncate(handler: HandlerId, tag: number, file: FileId, bytes: number): void {
    this.#real.truncate(handler, tag, file, bytes);
  }
  readAsync(file: FileId, offset: number, arena: number, bytes: number): Promise<number> {
    return this.#real.readAsync(file, offset, arena, bytes);
  }
  writeAsync(file: FileId, offset: number, arena: number, bytes: number): Promise<void> {
    return this.#real.writeAsync(file, offset, arena, bytes);
  }
  syncAsync(file: FileId): Promise<void> {
    return this.#real.syncAsync(file);
  }
  allocateAsync(file: FileId, offset: number, bytes: number): Promise<void> {
    return this.#real.allocateAsync(file, offset, bytes);
  }
  punchAsync(file: FileId, offset: number, bytes: number): Promise<void> {
    return this.#real.punchAsync(file, offset, bytes);
  }
  truncateAsync(file: FileId, bytes: number): Promise<void> {
    return this.#real.truncateAsync(file, bytes);
  }
  stop(): Promise<void> {
    return this.#real.stop();
  }

  #do(
    kind: FaultKind,
    handler: HandlerId,
    tag: number,
    file: FileId,
    offset: number,
    go: () => void,
  ): void {
    const verdict = this.judge?.(kind, file, offset) ?? "pass";
    if (verdict === "pass") go();
    else if (verdict === "hold") this.#held.push(go);
    else setImmediate(() => this.#fail(handler, tag));
  }

  #fail(handler: HandlerId, tag: number): void {
    this.#turn.begin();
    this.#handlers.get(handler)!(tag, -EIO);
    this.#turn.end();
  }
}
