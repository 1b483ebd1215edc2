// SPDX-License-Identifier: Apache-2.0
// What every registry must do: the subset of etcd v3 that the product uses, with its limits (P-C7).
// The embedded one runs it in process and behind its service, etcd itself behind the thin client,
// which proves that the contract is etcd's and not ours.

import type { Test } from "tap";
import { StorageError } from "../../src/base/errors.js";
import type { Clock } from "../../src/platform/world.js";
import {
  type Compare,
  fixedNumber,
  type Operation,
  type Registry,
  type RegistryEntry,
  type Transaction,
  type WatchEvent,
} from "../../src/registry/registry.js";
import { realClock } from "../platform/fixture.js";
import { seeded } from "../platform/kv.contract.js";
import { againstModel, bytes, put, text } from "./registry.model.js";

export { bytes, put, text } from "./registry.model.js";

export interface RegistryHarness {
  registry: Registry;
  /** Forgets the past up to and including that revision. */
  compact(revision: number): Promise<void>;
  seed: number;
  /** By which the registry lives; the real one by default. */
  clock?: Pick<Clock, "nowMs" | "sleep">;
}

export const always = (...success: Operation[]): Transaction => ({
  compares: [],
  success,
  failure: [],
});

/** Keeps what a watch was told. */
export class Recorder {
  readonly calls: Array<{ revision: number; events: string[] }> = [];
  readonly raw: WatchEvent[] = [];
  ended: string | null = null;

  onEvents(events: WatchEvent[], revision: number): void {
    this.calls.push({ revision, events: events.map(shown) });
    this.raw.push(...events);
  }

  onEnd(reason: string): void {
    this.ended = reason;
  }
}

function shown(event: WatchEvent): string {
  const { key, value } = event.entry;
  return event.kind === "put" ? `${key}=${text(value)}` : `-${key}`;
}

let families = 0;
const LIMIT_MS = 20_000;

/** Runs the contract as subtests of `t`. Every test has a prefix of its own. */
export async function registryContract(t: Test, make: () => RegistryHarness): Promise<void> {
  const run = (name: string, body: (t: Test, r: Registry, p: string) => Promise<void>) =>
    t.test(name, async (t) => body(t, make().registry, `test${++families}/`));
  const clock = make().clock ?? realClock;
  const until = async (condition: () => boolean, what: string): Promise<void> => {
    const endMs = clock.nowMs() + LIMIT_MS;
    while (!condition()) {
      if (clock.nowMs() > endMs) throw new Error(`in ${LIMIT_MS} ms it did not come to: ${what}`);
      await clock.sleep(1);
    }
  };

  await run("a key has revisions and a version, which begin anew with it", async (t, r, p) => {
    t.equal(await r.get(`${p}a`), null);
    const first = await r.transact(always(put(`${p}a`, "1")));
    t.same(await r.get(`${p}a`), {
      key: `${p}a`,
      value: bytes("1"),
      createRevision: first.revision,
      modRevision: first.revision,
      version: 1,
      lease: "0",
    } satisfies RegistryEntry);
    const second = await r.transact(always(put(`${p}a`, ""), put(`${p}b`, "x")));
    t.equal(second.revision, first.revision + 1, "one revision a transaction");
    t.match(await r.get(`${p}a`), {
      value: new Uint8Array(0),
      createRevision: first.revision,
      modRevision: second.revision,
      version: 2,
    });
    t.equal((await r.get(`${p}b`))?.modRevision, second.revision);
    await r.transact(always({ kind: "delete", key: `${p}a` }));
    t.equal(await r.get(`${p}a`), null);
    const third = await r.transact(always(put(`${p}a`, "3")));
    t.match(await r.get(`${p}a`), { createRevision: third.revision, version: 1 });
  });

  await run("what changes nothing makes no revision", async (t, r, p) => {
    const { revision } = await r.transact(always(put(`${p}a`, "1")));
    const get = await r.transact(always({ kind: "get", key: `${p}a` }));
    t.same([get.succeeded, get.revision], [true, revision]);
    const none = await r.transact(
      always({ kind: "delete", key: `${p}none` }, { kind: "deletePrefix", prefix: `${p}none` }),
    );
    t.equal(none.revision, revision);
    t.same(none.entries, [null, null]);
    const empty = await r.transact({ compares: [], success: [], failure: [] });
    t.same(empty, { succeeded: true, revision, entries: [] });
    const same = await r.transact(always(put(`${p}a`, "1")));
    t.equal(same.revision, revision + 1, "a put of the same value is a change");
  });

  await run("compares hold or not, as etcd's do", async (t, r, p) => {
    const a = `${p}a`;
    const made = (await r.transact(always(put(a, "bb")))).revision;
    const last = (await r.transact(always(put(a, "bb")))).revision;
    const holds = async (compare: Compare) =>
      (await r.transact({ compares: [compare], success: [], failure: [] })).succeeded;
    const signs = ["=", "<", ">", "!="] as const;
    const numbers: Array<
      [Compare["target"] & ("version" | "createRevision" | "modRevision"), number]
    > = [
      ["version", 2],
      ["createRevision", made],
      ["modRevision", last],
    ];
    for (const [target, right] of numbers) {
      for (const [number, wanted] of [
        [right, "="],
        [right - 1, ">!="],
        [right + 1, "<!="],
      ] as const) {
        for (const is of signs) {
          const expected = is === "!=" ? wanted.includes("!=") : wanted.replace("!=", "") === is;
          t.equal(
            await holds({ key: a, target, is, number }),
            expected,
            `${target} ${is} ${number}`,
          );
        }
      }
    }
    const values: Array<[string, string]> = [
      ["bb", "="],
      ["b", ">!="],
      ["bbb", "<!="],
      ["ba", ">!="],
      ["c", "<!="],
      ["", ">!="],
    ];
    for (const [value, wanted] of values) {
      for (const is of signs) {
        const expected = is === "!=" ? wanted.includes("!=") : wanted.replace("!=", "") === is;
        const compare = { key: a, target: "value", is, value: bytes(value) } as const;
        t.equal(await holds(compare), expected, `value ${is} "${value}"`);
      }
    }
  });

  await run("a missing key has version and revisions 0, and no value at all", async (t, r, p) => {
    const key = `${p}none`;
    const holds = async (...compares: Compare[]) =>
      (await r.transact({ compares, success: [], failure: [] })).succeeded;
    for (const target of ["version", "createRevision", "modRevision"] as const) {
      t.equal(await holds({ key, target, is: "=", number: 0 }), true);
      t.equal(await holds({ key, target, is: "<", number: 1 }), true);
      t.equal(await holds({ key, target, is: ">", number: 0 }), false);
      t.equal(await holds({ key, target, is: "!=", number: 0 }), false);
    }
    for (const is of ["=", "<", ">", "!="] as const) {
      t.equal(await holds({ key, target: "value", is, value: bytes("") }), false, is);
      t.equal(await holds({ key, target: "value", is, value: bytes("x") }), false, is);
    }
  });

  await run("a transaction is all of one branch, its operations in order", async (t, r, p) => {
    const [a, b] = [`${p}a`, `${p}b`];
    await r.transact(always(put(a, "1"), put(`${p}dir/x`, "x"), put(`${p}dir/y`, "y")));
    const absent: Compare = { key: b, target: "version", is: "=", number: 0 };
    const present: Compare = { key: a, target: "value", is: "=", value: bytes("1") };
    const done = await r.transact({
      compares: [present, absent],
      success: [
        { kind: "get", key: a },
        put(a, "2"),
        { kind: "get", key: a },
        put(b, "new"),
        { kind: "get", key: b },
        { kind: "deletePrefix", prefix: `${p}dir/` },
        { kind: "get", key: `${p}dir/x` },
      ],
      failure: [put(a, "wrong")],
    });
    t.equal(done.succeeded, true);
    t.same(
      done.entries.map((e) => e && text(e.value)),
      ["1", null, "2", null, "new", null, null],
    );
    t.equal(done.entries[2]?.modRevision, done.revision, "a get sees what was put before it");
    const refused = await r.transact({
      compares: [present, absent],
      success: [put(b, "wrong")],
      failure: [
        { kind: "get", key: b },
        { kind: "get", key: `${p}dir/y` },
      ],
    });
    t.equal(refused.succeeded, false);
    t.same(
      refused.entries.map((e) => e && text(e.value)),
      ["new", null],
    );
    t.equal(refused.revision, done.revision);
    t.equal(text((await r.get(a))!.value), "2");
  });

  await run("ranges are in the order of the bytes, page by page", async (t, r, p) => {
    const names = ["", "a", "a\0", "aa", "b", "z", "ä", "\u{ffff}", "\u{1f600}"];
    await r.transact(always(...names.map((name) => put(`${p}r/${name}`, name))));
    await r.transact(always(put(`${p}r`, "before"), put(`${p}r0`, "behind")));
    const all = await r.range(`${p}r/`, { limit: 100 });
    t.same(
      all.entries.map((e) => text(e.value)),
      names,
    );
    t.equal(all.more, false);
    t.equal(all.entries[3]?.version, 1);
    const paged: string[] = [];
    for (let after: string | undefined; ; ) {
      const page = await r.range(
        `${p}r/`,
        after === undefined ? { limit: 2 } : { after, limit: 2 },
      );
      paged.push(...page.entries.map((e) => text(e.value)));
      t.ok(page.revision >= all.revision);
      if (!page.more) break;
      after = page.entries.at(-1)!.key;
    }
    t.same(paged, names);
    const exact = await r.range(`${p}r/`, { limit: names.length });
    t.same([exact.entries.length, exact.more], [names.length, false]);
    t.same((await r.range(`${p}none`, { limit: 1 })).entries, []);
    const before = await r.range(`${p}r/`, { after: `${p}`, limit: 100 });
    t.equal(before.entries.length, names.length, "`after` may lie before the prefix");
    const behind = await r.range(`${p}r/`, { after: `${p}s`, limit: 100 });
    t.same([behind.entries.length, behind.more], [0, false]);
  });

  await run("large ranges come in parts", async (t, r, p) => {
    const value = "v".repeat(60_000);
    const names = Array.from({ length: 120 }, (_, i) => `${p}${fixedNumber(i)}`);
    for (let i = 0; i < names.length; i += 15) {
      await r.transact(always(...names.slice(i, i + 15).map((name) => put(name, value))));
    }
    const keys: string[] = [];
    for (let after: string | undefined; ; ) {
      const page = await r.range(p, after === undefined ? { limit: 1000 } : { after, limit: 1000 });
      keys.push(...page.entries.map((e) => e.key));
      if (!page.more) break;
      after = page.entries.at(-1)!.key;
    }
    t.same(keys, names);
    await r.transact(always({ kind: "deletePrefix", prefix: p }));
    t.equal((await r.range(p, { limit: 1 })).entries.length, 0);
  });

  await run("what is over a limit is refused and changes nothing", async (t, r, p) => {
    const many = (n: number) => Array.from({ length: n }, (_, i) => put(`${p}${i}`, "x"));
    const absent = (key: string): Compare => ({ key, target: "version", is: "=", number: 0 });
    const big = (n: number, size: number) =>
      Array.from({ length: n }, (_, i) => put(`${p}${i}`, "x".repeat(size)));
    const refused: Record<string, Transaction> = {
      "101 operations": always(...many(101)),
      "101 operations in failure": { compares: [], success: [], failure: many(101) },
      "101 compares": {
        compares: many(101).map((o) => absent("key" in o ? o.key : "")),
        success: [],
        failure: [],
      },
      "value too large": always(put(p, "x".repeat(65_537))),
      "value compare too large": {
        compares: [{ key: p, target: "value", is: "=", value: new Uint8Array(65_537) }],
        success: [],
        failure: [],
      },
      "over 1 MiB": always(...big(17, 65_000)),
      "key too long": always(put(`${p}${"k".repeat(512)}`, "x")),
      "key too long in bytes": always(put(`${p}${"ä".repeat(255)}`, "x")),
      "empty key": always(put("", "x")),
      "empty key deleted": always({ kind: "delete", key: "" }),
      "lone surrogate": always(put(`${p}\ud800`, "x")),
      "put twice": always(put(`${p}a`, "1"), put(`${p}b`, "1"), put(`${p}a`, "2")),
      "put and deleted": always({ kind: "delete", key: `${p}a` }, put(`${p}a`, "1")),
      "put and deleted by prefix": always(put(`${p}a`, "1"), { kind: "deletePrefix", prefix: p }),
      "put twice in the branch that is not run": {
        compares: [],
        success: [put(`${p}c`, "1")],
        failure: [put(p, "1"), put(p, "1")],
      },
      "bad lease": always(put(p, "x", "seven")),
      "negative number": {
        compares: [{ key: p, target: "version", is: "=", number: -1 }],
        success: [],
        failure: [],
      },
    };
    for (const [name, transaction] of Object.entries(refused)) {
      await t.rejects(r.transact(transaction), { code: "OVS_INVALID" }, name);
    }
    await t.rejects(r.get(""), { code: "OVS_INVALID" });
    await t.rejects(r.get("x".repeat(513)), { code: "OVS_INVALID" });
    for (const limit of [0, -1, 1.5, 10_001]) {
      await t.rejects(r.range(p, { limit }), { code: "OVS_INVALID" }, `limit ${limit}`);
    }
    for (const ttl of [0, 1, 2.5, -2, 86_401, Number.NaN]) {
      await t.rejects(r.leaseGrant(ttl), { code: "OVS_INVALID" }, `ttl ${ttl}`);
    }
    await t.rejects(r.leaseKeepAlive("x"), { code: "OVS_INVALID" });
    await t.rejects(r.watch(p, 0, new Recorder()), { code: "OVS_INVALID" });
    t.equal((await r.range(p, { limit: 1 })).entries.length, 0, "nothing was applied");
    const allowed = always(
      ...many(98),
      { kind: "delete", key: `${p}x` },
      { kind: "delete", key: `${p}x` },
    );
    allowed.compares.push(...many(100).map((o) => absent("key" in o ? o.key : "")));
    t.equal((await r.transact(allowed)).succeeded, true);
    t.equal(
      (await r.transact(always(put(`${p}${"k".repeat(512 - p.length)}`, "x".repeat(65_536)))))
        .succeeded,
      true,
    );
    t.equal((await r.transact(always(...big(16, 65_000)))).succeeded, true, "16 × 65,000 bytes");
  });

  await run("of many who compare and swap, each step has one winner", async (t, r, p) => {
    const key = `${p}counter`;
    const revisions = new Set<number>();
    const add = async (): Promise<void> => {
      for (let tries = 0; tries < 1000; tries++) {
        const entry = await r.get(key);
        const result = await r.transact({
          compares: [{ key, target: "modRevision", is: "=", number: entry?.modRevision ?? 0 }],
          success: [put(key, String(Number(entry ? text(entry.value) : "0") + 1))],
          failure: [],
        });
        if (!result.succeeded) continue;
        t.notOk(revisions.has(result.revision), "revisions are unique");
        revisions.add(result.revision);
        return;
      }
      throw new Error("never won");
    };
    await Promise.all(Array.from({ length: 24 }, add));
    t.match(await r.get(key), { value: bytes("24"), version: 24 });
  });

  await run("a watch tells past and present in order, a transaction at a time", async (t, r, p) => {
    const { revision } = await r.transact(always(put(`${p}w/a`, "1"), put(`${p}other`, "no")));
    await r.transact(always(put(`${p}w/b`, "2")));
    const recorder = new Recorder();
    const watch = await r.watch(`${p}w/`, revision, recorder);
    await r.transact(
      always(put(`${p}w/c`, "3"), { kind: "delete", key: `${p}w/a` }, put(`${p}w`, "no")),
    );
    await r.transact(always(put(`${p}other`, "no")));
    const last = await r.transact(always({ kind: "deletePrefix", prefix: `${p}w/` }));
    await until(() => recorder.calls.at(-1)?.revision === last.revision, "the last event");
    t.same(recorder.calls, [
      { revision, events: [`${p}w/a=1`] },
      { revision: revision + 1, events: [`${p}w/b=2`] },
      { revision: revision + 2, events: [`${p}w/c=3`, `-${p}w/a`] },
      { revision: last.revision, events: [`-${p}w/b`, `-${p}w/c`] },
    ]);
    t.match(recorder.raw[2]?.entry, {
      modRevision: revision + 2,
      createRevision: revision + 2,
      version: 1,
    });
    t.match(recorder.raw.at(-1)?.entry, {
      modRevision: last.revision,
      createRevision: 0,
      version: 0,
    });
    watch.cancel();
    watch.cancel();
    const other = new Recorder();
    const future = await r.watch(`${p}w/`, last.revision + 2, other);
    await r.transact(always(put(`${p}w/a`, "too early")));
    await r.transact(always(put(`${p}w/a`, "now")));
    await until(() => other.calls.length > 0, "the event of the future");
    t.same(other.calls, [{ revision: last.revision + 2, events: [`${p}w/a=now`] }]);
    t.equal(recorder.calls.length, 4, "a cancelled watch is told nothing");
    future.cancel();
    t.equal(recorder.ended, null);
  });

  await run("many events reach many watchers, none twice", async (t, r, p) => {
    const recorders = Array.from({ length: 10 }, () => new Recorder());
    const { revision } = await r.transact(always(put(`${p}start`, "x")));
    const watches = await Promise.all(
      recorders.map((recorder, i) => r.watch(`${p}${i % 5}/`, revision, recorder)),
    );
    const writes = Array.from({ length: 300 }, (_, i) =>
      r.transact(always(put(`${p}${i % 5}/${i}`, "x".repeat(2000)))),
    );
    await Promise.all(writes);
    await until(() => recorders.every((rec) => rec.calls.length === 60), "300 events, 60 each");
    for (const recorder of recorders) {
      const revisions = recorder.calls.map((call) => call.revision);
      t.same(
        revisions,
        [...new Set(revisions)].sort((a, b) => a - b),
      );
    }
    for (const watch of watches) watch.cancel();
  });

  await run("a watch from the compacted past ends", async (t, r, p) => {
    const { revision } = await r.transact(always(put(`${p}a`, "1")));
    await r.transact(always(put(`${p}a`, "2")));
    await make().compact(revision);
    const recorder = new Recorder();
    await r.watch(p, revision, recorder);
    await until(() => recorder.ended !== null, "the watch ends");
    t.match(recorder.ended, /compacted/);
    t.same(recorder.calls, []);
    const now = await r.range(p, { limit: 10 });
    const again = new Recorder();
    const watch = await r.watch(p, now.revision + 1, again);
    await r.transact(always(put(`${p}a`, "3")));
    await until(() => again.calls.length === 1, "a new watch works");
    t.same(again.calls[0]?.events, [`${p}a=3`]);
    watch.cancel();
  });

  await run("keys die with their lease, in one revision", async (t, r, p) => {
    const { lease, ttlSeconds } = await r.leaseGrant(2);
    t.equal(ttlSeconds, 2);
    const { revision } = await r.transact(
      always(put(`${p}b`, "1", lease), put(`${p}a`, "1", lease), put(`${p}stays`, "1")),
    );
    t.equal((await r.get(`${p}a`))?.lease, lease);
    await r.transact(always(put(`${p}c`, "1", lease)));
    await r.transact(always(put(`${p}c`, "2")));
    t.equal((await r.get(`${p}c`))?.lease, "0", "a put without a lease lets go of it");
    const recorder = new Recorder();
    const watch = await r.watch(p, revision + 3, recorder);
    const started = clock.nowMs();
    await until(() => recorder.calls.length > 0, "the lease expires");
    t.ok(clock.nowMs() - started > 1000, "not early");
    t.same(recorder.calls[0]?.events, [`-${p}a`, `-${p}b`]);
    t.equal(await r.get(`${p}a`), null);
    t.not(await r.get(`${p}stays`), null);
    t.not(await r.get(`${p}c`), null);
    await t.rejects(r.leaseKeepAlive(lease), { code: "OVS_NOT_FOUND" });
    await t.rejects(r.leaseRevoke(lease), { code: "OVS_NOT_FOUND" });
    watch.cancel();
  });

  await run("a lease that is kept alive lives, a revoked one is gone at once", async (t, r, p) => {
    const kept = (await r.leaseGrant(3)).lease;
    const ended = (await r.leaseGrant(60)).lease;
    t.not(kept, ended);
    await r.transact(always(put(`${p}kept`, "1", kept), put(`${p}ended`, "1", ended)));
    await r.leaseRevoke(ended);
    t.equal(await r.get(`${p}ended`), null);
    await t.rejects(r.leaseKeepAlive(ended), { code: "OVS_NOT_FOUND" });
    const deadline = clock.nowMs() + 5000;
    while (clock.nowMs() < deadline) {
      t.equal((await r.leaseKeepAlive(kept)).ttlSeconds, 3);
      await clock.sleep(250);
    }
    t.not(await r.get(`${p}kept`), null, "alive after 5 s with a time to live of 3 s");
    await r.leaseRevoke(kept);
    t.equal(await r.get(`${p}kept`), null);
  });

  await run(
    "a put with a lease that is gone is refused, with all of its branch",
    async (t, r, p) => {
      const { lease } = await r.leaseGrant(60);
      await r.leaseRevoke(lease);
      await t.rejects(r.transact(always(put(`${p}a`, "1"), put(`${p}b`, "1", lease))), {
        code: "OVS_NOT_FOUND",
      });
      t.equal(await r.get(`${p}a`), null);
      const other = { compares: [], success: [put(`${p}a`, "1")], failure: [put(p, "1", lease)] };
      t.equal(
        (await r.transact(other)).succeeded,
        true,
        "the branch that is not run does not matter",
      );
    },
  );

  await t.test(`it does what a sorted map does (SEED=${make().seed})`, async (t) => {
    await againstModel(t, make().registry, `test${++families}/`, seeded(make().seed));
  });

  await run("errors are StorageErrors, and the registry goes on after them", async (t, r, p) => {
    const failures = await Promise.allSettled([r.get(""), r.transact(always(put("", "")))]);
    for (const failure of failures) {
      t.ok(failure.status === "rejected" && failure.reason instanceof StorageError);
    }
    await r.transact(always(put(`${p}a`, "1")));
    t.not(await r.get(`${p}a`), null);
  });
}
