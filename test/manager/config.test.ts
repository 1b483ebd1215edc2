// SPDX-License-Identifier: Apache-2.0
// What `ovs up` is told: read, checked as a whole, kept, and merged with what a later start is
// told. And what becomes of it: arguments of daemons, and the commands of the command line.

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { StorageError } from "../../src/base/errors.js";
import { GIB, MIB } from "../../src/base/units.js";
import { type Actions, exitCodeOf, makeProgram } from "../../src/manager/cli/program.js";
import {
  checkNbdAddress,
  formatConfig,
  mergeConfig,
  newConfig,
  parseConfig,
  type UpOptions,
} from "../../src/manager/model/config.js";
import { OPERATIONS } from "../../src/manager/operations/operations.js";
import { DEFAULT_NBD_TCP, Layout } from "../../src/manager/up/layout.js";
import { prepare } from "../../src/manager/up/prepare.js";
import { createWorld } from "../../src/platform/node/world.js";

const CLUSTER = "00000000-0000-4000-8000-000000000000";

function config(options: Partial<UpOptions> = {}) {
  return newConfig({ data: "/d", ...options }, CLUSTER, 4);
}

t.test("a new configuration has the defaults, and what was given", (t) => {
  t.same(config(), {
    version: 1,
    cluster: CLUSTER,
    asds: 6,
    asdBytes: 10 * GIB,
    policy: { k: 4, m: 2, c: 5, x: 6 },
    vdisks: [{ name: "vd0", sizeBytes: 10 * GIB }],
    nbd: [],
    journalBytes: 4 * GIB,
    cacheBytes: GIB,
    readCacheBytes: 4 * GIB,
    scoBytes: 16 * MIB,
    routerThreads: 3,
    lostAfterMs: 600_000,
  });
  t.equal(newConfig({ data: "/d" }, CLUSTER, 1).routerThreads, 1);
  const given = config({ asds: "9", policy: "5,3,6,8", lostAfter: "60", vdisk: ["a:1G", "b:4K"] });
  t.match(given, { asds: 9, policy: { k: 5, m: 3, c: 6, x: 8 }, lostAfterMs: 60_000 });
  t.same(given.vdisks, [
    { name: "a", sizeBytes: GIB },
    { name: "b", sizeBytes: 4096 },
  ]);
  t.end();
});

t.test("what cannot work is refused in one sentence, with the value", (t) => {
  const wrong: Array<[Partial<UpOptions>, RegExp]> = [
    [{ asds: "5" }, /policy needs 6 ASDs .* there are 5/],
    [{ asds: "65" }, /--asds "65" is not a whole number from 1 to 64/],
    [{ asds: "6.0" }, /--asds "6.0"/],
    [{ asds: "-1" }, /--asds "-1"/],
    [{ policy: "4,2,5" }, /"4,2,5" is not k,m,c,x/],
    [{ policy: "4,2,5,6,7" }, /is not k,m,c,x/],
    [{ policy: "0,2,2,6" }, /needs k ≥ 1/],
    [{ policy: "4,2,3,6" }, /needs c ≥ k/],
    [{ policy: "4,2,7,6" }, /needs c ≤ k \+ m/],
    [{ policy: "30,3,31,6" }, /needs k \+ m ≤ 32/],
    [{ policy: "4,2,5,0" }, /needs x ≥ 1/],
    [{ asdSize: "10GB" }, /"10GB" is not a size/],
    [{ asdSize: "100M" }, /--asd-size 100M is not possible: from 256M/],
    [{ vdisk: ["vd0"] }, /"vd0" is not NAME:SIZE/],
    [{ vdisk: ["Vd0:1G"] }, /"Vd0" is not a name/],
    [{ vdisk: [`${"x".repeat(64)}:1G`] }, /is not a name/],
    [{ vdisk: ["../x:1G"] }, /is not a name/],
    [{ vdisk: ["a:5000"] }, /multiples of 4K/],
    [{ vdisk: ["a:65T"] }, /from 4K to 64T/],
    [{ vdisk: ["a:1G", "a:2G"] }, /the vDisk a is named twice/],
    [{ nbd: ["tcp:10.0.0.1:1"] }, /NBD on 10.0.0.1 would be open to everyone/],
    [{ nbd: ["tcp:127.0.0.1:65536"] }, /is not an NBD address/],
    [{ journalSize: "63M" }, /--journal-size 63M is not possible: from 64M/],
    [{ journalSize: "64M", routerThreads: "17" }, /too little for 17 threads.* take 68M or more/],
    [{ cacheSize: "4G" }, /--cache-size 4G/],
    [{ scoSize: "65M" }, /--sco-size 65M/],
    [{ scoSize: "1536K" }, /--sco-size 1536K.*in steps of 1M/],
    [{ routerThreads: "0" }, /--router-threads "0"/],
    [{ lostAfter: "10m" }, /--lost-after "10m" is not a whole number/],
  ];
  for (const [options, words] of wrong) {
    t.throws(() => config(options), { code: "OVS_INVALID", message: words }, words.source);
  }
  t.equal(config({ journalSize: "64M", routerThreads: "16" }).journalBytes, 64 * MIB);
  for (const right of ["unix:/a b", "tcp:localhost:0", "tcp:[::1]:1", "tcp:127.9.9.9:65535"]) {
    t.equal(checkNbdAddress(right), right);
  }
  t.end();
});

t.test("what is kept reads back the same; what is not ours is refused", (t) => {
  const full = config({
    vdisk: ["a:1G", "b:4100K"],
    nbd: ["unix:/x", "tcp:127.0.0.1:1"],
    readCacheSize: "0",
    routerThreads: "7",
    lostAfter: "61",
  });
  for (const one of [config(), full]) t.same(parseConfig(formatConfig(one), "f"), one);
  // One of before there was this option.
  const old = formatConfig(config()).replace(/^lost-after.*$/m, "");
  t.equal(parseConfig(old, "f").lostAfterMs, 600_000);
  const text = formatConfig(full);
  const damaged: Array<[string, RegExp, string]> = [
    ["x = [", /^f is not TOML/, "OVS_INVALID"],
    ["", /^f has version undefined/, "OVS_WRONG_VERSION"],
    [text.replace("version = 1", "version = 2"), /has version 2/, "OVS_WRONG_VERSION"],
    [text.replace(CLUSTER, "none"), /^f has no cluster uuid/, "OVS_INVALID"],
    [text.replace("a:1G", "a:1Q"), /"1Q" is not a size/, "OVS_INVALID"],
  ];
  for (const [bytes, message, code] of damaged) {
    t.throws(() => parseConfig(bytes, "f"), { code, message }, message.source);
  }
  t.end();
});

t.test("a later start adds and changes what may change, and contradicts nothing", (t) => {
  const kept = config({ vdisk: ["a:1G"], journalSize: "128M", routerThreads: "32", asds: "8" });
  const merge = (options: Partial<UpOptions>) => mergeConfig(kept, { data: "/d", ...options });
  t.same(merge({}), kept, "without options nothing changes");
  t.match(
    merge({
      asds: "9",
      asdSize: "20G",
      vdisk: ["a:1G", "b:2G"],
      nbd: ["unix:/x"],
      journalSize: "256M",
      cacheSize: "64M",
      readCacheSize: "0",
      scoSize: "4M",
      routerThreads: "1",
      lostAfter: "5",
    }),
    {
      asds: 9,
      asdBytes: 20 * GIB,
      vdisks: [{ name: "a" }, { name: "b" }],
      nbd: ["unix:/x"],
      journalBytes: 256 * MIB,
      readCacheBytes: 0,
      scoBytes: 4 * MIB,
      routerThreads: 1,
      lostAfterMs: 5000,
    },
  );
  t.same(kept.vdisks.length, 1, "what was kept is not touched");
  const wrong: Array<[Partial<UpOptions>, RegExp]> = [
    [{ asds: "7" }, /--asds 7 contradicts .* 8 ASDs .*ovs asd remove/],
    [{ asdSize: "9G" }, /--asd-size 9G contradicts .* 10G/],
    [{ policy: "2,1,2,6" }, /--policy 2,1,2,6 contradicts .* 4,2,5,6/],
    [{ vdisk: ["a:2G"] }, /--vdisk a:2G contradicts .* a:1G \(grow it with `ovs vdisk resize`\)/],
    [{ journalSize: "64M" }, /too little for 32 threads/],
    [{ routerThreads: "64" }, /too little for 64 threads/],
  ];
  for (const [options, message] of wrong) {
    t.throws(() => merge(options), { code: "OVS_INVALID", message }, message.source);
  }
  t.end();
});

t.test("daemons get what was configured", (t) => {
  const layout = new Layout("/data/x");
  const one = config({ lostAfter: "30", vdisk: ["a:1G"] });
  t.same(layout.nbd(one), ["unix:/data/x/run/nbd.sock", DEFAULT_NBD_TCP]);
  t.same(layout.nbd(config({ nbd: ["unix:/y"] })), ["unix:/y"]);
  const specs = [
    layout.registrySpec(one),
    layout.asdSpec(one, 3, { format: true }),
    layout.proxySpec(one),
    layout.routerSpec(one),
  ];
  for (const spec of specs) {
    t.equal(spec.args[0], spec.role);
    t.same(spec.args.slice(-2), ["--log", "/data/x/log"]);
    t.ok(spec.args.includes(CLUSTER), `${spec.role} knows its cluster`);
  }
  const has = (args: string[], name: string) => args[args.indexOf(name) + 1];
  for (const spec of specs.slice(2)) t.equal(has(spec.args, "--lost-after"), "30", spec.role);
  t.ok(specs[1]!.args.includes("--format"));
  t.notOk(layout.asdSpec(one, 3, { format: false }).args.includes("--format"));
  t.equal(
    new Set([...Array(64).keys()].map((i) => layout.asdSpec(one, i, { format: true }).id)).size,
    64,
  );
  t.throws(() => new Layout(`/${"x".repeat(100)}`), /too long for sockets/);
  t.end();
});

t.test("a folder is ours before anything is written, and left alone when refused", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "ovs-prepare-"));
  const world = createWorld({ name: "test", arenaBytes: MIB, terminal: null });
  t.teardown(async () => {
    await world.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  const layout = new Layout(join(folder, "a", "b"));
  const small = { journalSize: "64M", readCacheSize: "0", routerThreads: "1", asdSize: "256M" };
  const start = (options: Partial<UpOptions> = {}, taken: string | null = null) =>
    prepare(
      world,
      layout,
      { data: layout.data, ...small, ...options },
      {
        cpus: 2,
        addressTaken: () => Promise.resolve(taken),
      },
    );
  await t.rejects(start({ asds: "3" }), /needs 6 ASDs/);
  await t.rejects(start({ journalSize: "1T" }), /make room/);
  await t.rejects(start({}, "tcp:x is in use"), /is in use: choose another with --nbd/);
  t.same(
    readdirSync(layout.data).filter((name) => name !== "lock"),
    [],
    "nothing is kept",
  );

  const first = await start();
  await t.rejects(start(), { code: "OVS_BUSY", message: /runs on .* already/ });
  await first.lock.release();
  const second = await start({ lostAfter: "7" });
  t.equal(second.config.cluster, first.config.cluster, "the cluster stays");
  await second.lock.release();
  t.match(readFileSync(layout.config, "utf8"), /^lost-after = 7$/m, "what was told is kept");
  await t.rejects(start({ policy: "2,1,2,6" }), /contradicts/);
  t.match(readFileSync(layout.config, "utf8"), /4,2,5,6/);
  writeFileSync(layout.config, "version = 9");
  await t.rejects(start(), { code: "OVS_WRONG_VERSION" });
  const nowhere = new Layout("/proc/nope");
  const host = { cpus: 2, addressTaken: () => Promise.resolve(null) };
  await t.rejects(prepare(world, nowhere, { data: "/proc/nope" }, host), {
    code: "OVS_INVALID",
    message: /^\/proc\/nope cannot be made/,
  });
});

/** Runs a command line over played operations. */
async function line(args: string[], answer: unknown = {}) {
  const seen: { name: string; input: unknown; data: string }[] = [];
  const printed: string[] = [];
  let code = 0;
  const actions: Actions = {
    call: async (data, operation, input) => {
      seen.push({ name: operation.name, input, data });
      if (answer instanceof Error) throw answer;
      return await Promise.resolve(answer as never);
    },
    up: (options) => {
      seen.push({ name: "up", input: options, data: options.data });
      return Promise.resolve(0);
    },
    inspect: () => Promise.resolve(0),
    print: (text) => printed.push(text),
  };
  const program = makeProgram("1", actions, (exit) => {
    code = exit;
  });
  const quiet = { writeOut: () => undefined, writeErr: () => undefined };
  const all = [program, ...program.commands, ...program.commands.flatMap((one) => one.commands)];
  for (const command of all) command.configureOutput(quiet);
  try {
    await program.parseAsync(args, { from: "user" });
  } catch (error) {
    code = exitCodeOf(error, (text) => printed.push(text));
  }
  return { code, seen, text: printed.join("\n") };
}

t.test("the command line calls what it says, and refuses what it cannot read", async (t) => {
  const create = await line(["vdisk", "create", "vd1", "1G", "--data", "/x"], {});
  t.match(create.seen, [
    { name: OPERATIONS.vdiskCreate.name, input: { name: "vd1", sizeBytes: GIB }, data: "/x" },
  ]);
  const sync = (answer: unknown, ...more: string[]) =>
    line(["vdisk", "sync", "vd0", ...more], answer);
  t.match(await sync({ full: true, spareMin: 2 }), { code: 0, text: /at full width/ });
  t.match(await sync({ full: false, spareMin: 1 }), { code: 3, text: /NOT at full width.* 1 / });
  t.match((await sync({}, "--timeout", "5")).seen, [{ input: { timeoutMs: 5000 } }]);
  t.match((await line(["up", "--lost-after", "9", "--vdisk", "a:1G", "--vdisk", "b:1G"])).seen, [
    { input: { lostAfter: "9", vdisk: ["a:1G", "b:1G"], data: "./ovs-data" } },
  ]);
  for (const args of [
    [],
    ["nonsense"],
    ["vdisk"],
    ["vdisk", "create", "vd1"],
    ["vdisk", "create", "vd1", "1GB"],
    ["vdisk", "create", "vd1", "4097"],
    ["vdisk", "create", "-x", "1G"],
    ["vdisk", "create", "Bad", "1G"],
    ["vdisk", "resize", "vd1", "65T"],
    ["vdisk", "sync", "vd0", "--timeout", "soon"],
    ["asd", "add", "some"],
    ["status", "extra"],
    ["up", "--asd"],
  ]) {
    const { code, seen } = await line(args);
    t.equal(code, 2, `ovs ${args.join(" ")}`);
    t.same(seen, [], "and nothing is called");
  }
  const codes = { OVS_INVALID: 2, OVS_NOT_FOUND: 1, OVS_UNAVAILABLE: 3, OVS_FULL: 1, OVS_LOST: 1 };
  for (const [name, code] of Object.entries(codes)) {
    const error = new StorageError(name as keyof typeof codes, "words");
    t.match(await line(["vdisk", "info", "x"], error), { code, text: "ovs: words" }, name);
  }
});
