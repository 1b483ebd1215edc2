// SPDX-License-Identifier: Apache-2.0
// The NBD server as its owner sees it: back-pressure, dropping and resizing of targets, limits,
// sockets, threads, and leaving at any stage of its life.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import t from "tap";
import type { ErrorKind } from "../../src/base/errors.js";
import { MIB } from "../../src/base/units.js";
import { loadNbdAddon } from "../../src/native/nbd.js";
import { NbdErrno } from "../../src/nbd/errno.js";
import { requestBytesMax } from "../../src/nbd/limits.js";
import type { NbdTicket } from "../../src/nbd/listener.js";
import { discardTicket } from "../../src/nbd/listener.js";
import type { Bench } from "./bench.js";
import { makeBench } from "./bench.js";
import { Client, Cmd, goBytes, Opt } from "./client.js";

const STAGES = "loaded made negotiating connected held collected closing stopped".split(" ");

/** Waits for something that the loop will bring, not longer than 20 s. */
async function until(met: () => boolean, what: string): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!met()) {
    if (Date.now() > deadline) throw new Error(`waited too long for: ${what}`);
    await new Promise<void>((resolve) => void setImmediate(resolve));
  }
}

function ended(bench: Bench): string {
  return String(
    bench.lines.findLast((line) => line.message === "a connection has ended")?.fields.reason,
  );
}

t.test("a target that is slow stops the reading of sockets, and loses nothing", async (t) => {
  const bench = makeBench({ slots: 4 });
  const target = bench.hold("vd0");
  const clients = [await Client.open(bench.address), await Client.open(bench.address)];
  for (const client of clients) {
    for (let i = 0; i < 100; i++) client.write(BigInt(i), i * 4096, Buffer.alloc(4096, i));
  }
  await target.holding(4);
  t.equal(target.held.length, 4, "no more than there are slots");
  t.equal(bench.server.counters().slotsFree, 0);
  let completed = 0;
  while (completed < 200) {
    await target.holding(1);
    completed += target.held.length;
    t.ok(target.held.length <= 4);
    target.completeAll();
  }
  for (const client of clients) {
    for (let i = 0; i < 100; i++) t.equal((await client.reply(0)).cookie, BigInt(i));
  }
  t.ok(bench.server.counters().waits > 0);
  for (const client of clients) client.close();
  await bench.stop();
});

t.test("what fails tells the client so", async (t) => {
  const bench = makeBench({ slots: 8 });
  const target = bench.hold("vd0");
  const client = await Client.open(bench.address, { style: "structured" });
  const errors: Record<ErrorKind, number> = {
    invalid: NbdErrno.Einval,
    full: NbdErrno.Enospc,
    unavailable: NbdErrno.Eio,
    corrupt: NbdErrno.Eio,
    fenced: NbdErrno.Eshutdown,
    closed: NbdErrno.Eshutdown,
  };
  for (const [kind, errno] of Object.entries(errors)) {
    client.request(Cmd.Read, 1n, 0, 300_000);
    await target.holding(3);
    bench.server.requests.complete(target.held.pop()!, kind as ErrorKind);
    target.completeAll();
    t.equal((await client.reply(0)).error, errno, kind);
  }
  client.request(Cmd.WriteZeroes, 1n, 0, 4096, 16);
  await target.holding(1);
  bench.server.requests.completeNotFast(target.held.pop()!);
  t.equal((await client.reply(0)).error, NbdErrno.Enotsup);
  client.close();
  await bench.stop();
});

t.test("a request shows its cookie, flags and connection", async (t) => {
  const bench = makeBench({ slots: 8 });
  const target = bench.hold("vd0");
  const client = await Client.open(bench.address);
  client.write(0x0102030405060708n, 5000, Buffer.alloc(10), 1);
  await target.holding(1);
  const { requests } = bench.server;
  const slot = target.held[0]!;
  t.equal(requests.kind[slot], Cmd.Write);
  t.equal(requests.flags[slot], 1);
  t.equal(requests.offset[slot], 5000);
  t.equal(requests.length[slot], 10);
  t.equal(requests.memory[slot]! % 4096, 5000 % 4096);
  t.same([requests.cookieLow[slot], requests.cookieHigh[slot]], [0x04030201, 0x08070605]);
  t.ok(requests.connection[slot]! > 0);
  t.throws(() => requests.completeStatus(slot, 1), /block status/);
  target.completeAll();
  t.throws(() => requests.complete(slot, null), /completed once/);
  client.close();
  await bench.stop();
});

t.test("a client that leaves keeps its slots until the target has completed them", async (t) => {
  const bench = makeBench({ slots: 4 });
  const target = bench.hold("vd0");
  const polite = await Client.open(bench.address);
  polite.request(Cmd.Read, 1n, 0, 200_000);
  await target.holding(2);
  polite.socket.end();
  target.completeAll();
  t.equal((await polite.reply(200_000)).data.length, 200_000, "who only stops sending is answered");
  t.equal((await polite.rest()).length, 0);
  const rude = await Client.open(bench.address);
  rude.request(Cmd.Read, 1n, 0, 200_000);
  await target.holding(2);
  rude.send(Buffer.alloc(100, 1));
  t.equal((await rude.rest()).length, 0);
  await until(() => bench.server.counters().connections === 0, "the end of the connection");
  t.equal(bench.server.counters().slotsFree, 2);
  target.completeAll();
  await until(() => bench.server.counters().slotsFree === 4, "the slots");
  await bench.stop();
});

t.test("drop answers what is in flight, takes no more and waits for the target", async (t) => {
  const bench = makeBench({ slots: 8 });
  const target = bench.hold("vd0");
  const client = await Client.open(bench.address);
  client.write(1n, 0, Buffer.alloc(4096));
  await target.holding(1);
  let dropped = false;
  const drop = bench.server.drop(target).then(() => {
    dropped = true;
  });
  client.write(2n, 0, Buffer.alloc(4096));
  const late = await Client.open(bench.address);
  t.equal((await late.rest()).length, 0, "a ticket that comes now is turned away");
  t.notOk(dropped);
  target.completeAll();
  t.equal((await client.reply(0)).cookie, 1n);
  t.equal((await client.rest()).length, 0);
  await drop;
  await until(() => /export was closed/.test(ended(bench)), "a line in the log");
  await bench.server.drop(target);
  const again = await Client.open(bench.address);
  t.equal(bench.server.counters().connections, 1, "a dropped target may come back");
  again.close();
  await bench.stop();
});

t.test("drop cuts a client that does not take its replies", async (t) => {
  const bench = makeBench({ slots: 64 });
  const target = bench.memory("vd0", 64 * MIB);
  const client = await Client.open(bench.address);
  client.socket.pause();
  for (let i = 0; i < 40; i++) client.request(Cmd.Read, BigInt(i), 0, 4 * MIB);
  await until(() => bench.server.counters().waiting > 0, "a full server");
  const began = performance.now();
  await bench.server.drop(target, 200);
  t.ok(performance.now() - began >= 190);
  t.equal(bench.server.counters().slotsFree, 64);
  client.close();
  await bench.stop();
});

t.test("a resized target is checked by its new size at once", async (t) => {
  const bench = makeBench({ slots: 8 });
  const target = bench.hold("vd0");
  const client = await Client.open(bench.address);
  t.equal((await client.put(64 * MIB, Buffer.alloc(4096))).error, NbdErrno.Enospc);
  target.sizeBytes = 128 * MIB;
  bench.server.resize(target);
  bench.publish();
  client.write(1n, 64 * MIB, Buffer.alloc(4096));
  await target.holding(1);
  target.completeAll();
  t.equal((await client.reply(0)).error, 0);
  const fresh = await Client.connect(bench.address);
  await fresh.hello(3);
  const [info] = await fresh.option(Opt.Info, goBytes("vd0"));
  t.equal(info!.data.readBigUInt64BE(2), BigInt(128 * MIB));
  fresh.close();
  target.readOnly = true;
  bench.server.resize(target);
  t.equal((await client.put(0, Buffer.alloc(4096))).error, NbdErrno.Eperm);
  client.close();
  await bench.stop();
});

t.test("who holds slots and does not move ends when others wait", async (t) => {
  const bench = makeBench({ slots: 5, stallMs: 1000 });
  bench.memory("vd0", 64 * MIB);
  const lazy = await Client.open(bench.address);
  const bytes = requestBytesMax(5);
  lazy.request(Cmd.Write, 1n, 0, bytes);
  lazy.send(Buffer.alloc(1000));
  const other = await Client.open(bench.address);
  other.request(Cmd.Read, 2n, 0, bytes);
  t.equal((await lazy.rest()).length, 0);
  t.equal((await other.reply(bytes)).data.length, bytes);
  t.match(ended(bench), /without moving/);
  other.close();
  await bench.stop();
});

t.test("who does not negotiate ends after a while, or when too many do that", async (t) => {
  const bench = makeBench({ slots: 4, negotiationMs: 300 });
  bench.memory("vd0", MIB);
  const silent = await Client.connect(bench.address);
  t.equal((await silent.rest()).length, 18);
  t.match(bench.lines.at(-1)!.fields.reason, /in time/);
  await bench.stop();

  const crowded = makeBench({ slots: 4 });
  crowded.memory("vd0", MIB);
  const crowd: Client[] = [];
  for (let i = 0; i < 65; i++) crowd.push(await Client.connect(crowded.address));
  t.equal((await crowd[0]!.rest()).length, 18);
  t.match(crowded.lines.at(-1)!.fields.reason, /oldest/);
  const client = await Client.open(crowded.address);
  t.equal((await client.ask(Cmd.Read, 0, 512)).error, 0);
  for (const other of [...crowd, client]) other.close();
  await crowded.stop();
});

t.test("no more connections are adopted than allowed", async (t) => {
  const bench = makeBench({ slots: 4, connectionsMax: 2 });
  bench.memory("vd0", MIB);
  const first = await Client.open(bench.address);
  const second = await Client.open(bench.address);
  const third = await Client.open(bench.address);
  t.equal((await third.rest()).length, 0);
  first.close();
  await until(() => bench.server.counters().connections === 1, "a place");
  const fourth = await Client.open(bench.address);
  t.equal((await fourth.ask(Cmd.Read, 0, 512)).error, 0);
  second.close();
  fourth.close();
  await bench.stop();
});

t.test("sockets", async (t) => {
  const bench = makeBench({ slots: 4 });
  bench.memory("vd0", MIB);
  const path = `${bench.folder}/nbd.sock`;
  t.equal(statSync(path).mode & 0o777, 0o600, "nobody else may connect");
  t.throws(() => bench.listener.listen(`unix:${path}`), /in use by another process/);
  writeFileSync(`${bench.folder}/file`, "");
  t.throws(() => bench.listener.listen(`unix:${bench.folder}/file`), /not a socket/);
  t.throws(() => bench.listener.listen(`unix:${bench.folder}/no/such`), /cannot listen/);
  t.throws(() => bench.listener.listen("tcp:no.such.host.invalid:1"), /cannot resolve/);
  t.throws(() => bench.listener.listen("udp:1"), /not an address/);
  t.throws(() => bench.listener.listenFd(0x7fff), /not a stream socket/);
  const die = "process.kill(process.pid, 9)";
  const left = `require("net").createServer().listen(process.argv[1], () => ${die})`;
  const stale = spawn(process.execPath, ["-e", left, `${bench.folder}/stale`]);
  await once(stale, "exit");
  t.ok(existsSync(`${bench.folder}/stale`));
  chmodSync(`${bench.folder}/stale`, 0o755);
  const replaced = bench.listener.listen(`unix:${bench.folder}/stale`);
  const tcp = bench.listener.listen("tcp:127.0.0.1:0");
  const six = bench.listener.listen("tcp:[::1]:0");
  t.match(tcp, /^tcp:127\.0\.0\.1:[1-9]\d+$/);
  t.throws(() => bench.listener.listen(tcp), /Address already in use/);
  for (const address of [bench.address, replaced, tcp, six]) {
    const client = await Client.open(address);
    t.equal((await client.ask(Cmd.Read, 0, 512)).error, 0, address);
    client.close();
  }
  await bench.stop();
  t.notOk(existsSync(path));
  await t.rejects(Client.connect(tcp), /ECONNREFUSED/);
});

t.test("a TCP port that somebody else has is refused in words", async (t) => {
  const other = createServer().listen(0, "127.0.0.1");
  await once(other, "listening");
  const { port } = other.address() as { port: number };
  const bench = makeBench({ slots: 4 });
  t.throws(() => bench.listener.listen(`tcp:127.0.0.1:${port}`), {
    message: `nbd: cannot listen on 127.0.0.1 port ${port}: Address already in use`,
  });
  other.close();
  await bench.stop();
});

t.test("a ticket can be posted to the thread that owns the disk, or be given back", async (t) => {
  const tickets: NbdTicket[] = [];
  const bench = makeBench({ slots: 4, onTicket: (ticket) => void tickets.push(ticket) });
  bench.memory("vd0", 64 * MIB);
  const worker = new Worker(new URL("./adopt.child.js", import.meta.url));
  const exited = once(worker, "exit");
  await once(worker, "online");
  const client = await Client.open(bench.address, { style: "structured" });
  client.write(1n, 10, Buffer.from("in another thread"));
  await until(() => tickets.length === 1, "a ticket");
  t.match(tickets[0], { name: "vd0", mode: 1, allocation: false, peer: /^unix:pid/ });
  worker.postMessage(tickets[0]);
  t.equal((await client.reply(0)).error, 0);
  t.equal((await client.ask(Cmd.Read, 10, 17)).data.toString(), "in another thread");
  const unwanted = await Client.open(bench.address);
  await until(() => tickets.length === 2, "a ticket");
  discardTicket(loadNbdAddon(), tickets[1]!);
  t.equal((await unwanted.rest()).length, 0);
  const answered = once(worker, "message") as Promise<[{ requests: number }]>;
  worker.postMessage("stop");
  const [{ requests }] = await answered;
  t.equal(requests, 2);
  t.equal((await client.rest()).length, 0);
  await exited;
  await bench.stop();
});

t.test("a process or thread may end at any stage", async (t) => {
  const path = new URL("./stages.child.js", import.meta.url);
  const folder = mkdtempSync(join(tmpdir(), "ovs-stages-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const env = { ...process.env, TMPDIR: folder };
  for (const stage of STAGES) {
    const child = spawn(process.execPath, ["--expose-gc", path.pathname, stage], {
      stdio: "inherit",
      env,
    });
    t.same(await once(child, "exit"), [0, null], `process, ${stage}`);
    const worker = new Worker(path, { workerData: stage, env });
    t.same(await once(worker, "exit"), [0], `thread, ${stage}`);
  }
  const worker = new Worker(path, { workerData: "held", env });
  await once(worker, "online");
  await worker.terminate();
});
