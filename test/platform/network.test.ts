// SPDX-License-Identifier: Apache-2.0
// The real network: its contract over unix and TCP sockets, and what strangers may send to it.

import { execFile } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import net from "node:net";
import { promisify } from "node:util";
import t from "tap";
import { crc32c } from "../../src/base/crc32c.js";
import { MIB } from "../../src/base/units.js";
import { parseAddress } from "../../src/platform/address.js";
import { FRAME_HEADER_HEADER_BYTES } from "../../src/wire/generated/frame.js";
import { type SocketWorld, socketWorld, temporaryFolder, until } from "./fixture.js";
import {
  CONTRACT_POOL_BYTES,
  type ContractWorld,
  connected,
  frameOf,
  networkContract,
  Recorder,
  type Side,
} from "./network.contract.js";

const folder = temporaryFolder();
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
let serial = 0;
t.comment(`SEED=${seed}`);
t.teardown(() => folder.remove());

function makeSide(): Side & { world: SocketWorld } {
  const world = socketWorld(148, CONTRACT_POOL_BYTES / MIB - 64);
  const memory = world.arena.region(72 * MIB, "test");
  return { network: world.network, arena: world.arena, memory, world };
}

async function makeWorld(address: () => string): Promise<ContractWorld> {
  const server = makeSide();
  const client = makeSide();
  return {
    server,
    client,
    address,
    until,
    stop: async () => {
      await client.network.stop();
      await server.network.stop();
    },
  };
}

const unixAddress = () => `unix:${folder.path}/${++serial}.sock`;

networkContract(t, "unix", () => makeWorld(unixAddress));
networkContract(t, "tcp", () => makeWorld(() => "tcp:127.0.0.1:0"));

function random(): () => number {
  let state = seed | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** Bytes of a good frame. */
function frameBytes(meta: Buffer, payload: Buffer): Buffer {
  const header = Buffer.alloc(FRAME_HEADER_HEADER_BYTES);
  header.write("OVFR", 0, "latin1");
  header.writeUInt16LE(1, 4);
  header.writeUInt16LE(77, 8);
  header.writeUInt32LE(5, 16);
  header.writeUInt32LE(meta.length, 28);
  header.writeUInt32LE(payload.length, 32);
  header.writeUInt32LE(crc32c(meta), 36);
  header.writeUInt32LE(64 + meta.length + payload.length, 52);
  header.writeUInt32LE(crc32c(payload), 56);
  header.writeUInt32LE(crc32c(header, 0, 60), 60);
  return Buffer.concat([header, meta, payload]);
}

/** Sends bytes to a listener as a stranger and waits for the end. */
async function stranger(address: string, bytes: Buffer, half: boolean): Promise<void> {
  const parsed = parseAddress(address);
  const socket = parsed.kind === "unix" ? net.connect(parsed.path) : net.connect(parsed.port);
  socket.on("error", () => {});
  await new Promise<void>((resolve) => {
    socket.on("close", () => resolve());
    if (half) socket.end(bytes);
    else socket.write(bytes);
    socket.resume();
  });
}

t.test("any bytes end the connection with a reason, and nothing else", async (t) => {
  const side = makeSide();
  const recorders: Recorder[] = [];
  const listener = await side.network.listen(unixAddress(), () => {
    const recorder = new Recorder();
    recorder.onFrameToo = (_, frame) => {
      if (frame.payload !== 0) side.network.release(frame.payload);
    };
    recorders.push(recorder);
    return recorder;
  });
  const good = frameBytes(Buffer.from("meta of it"), Buffer.alloc(5000, 3));
  await stranger(listener.address, good, true);
  await until(() => recorders[0]?.closed.length === 1, "the good one has come");
  t.equal(recorders[0]!.frames.length, 1);
  t.equal(recorders[0]!.closed[0], "closed by the other side");
  const next = random();
  const bad: Buffer[] = [];
  for (let byte = 0; byte < 64 + 10; byte++) {
    const flipped = Buffer.from(good);
    flipped[byte]! ^= 1 << (next() % 8);
    bad.push(flipped);
  }
  for (let i = 0; i < 30; i++) {
    bad.push(Buffer.from(Uint8Array.from({ length: 64 + (next() % 5000) }, next)));
  }
  bad.push(
    Buffer.from("GET / HTTP/1.1\r\nHost: ovs.example\r\nAccept: text/html, */*; q=0.1\r\n\r\n"),
  );
  for (const bytes of bad) await stranger(listener.address, bytes, false);
  await until(() => recorders.every((one) => one.closed.length === 1), "all have ended");
  const damaged = recorders.slice(1);
  t.equal(damaged.length, bad.length);
  t.ok(
    damaged.every((one) => one.frames.length === 0 && /frame|meta|payload/.test(one.closed[0]!)),
  );
  t.ok(side.world.log.lines.filter((line) => /connection ended/.test(line)).length >= bad.length);
  for (let length = 1; length < good.length; length += length < 80 ? 1 : 400) {
    await stranger(listener.address, good.subarray(0, length), true);
    await until(() => recorders.at(-1)!.closed.length === 1, `cut at ${length} has ended`);
    t.match(recorders.at(-1)!.closed[0], /in the middle of a frame/);
    t.equal(recorders.at(-1)!.frames.length, 0);
  }
  await stranger(listener.address, Buffer.concat([good, good, good]), true);
  t.equal(recorders.at(-1)!.frames.length, 3, "the listener lives");
  await side.network.stop();
});

t.test("the memory of a payload that never comes whole goes back to the pool", async (t) => {
  const side = makeSide();
  let ended = 0;
  const listener = await side.network.listen(unixAddress(), () => ({
    onFrame: () => t.fail("no frame is whole"),
    onClose: () => ended++,
  }));
  const big = frameBytes(Buffer.alloc(0), Buffer.alloc(40 * MIB));
  for (let i = 0; i < 4; i++) {
    await stranger(listener.address, big.subarray(0, 20 * MIB), true);
    await until(() => ended === i + 1, "it has ended");
  }
  await side.network.stop();
});

t.test("an answer that is arriving when it is forgotten ends the connection", async (t) => {
  const world = await makeWorld(unixAddress);
  const path = `${folder.path}/${++serial}.sock`;
  const payload = Buffer.alloc(8 * MIB, 6);
  const frame = frameBytes(Buffer.alloc(0), payload);
  frame[6] = 1; // A response.
  frame.writeUInt32LE(crc32c(frame, 0, 60), 60);
  let go = (): void => {};
  const server = net.createServer((socket) => {
    socket.on("error", () => {});
    socket.write(frame.subarray(0, MIB));
    go = () => socket.write(frame.subarray(MIB));
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const up = new Recorder();
  const out = await world.client.network.connect(`unix:${path}`, up, 5000);
  const { bytes } = world.client.arena;
  const at = world.client.memory;
  bytes.fill(0, at, at + 8 * MIB);
  out.expect(5, oneOf(at, 8 * MIB));
  await until(() => bytes[at] === 6, "the payload is arriving");
  out.forget(6);
  t.ok(out.open, "another one is not touched");
  out.forget(5);
  t.notOk(out.open);
  bytes.fill(1, at, at + 8 * MIB);
  go();
  await until(() => up.closed.length === 1, "it has ended");
  t.match(up.closed[0], /still arriving/);
  t.ok(
    bytes.subarray(at, at + 8 * MIB).every((byte) => byte === 1),
    "memory is not written",
  );
  server.close();
  await world.stop();
});

function oneOf(offset: number, bytes: number) {
  return { list: Uint32Array.of(offset, bytes), count: 1 };
}

t.test("a socket file is the owner's only, and a stale one is replaced", async (t) => {
  const world = await makeWorld(unixAddress);
  const address = unixAddress();
  const path = address.slice(5);
  const script = `require("node:net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`;
  await t.rejects(promisify(execFile)(process.execPath, ["-e", script]));
  t.ok(existsSync(path), "a dead process left it");
  const listener = await world.server.network.listen(address, () => new Recorder());
  t.equal(statSync(path).mode & 0o777, 0o600);
  await world.client.network.connect(address, new Recorder(), 1000);
  await listener.close();
  t.notOk(existsSync(path));
  await t.rejects(
    world.server.network.listen("unix:/proc/nowhere/x", () => new Recorder()),
    {
      code: "OVS_UNAVAILABLE",
      message: /cannot listen on unix:\/proc\/nowhere\/x: .*ENOENT/,
    },
  );
  await world.stop();
});

t.test("a host that does not answer is given up at the deadline", async (t) => {
  const side = makeSide();
  // A unix listener whose queue is full answers nobody.
  const path = `${folder.path}/full.sock`;
  const script = `
    const s = require("node:net").createServer();
    s.listen({ path: ${JSON.stringify(path)}, backlog: 1 }, () => {
      console.log("up");
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    });`;
  const child = execFile(process.execPath, ["-e", script]);
  await new Promise((resolve) => child.stdout!.once("data", resolve));
  const tries = [];
  for (let i = 0; i < 8; i++) {
    tries.push(side.network.connect(`unix:${path}`, new Recorder(), 150).catch((e: Error) => e));
  }
  const results = await Promise.all(tries);
  t.ok(
    results.some((one) => one instanceof Error && "code" in one && one.code === "OVS_UNAVAILABLE"),
  );
  child.kill("SIGKILL");
  await t.rejects(side.network.connect("tcp:no-such-host.invalid:1", new Recorder(), 1000), {
    code: "OVS_UNAVAILABLE",
  });
  await side.network.stop();
});

t.test("many connections at once, opened and closed at random, lose nothing", async (t) => {
  const world = await makeWorld(unixAddress);
  const next = random();
  const downs: Recorder[] = [];
  const listener = await world.server.network.listen(unixAddress(), (connection) => {
    const down = new Recorder();
    down.connection = connection;
    down.onFrameToo = (_, frame) => {
      if (frame.payload !== 0) world.server.network.release(frame.payload);
      connection.send(frameOf(1, frame.requestId), frame.meta, null, null);
    };
    downs.push(down);
    return down;
  });
  const ups: Recorder[] = [];
  let sent = 0;
  let told = 0;
  for (let i = 0; i < 3000; i++) {
    const up = ups[next() % Math.max(ups.length, 1)];
    if (up === undefined || next() % 40 === 0) {
      const fresh = new Recorder();
      fresh.connection = await world.client.network.connect(listener.address, fresh, 5000);
      ups.push(fresh);
    } else if (next() % 60 === 0) {
      up.connection!.close("at random");
    } else {
      const size = next() % 20_000;
      const payload = size === 0 ? null : oneOf(world.client.memory + (next() % MIB), size);
      sent++;
      up.connection!.send(frameOf(0, i), Uint8Array.of(i & 0xff), payload, () => told++);
      if (up.connection!.open) up.onFrameToo ??= () => {};
    }
  }
  await until(() => told === sent, "every onSent has come");
  const open = ups.filter((up) => up.connection!.open);
  for (const up of open) up.connection!.send(frameOf(0, 2 ** 40), null, null, null);
  await until(
    () => open.every((up) => up.frames.at(-1)?.requestId === 2 ** 40),
    "every open connection has its last answer",
  );
  for (const up of ups) up.connection!.close("done");
  await until(() => downs.every((one) => one.closed.length === 1), "all have ended");
  t.ok(ups.every((one) => one.closed.length === 1));
  t.equal(downs.length, ups.length);
  await world.stop();
});

t.test("a process may end at any step of the network's life", async (t) => {
  const steps = ["load", "open", "listen", "connect", "send", "receive", "close", "stop", "idle"];
  const program = new URL("./network-life.js", import.meta.url).pathname;
  const run = async (where: string, what: string) => {
    const path = `${folder.path}/${++serial}.sock`;
    const args = ["--expose-gc", program, where, what, path];
    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 25_000 });
    t.equal(stdout.trim(), what, `${where} ends after ${what}`);
  };
  for (const step of ["open", "send", "idle"]) await run("main", step);
  await run("workers", steps.join());
});

t.test("connections of two networks in one thread do not mix", async (t) => {
  const one = await makeWorld(unixAddress);
  const other = await makeWorld(unixAddress);
  const first = await connected(one);
  const second = await connected(other);
  first.out.send(frameOf(0, 1), null, null, null);
  second.out.send(frameOf(0, 2), null, null, null);
  await until(() => first.down.frames.length + second.down.frames.length === 2, "both have come");
  t.equal(first.down.frames[0]!.requestId, 1);
  t.equal(second.down.frames[0]!.requestId, 2);
  await one.stop();
  await other.stop();
});
