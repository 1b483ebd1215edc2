// SPDX-License-Identifier: Apache-2.0
// Client and server of rpc over a real socket: answers, errors, deadlines, limits, reconnection.

import t from "tap";
import { z } from "zod";
import { ERROR_KINDS, type ErrorCode, StorageError } from "../../src/base/errors.js";
import { untilTickMs } from "../../src/base/grid.js";
import type { Segments } from "../../src/platform/network.js";
import { oneSegment, SegmentList } from "../../src/platform/segments.js";
import { RpcClient, type RpcClientOptions } from "../../src/rpc/client.js";
import { decodeControl, encodeControl } from "../../src/rpc/control.js";
import { RpcServer, type RpcServerOptions } from "../../src/rpc/server.js";
import { codeOf, errorOf, STATUS_OF } from "../../src/rpc/status.js";
import { type SocketWorld, socketWorld, temporaryFolder, until } from "../platform/fixture.js";

const CLUSTER = "00000000-0000-4000-8000-000000000001";
const folder = temporaryFolder();
const world = socketWorld(256);
const region = world.arena.region(64 * 1024 * 1024, "test");
const bytes = new TextEncoder();
const ANY = { role: null, id: null, cluster: null };
let serial = 0;

t.teardown(async () => {
  await world.network.stop();
  folder.remove();
});

function makeServer(
  options: Partial<RpcServerOptions<{ peer: string }>> = {},
  at: SocketWorld = world,
) {
  return new RpcServer<{ peer: string }>(at, {
    self: { role: "asd", id: "disk-1", cluster: CLUSTER },
    session: (peer) => ({ peer: peer.role }),
    ...options,
  });
}

function makeClient(
  address: string,
  options: Partial<RpcClientOptions> = {},
  at: SocketWorld = world,
) {
  return new RpcClient(at, {
    address,
    self: { role: "router", id: "r1", cluster: CLUSTER },
    wants: ANY,
    ...options,
  });
}

function freshAddress(): string {
  return `unix:${folder.path}/${++serial}.sock`;
}

async function codeOfCall(call: Promise<unknown>): Promise<ErrorCode> {
  try {
    await call;
  } catch (error) {
    if (error instanceof StorageError) return error.code;
    throw error;
  }
  throw new Error("the call was expected to fail");
}

t.test("every error code has its own number and comes back as itself", async (t) => {
  for (const code of Object.keys(ERROR_KINDS) as ErrorCode[]) {
    t.equal(codeOf(STATUS_OF[code]), code);
    const error = errorOf(STATUS_OF[code], bytes.encode("what was wrong"));
    t.equal(error.code, code);
    t.equal(error.message, "what was wrong");
  }
  t.equal(codeOf(0), null);
  t.equal(errorOf(999, bytes.encode("x")).code, "OVS_PROTOCOL");
});

t.test("control messages are checked where they come in", async (t) => {
  const schema = z.object({ name: z.string(), key: z.instanceof(Uint8Array), n: z.number() });
  const meta = encodeControl({ name: "a", key: Uint8Array.of(1, 2), n: 2 ** 45 });
  const copy = meta.slice();
  const message = decodeControl(copy, schema);
  copy.fill(0);
  t.same([message.name, [...message.key], message.n], ["a", [1, 2], 2 ** 45]);
  t.throws(() => decodeControl(encodeControl({ name: 1 }), schema), { code: "OVS_PROTOCOL" });
  t.throws(() => decodeControl(new Uint8Array(0), schema), { code: "OVS_PROTOCOL" });
  t.throws(() => decodeControl(Uint8Array.of(0xc1, 0xff, 0xdd), schema), { code: "OVS_PROTOCOL" });
  t.throws(() => encodeControl("x".repeat(70_000)), { code: "OVS_INVALID" });
});

t.test("requests and answers carry meta and payloads both ways", async (t) => {
  const server = makeServer();
  server.handleFast(1, (request) => {
    request.reply(request.meta, oneSegment(request.payload, request.payloadBytes), null);
  });
  server.handleControl(2, z.object({ a: z.number() }), async ({ a }, session) => ({
    twice: 2 * a,
    peer: session.peer,
  }));
  const address = await server.listen(freshAddress());
  const client = makeClient(address);
  for (const size of [1, 4096, 100_000, 5_000_000]) {
    const from = new SegmentList().add(region, Math.ceil(size / 2));
    if (size > 1) from.add(region + 8_000_000, size - Math.ceil(size / 2));
    world.arena.bytes.fill(size & 0xff, region, region + size);
    world.arena.bytes.fill(size & 0x7f, region + 8_000_000, region + 8_000_000 + size);
    const into = new SegmentList().add(region + 16_000_000, Math.min(size, 999));
    if (size > 999) into.add(region + 24_000_000, size);
    const answer = await client.call(1, bytes.encode("m"), from, into, { timeoutMs: 5000 });
    t.equal(answer.payloadBytes, size);
    t.equal(answer.payload, 0);
    t.same(answer.meta, bytes.encode("m"));
    t.same(gather(into, size), gather(from, size), `${size} bytes come back`);
  }
  const pooled = await client.call(1, null, oneSegment(region, 5000), null, { timeoutMs: 5000 });
  t.same(world.arena.slice(pooled.payload, 5000), world.arena.slice(region, 5000));
  world.network.release(pooled.payload);
  const answer = z.object({ twice: z.number(), peer: z.string() });
  t.same(await client.callControl(2, { a: 21 }, answer, { timeoutMs: 5000 }), {
    twice: 42,
    peer: "router",
  });
  t.equal(
    await codeOfCall(client.callControl(2, { b: 1 }, answer, { timeoutMs: 5000 })),
    "OVS_PROTOCOL",
  );
  await client.close();
  await server.stop();
  t.equal(server.connections, 0);
});

function gather(segments: Segments, size: number): Buffer {
  const parts: Uint8Array[] = [];
  for (let i = 0; i < segments.count; i++) {
    parts.push(world.arena.slice(segments.list[2 * i]!, segments.list[2 * i + 1]!));
  }
  return Buffer.concat(parts).subarray(0, size);
}

t.test("errors of handlers reach the caller; unknown operations are refused", async (t) => {
  const server = makeServer();
  server.handle(1, async () => {
    await Promise.resolve();
    throw new StorageError("OVS_FULL", "the disk is full");
  });
  server.handleFast(2, () => {
    throw new StorageError("OVS_NOT_FOUND", "no such fragment");
  });
  const client = makeClient(await server.listen(freshAddress()));
  await t.rejects(client.call(1, null, null, null, { timeoutMs: 5000 }), {
    code: "OVS_FULL",
    message: "the disk is full",
  });
  await t.rejects(client.call(2, null, null, null, { timeoutMs: 5000 }), { code: "OVS_NOT_FOUND" });
  await t.rejects(client.call(3, null, null, null, { timeoutMs: 5000 }), {
    code: "OVS_UNSUPPORTED",
  });
  await client.close();
  await server.stop();
});

t.test("a wrong disk, cluster, role or version is refused in words", async (t) => {
  const server = makeServer({ roles: ["router"] });
  const address = await server.listen(freshAddress());
  const tries: Array<[Partial<RpcClientOptions>, RegExp]> = [
    [{ wants: { ...ANY, id: "disk-2" } }, /id disk-2 was wanted, but here answers id disk-1/],
    [{ wants: { ...ANY, role: "registry" } }, /role registry was wanted/],
    [{ self: { role: "router", id: "", cluster: "another" } }, /you belong to cluster another/],
    [{ self: { role: "edge", id: "", cluster: CLUSTER } }, /does not serve a edge/],
  ];
  for (const [options, words] of tries) {
    const client = makeClient(address, options);
    const call = client.call(1, null, null, null, { timeoutMs: 5000 });
    await t.rejects(call, { code: "OVS_WRONG_IDENTITY", message: words });
    await client.close();
  }
  await server.stop();
});

t.test("addresses beyond this machine are not listened on", async (t) => {
  const server = makeServer();
  for (const address of ["tcp:0.0.0.0:0", "tcp:[::]:0", "tcp:example.org:1"]) {
    await t.rejects(server.listen(address), { code: "OVS_UNSUPPORTED" });
  }
  await t.rejects(server.listen("tcp:127.0.0.1"), { code: "OVS_INVALID" });
  await t.rejects(server.listen(`unix:/${"x".repeat(120)}`), { code: "OVS_INVALID" });
  t.match(await server.listen("tcp:127.0.0.1:0"), /^tcp:127\.0\.0\.1:\d+$/);
  await server.stop();
});

t.test("a call ends at its deadline, and a late answer harms nobody", async (t) => {
  const server = makeServer();
  const held: Array<() => void> = [];
  server.handleFast(1, (request) => {
    held.push(() => request.reply(null, oneSegment(region, 10_000), null));
  });
  server.handleFast(2, (request) => request.reply(null, null, null));
  const client = makeClient(await server.listen(freshAddress()));
  const into = oneSegment(region + 1_000_000, 10_000);
  const started = performance.now();
  t.equal(await codeOfCall(client.call(1, null, null, into, { timeoutMs: 60 })), "OVS_TIMEOUT");
  t.ok(performance.now() - started < 3000);
  world.arena.bytes.fill(7, region + 1_000_000, region + 1_010_000);
  for (const reply of held) reply();
  await client.call(2, null, null, null, { timeoutMs: 5000 });
  t.ok(
    world.arena.slice(region + 1_000_000, 10_000).every((byte) => byte === 7),
    "memory is free",
  );
  t.equal(client.pending, 0);
  await client.close();
  await server.stop();
});

t.test(
  "an answer that came while the loop was busy counts, however late the loop looks",
  async (t) => {
    const server = makeServer();
    const timeoutMs = 60;
    server.handleFast(1, (request) => {
      // The kernel has the answer; then this loop, which is the client's too, has no time for it.
      request.reply(null, null, () => {
        const end = performance.now() + 2 * timeoutMs;
        while (performance.now() < end);
      });
    });
    const client = makeClient(await server.listen(freshAddress()));
    client.start();
    await until(() => client.connected, "the client is connected");
    const started = performance.now();
    await client.call(1, null, null, null, { timeoutMs });
    t.ok(performance.now() - started > timeoutMs, "it came after the deadline");
    t.equal(client.pending, 0);
    await client.close();
    await server.stop();
  },
);

t.test("what is over the limits waits in line, then is refused", async (t) => {
  const server = makeServer({ inFlightMax: 4 });
  let running = 0;
  let most = 0;
  server.handle(1, async (request) => {
    running++;
    most = Math.max(most, running);
    await world.clock.sleep(1);
    running--;
    request.reply(request.meta, null, null);
  });
  const client = makeClient(await server.listen(freshAddress()), { callsMax: 64, inFlightMax: 8 });
  const calls = Array.from({ length: 64 }, (_, i) =>
    client.call(1, Uint8Array.of(i), null, null, { timeoutMs: 10_000 }),
  );
  t.equal(await codeOfCall(client.call(1, null, null, null, { timeoutMs: 10_000 })), "OVS_BUSY");
  const answers = await Promise.all(calls);
  t.same(
    answers.map((answer) => answer.meta[0]),
    calls.map((_, i) => i),
  );
  t.ok(most <= 8, `at most 8 at a time, were ${most}`);
  await client.close();
  await server.stop();
});

t.test("a lost server: calls fail, the client comes back by itself", async (t) => {
  const address = freshAddress();
  const other = socketWorld(128);
  let server = makeServer({}, other);
  server.handleFast(1, () => {});
  await server.listen(address);
  const events: string[] = [];
  const client = makeClient(address, {
    onUp: () => events.push("up"),
    onDown: () => events.push("down"),
  });
  const call = client.call(1, null, null, oneSegment(region, 4096), { timeoutMs: 10_000 });
  const lost = codeOfCall(call);
  await until(() => server.inWork === 1, "the request has arrived");
  await other.network.stop();
  await server.stop();
  t.equal(await lost, "OVS_UNAVAILABLE");
  t.equal(
    await codeOfCall(client.call(1, null, null, null, { timeoutMs: 1000 })),
    "OVS_UNAVAILABLE",
  );
  const again = socketWorld(128);
  server = makeServer({}, again);
  server.handleFast(1, (request) => request.reply(null, null, null));
  await server.listen(address);
  await until(() => client.connected, "the client is connected again");
  await client.call(1, null, null, null, { timeoutMs: 1000 });
  t.same(events, ["up", "down", "up"]);
  await client.close();
  await server.stop();
  await again.network.stop();
});

t.test("a patient client waits for a server that is not there yet", async (t) => {
  const address = freshAddress();
  const client = makeClient(address, { whileDown: "wait", backoffMsMax: 50 });
  t.equal(await codeOfCall(client.call(1, null, null, null, { timeoutMs: 80 })), "OVS_TIMEOUT");
  const call = client.call(1, bytes.encode("x"), null, null, { timeoutMs: 10_000 });
  const server = makeServer();
  server.handleFast(1, (request) => request.reply(request.meta, null, null));
  await server.listen(address);
  t.same((await call).meta, bytes.encode("x"));
  await client.close();
  t.equal(await codeOfCall(client.call(1, null, null, null, { timeoutMs: 80 })), "OVS_CLOSED");
  await server.stop();
});

t.test("the handshake runs before any other call", async (t) => {
  const order: number[] = [];
  const server = makeServer();
  for (const operation of [1, 2]) {
    server.handleFast(operation, (request) => {
      order.push(operation);
      request.reply(null, null, null);
    });
  }
  const client = makeClient(await server.listen(freshAddress()), {
    handshake: async (call) => {
      await call(2, null, 1000);
    },
  });
  await client.call(1, null, null, null, { timeoutMs: 1000 });
  t.same(order, [2, 1]);
  await client.close();
  const refusing = makeClient(await server.listen(freshAddress()), {
    handshake: async () => {
      throw new StorageError("OVS_WRONG_IDENTITY", "not the one");
    },
  });
  const code = await codeOfCall(refusing.call(1, null, null, null, { timeoutMs: 1000 }));
  t.equal(code, "OVS_WRONG_IDENTITY");
  await refusing.close();
  await server.stop();
});

t.test("notices go both ways", async (t) => {
  const got: string[] = [];
  const text = new TextDecoder();
  const server = makeServer({
    onNotice: (session, operation, meta) =>
      got.push(`${session.peer} ${operation} ${text.decode(meta)}`),
  });
  server.handleFast(1, (request) => {
    request.connection.notify(8, bytes.encode("tick"), null, null);
    request.reply(null, null, null);
  });
  const client = makeClient(await server.listen(freshAddress()), {
    onNotice: (operation, meta) => got.push(`server ${operation} ${text.decode(meta)}`),
  });
  t.equal(client.notify(9, null, null, null), false, "not connected yet");
  await client.call(1, null, null, null, { timeoutMs: 1000 });
  t.equal(client.notify(9, bytes.encode("hi"), null, null), true);
  await until(() => got.length === 2, "both have come");
  t.same(got, ["server 8 tick", "router 9 hi"]);
  await client.close();
  await server.stop();
});

t.test("a peer that does not answer is given up, an idle one is kept", async (t) => {
  const server = makeServer({ heartbeatMs: 20 });
  server.handleFast(1, (request) => request.reply(null, null, null));
  const client = makeClient(await server.listen(freshAddress()), { heartbeatMs: 20 });
  await client.call(1, null, null, null, { timeoutMs: 1000 });
  await world.clock.sleep(250);
  t.ok(client.connected, "idle connections live on heartbeats");
  await client.close();
  await server.stop();
  const address = freshAddress();
  const silent = await world.network.listen(address, () => ({
    onFrame: () => {},
    onClose: () => {},
  }));
  const hoping = makeClient(address, { heartbeatMs: 20, connectTimeoutMs: 5000 });
  t.equal(
    await codeOfCall(hoping.call(1, null, null, null, { timeoutMs: 5000 })),
    "OVS_UNAVAILABLE",
  );
  t.match(hoping.downReason, /no sign of life/);
  await hoping.close();
  await silent.close();
});

t.test("a server that stops lets running requests end", async (t) => {
  const server = makeServer();
  let reply: (() => void) | null = null;
  server.handleFast(1, (request) => {
    reply = () => request.reply(bytes.encode("done"), null, null);
  });
  const client = makeClient(await server.listen(freshAddress()));
  const call = client.call(1, null, null, null, { timeoutMs: 5000 });
  await until(() => reply !== null, "the request is running");
  const stopped = server.stop(5000);
  reply!();
  t.same((await call).meta, bytes.encode("done"));
  await stopped;
  await client.close();
});

t.test("calls without promises: each ends once, never inside callWith", async (t) => {
  const server = makeServer();
  server.handleFast(1, (request) => request.reply(request.meta, null, null));
  const client = makeClient(await server.listen(freshAddress()), { callsMax: 8 });
  const ends: string[] = [];
  let inside = true;
  const handler = {
    onAnswer: (token: number, status: number, meta: Uint8Array) => {
      t.notOk(inside, "the caller has its turn first");
      ends.push(`${token} ${codeOf(status) ?? new TextDecoder().decode(meta)}`);
    },
  };
  const one = (token: number) =>
    client.callWith(1, bytes.encode(`m${token}`), null, null, 1000, 0, handler, token);
  for (let token = 0; token < 10; token++) one(token);
  inside = false;
  await until(() => ends.length === 10, "all have ended");
  t.same(ends.slice(0, 2).sort(), ["8 OVS_BUSY", "9 OVS_BUSY"]);
  t.same(
    ends.slice(2),
    Array.from({ length: 8 }, (_, i) => `${i} m${i}`),
  );
  await client.close();
  inside = true;
  one(99);
  inside = false;
  await until(() => ends.length === 11, "also the refused one");
  t.equal(ends[10], "99 OVS_CLOSED");
  await server.stop();
});

t.test(
  "a payload that is not taken in time costs the connection, and memory is free",
  async (t) => {
    const server = makeServer({ inFlightMax: 1 });
    const held: Array<() => void> = [];
    server.handleFast(1, (request) => void held.push(() => request.reply(null, null, null)));
    const address = await server.listen(freshAddress());
    const client = makeClient(address);
    const first = codeOfCall(client.call(1, null, null, null, { timeoutMs: 10_000 }));
    await until(() => held.length === 1, "the server is at its limit and does not read");
    const payload = oneSegment(region, 60_000_000);
    t.equal(
      await codeOfCall(client.call(1, null, payload, null, { timeoutMs: 100 })),
      "OVS_TIMEOUT",
    );
    t.equal(await first, "OVS_UNAVAILABLE", "it went with the connection");
    world.arena.bytes.fill(0, region, region + 60_000_000);
    held[0]!();
    await until(() => client.connected, "the client is back");
    const again = client.call(1, null, oneSegment(region, 4096), null, { timeoutMs: 10_000 });
    await until(() => held.length === 2, "and is served");
    held[1]!();
    t.equal((await again).status, 0);
    await client.close();
    await server.stop();
  },
);

t.test("closing a client ends its calls, wherever they are", async (t) => {
  const server = makeServer({ inFlightMax: 1 });
  server.handleFast(1, () => {});
  const client = makeClient(await server.listen(freshAddress()), { inFlightMax: 2 });
  const calls = [
    client.call(1, null, null, oneSegment(region + 60_000_000, 4096), { timeoutMs: 10_000 }),
    client.call(1, null, oneSegment(region, 50_000_000), null, { timeoutMs: 10_000 }),
    client.call(1, null, null, null, { timeoutMs: 10_000 }),
  ].map(codeOfCall);
  await until(() => server.inWork === 1, "one runs, one is half out, one waits");
  await client.close();
  t.same(await Promise.all(calls), ["OVS_CLOSED", "OVS_CLOSED", "OVS_CLOSED"]);
  t.equal(client.pending, 0);
  await server.stop(10);
});

t.test("who does not take its answers is not read from any more", async (t) => {
  const server = makeServer({ inFlightMax: 8 });
  let asked = 0;
  server.handleFast(1, (request) => {
    asked++;
    request.reply(null, oneSegment(region, 1_000_000), null);
  });
  const address = await server.listen(freshAddress());
  const lazy = await world.network.connect(address, { onFrame: () => {}, onClose: () => {} }, 1000);
  const frame = { kind: 0, operation: 0xff00, status: 0, priority: 0, requestId: 0, timeoutMs: 0 };
  const self = { role: "edge", id: "", cluster: null };
  lazy.send(frame, encodeControl({ versions: [1], self, wants: ANY }), null, null);
  lazy.reading(false);
  for (let id = 1; id <= 1000; id++) {
    lazy.send({ ...frame, operation: 1, requestId: id }, null, null, null);
  }
  await until(() => asked >= 8, "some are answered");
  await new Promise((resolve) => setImmediate(resolve));
  const before = asked;
  const client = makeClient(address);
  await client.call(1, null, null, oneSegment(region, 1_000_000), { timeoutMs: 5000 });
  t.ok(asked - 1 < 1000 && asked - 1 <= before + 8, `only ${asked - 1} were taken`);
  await client.close();
  lazy.close("done");
  await server.stop();
});

t.test("a message in another version, or before the hello, is refused", async (t) => {
  const server = makeServer();
  const address = await server.listen(freshAddress());
  const tries: Array<[number, unknown, RegExp]> = [
    [
      0xff00,
      { versions: [7, 6], self: { role: "x", id: "", cluster: null }, wants: ANY },
      /versions 7, 6/,
    ],
    [0xff00, { versions: [] }, /bad control message/],
    [0xff00, "hello", /bad control message/],
    [1, {}, /no hello/],
    [0xff77, {}, /not known/],
  ];
  for (const [operation, message, words] of tries) {
    const heard: string[] = [];
    const handler = {
      onFrame: (_: unknown, frame: { meta: Uint8Array }) =>
        void heard.push(new TextDecoder().decode(frame.meta)),
      onClose: (_: unknown, reason: string) => void heard.push(reason),
    };
    const raw = await world.network.connect(address, handler, 1000);
    const frame = { kind: 0, operation, status: 0, priority: 0, requestId: 0, timeoutMs: 0 };
    raw.send(frame, encodeControl(message), null, null);
    await until(() => heard.at(-1) === "closed by the other side", "it is closed");
    t.match(heard.join() + world.log.lines.slice(-2).join(), words);
  }
  t.equal(server.connections, 0);
  await server.stop();
});

t.test("what shares a period is done in one wake, and a timer that rings early counts", (t) => {
  for (const [nowMs, periodMs, delayMs] of [
    [0, 4000, 4000],
    [1.5, 4000, 3998.5],
    [3990, 4000, 10],
    [3996, 4000, 4004],
    [4000, 4000, 4000],
    [100_000, 500, 500],
    [7999, 2000, 2001],
  ] as const) {
    t.equal(untilTickMs(nowMs, periodMs), delayMs);
  }
  t.end();
});
