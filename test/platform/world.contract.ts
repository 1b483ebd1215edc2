// SPDX-License-Identifier: Apache-2.0
// What every clock and every source of chance must do. The real world and the simulated one run it.

import type { Test } from "tap";
import { AssertionError } from "../../src/base/assert.js";
import type { Clock, Random } from "../../src/platform/world.js";

/** Longer than the timers of the runtime can be. */
const LONG_MS = 2 ** 31 + 5;

/** Runs the contract of clocks as subtests of `t`. */
export async function clockContract(t: Test, clock: Clock): Promise<void> {
  await t.test("time grows, and no timer is early", async (t) => {
    let last = clock.nowMs();
    for (const delayMs of [0, 0.3, 1, 2.7, 5, 1.1, 10, 3.999, -4]) {
      const due = clock.nowMs() + delayMs;
      await clock.sleep(delayMs);
      t.ok(clock.nowMs() >= due - 1e-4, `${delayMs} ms have passed`);
      t.ok(clock.nowMs() >= last, "it never goes back");
      last = clock.nowMs();
    }
    t.ok(Number.isSafeInteger(clock.wallMs()), "wall time is in whole milliseconds");
  });

  await t.test(
    "timers of the same delay run in their order, what is cancelled never",
    async (t) => {
      const order: number[] = [];
      const timers = Array.from({ length: 50 }, (_, i) => clock.after(5, () => void order.push(i)));
      for (let i = 0; i < 50; i += 3) timers[i]!.cancel();
      timers[0]!.cancel();
      await Promise.resolve();
      timers[1]!.cancel();
      const last = clock.after(5, () => undefined);
      await clock.sleep(30);
      last.cancel();
      const rest = Array.from({ length: 50 }, (_, i) => i).filter((i) => i % 3 > 0 && i !== 1);
      t.same(order, rest);
    },
  );

  await t.test("a timer may end another one that is due at the same time", async (t) => {
    const ran: string[] = [];
    const first = clock.after(3, () => {
      ran.push("first");
      second.cancel();
      first.cancel();
    });
    const second = clock.after(3, () => void ran.push("second"));
    await clock.sleep(20);
    t.same(ran, ["first"]);
  });

  await t.test(
    "nothing runs inside the call; what is immediate comes before what is not",
    async (t) => {
      const order: string[] = [];
      clock.after(0, () => void order.push("cancelled")).cancel();
      clock.after(15, () => void order.push("later"));
      clock.immediate(() => {
        order.push("soon");
        clock.immediate(() => void order.push("sooner or later"));
        order.push("not inside");
      });
      clock.immediate(() => void order.push("second"));
      t.same(order, []);
      await Promise.resolve();
      t.same(order, [], "not among what settles either");
      await clock.sleep(40);
      t.same(order, ["soon", "not inside", "second", "sooner or later", "later"]);
    },
  );

  await t.test("a timer may be further away than the runtime's own can be", async (t) => {
    let ran = 0;
    const timers = [LONG_MS, 2 ** 40, Number.MAX_SAFE_INTEGER, Number.POSITIVE_INFINITY].map(
      (delayMs) => clock.after(delayMs, () => void ran++),
    );
    await clock.sleep(20);
    for (const timer of timers) timer.cancel();
    t.equal(ran, 0);
    t.throws(() => clock.after(Number.NaN, () => undefined), AssertionError);
  });
}

/** Runs the contract of chance as a subtest of `t`. */
export async function randomContract(t: Test, random: Random): Promise<void> {
  await t.test("chance is in its bounds, and takes all of them", async (t) => {
    for (const limit of [1, 2, 7, 2 ** 32, 2 ** 48, 2 ** 50 + 1, Number.MAX_SAFE_INTEGER]) {
      let [least, most] = [limit, 0];
      for (let i = 0; i < 200; i++) {
        const value = random.below(limit);
        if (!Number.isSafeInteger(value) || value < 0 || value >= limit) {
          t.fail(`${value} below ${limit}`);
        }
        [least, most] = [Math.min(least, value), Math.max(most, value)];
      }
      t.ok(least <= limit / 10 && most >= limit * 0.9 - 1, `${least} to ${most} of ${limit}`);
    }
    for (const wrong of [0, -1, 1.5, Number.NaN, 2 ** 53]) {
      t.throws(() => random.below(wrong), AssertionError, `${wrong}`);
    }
    t.equal(random.bytes(0).length, 0);
    t.equal(random.bytes(16).length, 16);
    t.notSame(random.bytes(16), random.bytes(16));
    t.ok(new Set(random.bytes(20_000)).size === 256, "each byte comes");
  });
}
