// SPDX-License-Identifier: Apache-2.0
// OSDs in memory that can be told to be slow, silent, full or damaged, for tests of what the
// backend does about it.

import {
  type CallOptions,
  type KeyPage,
  type Osd,
  type OsdChange,
  type OsdReadHandler,
  type OsdReads,
  ReadStatus,
} from "../../src/backend/osd.js";
import { compareBytes, fromHex, toHex } from "../../src/base/bytes.js";
import { StorageError } from "../../src/base/errors.js";
import type { World } from "../../src/platform/world.js";

/** What an OSD does with requests now. */
export interface Behaviour {
  up: boolean;
  full: boolean;
  slow: boolean;
  /** Reads and applies wait so long; beyond their time they end with OVS_TIMEOUT. */
  readDelayMs: number;
  applyDelayMs: number;
  /** Applies are carried out, but nobody hears of it. */
  losesAnswers: boolean;
}

export class FakeOsd implements Osd {
  readonly id: number;
  readonly connecting = false;
  readonly freeBytes = 1e12;
  load = 0;
  readonly does: Behaviour = {
    up: true,
    full: false,
    slow: false,
    readDelayMs: 0,
    applyDelayMs: 0,
    losesAnswers: false,
  };
  readonly values = new Map<string, Uint8Array>();
  readonly corrupt = new Set<string>();
  reads = 0;
  applies = 0;
  readonly #world: World;

  constructor(world: World, id: number) {
    this.#world = world;
    this.id = id;
  }

  get up(): boolean {
    return this.does.up;
  }

  get full(): boolean {
    return this.does.full;
  }

  get slow(): boolean {
    return this.does.slow;
  }

  /** Keys that begin with the letter. */
  keys(letter: string): string[] {
    const first = letter.charCodeAt(0).toString(16);
    return [...this.values.keys()].filter((key) => key.startsWith(first));
  }

  read(
    reads: OsdReads,
    timeoutMs: number,
    _priority: number,
    handler: OsdReadHandler,
    token: number,
  ): void {
    this.reads++;
    this.load++;
    void this.#wait(this.does.readDelayMs, timeoutMs).then((error) => {
      this.load--;
      const statuses = new Uint8Array(reads.count);
      if (error === null) this.#fill(reads, statuses);
      handler.onRead(token, error, statuses);
    });
  }

  #fill(reads: OsdReads, statuses: Uint8Array): void {
    const { arena } = this.#world;
    const parts: Uint8Array[] = [];
    for (let i = 0; i < reads.count; i++) {
      const key = toHex(reads.keys.subarray(i * reads.keyBytes, (i + 1) * reads.keyBytes));
      const value = this.values.get(key);
      const [first, end] = [reads.page[i]! * 4096, (reads.page[i]! + reads.pages[i]!) * 4096];
      if (value === undefined) statuses[i] = ReadStatus.Missing;
      else if (this.corrupt.has(key)) statuses[i] = ReadStatus.Corrupt;
      else if (end > value.byteLength) statuses[i] = ReadStatus.Outside;
      parts.push(statuses[i] === 0 ? value!.subarray(first, end) : new Uint8Array(end - first));
    }
    const all = Buffer.concat(parts);
    let at = 0;
    for (let i = 0; i < reads.into.count; i++) {
      const bytes = reads.into.list[2 * i + 1]!;
      arena.bytes.set(all.subarray(at, at + bytes), reads.into.list[2 * i]!);
      at += bytes;
    }
  }

  async apply(change: OsdChange, options: CallOptions): Promise<void> {
    this.applies++;
    this.load++;
    const error = await this.#wait(this.does.applyDelayMs, options.timeoutMs);
    this.load--;
    if (error !== null) throw error;
    if (this.does.full && change.data !== null) throw new StorageError("OVS_FULL", "test: full");
    for (const key of change.present) {
      if (!this.values.has(toHex(key))) throw new StorageError("OVS_CONFLICT", "test: no such key");
    }
    if (change.data !== null) this.#store(change.data);
    for (const { key, value } of change.small) this.values.set(toHex(key), value.slice());
    for (const key of change.deletes) this.values.delete(toHex(key));
    if (this.does.losesAnswers) throw new StorageError("OVS_TIMEOUT", "test: no answer");
  }

  #store({ key, payload, bytes, crcs }: NonNullable<OsdChange["data"]>): void {
    const pieces: Uint8Array[] = [];
    for (let i = 0; i < payload.count; i++) {
      pieces.push(this.#world.arena.slice(payload.list[2 * i]!, payload.list[2 * i + 1]!));
    }
    const value = new Uint8Array(Buffer.concat(pieces));
    if (value.byteLength !== bytes) throw new Error("the payload is not as long as it says");
    for (let page = 0; page < bytes / 4096; page++) {
      const crc = this.#world.codec.crc32cOf(value.subarray(page * 4096, (page + 1) * 4096), 0);
      if (crc !== crcs[page])
        throw new StorageError("OVS_CORRUPT", `test: page ${page} is damaged`);
    }
    this.values.set(toHex(key), value);
  }

  async range(first: Uint8Array, end: Uint8Array, limit: number): Promise<KeyPage> {
    const error = await this.#wait(0, 1000);
    if (error !== null) throw error;
    const all = [...this.values.keys()]
      .map(fromHex)
      .filter((key) => compareBytes(key, first) >= 0 && compareBytes(key, end) < 0)
      .sort(compareBytes);
    const keys = all.slice(0, limit);
    const lengths = keys.map((key) => this.values.get(toHex(key))!.byteLength);
    return { keys, lengths, more: all.length > limit };
  }

  async getSmall(keys: readonly Uint8Array[]): Promise<Array<Uint8Array | null>> {
    return keys.map((key) => this.values.get(toHex(key)) ?? null);
  }

  async close(): Promise<void> {}

  async #wait(delayMs: number, timeoutMs: number): Promise<StorageError | null> {
    if (!this.does.up) return new StorageError("OVS_UNAVAILABLE", "test: down");
    if (delayMs > 0) await this.#world.clock.sleep(Math.min(delayMs, timeoutMs));
    else await new Promise<void>((resolve) => setImmediate(resolve));
    if (delayMs > timeoutMs) return new StorageError("OVS_TIMEOUT", "test: too slow");
    return this.does.up ? null : new StorageError("OVS_UNAVAILABLE", "test: went down");
  }
}
