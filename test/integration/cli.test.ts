// SPDX-License-Identifier: Apache-2.0
// The command line: what cannot work is refused in one sentence before anything is started, a data
// directory remembers what it is, and every command has its help, its JSON and its exit code.

import { chmod, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import t, { type Test } from "tap";
import { Cluster, must, type RunResult, run } from "./cluster.js";
import { backendOf, loseDisks, returnDisks, whole } from "./disks.js";
import { NbdClient } from "./nbdclient.js";

t.setTimeout(1_200_000);

const OVS = new URL("../../src/bin/ovs.js", import.meta.url).pathname;
const SMALL = [
  ...["--asd-size", "256M", "--vdisk", "vd0:64M", "--journal-size", "64M", "--sco-size", "1M"],
  ...["--cache-size", "16M", "--read-cache-size", "16M"],
];

async function ovs(...args: string[]): Promise<RunResult> {
  return await run(process.execPath, [OVS, ...args], { timeoutMs: 120_000 });
}

/** One sentence on standard error, exit 2, and nothing was started. */
async function refused(t: Test, data: string, args: string[], words: RegExp): Promise<void> {
  const nbd = args.includes("--nbd") ? [] : ["--nbd", `unix:${data}/n.sock`];
  const result = await ovs("up", "--data", data, ...nbd, ...args);
  const said = `${result.stdout}${result.stderr}`.trim();
  t.equal(result.code, 2, `${args.join(" ")}: exit ${result.code}`);
  t.match(said, words, said);
  t.equal(said.split("\n").length, 1, `one sentence: ${said}`);
  const left = await readdir(data).catch(() => [] as string[]);
  const daemons = left.filter((name) => ["registry", "asd", "router", "ovs.toml"].includes(name));
  t.same(daemons, [], "nothing was started");
}

const BAD: ReadonlyArray<readonly [words: RegExp, ...args: string[]]> = [
  [/k,m,c,x/, "--policy", "4,2"],
  [/c ≥ k/, "--policy", "4,2,3,6"],
  [/c ≤ k \+ m/, "--policy", "4,2,7,6"],
  [/k \+ m ≤ 32/, "--policy", "30,8,31,38"],
  [/x ≥ 1/, "--policy", "4,2,5,0"],
  [/needs 6 ASDs/, "--asds", "4"],
  [/whole number/, "--asds", "many"],
  [/whole number/, "--router-threads", "0"],
  [/--asd-size: "10Q" is not a size/, "--asd-size", "10Q"],
  [/vd0:1X: "1X" is not a size/, "--vdisk", "vd0:1X"],
  [/--asd-size 1M/, "--asd-size", "1M"],
  [/--journal-size 1M/, "--journal-size", "1M"],
  [/--cache-size 1T/, "--cache-size", "1T"],
  [/not a name/, "--vdisk", "Bad Name:1G"],
  [/NAME:SIZE/, "--vdisk", "vd0"],
  [/multiples of 4K/, "--vdisk", "vd0:65T"],
  [/multiples of 4K/, "--vdisk", "vd0:1000"],
  [/named twice/, "--vdisk", "a:1G", "--vdisk", "a:1G"],
  [/only loopback/, "--nbd", "tcp:0.0.0.0:10809"],
  [/not an NBD address/, "--nbd", "udp:1"],
  [/free/, "--journal-size", "1T"],
  [/at least 4M each, so take 128M/, "--journal-size", "64M", "--router-threads", "32"],
  [/--lost-after "soon" is not a whole number/, "--lost-after", "soon"],
];

t.test("options that cannot work are refused before anything is started", async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  for (const [words, ...args] of BAD) await refused(t, cluster.data, args, words);
  const unknown = await ovs("up", "--data", cluster.data, "--no-such-option");
  t.equal(unknown.code, 2, unknown.stderr);

  const server = createServer().listen({ host: "127.0.0.1", port: 0 });
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  await refused(t, cluster.data, ["--nbd", `tcp:127.0.0.1:${port}`], /in use/);
  server.close();

  const long = join(cluster.dir, "x".repeat(120));
  await refused(t, long, [], /too long/);
  const file = join(cluster.dir, "file");
  await must("touch", [file]);
  await refused(t, join(file, "data"), [], /cannot be made/);
  // Its parent is there, and yet nothing can be made in it.
  await refused(t, "/proc/nope", [], /cannot be made/);
});

t.test("a folder that may not be written is refused", async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await mkdir(cluster.data);
  await chmod(cluster.data, 0o555);
  const command = [process.execPath, OVS, "up", "--data", cluster.data];
  // Root without its rights over all files: the mode of the folder counts.
  const bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
  const [program, ...args] = process.getuid?.() === 0 ? [...bare, ...command] : command;
  const result = await run(program!, args);
  t.equal(result.code, 2, result.stdout + result.stderr);
  t.match(result.stderr, /cannot be used|not writable|permission/i);
  t.equal(result.stderr.trim().split("\n").length, 1, result.stderr);
  t.same(await readdir(cluster.data), [], "nothing was made");
});

t.test("every command has help, and a wrong one exits 2", async (t) => {
  const commands = ["", "up", "status", "vdisk", "vdisk create", "vdisk list", "vdisk info"];
  commands.push("vdisk resize", "vdisk delete", "vdisk sync", "vdisk recover", "asd", "asd list");
  commands.push("asd add", "asd replace", "asd remove", "cache drop", "backend info", "inspect");
  commands.push("backend verify", "router", "proxy", "registry", "nbd-serve");
  for (const command of commands) {
    const result = await ovs(...command.split(" ").filter((word) => word !== ""), "--help");
    t.equal(result.code, 0, `ovs ${command} --help`);
    t.ok(result.stdout.length > 50, `ovs ${command} --help says something`);
  }
  for (const wrong of [["vdisk"], ["nonsense"], ["vdisk", "create", "vd1"], ["status", "--x"]]) {
    t.equal((await ovs(...wrong)).code, 2, wrong.join(" "));
  }
  const nobody = await ovs("status", "--data", "/nonexistent");
  t.equal(nobody.code, 3, "no cluster");
  t.match(nobody.stderr, /ovs up/, nobody.stderr);
});

t.test("a life of a cluster by its command line", async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up(...SMALL);
  await startLinesWork(t, cluster);
  await everyCommandEnds(t, cluster);
  const second = await ovs("up", "--data", cluster.data);
  t.equal(second.code, 1);
  t.match(second.stderr, new RegExp(`\\b${cluster.pid}\\b`), `the pid is named: ${second.stderr}`);
  t.equal(second.stderr.trim().split("\n").length, 1, "in one sentence");
  await vdiskLife(t, cluster);
  await asdLife(t, cluster);
  await degradedLife(t, cluster);
  await inspectLife(t, cluster);

  const contradictions: Array<[RegExp, ...string[]]> = [
    [/contradicts/, "--policy", "2,2,3,4"],
    [/contradicts/, "--asds", "6"],
    [/contradicts.*vd0:128M .*can only grow/, "--vdisk", "vd0:32M"],
    [/contradicts.*vdisk resize/, "--vdisk", "vd0:1G"],
  ];
  for (const [words, ...args] of contradictions) await contradicted(t, cluster, words, args, 2);
  await cluster.up("--vdisk", "vd0:128M", "--vdisk", "vd7:8M");
  const names = await cluster.json<Array<{ name: string }>>("vdisk", "list");
  t.same(
    names.map(({ name }) => name),
    ["vd0", "vd3", "vd7"],
    "the same vDisk is fine, a new one is made",
  );
  const client = await NbdClient.open(`${cluster.data}/run/nbd.sock`, "vd0");
  t.equal(client.sizeBytes, 128 << 20, "the size is kept");
  t.ok((await client.read(4096, 4096)).equals(Buffer.alloc(4096, 9)), "the bytes too");
  await client.close();
  await cluster.down();

  // Only the registry knows of vd3, so this is met later; the start after it goes on as before.
  const late = await ovs("up", "--data", cluster.data, "--vdisk", "vd3:32M");
  t.equal(late.code, 2, late.stdout + late.stderr);
  t.match(late.stderr, /the vDisk vd3 has 16M, not 32M/);
  await cluster.up();
  await cluster.down();
});

t.test("a data directory of another version or cluster is refused", async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up(...SMALL);
  await cluster.down();
  const path = join(cluster.data, "ovs.toml");
  const kept = await readFile(path, "utf8");
  const wrong: Array<[RegExp, string]> = [
    [/has version 2, this program reads version 1/, kept.replace(/^version = 1/m, "version = 2")],
    [/is not TOML in line \d+/, `${kept}\n]]]`],
    [/has no cluster uuid/, kept.replace(/^cluster = .*$/m, 'cluster = "mine"')],
    [
      /ovs.toml: --asd-size: "10X" is not a size/,
      kept.replace(/^asd-size = .*$/m, 'asd-size = "10X"'),
    ],
    [
      /of cluster|to cluster|two clusters/,
      kept.replace(/^cluster = "......../m, 'cluster = "01234567'),
    ],
  ];
  for (const [words, text] of wrong) {
    t.not(text, kept, "the file is changed");
    await writeFile(path, text);
    const result = await ovs("up", "--data", cluster.data);
    t.ok(result.code === 1 || result.code === 2, `exit ${result.code}`);
    t.match(result.stderr, words, result.stderr);
    t.equal(result.stderr.trim().split("\n").length, 1, `one sentence: ${result.stderr}`);
    t.notMatch(result.stdout, /ASDs run/, "nothing is served");
  }
  await writeFile(path, kept);
  await cluster.up();
  t.equal((await cluster.ovs("status")).code, 0, "with its own file it is well");
  await cluster.down();
});

/** Node may wait for ever when it ends a process (nodejs/node#54918); one in six did. */
async function everyCommandEnds(t: Test, cluster: Cluster): Promise<void> {
  const list = [OVS, "vdisk", "list", "--data", cluster.data];
  for (let i = 0; i < 25; i++) {
    const { code } = await run(process.execPath, list, { timeoutMs: 20_000 });
    t.equal(code, 0, `command ${i} ended`);
  }
}

async function contradicted(
  t: Test,
  cluster: Cluster,
  words: RegExp,
  args: string[],
  code: number,
): Promise<void> {
  const result = await ovs("up", "--data", cluster.data, ...args);
  t.equal(result.code, code, `${args.join(" ")}: ${result.stdout}${result.stderr}`);
  t.match(result.stderr, words, result.stderr);
  t.notMatch(result.stdout, /registry runs/, "nothing was started");
}

/** Lines of `ovs up` do something when they are pasted, wherever one stands. */
async function startLinesWork(t: Test, cluster: Cluster): Promise<void> {
  for (const what of ["status", "fio", "copy out", "copy in"]) {
    const found = new RegExp(`^  ${what} +(.*)$`, "m").exec(cluster.output);
    const text = (found?.[1] ?? "false").replace("--runtime=20", "--runtime=1");
    const result = await run("sh", ["-c", text], { timeoutMs: 60_000, cwd: cluster.dir });
    t.equal(result.code, 0, `${text}\n${result.stderr}`);
  }
  await rm(join(cluster.dir, "vd0.img"));
}

async function vdiskLife(t: Test, cluster: Cluster): Promise<void> {
  const socket = `${cluster.data}/run/nbd.sock`;
  const status = await cluster.json<Record<string, unknown[]>>("status");
  t.equal(status.vdisks?.length, 1);
  t.equal(status.asds?.length, 6);
  t.equal(status.processes?.length, 9, "registry, six ASDs, proxy, router");
  const before = (await cluster.json<Record<string, number>>("vdisk", "info", "vd0"))
    .clientWrittenBytes!;
  const made = await cluster.json<object>("vdisk", "create", "vd1", "16M");
  t.match(made, { name: "vd1", sizeBytes: 16 << 20, state: "serving" });
  t.equal((await cluster.ovs("vdisk", "create", "vd1", "16M")).code, 1, "it exists");
  t.equal((await cluster.ovs("vdisk", "create", "vd2", "1000")).code, 2, "not a size");
  t.equal((await cluster.ovs("vdisk", "info", "nope")).code, 1, "no such vDisk");
  const client = await NbdClient.open(socket, "vd0");
  await client.write(4096, Buffer.alloc(4096, 9), true);
  const grown = await cluster.json<{ sizeBytes: number }>("vdisk", "resize", "vd0", "128M");
  t.equal(grown.sizeBytes, 128 << 20);
  t.equal((await cluster.ovs("vdisk", "resize", "vd0", "64M")).code, 2, "never smaller");
  await client.write((128 << 20) - 4096, Buffer.alloc(4096, 7));
  t.pass("an open connection may write behind the old end");
  await client.close();
  const second = await NbdClient.open(socket, "vd0");
  t.equal(second.sizeBytes, 128 << 20);
  await second.close();
  const info = await cluster.json<Record<string, number>>("vdisk", "info", "vd0");
  t.equal(info.clientWrittenBytes! - before, 8192);
  for (const field of ["allocatedBytes", "dirtyBytes", "backendWrittenBytes"]) {
    t.type(info[field], "number", `info says ${field}`);
  }
  const synced = await cluster.json<object>("vdisk", "sync", "vd0");
  t.same(synced, { full: true, spareMin: 2 });
  const recovered = await cluster.json<object>("vdisk", "recover", "vd0");
  t.match(recovered, { name: "vd0", state: "serving" }, "a vDisk that serves is left alone");
  t.equal((await cluster.ovs("vdisk", "sync", "nope")).code, 1);
  t.equal((await cluster.ovs("vdisk", "delete", "nope")).code, 1);
  t.equal((await cluster.ovs("vdisk", "recover", "nope")).code, 1);
  t.same(await cluster.json<object>("vdisk", "delete", "vd1"), {});
  t.equal((await cluster.ovs("vdisk", "create", "vd3", "16M")).code, 0);
  t.equal((await cluster.ovs("vdisk", "info", "vd1")).code, 1);
  await t.rejects(NbdClient.open(socket, "vd1"), "a deleted vDisk is not served");
  t.same(await cluster.json<object>("cache", "drop"), {});
  t.equal((await cluster.ovs("backend", "verify")).code, 0);
  const backend = await cluster.json<object>("backend", "info");
  t.match(backend, { health: "ok", policy: "4,2,5,6", osds: 6, osdsUp: 6 });
  const words = (await cluster.ovs("status")).stdout;
  for (const word of ["PROCESS", "VDISK", "ASD", "health", "vd0", "asd-5", "router"]) {
    t.match(words, word);
  }
}

async function asdLife(t: Test, cluster: Cluster): Promise<void> {
  t.equal((await cluster.ovs("asd", "remove", "asd-0")).code, 2, "six are needed");
  t.equal((await cluster.ovs("asd", "replace", "asd-9")).code, 1, "there is none");
  const added = await cluster.json<Array<{ id: string }>>("asd", "add");
  t.equal(added[0]?.id, "asd-6");
  t.equal((await backendOf(cluster)).osdsUp, 7);
  t.same(await cluster.json<object>("asd", "remove", "asd-0"), {});
  t.equal((await backendOf(cluster)).osdsUp, 6);
  const replaced = await cluster.json<object>("asd", "replace", "asd-2");
  t.match(replaced, { id: "asd-2", state: "up" });
  const ids = (await cluster.json<Array<{ id: string }>>("asd", "list")).map(({ id }) => id);
  t.same(ids, ["asd-1", "asd-2", "asd-3", "asd-4", "asd-5", "asd-6"]);
  await whole(cluster);
  const verify = await cluster.json<{ clean: boolean }>("backend", "verify");
  t.equal(verify.clean, true, JSON.stringify(verify));
  const disks = await readdir(join(cluster.data, "asd"));
  t.ok(disks.includes("2.replaced-1"), "the replaced disk is kept aside");
  await rm(join(cluster.data, "asd", "2.replaced-1"), { recursive: true });
}

/** Something is missing: said by exit code 3, and by nothing else. */
async function degradedLife(t: Test, cluster: Cluster): Promise<void> {
  await loseDisks(cluster, 5);
  for (const args of [["status"], ["backend", "info"], ["vdisk", "sync", "vd0"]]) {
    const result = await cluster.ovs(...args);
    t.equal(result.code, 3, `${args.join(" ")}: ${result.stdout}${result.stderr}`);
    t.equal(result.stderr, "", "what is degraded is no error");
  }
  const words = (await cluster.ovs("vdisk", "sync", "vd0")).stdout;
  t.match(words, /the loss of 1 ASD/, `how many losses are survived: ${words}`);
  await returnDisks(cluster, 5);
  await whole(cluster);
}

async function inspectLife(t: Test, cluster: Cluster): Promise<void> {
  const { id } = await cluster.json<{ id: string }>("vdisk", "info", "vd0");
  const client = await NbdClient.open(`${cluster.data}/run/nbd.sock`, "vd0");
  await client.write(8192, Buffer.alloc(8192, 3), true);
  await client.close();
  const shard = join(cluster.data, "router", "shard-0");
  const journal = join(shard, "journal", id);
  const segments = async () =>
    (await readdir(journal))
      .filter((name) => name.endsWith(".seg"))
      .map((name) => join(journal, name));
  // Files that are not needed any more may be gone meanwhile.
  const told = await Promise.all((await segments()).map((path) => ovs("inspect", path)));
  t.match(told.map(({ stdout }) => stdout).join(""), /data 2\+2/, "the write is shown");
  const extents = join(cluster.data, "asd", "1", "extents");
  const extent = join(extents, (await readdir(extents)).sort()[0]!);
  const busy = await ovs("inspect", extent);
  t.equal(busy.code, 1, "an extent file is not explained while its ASD runs");
  t.match(busy.stderr, /in use by the process/);
  await cluster.down();

  const files: Array<[string, RegExp]> = [];
  for (const path of await segments()) files.push([path, /^journal segment/]);
  files.push([extent, /: ok$/m], [join(shard, "map"), /^map with/]);
  for (const [path, words] of files) {
    const result = await ovs("inspect", path);
    t.equal(result.code, 0, result.stderr);
    t.match(result.stdout, words, result.stdout.slice(0, 300));
    const lines = (await ovs("inspect", "--json", path)).stdout.trim().split("\n");
    for (const line of lines) t.type(JSON.parse(line), "object");
  }
  const inside = await ovs("inspect", "--data", cluster.data, "router/shard-0/map");
  t.match(inside.stdout, /^map with/, "a file in the data directory");
  t.equal((await ovs("inspect", join(cluster.data, "nothing"))).code, 1, "no such file");
  const foreign = await ovs("inspect", OVS);
  t.equal(foreign.code, 2, "none of ours");
  t.match(foreign.stderr, /no file of ours/);
}
