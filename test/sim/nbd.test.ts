// SPDX-License-Identifier: Apache-2.0
// The simulated NBD engine: requests come to targets as from the real one, and answers back, also
// when clients, servers, hosts or the way between them fail.

import t from "tap";
import { MIB } from "../../src/base/units.js";
import { NbdErrno } from "../../src/nbd/errno.js";
import { requestBytesMax, SLOT_BYTES } from "../../src/nbd/limits.js";
import { NbdListener, type NbdTicket } from "../../src/nbd/listener.js";
import { MemoryTarget } from "../../src/nbd/memory.js";
import { NbdServer, type NbdServerOptions } from "../../src/nbd/server.js";
import { type BlockTarget, RequestFlag, RequestKind, type Requests } from "../../src/nbd/target.js";
import { Life } from "../../src/sim/life.js";
import { SimNbdEngine } from "../../src/sim/nbd.js";
import { SimNbdClient } from "../../src/sim/nbdclient.js";
import { Bench, type Process } from "./netfixture.js";

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
t.comment(`SEED=${seed}`);

const { Read, Write, Flush, Trim, WriteZeroes, BlockStatus } = RequestKind;

/** Keeps what it is given until it is told to complete it. */
class HeldTarget implements BlockTarget {
  sizeBytes = 64 * MIB;
  readOnly = false;
  readonly held: number[] = [];
  readonly #requests: Requests;

  constructor(requests: Requests) {
    this.#requests = requests;
  }

  admit(slot: number): void {
    this.held.push(slot);
  }

  completeAll(): void {
    for (const slot of this.held.splice(0)) this.#requests.complete(slot, null);
  }
}

interface Disk {
  bench: Bench;
  process: Process;
  server: NbdServer;
  listener: NbdListener;
  targets: Map<string, BlockTarget>;
  tickets: NbdTicket[];
  publish(): void;
}

type DiskOptions = NbdServerOptions & { slots: number; adopts?: boolean };

function makeDisk(bench: Bench, options: DiskOptions): Disk {
  const { slots } = options;
  const arenaMib = Math.ceil((slots * SLOT_BYTES) / MIB) + 8;
  const process = bench.process(bench.host(1), { arenaMib });
  const nbd = new SimNbdEngine(process.host, process.life, process.codec);
  const server = new NbdServer({ ...process, nbd }, options);
  const targets = new Map<string, BlockTarget>();
  const tickets: NbdTicket[] = [];
  const onNegotiated = (ticket: NbdTicket) => {
    tickets.push(ticket);
    if (options.adopts !== false) server.adopt(ticket, targets.get(ticket.name)!);
  };
  const listener = new NbdListener({ nbd, log: process.log, slots, onNegotiated });
  listener.listen("unix:/run/nbd.sock");
  listener.listen("tcp:10.0.0.1:10809");
  const publish = () =>
    listener.setExports(
      [...targets].map(([name, { sizeBytes, readOnly }]) => ({
        name,
        description: `the disk ${name}`,
        sizeBytes,
        readOnly,
      })),
    );
  return { bench, process, server, listener, targets, tickets, publish };
}

function memoryDisk(bench: Bench, slots = 64, sizeBytes = 64 * MIB): Disk {
  const disk = makeDisk(bench, { slots });
  const { arena } = disk.process;
  disk.targets.set("vd0", new MemoryTarget(arena, disk.server.requests, sizeBytes, false));
  disk.publish();
  return disk;
}

function heldDisk(bench: Bench, options: DiskOptions): { disk: Disk; target: HeldTarget } {
  const disk = makeDisk(bench, options);
  const target = new HeldTarget(disk.server.requests);
  disk.targets.set("vd0", target);
  disk.publish();
  return { disk, target };
}

class Client {
  readonly ends: string[] = [];
  readonly life: Life;
  nbd!: SimNbdClient;
  readonly #bench: Bench;

  constructor(bench: Bench) {
    this.#bench = bench;
    this.life = new Life("client", bench.timeline);
  }

  static async open(bench: Bench, kind: "unix" | "tcp" = "unix", name = "vd0"): Promise<Client> {
    const client = new Client(bench);
    const made = SimNbdClient.connect({
      host: bench.host(kind === "unix" ? 1 : 2),
      life: client.life,
      address: kind === "unix" ? "unix:/run/nbd.sock" : "tcp:10.0.0.1:10809",
      name,
      allocation: true,
      connectMs: 2000,
      onEnd: (reason) => client.ends.push(reason),
    });
    client.nbd = await bench.settle(made);
    return client;
  }

  /** Sends a request and waits for its answer. */
  async ask(
    kind: number,
    offset: number,
    length: number,
    data: Uint8Array | null = null,
    flags = 0,
  ): Promise<{ errno: number; data: Uint8Array | null }> {
    let answer: { errno: number; data: Uint8Array | null } | null = null;
    this.nbd.request(kind, flags, offset, length, data, (errno, bytes) => {
      answer = { errno, data: bytes === null ? null : bytes.slice() };
    });
    await this.#bench.until(() => answer !== null, "the answer");
    return answer!;
  }

  async errno(kind: number, offset: number, length: number, flags = 0): Promise<number> {
    const data = kind === Write ? new Uint8Array(length) : null;
    return (await this.ask(kind, offset, length, data, flags)).errno;
  }
}

function bytesOf(length: number, salt: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = Math.imul(i + salt, 2_654_435_761) >>> 24;
  return bytes;
}

function same(found: Uint8Array | null, wanted: Uint8Array): boolean {
  return found !== null && Buffer.from(found).equals(wanted);
}

t.test("reads what was written, at any offset and length", async (t) => {
  const bench = new Bench(seed);
  memoryDisk(bench);
  for (const kind of ["unix", "tcp"] as const) {
    const client = await Client.open(bench, kind);
    t.equal(client.nbd.sizeBytes, 64 * MIB);
    const ranges = [
      [0, 4096],
      [1, 1],
      [4095, 2],
      [5000, 300_000],
      [128 * 1024 - 1, 128 * 1024 + 2],
      [4096, requestBytesMax(64)],
    ] as const;
    for (const [offset, length] of ranges) {
      const data = bytesOf(length, offset);
      t.equal((await client.ask(Write, offset, length, data)).errno, 0);
      t.ok(same((await client.ask(Read, offset, length)).data, data), `${offset} + ${length}`);
    }
    t.equal(await client.errno(Flush, 0, 0), 0);
    t.equal(await client.errno(Trim, 4096, 8192), 0);
    t.equal(await client.errno(WriteZeroes, 20_000, 10_000, RequestFlag.NoHole), 0);
    const { data } = await client.ask(Read, 4096, 30_000);
    t.ok(data!.subarray(0, 8192).every((byte) => byte === 0));
    t.ok(data!.subarray(20_000 - 4096, 30_000 - 4096).every((byte) => byte === 0));
    client.nbd.close();
    await bench.until(() => client.ends.length === 1, "the end");
  }
});

t.test("many requests at once are all answered, on many connections", async (t) => {
  const bench = new Bench(seed);
  const disk = memoryDisk(bench, 16);
  const clients: Client[] = [];
  for (let i = 0; i < 6; i++) clients.push(await Client.open(bench, i % 2 === 0 ? "unix" : "tcp"));
  t.equal(disk.server.counters().connections, 6);
  let wrong = 0;
  let answers = 0;
  const model = new Uint8Array(6 * MIB);
  for (const [i, client] of clients.entries()) {
    for (let k = 0; k < 100; k++) {
      const length = 1 + bench.dice.below(60_000);
      const offset = i * MIB + bench.dice.below(MIB - length);
      const data = bytesOf(length, k);
      model.set(data, offset);
      client.nbd.request(Write, 0, offset, length, data, (errno) => {
        answers++;
        wrong += errno;
      });
    }
  }
  await bench.until(() => answers === 600, "all are answered");
  t.equal(wrong, 0);
  t.ok(disk.server.counters().waits > 0);
  for (const [i, client] of clients.entries()) {
    const { data } = await client.ask(Read, i * MIB, MIB);
    t.ok(same(data, model.subarray(i * MIB, (i + 1) * MIB)), "in the order of each connection");
  }
  t.equal(disk.server.counters().slotsFree, 16);
  t.equal(disk.server.counters().requests, 606);
});

t.test("a request comes in parts, with cookie, flags and checksums", async (t) => {
  const bench = new Bench(seed);
  const { disk, target } = heldDisk(bench, { slots: 8 });
  const client = await Client.open(bench);
  const data = bytesOf(200_000, 5);
  let errno = -1;
  client.nbd.request(Write, RequestFlag.Fua, 5000, data.byteLength, data, (found) => {
    errno = found;
  });
  await bench.until(() => target.held.length === 2, "two parts");
  const { requests } = disk.server;
  const [first, second] = target.held as [number, number];
  const partBytes = 128 * 1024 - (5000 - 4096);
  t.same([requests.offset[first], requests.length[first]], [5000, partBytes]);
  t.same(
    [requests.offset[second], requests.length[second]],
    [5000 + partBytes, 200_000 - partBytes],
  );
  const { arena, codec } = disk.process;
  let done = 0;
  for (const slot of target.held) {
    t.equal(requests.kind[slot], Write);
    t.equal(requests.flags[slot], RequestFlag.Fua);
    t.same([requests.cookieLow[slot], requests.cookieHigh[slot]], [1, 0]);
    const at = requests.memory[slot]!;
    const bytes = requests.length[slot]!;
    t.equal(at % 4096, requests.offset[slot]! % 4096);
    t.ok(same(arena.slice(at, bytes), data.subarray(done, done + bytes)));
    done += bytes;
    const begin = at - (at % 4096);
    for (let i = 0; begin + i * 4096 < at + bytes; i++) {
      const page = begin + i * 4096;
      const isWhole = page >= at && page + 4096 <= at + bytes;
      const crc = isWhole ? codec.crc32c(page, 4096, 0) : 0;
      if (requests.crcs[slot * 33 + i] !== crc) t.fail(`checksum ${i} of slot ${slot}`);
    }
  }
  t.equal(errno, -1);
  disk.server.requests.complete(target.held.pop()!, "full");
  target.completeAll();
  await bench.until(() => errno >= 0, "the answer");
  t.equal(errno, NbdErrno.Enospc);
});

t.test("refuses what the real one refuses, and goes on", async (t) => {
  const bench = new Bench(seed);
  const disk = memoryDisk(bench, 8, MIB);
  const readOnly = new MemoryTarget(disk.process.arena, disk.server.requests, MIB, true);
  disk.targets.set("fixed", readOnly);
  disk.publish();
  const client = await Client.open(bench);
  t.equal(await client.errno(Read, MIB - 1, 2), NbdErrno.Einval);
  t.equal(await client.errno(Write, MIB - 1, 2), NbdErrno.Enospc);
  t.equal(await client.errno(Trim, MIB, 1), NbdErrno.Einval);
  t.equal(await client.errno(WriteZeroes, MIB, 1), NbdErrno.Enospc);
  t.equal(await client.errno(Flush, 1, 0), NbdErrno.Einval);
  t.equal(await client.errno(Read, 0, requestBytesMax(8) + 1), NbdErrno.Einval);
  t.equal(await client.errno(Read, 0, requestBytesMax(8) + 1, RequestFlag.Df), NbdErrno.Eoverflow);
  t.equal(await client.errno(Read, 0, 10, RequestFlag.NoHole), NbdErrno.Einval);
  t.equal(await client.errno(99, 0, 10), NbdErrno.Einval);
  t.equal(await client.errno(Read, 0, 0), 0, "nothing is nothing");
  t.equal(await client.errno(Write, 0, 0), 0);
  t.equal(await client.errno(Trim, 0, 0), 0);
  t.equal(await client.errno(BlockStatus, 0, 0), NbdErrno.Einval);
  const fixed = await Client.open(bench, "tcp", "fixed");
  t.equal(await fixed.errno(Write, 0, 10), NbdErrno.Eperm);
  t.equal(await fixed.errno(Trim, 0, 10), NbdErrno.Eperm);
  t.equal(await fixed.errno(Read, 0, 10), 0);
  t.equal(await client.errno(Read, 0, 512), 0);
  t.equal(disk.server.counters().slotsFree, 8);
  await t.rejects(Client.open(bench, "unix", "unknown"), { message: /no export of that name/ });
});

t.test("tells holes from data, and lists the exports", async (t) => {
  const bench = new Bench(seed);
  memoryDisk(bench);
  const client = await Client.open(bench);
  t.equal(await client.errno(Write, MIB, 4096), 0);
  const { errno, data } = await client.ask(BlockStatus, 0, 4 * MIB);
  t.equal(errno, 0);
  t.same(
    [...new Uint32Array(data!.slice().buffer)],
    [MIB, 0, 3, 256 * 1024, 0, 0, 3 * MIB - 256 * 1024, 0, 3],
  );
  const one = await client.ask(BlockStatus, 0, 4 * MIB, null, RequestFlag.ReqOne);
  t.same([...new Uint32Array(one.data!.slice().buffer)], [MIB, 0, 3]);
  const options = {
    host: bench.host(2),
    life: client.life,
    address: "tcp:10.0.0.1:10809",
    name: "",
  };
  const exports = await bench.settle(SimNbdClient.list(options));
  t.same(
    exports.map(({ name, sizeBytes }) => [name, sizeBytes]),
    [["vd0", 64 * MIB]],
  );
});

t.test("a target that is slow stops the reading, and loses nothing", async (t) => {
  const bench = new Bench(seed);
  const { disk, target } = heldDisk(bench, { slots: 4 });
  const clients = [await Client.open(bench), await Client.open(bench, "tcp")];
  let answers = 0;
  for (const client of clients) {
    for (let i = 0; i < 100; i++) {
      client.nbd.request(Write, 0, i * 4096, 4096, new Uint8Array(4096), () => answers++);
    }
  }
  await bench.until(() => target.held.length === 4, "no more than there are slots");
  await bench.timeline.pass(100);
  t.equal(target.held.length, 4);
  t.equal(disk.server.counters().slotsFree, 0);
  for (let completed = 0; completed < 200; ) {
    await bench.until(() => target.held.length > 0, "more requests");
    t.ok(target.held.length <= 4);
    completed += target.held.length;
    target.completeAll();
  }
  await bench.until(() => answers === 200, "all are answered");
  t.equal(disk.server.counters().slotsFree, 4);
});

t.test("a client that leaves keeps its slots until the target has completed them", async (t) => {
  const bench = new Bench(seed);
  const { disk, target } = heldDisk(bench, { slots: 4 });
  const client = await Client.open(bench);
  client.nbd.request(Read, 0, 0, 200_000, null, () => t.fail("nobody is there"));
  await bench.until(() => target.held.length === 2, "two parts");
  client.life.end();
  await bench.timeline.pass(50);
  t.equal(disk.server.counters().slotsFree, 2);
  target.completeAll();
  await bench.until(() => disk.server.counters().connections === 0, "the end");
  t.equal(disk.server.counters().slotsFree, 4);
  const said = () => /connection has ended/.test(disk.process.log.lines.join());
  await bench.until(said, "a line in the log");
});

t.test(
  "drop answers what is in flight and ends connections; the target may come back",
  async (t) => {
    const bench = new Bench(seed);
    const { disk, target } = heldDisk(bench, { slots: 8 });
    const client = await Client.open(bench);
    let answered = 0;
    client.nbd.request(Write, 0, 0, 4096, new Uint8Array(4096), () => answered++);
    await bench.until(() => target.held.length === 1, "it has come");
    let dropped = false;
    void disk.server.drop(target).then(() => {
      dropped = true;
    });
    client.nbd.request(Write, 0, 0, 4096, new Uint8Array(4096), () => t.fail("too late"));
    await bench.timeline.pass(50);
    t.notOk(dropped);
    target.completeAll();
    await bench.until(() => dropped && client.ends.length === 1, "all has ended");
    t.equal(answered, 1);
    const again = await Client.open(bench);
    again.nbd.request(Read, 0, 0, 512, null, () => answered++);
    await bench.until(() => target.held.length === 1, "it is served again");
    target.completeAll();
    await bench.until(() => answered === 2, "and answered");
    let stopped = false;
    void disk.server.stop().then(() => {
      stopped = true;
    });
    await bench.until(() => stopped, "the server stops");
    await bench.until(() => again.ends.length === 1, "its client sees that");
  },
);

t.test("a server that dies leaves requests of unknown outcome; clients come back", async (t) => {
  const bench = new Bench(seed);
  const { disk, target } = heldDisk(bench, { slots: 8 });
  const near = await Client.open(bench);
  const far = await Client.open(bench, "tcp");
  for (const client of [near, far]) {
    client.nbd.request(Write, 0, 0, 4096, new Uint8Array(4096), () => t.fail("never answered"));
  }
  await bench.until(() => target.held.length === 2, "both have come");
  disk.process.life.end();
  target.completeAll();
  await bench.until(() => near.ends.length + far.ends.length === 2, "both see the end");
  await t.rejects(Client.open(bench), { message: /refused/ });
  await t.rejects(Client.open(bench, "tcp"), { message: /refused/ });
  memoryDisk(bench);
  const again = await Client.open(bench);
  t.equal(await again.errno(Read, 0, 4096), 0);
});

t.test("a frozen server answers nothing, and later all", async (t) => {
  const bench = new Bench(seed);
  const disk = memoryDisk(bench);
  const client = await Client.open(bench, "tcp");
  disk.process.life.freeze();
  let answers = 0;
  for (let i = 0; i < 10; i++) {
    client.nbd.request(Write, 0, i * MIB, 500_000, bytesOf(500_000, i), () => answers++);
  }
  await bench.timeline.pass(5000);
  t.equal(answers, 0);
  disk.process.life.thaw();
  await bench.until(() => answers === 10, "all are answered");
  const { data } = await client.ask(Read, 9 * MIB, 500_000);
  t.ok(same(data, bytesOf(500_000, 9)));
});

t.test("partition and power loss reach clients over TCP", async (t) => {
  const bench = new Bench(seed, { giveUpMs: 10_000 });
  const disk = memoryDisk(bench);
  const client = await Client.open(bench, "tcp");
  bench.net.partition([bench.host(1)], [bench.host(2)], { oneWay: false });
  let answers = 0;
  client.nbd.request(Read, 0, 0, 4096, null, () => answers++);
  await bench.timeline.pass(1000);
  t.equal(answers, 0);
  bench.net.heal();
  await bench.until(() => answers === 1, "it was sent again");
  disk.process.host.powerOff();
  disk.process.life.end();
  client.nbd.request(Read, 0, 0, 4096, null, () => answers++);
  await bench.until(() => client.ends.length === 1, "it is given up", 60_000);
  t.match(client.ends[0], /timed out/);
  t.equal(answers, 1);
});

t.test("a client whose host is gone is found out while nothing is said", async (t) => {
  const bench = new Bench(seed);
  const disk = memoryDisk(bench);
  const client = await Client.open(bench, "tcp");
  await bench.timeline.pass(300_000);
  t.equal(disk.server.counters().connections, 1, "who is there stays");
  bench.host(2).powerOff();
  client.life.end();
  await bench.until(() => disk.server.counters().connections === 0, "its end", 150_000);
  t.match(disk.process.log.lines.join(), /timed out/);
});

t.test("a ticket may be adopted by another thread, or be given back", async (t) => {
  const bench = new Bench(seed);
  const disk = makeDisk(bench, { slots: 8, adopts: false });
  disk.targets.set("vd0", new MemoryTarget(disk.process.arena, disk.server.requests, MIB, false));
  disk.publish();
  const client = await Client.open(bench);
  const { process } = disk;
  const thread = process.life.thread("thread");
  const nbd = new SimNbdEngine(process.host, thread, process.codec);
  const server = new NbdServer({ ...process, nbd }, { slots: 8 });
  const target = new MemoryTarget(process.arena, server.requests, MIB, false);
  t.ok(server.adopt(structuredClone(disk.tickets[0]!), target));
  t.equal(await client.errno(Write, 0, 4096), 0);
  const other = await Client.open(bench);
  nbd.closeSocket(disk.tickets[1]!.fd);
  await bench.until(() => other.ends.length === 1, "it is turned away");
  const third = await Client.open(bench);
  thread.end();
  await bench.until(() => client.ends.length === 1, "the thread's connections end with it");
  t.equal(third.ends.length, 0);
  process.life.end();
  await bench.until(() => third.ends.length === 1, "and what nobody adopted with the process");
});

t.test("no more connections than allowed; who does not talk is turned away", async (t) => {
  const bench = new Bench(seed);
  const disk = makeDisk(bench, { slots: 4, connectionsMax: 2 });
  disk.targets.set("vd0", new MemoryTarget(disk.process.arena, disk.server.requests, MIB, false));
  disk.publish();
  const first = await Client.open(bench);
  await Client.open(bench);
  const third = await Client.open(bench);
  await bench.until(() => third.ends.length === 1, "there is no place");
  first.nbd.close();
  await bench.until(() => disk.server.counters().connections === 1, "a place");
  const fourth = await Client.open(bench);
  t.equal(await fourth.errno(Read, 0, 512), 0);
  const silent = bench.net.connectUnix(bench.host(1), "/run/nbd.sock");
  t.not(typeof silent, "number");
  await bench.until(
    () => /did not finish negotiating in time/.test(disk.process.log.lines.join()),
    "its time is over",
    40_000,
  );
});

t.test("who holds slots and does not move ends when others wait", async (t) => {
  const bench = new Bench(seed, { kernelBytes: 64 * 1024 });
  const disk = makeDisk(bench, { slots: 5, stallMs: 1000 });
  disk.targets.set(
    "vd0",
    new MemoryTarget(disk.process.arena, disk.server.requests, 64 * MIB, false),
  );
  disk.publish();
  const bytes = requestBytesMax(5);
  const lazy = await Client.open(bench, "tcp");
  lazy.nbd.request(Write, 0, 0, bytes, new Uint8Array(bytes), () => {});
  await bench.until(() => disk.server.counters().slotsFree === 1, "it holds slots");
  lazy.life.freeze();
  const other = await Client.open(bench);
  t.equal(await other.errno(Read, 0, bytes), 0);
  t.match(disk.process.log.lines.join(), /without moving/);
});

t.test("the same seed is the same run", async (t) => {
  const run = async () => {
    const bench = new Bench(seed);
    memoryDisk(bench, 8);
    const client = await Client.open(bench, "tcp");
    Object.assign(bench.net.link(bench.host(2), bench.host(1)), { jitterMs: 2, lossRate: 0.2 });
    let answers = 0;
    for (let i = 0; i < 100; i++) {
      client.nbd.request(i % 2 === 0 ? Read : Trim, 0, i * 4096, 4096, null, () => answers++);
      if (i % 7 === 0) await bench.timeline.pass(1);
    }
    await bench.until(() => answers === 100, "all are answered");
    return `${bench.timeline.digest} ${bench.timeline.nowMs}`;
  };
  t.equal(await run(), await run());
});
