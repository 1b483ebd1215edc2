// SPDX-License-Identifier: Apache-2.0
// The simulated network: the contract of every network, and what only a simulated one can do.

import t from "tap";
import { MIB } from "../../src/base/units.js";
import { oneSegment } from "../../src/platform/segments.js";
import {
  CONTRACT_POOL_BYTES,
  type ContractWorld,
  frameOf,
  networkContract,
  Recorder,
} from "../platform/network.contract.js";
import { Bench, type Process } from "./netfixture.js";

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
t.comment(`SEED=${seed}`);

async function contractWorld(kind: "unix" | "tcp"): Promise<ContractWorld> {
  const bench = new Bench(seed);
  const sizes = { arenaMib: 148, poolMib: CONTRACT_POOL_BYTES / MIB, memoryMib: 72 };
  const server = bench.process(bench.host(1), sizes);
  const client = bench.process(kind === "unix" ? bench.host(1) : bench.host(2), sizes);
  let serial = 0;
  bench.pump();
  return {
    server,
    client,
    address: () => (kind === "unix" ? `unix:/run/${++serial}.sock` : "tcp:10.0.0.1:0"),
    until: (condition, what) => bench.until(condition, what),
    stop: async () => {
      await client.network.stop();
      await server.network.stop();
      await bench.stop();
    },
  };
}

networkContract(t, "simulated unix", () => contractWorld("unix"));
networkContract(t, "simulated tcp", () => contractWorld("tcp"));

interface Pair {
  server: Process;
  client: Process;
  up: Recorder;
  downs: Recorder[];
  address: string;
}

/** A server on host 1 that answers requests, and a client on host 2. */
async function pair(bench: Bench): Promise<Pair> {
  const server = bench.process(bench.host(1));
  const client = bench.process(bench.host(2));
  const downs: Recorder[] = [];
  const listener = await server.network.listen("tcp:10.0.0.1:0", (connection) => {
    const down = new Recorder();
    down.connection = connection;
    down.onFrameToo = (_, frame) => {
      if (frame.payload !== 0) server.network.release(frame.payload);
      if (frame.kind === 0) connection.send(frameOf(1, frame.requestId), null, null, null);
    };
    downs.push(down);
    return down;
  });
  const { address } = listener;
  return { server, client, up: await connect(bench, client, address), downs, address };
}

async function connect(bench: Bench, client: Process, address: string): Promise<Recorder> {
  const up = new Recorder();
  up.connection = await bench.settle(client.network.connect(address, up, 5000));
  await bench.timeline.pass(2);
  return up;
}

t.test("the same seed is the same run, another is another", async (t) => {
  const run = async (seed: number) => {
    const bench = new Bench(seed);
    const { up, client, server } = await pair(bench);
    Object.assign(bench.net.link(client.host, server.host), { jitterMs: 3, lossRate: 0.3 });
    for (let i = 0; i < 200; i++) {
      up.connection!.send(frameOf(0, i), null, oneSegment(client.memory, 1 + i * 50), null);
      if (i % 10 === 0) await bench.timeline.pass(1);
    }
    await bench.until(() => up.frames.length === 200, "all are answered");
    t.same(
      up.frames.map((frame) => frame.requestId),
      Array.from({ length: 200 }, (_, i) => i),
    );
    t.ok(bench.faults.get("loss")! > 0 && bench.faults.get("delay")! > 0);
    return `${bench.timeline.digest} ${bench.timeline.nowMs} ${bench.timeline.events}`;
  };
  const first = await run(seed);
  t.equal(await run(seed), first);
  t.not(await run(seed + 1), first);
});

t.test("what the kernel has taken outlives the process", async (t) => {
  const bench = new Bench(seed);
  const { up, downs, client } = await pair(bench);
  client.arena.bytes.fill(7, client.memory, client.memory + 5000);
  for (let i = 0; i < 5; i++) {
    up.connection!.send(frameOf(2, i), null, oneSegment(client.memory, 5000), null);
  }
  await bench.until(() => up.connection!.queuedBytes === 0, "the kernel has all");
  client.life.end();
  client.arena.bytes.fill(0);
  await bench.until(() => downs[0]!.closed.length === 1, "the other side sees the end");
  t.equal(downs[0]!.frames.length, 5);
  t.equal(downs[0]!.closed[0], "closed by the other side");
  t.equal(up.closed.length, 0, "nothing happens to the dead");
});

t.test("a frozen process takes what fits its kernel, and goes on later", async (t) => {
  const bench = new Bench(seed);
  const { up, downs, client, server } = await pair(bench);
  server.life.freeze();
  let sent = 0;
  for (let i = 0; i < 40; i++) {
    up.connection!.send(frameOf(2, i), null, oneSegment(client.memory, 100_000), () => sent++);
  }
  await bench.timeline.pass(5000);
  t.ok(sent >= 5 && sent <= 10, `the kernel took ${sent} frames of 40`);
  t.equal(downs[0]!.frames.length, 0);
  const other = await connect(bench, client, `${up.connection!.peer}`);
  t.ok(other.connection!.open, "its kernel lets others in");
  server.life.thaw();
  await bench.until(() => downs[0]!.frames.length === 40, "all come after it");
  t.equal(sent, 40);
});

t.test("a host without power is silent; when it is back it knows nobody", async (t) => {
  const bench = new Bench(seed, { giveUpMs: 5000 });
  const { up, client, server, address } = await pair(bench);
  const second = await connect(bench, client, address);
  server.host.powerOff();
  server.life.end();
  up.connection!.send(frameOf(0, 1), null, null, null);
  await bench.timeline.pass(1000);
  t.same([up.closed.length, second.closed.length], [0, 0], "silence");
  await bench.until(() => up.closed.length === 1, "the sender gives up");
  t.match(up.closed[0], /timed out/);
  await t.rejects(bench.settle(client.network.connect(address, new Recorder(), 500)), {
    code: "OVS_UNAVAILABLE",
    message: /no answer in 500 ms/,
  });
  server.host.powerOn();
  second.connection!.send(frameOf(0, 2), null, null, null);
  const at = bench.timeline.nowMs;
  await bench.until(() => second.closed.length === 1, "reset at once");
  t.ok(bench.timeline.nowMs - at < 5);
  await t.rejects(bench.settle(client.network.connect(address, new Recorder(), 500)), {
    message: /refused/,
  });
});

t.test("a partition stalls, and heals; one that lasts ends connections on each side", async (t) => {
  const bench = new Bench(seed, { giveUpMs: 20_000 });
  const { up, downs, client, server } = await pair(bench);
  bench.net.partition([client.host], [server.host], { oneWay: false });
  up.connection!.send(frameOf(0, 1), null, null, null);
  await bench.timeline.pass(3000);
  t.equal(downs[0]!.frames.length, 0);
  bench.net.heal();
  await bench.until(() => up.frames.length === 1, "it was sent again");
  t.ok(bench.faults.get("partition")! >= 3);
  bench.net.partition([client.host], [server.host], { oneWay: true });
  downs[0]!.connection!.send(frameOf(2, 9), null, null, null);
  await bench.until(() => up.frames.length === 2, "the other direction works");
  up.connection!.send(frameOf(0, 2), null, null, null);
  const ends: number[] = [];
  for (const side of [up, downs[0]!]) side.onClose = () => ends.push(bench.timeline.nowMs);
  await bench.until(() => ends.length === 2, "both have given up", 60_000);
  t.ok(ends[1]! > ends[0]! + 10, "each at its own time");
  t.ok(bench.faults.get("one-way")! > 0);
});

t.test("a connection may be half open, or reset", async (t) => {
  const bench = new Bench(seed);
  const { up, downs, client, server, address } = await pair(bench);
  t.ok(bench.net.halfOpen(server.host, client.host));
  await bench.until(() => downs[0]!.closed.length === 1, "the server's side is gone");
  await bench.timeline.pass(10_000);
  t.equal(up.closed.length, 0, "the client does not know");
  up.connection!.send(frameOf(0, 1), null, null, null);
  await bench.until(() => up.closed.length === 1, "it learns when it sends");
  t.match(up.closed[0], /reset/);
  const second = await connect(bench, client, address);
  t.ok(bench.net.reset(client.host, server.host));
  await bench.until(() => second.closed.length + downs[1]!.closed.length === 2, "both know");
  t.notOk(bench.net.reset(client.host, server.host), "there is none left");
  const third = await connect(bench, client, address);
  bench.net.link(client.host, server.host).resetRate = 1;
  third.connection!.send(frameOf(0, 1), null, null, null);
  await bench.until(() => third.closed.length === 1, "reset at a packet");
});

t.test("connecting may be refused, or hang until its time is over", async (t) => {
  const bench = new Bench(seed);
  const { client, server, address } = await pair(bench);
  const link = bench.net.link(client.host, server.host);
  link.refuses = true;
  await t.rejects(bench.settle(client.network.connect(address, new Recorder(), 500)), {
    message: /refused/,
  });
  link.refuses = false;
  link.hangs = true;
  const start = bench.timeline.nowMs;
  await t.rejects(bench.settle(client.network.connect(address, new Recorder(), 500)), {
    message: /no answer in 500 ms/,
  });
  t.ok(bench.timeline.nowMs - start >= 500);
  const later = client.network.connect(address, new Recorder(), 5000);
  await bench.timeline.pass(300);
  link.hangs = false;
  t.ok((await bench.settle(later)).open, "the second attempt comes through");
  await t.rejects(bench.settle(client.network.connect("unix:/run/none", new Recorder(), 50)), {
    message: /ENOENT/,
  });
});

t.test("frames of an old connection may arrive after those of a new one", async (t) => {
  const bench = new Bench(seed);
  const { up, downs, client, server, address } = await pair(bench);
  up.connection!.send(frameOf(2, 1), null, oneSegment(client.memory, 100), null);
  await bench.until(() => up.connection!.queuedBytes === 0, "it is in the kernel");
  t.ok(bench.net.late(client.host, server.host, 50));
  await bench.until(() => up.closed.length === 1, "the client has lost it");
  const fresh = await connect(bench, client, address);
  fresh.connection!.send(frameOf(2, 2), null, null, null);
  await bench.until(() => downs[1]?.frames.length === 1, "the new frame has come");
  t.equal(downs[0]!.frames.length, 0);
  await bench.until(() => downs[0]!.frames.length === 1, "then the old one");
  await bench.until(() => downs[0]!.closed.length === 1, "and its end");
});

t.test("a frozen host keeps what was handed to it", async (t) => {
  const bench = new Bench(seed);
  const { up, downs, client } = await pair(bench);
  client.turn.begin();
  up.connection!.send(frameOf(0, 1), null, null, null);
  client.turn.end();
  t.equal(up.connection!.queuedBytes, 0, "handed to the network");
  client.host.freeze();
  client.life.freeze();
  await bench.timeline.pass(5000);
  t.equal(downs[0]!.frames.length, 0, "it did not leave the host");
  client.host.thaw();
  client.life.thaw();
  await bench.until(() => up.frames.length === 1, "then it did");
});

t.test("slow links take their time", async (t) => {
  const bench = new Bench(seed);
  const { up, client, server } = await pair(bench);
  bench.net.link(client.host, server.host).bytesPerMs = 1000;
  const start = bench.timeline.nowMs;
  up.connection!.send(frameOf(0, 1), null, oneSegment(client.memory, 500_000), null);
  await bench.until(() => up.frames.length === 1, "it is answered");
  const ms = bench.timeline.nowMs - start;
  t.ok(ms > 500 && ms < 600, `it took ${ms} ms`);
  t.ok(bench.faults.get("slow")! > 0);
});

t.test("a crash may fall before or after each frame leaves or is delivered", async (t) => {
  const outcome = async (stop: number, when: "before" | "after", power: boolean) => {
    const bench = new Bench(seed);
    const { up, downs, client, server } = await pair(bench);
    const base = bench.net.points;
    bench.net.hook = (point) => {
      if (point.number - base !== stop || point.when !== when) return;
      const victim = point.step === "depart" ? point.from : point.to;
      const process = victim === client.host ? client : server;
      if (power) victim.powerOff();
      process.life.end();
    };
    client.turn.begin();
    for (let i = 0; i < 3; i++) up.connection!.send(frameOf(0, i), null, null, null);
    client.turn.end();
    await bench.timeline.pass(1000);
    return [bench.net.points - base, downs[0]!.frames.length, up.frames.length];
  };
  t.same(await outcome(99, "before", true), [12, 3, 3], "6 frames, each leaves and is delivered");
  t.same((await outcome(1, "before", true)).slice(1), [0, 0]);
  t.same((await outcome(2, "before", true)).slice(1), [1, 0], "the first had left");
  t.same((await outcome(2, "after", true)).slice(1), [2, 0]);
  t.same((await outcome(1, "before", false)).slice(1), [3, 0], "the kernel sends on");
  const got = new Set<string>();
  for (let stop = 4; stop <= 12; stop++) {
    for (const when of ["before", "after"] as const) got.add(`${await outcome(stop, when, true)}`);
  }
  t.ok(got.size >= 6, `many outcomes: ${[...got].join(" | ")}`);
});

t.test("a change of memory that is lent is found out", async (t) => {
  const bench = new Bench(seed);
  const { up, downs, client } = await pair(bench);
  downs[0]!.connection!.reading(false);
  for (let i = 0; i < 3; i++) {
    up.connection!.send(frameOf(2, i), null, oneSegment(client.memory, MIB), null);
  }
  await bench.timeline.pass(10);
  client.arena.bytes[client.memory + 5]! ^= 1;
  downs[0]!.connection!.reading(true);
  await bench.until(() => downs[0]!.closed.length === 1, "it has ended");
  t.match(downs[0]!.closed[0], /damaged payload/);
});
