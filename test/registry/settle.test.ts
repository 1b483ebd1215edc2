// SPDX-License-Identifier: Apache-2.0
// Unknown outcomes: a registry that loses answers, and applies some transactions late or never.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { StorageError } from "../../src/base/errors.js";
import { NodeKv } from "../../src/platform/node/kv.js";
import { EmbeddedRegistry } from "../../src/registry/embedded.js";
import type {
  Registry,
  RegistryEntry,
  Transaction,
  TransactionResult,
} from "../../src/registry/registry.js";
import { isUnknownOutcome, type Settled, settle } from "../../src/registry/settle.js";
import { QuietLog, realClock } from "../platform/fixture.js";
import { KV_OPTIONS, seeded } from "../platform/kv.contract.js";
import { always, bytes, put, text } from "./registry.contract.js";

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
const root = mkdtempSync(join(tmpdir(), "ovs-settle-"));
const random = {
  below: (limit: number) => Math.floor(Math.random() * limit),
  bytes: (count: number) => crypto.getRandomValues(new Uint8Array(count)),
};
const store = await new NodeKv().open(join(root, "kv"), KV_OPTIONS);
const world = { clock: realClock, random, log: new QuietLog() };
const registry = await EmbeddedRegistry.open(world, store);
t.teardown(async () => {
  await registry.close();
  await store.close();
  rmSync(root, { recursive: true, force: true });
});

type Fate = "works" | "applied, answer lost" | "lost" | "late";

/** Gives each transaction a fate; the late ones are applied when `deliver` is called. */
class Unreliable {
  readonly late: Transaction[] = [];
  readonly #fate: () => Fate;

  constructor(fate: () => Fate) {
    this.#fate = fate;
  }

  get face(): Registry {
    return new Proxy(registry, {
      get: (target, name) =>
        name === "transact"
          ? (transaction: Transaction) => this.#transact(transaction)
          : Reflect.get(target, name, target),
    });
  }

  async deliver(): Promise<void> {
    for (const transaction of this.late.splice(0)) await registry.transact(transaction);
  }

  async #transact(transaction: Transaction): Promise<TransactionResult> {
    const fate = this.#fate();
    if (fate === "works") return await registry.transact(transaction);
    if (fate === "applied, answer lost") await registry.transact(transaction);
    if (fate === "late") this.late.push(transaction);
    throw new StorageError("OVS_TIMEOUT", "no answer");
  }
}

const soon = (ms = 2000) => ({ deadlineMs: realClock.nowMs() + ms, pauseMs: 1 });
const scripted = (...fates: Fate[]) => new Unreliable(() => fates.shift() ?? "works");
let keys = 0;

async function fresh(value: string | null): Promise<{ key: string; entry: RegistryEntry | null }> {
  const key = `settle/${++keys}`;
  if (value !== null) await registry.transact(always(put(key, value)));
  return { key, entry: await registry.get(key) };
}

t.test("a change that is answered is applied or refused at once", async (t) => {
  const { key, entry } = await fresh("old");
  const change = { key, expected: entry, value: bytes("new") };
  const done = await settle(realClock, registry, change, soon());
  t.match(done, { outcome: "applied", entry: { version: 2 } });
  t.match(await settle(realClock, registry, change, soon()), {
    outcome: "refused",
    entry: { version: 2 },
  });
  const invalid = { key: "", expected: null, value: bytes("x") };
  await t.rejects(settle(realClock, registry, invalid, soon()), { code: "OVS_INVALID" });
});

for (const start of ["old", null]) {
  const what = start === null ? "making" : "replacing";
  t.test(`${what}: applied with its answer lost is known as applied, once`, async (t) => {
    const { key, entry } = await fresh(start);
    const unreliable = scripted("applied, answer lost", "lost", "applied, answer lost");
    const change = {
      key,
      expected: entry,
      value: bytes("new"),
      operations: [put(`${key}/x`, "x")],
    };
    const done = await settle(realClock, unreliable.face, change, soon());
    t.equal(done.outcome, "applied");
    t.equal((await registry.get(key))!.version, start === null ? 1 : 2);
    t.equal((await registry.get(`${key}/x`))!.version, 1);
  });

  t.test(`${what}: a late transaction never comes after the outcome is known`, async (t) => {
    const { key, entry } = await fresh(start);
    const unreliable = scripted("late", "late", "lost");
    const change = {
      key,
      expected: entry,
      value: bytes("new"),
      operations: [put(`${key}/x`, "x")],
    };
    t.equal((await settle(realClock, unreliable.face, change, soon())).outcome, "applied");
    await registry.transact(always(put(key, "newer"), put(`${key}/x`, "newer")));
    await unreliable.deliver();
    t.equal(text((await registry.get(key))!.value), "newer");
    t.equal(text((await registry.get(`${key}/x`))!.value), "newer");
  });
}

t.test("overtaken by another, ours never comes", async (t) => {
  const { key, entry } = await fresh("old");
  const unreliable = scripted("late");
  const face = unreliable.face;
  const settled = settle(realClock, face, { key, expected: entry, value: bytes("new") }, soon());
  await registry.transact(always(put(key, "theirs")));
  t.match(await settled, { outcome: "refused", entry: { value: bytes("theirs") } });
  await unreliable.deliver();
  t.equal(text((await registry.get(key))!.value), "theirs");
  const expected = await registry.get(key);
  const lossy = scripted("applied, answer lost");
  const again = settle(realClock, lossy.face, { key, expected, value: bytes("newer") }, soon());
  await registry.transact(always(put(key, "theirs again")));
  t.match(await again, { outcome: "overtaken", entry: { value: bytes("theirs again") } });
});

t.test(
  "when another compare fails the key is written again, so that a late one cannot come",
  async (t) => {
    const { key, entry } = await fresh("old");
    const gate = `${key}/gate`;
    const compares = [{ key: gate, target: "version", is: "=", number: 1 } as const];
    const unreliable = scripted("late");
    const change = { key, expected: entry, value: bytes("new"), compares };
    const settled = await settle(realClock, unreliable.face, change, soon());
    t.match(settled, { outcome: "refused", entry: { value: bytes("old"), version: 2 } });
    await registry.transact(always(put(gate, "open")));
    await unreliable.deliver();
    t.equal(text((await registry.get(key))!.value), "old");
    // A missing key cannot be written as it is: such a change stays unknown.
    const missing = await fresh(null);
    const hidden = scripted("late");
    const making = {
      key: missing.key,
      expected: null,
      value: bytes("new"),
      compares: [{ key: `${missing.key}/gate`, target: "version", is: "=", number: 1 } as const],
    };
    await t.rejects(settle(realClock, hidden.face, making, soon(30)), { code: "OVS_TIMEOUT" });
  },
);

t.test("what is not known at the deadline is said to be unknown", async (t) => {
  const { key, entry } = await fresh("old");
  const dead = new Unreliable(() => "lost");
  const change = { key, expected: entry, value: bytes("new") };
  const error = await settle(realClock, dead.face, change, soon(20)).then(
    () => null,
    (reason: unknown) => reason,
  );
  t.match(error, { code: "OVS_TIMEOUT", message: /not known/ });
  t.ok(isUnknownOutcome(error));
  t.notOk(isUnknownOutcome(new StorageError("OVS_FULL", "x")));
  t.notOk(isUnknownOutcome(new Error("x")));
});

t.test(`whatever is said of a change stays true (SEED=${seed})`, async (t) => {
  const below = seeded(seed);
  const fates: Fate[] = ["works", "works", "applied, answer lost", "lost", "late"];
  const unreliable = new Unreliable(() => fates[below(fates.length)]!);
  const key = "settle/random";
  let serial = 0;
  const applied: string[] = [];
  const overtaken = new Set<string>();
  const history: string[] = [];
  const watch = await registry.watch(key, registry.revision + 1, {
    onEvents: (events) => history.push(...events.map(({ entry }) => text(entry.value))),
    onEnd: (reason) => t.fail(reason),
  });
  const writer = async () => {
    for (let i = 0; i < 60; i++) {
      const value = `value ${++serial}`;
      const expected = await registry.get(key);
      const change = { key, expected, value: bytes(value) };
      const settled: Settled = await settle(realClock, unreliable.face, change, soon(20_000));
      if (settled.outcome === "applied") applied.push(value);
      if (settled.outcome === "overtaken") overtaken.add(value);
      if (below(3) === 0) await unreliable.deliver();
    }
  };
  await Promise.all([writer(), writer(), writer()]);
  await unreliable.deliver();
  const last = await registry.transact(always(put(key, "end")));
  while (history.at(-1) !== "end") await realClock.sleep(1);
  watch.cancel();
  const written = history.slice(0, -1);
  const known = written.filter((value) => !overtaken.has(value));
  t.same([...new Set(known)].sort(), [...applied].sort(), "applied are those, and no others");
  t.ok(last.revision > applied.length);
});
