// SPDX-License-Identifier: Apache-2.0
// Leases under a clock that the test moves: they end in time, and begin anew when the registry
// itself stood still.

import t from "tap";
import { LeaseTable } from "../../src/registry/leases.js";
import { HandClock } from "../platform/handclock.js";

function table() {
  const clock = new HandClock();
  const expired: bigint[] = [];
  const stalls: number[] = [];
  const leases = new LeaseTable(
    clock,
    (lease) => {
      expired.push(lease.id);
      leases.remove(lease.id);
    },
    (ms) => stalls.push(ms),
  );
  return { clock, leases, expired, stalls };
}

t.test("a lease that nobody renews ends in its time", async (t) => {
  const { clock, leases, expired, stalls } = table();
  leases.add(1n, 4);
  leases.add(2n, 4);
  clock.pass(3000);
  leases.renew(2n);
  clock.pass(1100);
  t.same(expired, [1n]);
  clock.pass(3000);
  t.same(expired, [1n, 2n]);
  t.same(stalls, []);
  t.equal(leases.size, 0);
});

for (const reversed of [false, true]) {
  const order = reversed ? "last" : "first";
  t.test(`when the registry stood still leases begin anew (its beat comes ${order})`, async (t) => {
    const { clock, leases, expired, stalls } = table();
    leases.add(1n, 4);
    leases.add(2n, 60);
    clock.pass(3900);
    clock.stall(6000, reversed);
    t.same(expired, [], "nobody could renew");
    t.equal(stalls.length, 1);
    clock.pass(3800);
    t.same(expired, [], "the whole time is there again");
    leases.renew(1n);
    clock.pass(3800);
    t.same(expired, []);
    clock.pass(400);
    t.same(expired, [1n], "and then it ends");
    clock.pass(1000);
    clock.stall(120_000, reversed);
    t.same(expired, [1n]);
    t.equal(stalls.length, 2);
  });
}

t.test("a stop cancels everything", async (t) => {
  const { clock, leases, expired } = table();
  leases.add(1n, 2);
  leases.stop();
  clock.pass(10_000);
  t.same(expired, []);
});
