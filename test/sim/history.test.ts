// SPDX-License-Identifier: Apache-2.0
// The checker finds what it must find, and nothing else: single stories, then random histories of
// a register that behaves, and the same with one answer changed.

import t from "tap";
import { Dice } from "../../src/sim/dice.js";
import { History } from "../../src/sim/history.js";

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

/** Reads one unit at once: true when the checker accepts the value. */
function read(history: History, operation: number, unit: number, value: number): boolean {
  history.readBegins(operation, unit, 1);
  return history.readEnds(operation, Uint32Array.of(value)) === null;
}

function write(history: History, operation: number, unit: number, durable = false): void {
  history.writeBegins(operation, unit, 1, false);
  history.writeEnds(operation, durable);
}

t.test("a read gives the last answered write, and what is fresh is zero", async (t) => {
  const history = new History();
  t.ok(read(history, 1, 7, 0));
  write(history, 2, 7);
  t.ok(read(history, 3, 7, 2));
  t.notOk(read(history, 4, 7, 0), "the old value is gone");
  t.notOk(read(history, 5, 7, 9), "a value that nobody wrote");
  history.writeBegins(6, 7, 1, true);
  history.writeEnds(6, false);
  t.ok(read(history, 7, 7, 0), "zeroes are a value");
  t.notOk(read(history, 8, 7, 2));
});

t.test("while writes are under way either value may be read, but never back again", async (t) => {
  const history = new History();
  write(history, 1, 0);
  history.writeBegins(2, 0, 1, false);
  t.ok(read(history, 3, 0, 1));
  t.ok(read(history, 4, 0, 2));
  t.notOk(read(history, 5, 0, 1), "what was seen is not unseen");
  history.writeEnds(2, false);
  t.ok(read(history, 6, 0, 2));
});

t.test(
  "FUA covers its own write, not those that came after it before it was answered",
  async (t) => {
    const begun = () => {
      const history = new History();
      write(history, 1, 0);
      history.writeBegins(2, 0, 1, false);
      t.ok(read(history, 3, 0, 2), "the write has taken effect");
      write(history, 4, 0);
      return history;
    };
    for (const [found, allowed] of [
      [4, true],
      [2, true],
      [1, false],
      [0, false],
    ] as const) {
      const history = begun();
      history.writeEnds(2, true);
      t.ok(read(history, 5, 0, 4), "before a loss of power the later one counts");
      history.powerLost();
      t.equal(read(history, 6, 0, found), allowed, `${found} after it`);
    }
    const flushed = begun();
    flushed.flushBegins(7);
    flushed.flushEnds(7);
    flushed.writeEnds(2, true);
    flushed.powerLost();
    t.ok(read(flushed, 8, 0, 4), "a flush covers the later one");
    t.notOk(read(flushed, 9, 0, 1));
  },
);

t.test("two writes at the same time end in one order for everybody", async (t) => {
  const history = new History();
  history.writeBegins(1, 0, 1, false);
  history.writeBegins(2, 0, 1, false);
  history.writeEnds(1, false);
  history.writeEnds(2, false);
  t.ok(read(history, 3, 0, 1));
  t.notOk(read(history, 4, 0, 2));
});

t.test("a read that is under way with a write may see the past, a later one may not", async (t) => {
  const history = new History();
  write(history, 1, 0);
  history.readBegins(10, 0, 1);
  write(history, 2, 0);
  t.equal(history.readEnds(10, Uint32Array.of(1)), null, "it began before");
  t.notOk(read(history, 11, 0, 1));
});

t.test("a write of unknown outcome takes effect once, or never", async (t) => {
  const history = new History();
  write(history, 1, 0);
  history.writeBegins(2, 0, 1, false);
  t.ok(read(history, 3, 0, 1));
  history.writeIsOver(2);
  t.ok(read(history, 4, 0, 2), "it may have been the last thing that the server did");
  t.notOk(read(history, 5, 0, 1), "now it is known");
});

t.test("after a loss of power a unit holds what it had since the last flush", async (t) => {
  const history = new History();
  write(history, 1, 0);
  history.flushBegins(2);
  history.flushEnds(2);
  write(history, 3, 0);
  write(history, 4, 0);
  history.powerLost();
  t.ok(read(history, 5, 0, 3));
  t.notOk(read(history, 6, 0, 4), "it is decided by the first read");
  history.powerLost();
  t.ok(read(history, 7, 0, 3), "and stays");

  const flushed = new History();
  write(flushed, 1, 0);
  flushed.flushBegins(2);
  write(flushed, 3, 0);
  flushed.flushEnds(2);
  flushed.powerLost();
  t.notOk(read(flushed, 4, 0, 0), "what was answered before the flush began is durable");
  const late = new History();
  write(late, 1, 0, true);
  late.powerLost();
  t.notOk(read(late, 2, 0, 0), "so is a write with FUA");
});

t.test(`random histories of a register that behaves are accepted (SEED=${SEED})`, async (t) => {
  const dice = new Dice(SEED);
  for (let round = 0; round < 300; round++) {
    const wrong = story(dice.fork(`round ${round}`), false);
    if (wrong) return t.fail(`round ${round}: ${wrong}`);
  }
  return t.pass("all were accepted");
});

t.test(`changed answers are found in most of them (SEED=${SEED})`, async (t) => {
  const dice = new Dice(SEED);
  let found = 0;
  for (let round = 0; round < 300; round++) {
    if (story(dice.fork(`round ${round}`), true)) found++;
  }
  t.ok(found > 200, `${found} of 300`);
});

interface Waiting {
  id: number;
  kind: "read" | "write" | "flush";
  unit: number;
  zero: boolean;
  done: boolean;
  value: number;
}

/** A register with delays and losses of power; with `lie` one of its answers is an old value. */
function story(dice: Dice, lie: boolean): string | null {
  const history = new History();
  const units = 3;
  let held = new Array<number>(units).fill(0);
  let safe = [...held];
  const old = held.map(() => [0]);
  let waiting: Waiting[] = [];
  let lieAt = lie ? dice.between(5, 20) : -1;
  for (let id = 1; id <= 200; id++) {
    const kind = dice.pick(["read", "write", "write", "flush"] as const);
    const unit = dice.below(units);
    const zero = dice.chance(0.1);
    if (kind === "write" && !history.isCrowded(unit, 1)) {
      history.writeBegins(id, unit, 1, zero);
      waiting.push({ id, kind, unit, zero, done: false, value: zero ? 0 : id });
    } else if (kind === "read") {
      history.readBegins(id, unit, 1);
      waiting.push({ id, kind, unit, zero: false, done: false, value: 0 });
    } else if (kind === "flush") {
      history.flushBegins(id);
      waiting.push({ id, kind, unit, zero: false, done: false, value: 0 });
    }
    for (const each of waiting) {
      if (each.done || !dice.chance(0.5)) continue;
      each.done = true;
      if (each.kind === "write") {
        held[each.unit] = each.value;
        old[each.unit]!.push(each.value);
      } else if (each.kind === "read") each.value = held[each.unit]!;
      else safe = [...held];
    }
    for (const each of waiting.filter(({ done }) => done)) {
      if (!dice.chance(0.5)) continue;
      waiting = waiting.filter((other) => other !== each);
      if (each.kind === "write") history.writeEnds(each.id, false);
      else if (each.kind === "flush") history.flushEnds(each.id);
      else {
        lieAt--;
        const past = old[each.unit]!.filter((value) => value !== each.value);
        const value = lie && lieAt <= 0 && past.length > 4 ? past[0]! : each.value;
        const wrong = history.readEnds(each.id, Uint32Array.of(value));
        if (wrong) return `unit ${wrong.unit} holds ${wrong.found}, not ${wrong.allowed}`;
      }
    }
    if (dice.chance(0.02)) {
      history.powerLost();
      held = held.map((value, i) => (dice.chance(0.5) ? value : safe[i]!));
      safe = [...held];
      waiting = [];
    }
  }
  return null;
}
