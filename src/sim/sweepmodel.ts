// SPDX-License-Identifier: Apache-2.0
// What a vDisk may hold as a whole, for a story whose requests come one after the other, or a few
// at a time. Stricter than the history of single units: after a loss of power the vDisk shows the
// state after some request, none older than the last flush, and nothing in between.
//
//   floor (durable) │ group │ group │ open group (not all of it is answered)

import { assert } from "../base/assert.js";

/** A change of units; all of one request, which takes effect whole or not. */
export interface Change {
  first: number;
  count: number;
  /** What the units hold then: the request's number, or 0. */
  value: number;
}

const STATES_MAX = 256;

/** The contents that a vDisk may have. */
export class PrefixModel {
  /** What may be durable, each a number for each unit. */
  #floor: Uint32Array[];
  /** Answered and not flushed, in the order of the story. */
  #since: Change[][] = [];
  #open: Change[] = [];
  #unsure: "no" | "killed" | "power" = "no";

  constructor(units: number) {
    this.#floor = [new Uint32Array(units)];
  }

  /** Its server died since it was read last. */
  get isUnsure(): boolean {
    return this.#unsure !== "no";
  }

  /** Requests begin together; those before have ended. */
  begin(group: Change[]): void {
    assert(this.#open.length === 0 && !this.isUnsure, "one group is under way");
    this.#open = group;
  }

  /** All of the group were answered; `durable`: the group is one write with FUA, or a flush. */
  answered(durable: boolean): void {
    if (this.#open.length > 0) this.#since.push(this.#open);
    this.#open = [];
    if (durable) this.#settle(this.#whole());
  }

  /** The router was killed: what was answered stays. */
  killed(): void {
    if (this.#unsure === "no") this.#unsure = "killed";
  }

  /** The power of the router's host failed: what was flushed stays. */
  powerLost(): void {
    this.#unsure = "power";
  }

  /** All of the vDisk was read: what must not be, or "". What was found is durable. */
  found(values: Uint32Array): string {
    const may = this.#unsure === "power" ? this.#prefixes() : this.#ends();
    const state = may.find((one) => equal(one, values));
    this.#open = [];
    this.#unsure = "no";
    this.#settle([values.slice()]);
    if (state !== undefined) return "";
    const near = may.map((one) => differences(one, values)).sort((a, b) => a.length - b.length)[0]!;
    const words = near.slice(0, 6).map(({ unit, may, is }) => `${unit}: ${is}, not ${may}`);
    const where = `from the nearest differ ${near.length} units: ${words.join("; ")}`;
    return `the vDisk is in none of ${may.length} states; ${where}`;
  }

  #settle(states: Uint32Array[]): void {
    this.#floor = states;
    this.#since = [];
  }

  /** With all that was answered. */
  #whole(): Uint32Array[] {
    let states = this.#floor;
    for (const group of this.#since) states = distinct(after(states, group, true));
    return states;
  }

  /** With all that was answered, and any of what was not. */
  #ends(): Uint32Array[] {
    return distinct(after(this.#whole(), this.#open, false));
  }

  /** After any request since the floor. */
  #prefixes(): Uint32Array[] {
    const found: Uint32Array[] = [...this.#floor];
    let states = this.#floor;
    for (const group of this.#since) {
      found.push(...after(states, group, false));
      states = distinct(after(states, group, true));
    }
    found.push(...after(states, this.#open, false));
    return distinct(found);
  }
}

/** The group's changes in every order: all of them, or also only the first few. */
function after(states: Uint32Array[], group: readonly Change[], all: boolean): Uint32Array[] {
  if (group.length === 0) return states;
  const found = all ? [] : [...states];
  for (const [i, change] of group.entries()) {
    const changed = states.map((state) => changedBy(state, change));
    const rest = group.filter((_, other) => other !== i);
    found.push(...after(changed, rest, all));
  }
  return found;
}

function changedBy(state: Uint32Array, { first, count, value }: Change): Uint32Array {
  return state.slice().fill(value, first, first + count);
}

function distinct(states: Uint32Array[]): Uint32Array[] {
  const found: Uint32Array[] = [];
  for (const state of states) if (!found.some((one) => equal(one, state))) found.push(state);
  assert(found.length <= STATES_MAX, "a story has few requests at a time");
  return found;
}

function equal(a: Uint32Array, b: Uint32Array): boolean {
  return a.every((value, i) => value === b[i]);
}

function differences(may: Uint32Array, is: Uint32Array) {
  const list: Array<{ unit: number; may: number; is: number }> = [];
  for (const [unit, value] of is.entries()) {
    if (value !== may[unit]) list.push({ unit, may: may[unit]!, is: value });
  }
  return list;
}
