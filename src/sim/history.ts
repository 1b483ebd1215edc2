// SPDX-License-Identifier: Apache-2.0
// What a vDisk may hold, unit by unit: a checker of linearizability and durability. Each unit of
// 512 bytes is a register; a write's value is its operation's number, zeroes are 0.
//
// A unit has a few states that it may be in: a value, and which of the writes under way have taken
// effect (just-in-time linearization: Lowe, "Testing for linearizability", 2017). An answered write
// has taken effect in every state; one of unknown outcome may at any time until its server is dead
// and another serves. After a loss of power the unit may hold any value that it has had since the
// last flush that covers it.
//
// Most units are settled: one value, nothing under way. Those are a number each; only the others
// have a record of their own.
//
// Sound, not complete: what two reads under way at the same time say of each other is not used.

import { assert } from "../base/assert.js";

export const UNIT_BYTES = 512;
/** Writes under way to one unit; a workload must not make more. */
export const PENDING_MAX = 6;

/** What a read found that cannot be; `unit` is its number in the vDisk. */
export interface Violation {
  unit: number;
  found: number;
  allowed: number[];
}

interface State {
  value: number;
  /** Bit i: pending[i] has taken effect. */
  applied: number;
}

interface Unit {
  states: State[];
  /** Writes under way: their values, and their operations. */
  pending: Array<{ operation: number; value: number }>;
  /** What a loss of power may leave; null: the states' values. */
  exposed: Set<number> | null;
  /** Flushes that began before this serial say nothing new of the unit. */
  flushed: number;
  /** Writes since then, in order of their beginning. */
  recent: Array<{ serial: number; value: number }>;
  /** Reads under way, and the values that were possible since they began; null: none. */
  readers: Map<number, Reader> | null;
}

interface Reader {
  seen: Set<number>;
  quiet: boolean;
}

interface WriteOperation {
  first: number;
  count: number;
  zero: boolean;
  serial: number;
  /** Values of writes that were under way when it began, of the units where there were any. */
  beside: Map<number, number[]>;
}

/** What the end of a write says of a unit; `beside`: values of writes that it began beside. */
type DecideEnd = (unit: Unit, index: number, write: { serial: number; beside: number[] }) => void;

interface FlushOperation {
  serial: number;
  /** Values of the exposed units when it began. */
  values: Map<number, number[]>;
}

export class History {
  /** The units that are not settled. */
  readonly #units = new Map<number, Unit>();
  /** Values of the settled ones; 0 behind its end. */
  #settled = new Uint32Array(1024);
  readonly #writes = new Map<number, WriteOperation>();
  readonly #reads = new Map<number, { first: number; count: number }>();
  readonly #flushes = new Map<number, FlushOperation>();
  /** Units of which a loss of power may leave more than one value. */
  readonly #exposed = new Set<number>();
  #serial = 0;

  /** Operations under way. */
  get inFlight(): number {
    return this.#writes.size + this.#reads.size + this.#flushes.size;
  }

  /** True when one more write to these units would be too many at once. */
  isCrowded(first: number, count: number): boolean {
    for (let unit = first; unit < first + count; unit++) {
      if ((this.#units.get(unit)?.pending.length ?? 0) >= PENDING_MAX) return true;
    }
    return false;
  }

  /** A write, or with `zero` a trim or zeroing, of whole units begins. `operation` is never 0. */
  writeBegins(operation: number, first: number, count: number, zero: boolean): void {
    assert(operation > 0 && !this.#writes.has(operation), "an operation begins once");
    const value = zero ? 0 : operation;
    const serial = ++this.#serial;
    const beside = new Map<number, number[]>();
    this.#writes.set(operation, { first, count, zero, serial, beside });
    for (let number = first; number < first + count; number++) {
      const unit = this.#unit(number);
      assert(unit.pending.length < PENDING_MAX, "a unit is not crowded");
      unit.exposed ??= new Set(unit.states.map((state) => state.value));
      unit.exposed.add(value);
      unit.recent.push({ serial, value });
      this.#exposed.add(number);
      if (unit.pending.length > 0) {
        beside.set(
          number,
          unit.pending.map((other) => other.value),
        );
      }
      unit.pending.push({ operation, value });
      if (unit.readers === null) continue;
      for (const reader of unit.readers.values()) {
        reader.quiet = false;
        reader.seen.add(value);
      }
    }
  }

  /** It was answered without an error; `durable`: with FUA. */
  writeEnds(operation: number, durable: boolean): void {
    this.#endWrite(operation, (unit, index, { serial, beside }) => {
      expand(unit);
      unit.states = unit.states.filter((state) => (state.applied & (1 << index)) !== 0);
      assert(unit.states.length > 0, "a write can always take effect");
      if (durable) keepFrom(unit, serial, beside);
    });
  }

  /** Its outcome will never be known, and it can take effect no more. */
  writeIsOver(operation: number): void {
    this.#endWrite(operation, (unit) => expand(unit));
  }

  /** A read of whole units begins. It may see what is there now or is written until it ends. */
  readBegins(operation: number, first: number, count: number): void {
    this.#reads.set(operation, { first, count });
    for (let number = first; number < first + count; number++) {
      // One that is settled gets its readers when it changes, if it does so before they end.
      const unit = this.#units.get(number);
      if (unit === undefined) continue;
      const seen = new Set(unit.states.map((state) => state.value));
      for (const { value } of unit.pending) seen.add(value);
      unit.readers ??= new Map();
      unit.readers.set(operation, { seen, quiet: unit.pending.length === 0 });
    }
  }

  /** It was answered: `values[i]` is what unit first + i holds. What cannot be, or null. */
  readEnds(operation: number, values: Uint32Array): Violation | null {
    const read = this.#takeRead(operation);
    assert(values.length === read.count, "a read has a value for each unit");
    let violation: Violation | null = null;
    for (let i = 0; i < read.count; i++) {
      const found = values[i]!;
      const unit = this.#units.get(read.first + i);
      if (unit === undefined) {
        const only = this.#valueOf(read.first + i);
        if (found !== only) violation ??= { unit: read.first + i, found, allowed: [only] };
        continue;
      }
      const reader = unit.readers!.get(operation)!;
      unit.readers!.delete(operation);
      if (!reader.seen.has(found) || !learn(unit, found, reader.quiet)) {
        violation ??= { unit: read.first + i, found, allowed: [...reader.seen] };
      }
      this.#tidy(read.first + i, unit);
    }
    return violation;
  }

  /** It was not answered. */
  readIsOver(operation: number): void {
    const read = this.#takeRead(operation);
    for (let number = read.first; number < read.first + read.count; number++) {
      const unit = this.#units.get(number);
      if (unit === undefined) continue;
      unit.readers!.delete(operation);
      this.#tidy(number, unit);
    }
  }

  /** A flush begins: writes that were answered until now are what it covers. */
  flushBegins(operation: number): void {
    const values = new Map<number, number[]>();
    for (const number of this.#exposed) {
      const unit = this.#unit(number);
      const now = unit.states.map((state) => state.value);
      for (const { value } of unit.pending) now.push(value);
      values.set(number, now);
    }
    this.#flushes.set(operation, { serial: this.#serial, values });
  }

  /** It was answered: what was answered before it began is durable. */
  flushEnds(operation: number): void {
    const flush = this.#flushes.get(operation);
    assert(flush !== undefined, "a flush ends once");
    this.#flushes.delete(operation);
    for (const [number, values] of flush.values) {
      const unit = this.#units.get(number);
      if (unit === undefined || unit.exposed === null) continue;
      // A later one was answered before this one.
      if (flush.serial < unit.flushed) continue;
      unit.flushed = flush.serial;
      unit.recent = unit.recent.filter(({ serial }) => serial > flush.serial);
      unit.exposed = new Set(values);
      for (const { value } of unit.recent) unit.exposed.add(value);
      this.#tidy(number, unit);
    }
  }

  /** It was not answered: it makes nothing durable that others may rely on. */
  flushIsOver(operation: number): void {
    this.#flushes.delete(operation);
  }

  /**
   * The power failed where the journal lies: nothing is under way any more, and what was not
   * flushed may be lost.
   */
  powerLost(): void {
    for (const operation of [...this.#reads.keys()]) this.readIsOver(operation);
    this.#flushes.clear();
    this.#writes.clear();
    for (const number of [...this.#exposed]) {
      const unit = this.#unit(number);
      const values = unit.exposed ?? new Set(unit.states.map((state) => state.value));
      unit.pending = [];
      unit.recent = [];
      unit.states = [...values].map((value) => ({ value, applied: 0 }));
      unit.exposed = null;
      this.#tidy(number, unit);
    }
  }

  #unit(number: number): Unit {
    let unit = this.#units.get(number);
    if (unit === undefined) {
      const value = this.#valueOf(number);
      unit = {
        states: [{ value, applied: 0 }],
        pending: [],
        exposed: null,
        flushed: this.#serial,
        recent: [],
        readers: this.#readersOf(number, value),
      };
      this.#units.set(number, unit);
    }
    return unit;
  }

  #valueOf(number: number): number {
    return number < this.#settled.length ? this.#settled[number]! : 0;
  }

  /** Reads that began when the unit was settled. */
  #readersOf(number: number, value: number): Map<number, Reader> | null {
    let readers: Map<number, Reader> | null = null;
    for (const [operation, { first, count }] of this.#reads) {
      if (number < first || number >= first + count) continue;
      readers ??= new Map();
      readers.set(operation, { seen: new Set([value]), quiet: true });
    }
    return readers;
  }

  #settle(number: number, value: number): void {
    this.#units.delete(number);
    if (number >= this.#settled.length) {
      if (value === 0) return;
      const wider = new Uint32Array(2 ** Math.ceil(Math.log2(number + 1)));
      wider.set(this.#settled);
      this.#settled = wider;
    }
    this.#settled[number] = value;
  }

  #takeRead(operation: number): { first: number; count: number } {
    const read = this.#reads.get(operation);
    assert(read !== undefined, "a read ends once");
    this.#reads.delete(operation);
    return read;
  }

  #endWrite(operation: number, decide: DecideEnd): void {
    const write = this.#writes.get(operation);
    assert(write !== undefined, "a write ends once");
    this.#writes.delete(operation);
    for (let number = write.first; number < write.first + write.count; number++) {
      const unit = this.#unit(number);
      const index = unit.pending.findIndex((each) => each.operation === operation);
      const { serial } = write;
      decide(unit, index, { serial, beside: write.beside.get(number) ?? [] });
      forget(unit, index);
      this.#tidy(number, unit);
    }
  }

  /** Drops the record of a unit that is settled. */
  #tidy(number: number, unit: Unit): void {
    if (unit.pending.length > 0 || (unit.readers !== null && unit.readers.size > 0)) return;
    const exposed = unit.exposed;
    const only = unit.states.length === 1 ? unit.states[0]!.value : -1;
    if (exposed !== null && (exposed.size > 1 || !exposed.has(only))) return;
    if (exposed !== null) {
      unit.exposed = null;
      unit.flushed = this.#serial;
      unit.recent = [];
    }
    this.#exposed.delete(number);
    if (only >= 0) this.#settle(number, only);
  }
}

/**
 * A write with FUA was answered: a loss of power leaves it, or what may have come after it, which
 * are those that were under way when it began, and those that began later.
 */
function keepFrom(unit: Unit, serial: number, beside: number[]): void {
  // A flush that began later has said more.
  if (!unit.recent.some((write) => write.serial === serial)) return;
  const after = new Set(beside);
  for (const write of unit.recent) if (write.serial >= serial) after.add(write.value);
  for (const value of unit.exposed!) if (!after.has(value)) unit.exposed!.delete(value);
}

/** Adds the states that come about when writes under way take effect. */
function expand(unit: Unit): void {
  const known = new Set(unit.states.map(({ value, applied }) => value * 65_536 + applied));
  for (let at = 0; at < unit.states.length; at++) {
    const { applied } = unit.states[at]!;
    for (const [index, { value }] of unit.pending.entries()) {
      const bit = 1 << index;
      if ((applied & bit) !== 0) continue;
      const key = value * 65_536 + (applied | bit);
      if (known.has(key)) continue;
      known.add(key);
      unit.states.push({ value, applied: applied | bit });
    }
  }
}

/** A read was answered with `found`. False when no state allows that. */
function learn(unit: Unit, found: number, quiet: boolean): boolean {
  if (quiet) {
    // Nothing was written while it was under way: that is what the unit holds.
    const states = unit.states.filter(({ value }) => value === found);
    if (states.length > 0) unit.states = states;
    return states.length > 0;
  }
  const index = unit.pending.findIndex(({ value }) => value === found);
  if (index < 0 || found === 0) return true;
  expand(unit);
  unit.states = unit.states.filter(({ applied }) => (applied & (1 << index)) !== 0);
  return true;
}

/** Takes a write that is over out of the lists; states that are the same now become one. */
function forget(unit: Unit, index: number): void {
  unit.pending.splice(index, 1);
  const low = (1 << index) - 1;
  const known = new Set<number>();
  unit.states = unit.states.filter((state) => {
    state.applied = (state.applied & low) | ((state.applied >>> 1) & ~low);
    const key = state.value * 65_536 + state.applied;
    if (known.has(key)) return false;
    known.add(key);
    return true;
  });
}
