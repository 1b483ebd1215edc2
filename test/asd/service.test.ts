// SPDX-License-Identifier: Apache-2.0
// The ASD over its socket: the client's calls, who is refused, what garbage does, and a real
// process killed under load.

import { type ChildProcess, spawn } from "node:child_process";
import net from "node:net";
import t from "tap";
import { AsdClient, AsdPartStatus, type AsdReadPart } from "../../src/asd/client.js";
import { AsdDaemon } from "../../src/asd/daemon.js";
import { AsdOperation } from "../../src/asd/protocol.js";
import { crc32c } from "../../src/base/crc32c.js";
import { StorageError } from "../../src/base/errors.js";
import { MIB } from "../../src/base/units.js";
import { oneSegment, SegmentList } from "../../src/platform/segments.js";
import { RpcClient } from "../../src/rpc/client.js";
import { until } from "../platform/fixture.js";
import { CLUSTER, DISK, fill, makeWorld, PAGE, randomOf, seed, temporary } from "./fixture.js";

const world = makeWorld(512);
const memory = world.arena.region(128 * MIB, "test");
const folder = temporary();
const self = { role: "test", id: "test", cluster: CLUSTER };
const limit = { timeoutMs: 10_000 };
const key = (text: string): Uint8Array => Buffer.from(text);
let serial = 0;

t.teardown(async () => {
  await world.stop();
  folder.remove();
});

async function startDaemon(): Promise<{ daemon: AsdDaemon; address: string }> {
  const path = `${folder.path}/${++serial}`;
  const address = `unix:${path}.sock`;
  const daemon = new AsdDaemon(world, {
    path,
    addresses: [address],
    place: { clusterUuid: CLUSTER, diskUuid: DISK, site: "s", rack: "r", node: "n" },
    format: true,
    capacityBytes: 512 * MIB,
    cacheBytes: MIB,
    readBytes: 16 * MIB,
    onFatal: () => {},
  });
  await daemon.start();
  return { daemon, address };
}

const clientOf = (address: string, diskUuid: string | null = DISK, clusterUuid = CLUSTER) =>
  new AsdClient(world, { address, clusterUuid, diskUuid, self });

/** A value whose pages lie at `at`, in pieces of one page that are not in order in memory. */
function pagesOf(name: string, options: { at: number; pages: number; content: number }) {
  const { at, pages, content } = options;
  fill(world, at, pages * PAGE, content);
  const pieces = new SegmentList();
  const crcs = new Uint32Array(pages);
  for (let page = 0; page < pages; page++) {
    const from = at + ((page * 7) % pages) * PAGE;
    pieces.add(from, PAGE);
    crcs[page] = world.codec.crc32c(from, PAGE, 0);
  }
  return { key: key(name), length: pages * PAGE, crcs, pieces };
}

t.test("a client stores, reads, lists and deletes", async (t) => {
  const { daemon, address } = await startDaemon();
  const client = clientOf(address);
  const value = pagesOf("fragment", { at: memory, pages: 13, content: 5 });
  const small = [
    { key: key("info"), value: Uint8Array.of(1, 2, 3) },
    { key: key("mark"), value: new Uint8Array(0) },
  ];
  await client.apply(
    { asserts: [{ kind: "absent", key: key("mark") }], values: [value], small },
    limit,
  );
  const again = client.apply({ asserts: [{ kind: "absent", key: key("mark") }], small }, limit);
  await t.rejects(again, { code: "OVS_CONFLICT", message: /mark/ });

  const into = memory + 32 * MIB;
  const parts: AsdReadPart[] = [
    { key: key("fragment"), offset: 2 * PAGE, bytes: 4 * PAGE, into: into + 8 * PAGE },
    { key: key("none"), offset: 0, bytes: PAGE, into: into + 4 * PAGE },
    { key: key("info"), offset: 0, bytes: PAGE, into },
  ];
  const result = await client.multiGet(parts, limit);
  t.same(Array.from(result.statuses), [AsdPartStatus.ok, AsdPartStatus.missing, AsdPartStatus.ok]);
  t.equal(result.isComplete, false);
  t.same(Array.from(result.crcs.subarray(0, 4)), Array.from(value.crcs.subarray(2, 6)));
  t.equal(world.codec.crc32c(into + 9 * PAGE, PAGE, 0), value.crcs[3]);
  t.same(Array.from(world.arena.slice(into, 4)), [1, 2, 3, 0]);
  t.equal(result.crcs[5], crc32c(world.arena.slice(into, PAGE)));

  t.same(await client.getSmall([key("info"), key("none"), key("mark")], limit), [
    Buffer.from([1, 2, 3]),
    null,
    Buffer.from([]),
  ]);
  t.same(await client.exists([key("fragment"), key("none")], limit), [true, false]);
  const range = await client.range({ first: null, end: key("j"), limit: 10 }, limit);
  t.same(
    [range.keys.map((one) => Buffer.from(one).toString()), range.lengths, range.more],
    [["fragment", "info"], [13 * PAGE, 3], false],
  );
  t.same(await client.scrub(null, 1000, limit), { bad: [], next: null, keys: 3, pages: 15 });
  const stats = await client.stats(limit);
  t.match(stats, {
    clusterUuid: CLUSTER,
    diskUuid: DISK,
    keys: 3,
    full: false,
    slow: false,
    failed: null,
  });
  t.ok(client.hedgeAfterMs > 0 && client.isConnected && client.failures === 0);
  await client.dropCache(limit);
  await client.apply({ deletes: [key("fragment"), key("info"), key("mark")] }, limit);
  t.match(daemon.status(), { state: "serving", keys: 0, connections: 1 });
  await client.close();
  await daemon.stop();
  t.match(daemon.status(), { state: "stopped" });
});

t.test("statistics end what the flags of an old answer said", async (t) => {
  const { daemon, address } = await startDaemon();
  const client = clientOf(address);
  client.isNearlyFull = true;
  client.isSlow = true;
  await client.stats(limit);
  t.same([client.isNearlyFull, client.isSlow], [false, false]);
  await client.close();
  await daemon.stop();
});

t.test("many small values come in several answers", async (t) => {
  const { daemon, address } = await startDaemon();
  const client = clientOf(address);
  const keys = Array.from({ length: 60 }, (_, i) => key(`k${i}`));
  for (let i = 0; i < 60; i += 10) {
    const small = keys
      .slice(i, i + 10)
      .map((one, j) => ({ key: one, value: new Uint8Array(4000).fill(i + j) }));
    await client.apply({ small }, limit);
  }
  const values = await client.getSmall(keys, limit);
  t.equal(values.length, 60);
  t.ok(values.every((value, i) => value!.length === 4000 && value![7] === i));
  const huge = Array.from({ length: 20 }, (_, i) => ({
    key: key(`h${i}`),
    value: new Uint8Array(4096),
  }));
  await t.rejects(client.apply({ small: huge }, limit), { code: "OVS_INVALID" });
  await client.close();
  await daemon.stop();
});

t.test("another disk, another cluster and strange roles are refused", async (t) => {
  const { daemon, address } = await startDaemon();
  const other = "00000000-0000-4000-8000-0000000000aa";
  for (const client of [clientOf(address, other), clientOf(address, DISK, other)]) {
    await t.rejects(client.stats(limit), { code: "OVS_WRONG_IDENTITY" });
    await client.close();
  }
  const anybody = clientOf(address, null);
  t.equal((await anybody.stats(limit)).diskUuid, DISK);
  await anybody.close();
  const stranger = new AsdClient(world, {
    address,
    clusterUuid: CLUSTER,
    diskUuid: DISK,
    self: { role: "edge", id: "e", cluster: CLUSTER },
  });
  await t.rejects(stranger.stats(limit), { code: "OVS_WRONG_IDENTITY" });
  await stranger.close();
  await daemon.stop();
});

t.test("a nonexistent disk fails at once and is counted", async (t) => {
  const client = clientOf(`unix:${folder.path}/nobody.sock`);
  await t.rejects(client.stats(limit), { code: "OVS_UNAVAILABLE" });
  await t.rejects(client.stats(limit), { code: "OVS_UNAVAILABLE" });
  t.equal(client.failures, 2);
  await client.close();
});

t.test("the background yields, and is served all the same", async (t) => {
  const { daemon, address } = await startDaemon();
  const client = clientOf(address);
  await client.apply({ values: [pagesOf("v", { at: memory, pages: 64, content: 1 })] }, limit);
  const read = (priority: number, into: number) =>
    client.multiGet([{ key: key("v"), offset: 0, bytes: 64 * PAGE, into }], { ...limit, priority });
  const order: number[] = [];
  const all: Array<Promise<unknown>> = [];
  for (let i = 0; i < 60; i++) {
    const priority = i % 2;
    const into = memory + MIB + i * 64 * PAGE;
    all.push(
      read(priority, into).then((result) => {
        t.ok(result.isComplete);
        order.push(priority);
      }),
    );
  }
  await Promise.all(all);
  const firstHalf = order.slice(0, 30).filter((priority) => priority === 0).length;
  t.ok(firstHalf > 20, `${firstHalf} of the first 30 answers are clients'`);
  const background = Array.from({ length: 10 }, (_, i) =>
    client.apply(
      { small: [{ key: key(`b${i}`), value: Uint8Array.of(i) }] },
      { ...limit, priority: 1 },
    ),
  );
  await Promise.all(background);
  await client.close();
  await daemon.stop();
});

t.test(`any bytes on the socket end that connection, not the daemon (seed ${seed})`, async (t) => {
  const { daemon, address } = await startDaemon();
  const random = randomOf(seed);
  for (let round = 0; round < 30; round++) {
    const socket = net.connect(address.slice("unix:".length));
    const ended = new Promise<void>((resolve) =>
      socket.on("close", () => resolve()).on("error", () => resolve()),
    );
    socket.resume();
    const bytes = Buffer.from(Array.from({ length: 1 + random(400) }, () => random(256)));
    if (round % 3 === 0) bytes.write("OVFT", 0, "latin1");
    socket.end(bytes);
    await ended;
  }
  // The same inside good frames: the answer is an error, or the connection ends.
  const rpc = new RpcClient(world, {
    address,
    self,
    wants: { role: "asd", id: DISK, cluster: CLUSTER },
  });
  for (let round = 0; round < 400; round++) {
    const operation = [...Object.values(AsdOperation), 99][random(9)]!;
    const meta = Uint8Array.from({ length: random(60) }, () => random(random(2) === 0 ? 4 : 256));
    const payload = random(3) === 0 ? oneSegment(memory, PAGE * (1 + random(4))) : null;
    try {
      await rpc.call(operation, meta, payload, null, limit);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
    }
  }
  await rpc.close();
  const client = clientOf(address);
  t.equal((await client.stats(limit)).keys, daemon.status()!.keys, "it still answers");
  await client.close();
  await daemon.stop();
});

interface Lane {
  name: string;
  /** Content that was acknowledged; null: no value. */
  known: number | null;
  /** Content of an apply without an answer; undefined: there is none. */
  pending: number | null | undefined;
}

const KILL_PAGES = 24;

function spawnAsd(path: string, address: string): ChildProcess {
  const child = new URL("./child.js", import.meta.url).pathname;
  const args = [
    "--path",
    path,
    "--address",
    address,
    "--cluster",
    CLUSTER,
    "--disk",
    DISK,
    "--format",
  ];
  return spawn(process.execPath, [child, ...args, "--capacity", "256M", "--cache", "1M"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
}

async function ready(asd: ChildProcess): Promise<void> {
  let output = "";
  asd.stdout!.on("data", (data) => (output += String(data)));
  await until(() => output.includes("ready"), "the ASD is ready", 20_000);
}

/** Applies to one key without end, until the disk is gone. */
async function load(
  client: AsdClient,
  lane: Lane,
  index: number,
  random: (n: number) => number,
): Promise<void> {
  const at = memory + index * MIB;
  for (;;) {
    const content = 1 + random(1_000_000_000);
    const isDelete = random(4) === 0;
    lane.pending = isDelete ? null : content;
    try {
      const small = [{ key: key(`${lane.name}.info`), value: Buffer.from(String(content)) }];
      if (isDelete)
        await client.apply({ deletes: [key(lane.name), key(`${lane.name}.info`)] }, limit);
      else
        await client.apply(
          { values: [pagesOf(lane.name, { at, pages: KILL_PAGES, content })], small },
          limit,
        );
    } catch (error) {
      if (error instanceof StorageError && error.kind === "unavailable") return;
      throw error;
    }
    lane.known = lane.pending;
    lane.pending = undefined;
  }
}

/** The content of a lane's value, by its two keys, which must agree. */
async function contentOf(client: AsdClient, lane: Lane): Promise<number | null> {
  const [info] = await client.getSmall([key(`${lane.name}.info`)], limit);
  const into = memory + 100 * MIB;
  const bytes = KILL_PAGES * PAGE;
  const result = await client.multiGet([{ key: key(lane.name), offset: 0, bytes, into }], limit);
  if (info === null) {
    if (result.statuses[0] !== AsdPartStatus.missing)
      throw new Error(`half of ${lane.name} is there`);
    return null;
  }
  if (!result.isComplete) throw new Error(`${lane.name} has status ${result.statuses[0]}`);
  const content = Number(Buffer.from(info!).toString());
  const expected = pagesOf(lane.name, { at: memory + 101 * MIB, pages: KILL_PAGES, content });
  for (let page = 0; page < KILL_PAGES; page++) {
    if (expected.crcs[page] !== result.crcs[page])
      throw new Error(`${lane.name} has other pages than ${content}`);
  }
  return content;
}

t.test(
  `an ASD killed at any moment keeps what it acknowledged and leaks nothing (seed ${seed})`,
  async (t) => {
    const path = `${folder.path}/killed`;
    const address = `unix:${path}.sock`;
    const random = randomOf(seed);
    const lanes: Lane[] = Array.from({ length: 16 }, (_, i) => ({
      name: `lane-${i}`,
      known: null,
      pending: undefined,
    }));
    for (let round = 0; round < 6; round++) {
      const asd = spawnAsd(path, address);
      await ready(asd);
      const client = clientOf(address);
      let pages = 0;
      for (const lane of lanes) {
        const content = await contentOf(client, lane);
        const allowed = lane.pending === undefined ? [lane.known] : [lane.known, lane.pending];
        if (!allowed.includes(content)) t.fail(`${lane.name} is ${content}, not one of ${allowed}`);
        lane.known = content;
        lane.pending = undefined;
        if (content !== null) pages += KILL_PAGES;
      }
      const stats = await client.stats(limit);
      t.equal(stats.usedBytes - stats.indexBytes, pages * PAGE, "no leaked page");
      t.equal(stats.damagedKeys + stats.disputedPages, 0);
      const loads = lanes.map((lane, i) => load(client, lane, i, random));
      await world.clock.sleep(random(700));
      const exited = new Promise((resolve) => asd.once("exit", resolve));
      asd.kill("SIGKILL");
      await exited;
      await Promise.all(loads);
      await client.close();
    }
    const asd = spawnAsd(path, address);
    await ready(asd);
    const exited = new Promise<number | null>((resolve) => asd.once("exit", resolve));
    asd.kill("SIGTERM");
    t.equal(await exited, 0, "it ends cleanly when asked to");
  },
);

t.test("the program refuses wrong arguments in words", async (t) => {
  const child = new URL("./child.js", import.meta.url).pathname;
  const run = async (...args: string[]) => {
    const asd = spawn(process.execPath, [child, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    asd.stderr.on("data", (data) => (text += String(data)));
    const code = await new Promise<number | null>((resolve) => asd.once("exit", resolve));
    return { code, text };
  };
  const [none, size, address] = await Promise.all([
    run(),
    run("--path", "/x", "--address", "unix:/x", "--cluster", CLUSTER, "--capacity", "10GB"),
    run("--path", `${folder.path}/w`, "--address", "nowhere", "--cluster", CLUSTER, "--format"),
  ]);
  t.match(
    [none, size, address],
    [
      { code: 2, text: /--address|--path/ },
      { code: 2, text: /10GB/ },
      { code: 2, text: /nowhere/ },
    ],
  );
});
