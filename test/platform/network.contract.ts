// SPDX-License-Identifier: Apache-2.0
// What every implementation of Network must do. A world under test gives two sides, each with an
// arena and a network, and an address that the first may listen on.

import type { Test } from "tap";
import { StorageError } from "../../src/base/errors.js";
import { MIB } from "../../src/base/units.js";
import { PAYLOAD_BYTES_MAX } from "../../src/platform/network.js";
import { oneSegment, SegmentList } from "../../src/platform/segments.js";
import { type ContractWorld, connected, frameOf, Recorder } from "./network.sides.js";
import { TRAFFIC_CASES } from "./network.traffic.js";

export * from "./network.sides.js";

/** Runs the whole contract. */
export function networkContract(t: Test, name: string, make: () => Promise<ContractWorld>): void {
  const check = (what: string, work: (t: Test, world: ContractWorld) => Promise<void>) =>
    t.test(`${name}: ${what}`, async (t) => {
      const world = await make();
      try {
        await work(t, world);
      } finally {
        await world.stop();
      }
    });
  void check("frames come whole and in order", framesInOrder);
  void check("a payload goes where it is expected", expectedPayloads);
  void check("onSent and onClose come once, in order, and never inside a call", notices);
  void check("a full receive pool stops the sender until there is room", fullPool);
  void check("a side that does not read slows down the other", slowReader);
  void check("the longest payload passes; close in the middle frees the memory", bigPayload);
  void check("what a handler throws ends the connection", throwing);
  void check("addresses that are taken, and where nobody is", addresses);
  for (const [what, work] of TRAFFIC_CASES) void check(what, work);
}

async function framesInOrder(t: Test, world: ContractWorld): Promise<void> {
  const { up, down, out, back, listener } = await connected(world);
  const { client, server } = world;
  const sizes = [0, 1, 4095, 4096, 70_000, 1_000_000];
  for (const [i, size] of sizes.entries()) {
    client.arena.bytes.fill(i + 1, client.memory, client.memory + size);
    const meta = i % 2 === 0 ? null : new Uint8Array(i * 13_000).fill(i);
    const frame = { ...frameOf(i % 3, 2 ** 52 + i, 0xfe00 + i), status: 65_535, priority: 1 };
    frame.timeoutMs = 4_000_000_000 + i;
    const pieces = new SegmentList();
    const half = Math.floor(size / 2);
    // Two pieces that do not touch.
    if (half > 0) pieces.add(client.memory, half);
    if (size > 0) pieces.add(client.memory + 2 * MIB, size - half);
    client.arena.bytes.fill(i + 1, client.memory + 2 * MIB, client.memory + 3 * MIB);
    let sent = false;
    out.send(frame, meta, size === 0 ? null : pieces, () => {
      sent = true;
    });
    await world.until(() => down.frames.length === i + 1 && sent, `frame ${i} has come`);
    const got = down.frames[i]!;
    t.same({ ...got, meta: 0, payload: 0 }, { ...frame, meta: 0, payload: 0, payloadBytes: size });
    t.equal(got.meta.byteLength, meta === null ? 0 : meta.byteLength);
    t.ok(got.meta.every((byte) => byte === i));
    t.equal(got.payload !== 0, size > 0);
    if (size === 0) continue;
    t.ok(server.arena.slice(got.payload, size).every((byte) => byte === i + 1));
    server.network.release(got.payload);
  }
  for (let i = 0; i < 3000; i++) back.send(frameOf(2, i), null, null, null);
  await world.until(() => up.frames.length === 3000, "all one-way frames have come");
  t.ok(up.frames.every((frame, i) => frame.requestId === i));
  t.equal(out.queuedBytes, 0);
  await listener.close();
}

async function expectedPayloads(t: Test, world: ContractWorld): Promise<void> {
  const { up, back, out } = await connected(world);
  const { client, server } = world;
  const bytes = client.arena.bytes;
  const at = client.memory;
  server.arena.bytes.fill(5, server.memory, server.memory + 300_000);
  bytes.fill(0, at, at + MIB);
  const into = new SegmentList().add(at, 1000).add(at + 4096, 250_000);
  const answer = async (id: number, size: number) => {
    const before = up.frames.length;
    back.send(frameOf(1, id), null, size > 0 ? oneSegment(server.memory, size) : null, null);
    await world.until(() => up.frames.length > before, `answer ${id} has come`);
    return up.frames[before]!;
  };
  out.expect(1, into);
  into.clear();
  const whole = await answer(1, 251_000);
  t.same([whole.payload, whole.payloadBytes], [0, 251_000]);
  t.ok(bytes.subarray(at, at + 1000).every((byte) => byte === 5));
  t.ok(bytes.subarray(at + 1000, at + 4096).every((byte) => byte === 0));
  t.ok(bytes.subarray(at + 4096, at + 254_096).every((byte) => byte === 5));
  t.equal(bytes[at + 254_096], 0);
  const again = await answer(1, 100);
  t.ok(again.payload !== 0, "an expectation holds once");
  client.network.release(again.payload);
  out.expect(2, oneSegment(at, 4096));
  await answer(2, 0);
  const late = await answer(2, 100);
  t.ok(late.payload !== 0, "an answer without a payload uses it up");
  client.network.release(late.payload);
  out.expect(3, oneSegment(at + MIB, 4096));
  t.ok(out.tryForget(3), "it was not arriving");
  const forgotten = await answer(3, 100);
  t.ok(forgotten.payload !== 0 && out.open, "forgetting takes it back");
  client.network.release(forgotten.payload);
  t.equal(bytes[at + MIB], 0);
  out.expect(4, oneSegment(at, 99));
  back.send(frameOf(1, 4), null, oneSegment(server.memory, 100), null);
  await world.until(() => up.closed.length === 1, "a payload that is too long ends the connection");
}

async function notices(t: Test, world: ContractWorld): Promise<void> {
  const { up, down, out, back } = await connected(world);
  const order: string[] = [];
  let inside = true;
  out.send(frameOf(0, 1), null, oneSegment(world.client.memory, 4096), () => {
    t.notOk(inside, "onSent is never called inside send");
    order.push("sent");
  });
  inside = false;
  await world.until(() => order.length === 1 && down.frames.length === 1, "it is sent");
  world.server.network.release(down.frames[0]!.payload);
  const handler = up.onClose.bind(up);
  up.onClose = (connection, reason) => {
    t.notOk(inside, "onClose is never called inside close");
    order.push("closed");
    handler(connection, reason);
  };
  inside = true;
  out.send(frameOf(0, 2), null, oneSegment(world.client.memory, 4096), () => order.push("sent 2"));
  out.close("enough");
  out.close("twice");
  t.equal(out.open, false);
  inside = false;
  out.send(frameOf(0, 3), null, null, () => order.push("sent 3"));
  out.expect(3, oneSegment(world.client.memory, 4096));
  out.forget(3);
  out.reading(false);
  await world.until(() => down.closed.length === 1 && order.length === 4, "both sides have ended");
  t.same(up.closed, ["enough"]);
  t.equal(order.indexOf("closed") > order.indexOf("sent 2"), true, "lent memory is free first");
  t.notOk(back.open);
  back.send(frameOf(1, 1), null, null, () => order.push("late"));
  await world.until(() => order.includes("late"), "onSent comes also afterwards");
}

async function fullPool(t: Test, world: ContractWorld): Promise<void> {
  const { down, out } = await connected(world);
  const { client, server } = world;
  let sent = 0;
  const count = 40;
  for (let i = 0; i < count; i++) {
    const payload = oneSegment(client.memory + i * 4096, 4 * MIB);
    out.send(frameOf(0, i), null, payload, () => sent++);
  }
  await world.until(() => down.frames.length === 16, "the pool is full");
  t.ok(sent < count, "the sender waits");
  t.ok(out.queuedBytes > 4 * MIB);
  for (let i = 0; i < count; i++) {
    await world.until(() => down.frames.length > i, `frame ${i} has come`);
    t.ok(down.frames.length <= i + 16);
    server.network.release(down.frames[i]!.payload);
  }
  await world.until(() => sent === count, "all are sent");
  t.equal(out.queuedBytes, 0);
}

async function slowReader(t: Test, world: ContractWorld): Promise<void> {
  const { down, out, back } = await connected(world);
  const { client, server } = world;
  back.reading(false);
  out.send(frameOf(2, 0), null, null, null);
  let sent = 0;
  for (let i = 1; i <= 64; i++) {
    out.send(frameOf(2, i), null, oneSegment(client.memory, MIB), () => sent++);
  }
  const all = 64 * MIB;
  await world.until(
    () => out.queuedBytes > 0 && out.queuedBytes < all,
    "what fits is taken, the rest waits",
  );
  t.ok(sent < 64);
  const most = down.frames.length;
  t.ok(most <= 1, "nothing is read");
  down.onFrameToo = (connection, frame) => {
    if (frame.payload !== 0) server.network.release(frame.payload);
    // Stops and goes on: nothing may be lost or come twice.
    connection.reading(false);
    setImmediate(() => connection.reading(true));
  };
  back.reading(true);
  await world.until(() => down.frames.length === 65, "all have come");
  t.same(
    down.frames.map((frame) => frame.requestId),
    Array.from({ length: 65 }, (_, i) => i),
  );
}

async function bigPayload(t: Test, world: ContractWorld): Promise<void> {
  const { up, down, out, back } = await connected(world);
  const { client, server } = world;
  const words = new Uint32Array(client.arena.buffer, client.memory, PAYLOAD_BYTES_MAX / 4);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i, 2_654_435_761);
  const payload = oneSegment(client.memory, PAYLOAD_BYTES_MAX);
  out.send(frameOf(0, 1), null, payload, null);
  await world.until(() => down.frames.length === 1, "the longest payload has come");
  const at = down.frames[0]!.payload;
  t.ok(
    Buffer.from(server.arena.buffer, at, PAYLOAD_BYTES_MAX).equals(
      Buffer.from(words.buffer, client.memory, PAYLOAD_BYTES_MAX),
    ),
  );
  server.network.release(at);
  // In the middle of a payload the memory comes back at once; the other side sees no torn frame.
  let sent = 0;
  down.onFrameToo = () => t.fail("half a frame is none");
  back.reading(false);
  out.send(frameOf(0, 2), null, payload, () => sent++);
  await world.until(
    () => out.queuedBytes > 0 && out.queuedBytes < PAYLOAD_BYTES_MAX,
    "it is half out",
  );
  out.close("changed my mind");
  words.fill(0);
  await world.until(() => up.closed.length === 1 && sent === 1, "memory is free");
  back.reading(true);
  await world.until(() => down.closed.length === 1, "the other side ends too");
}

async function throwing(t: Test, world: ContractWorld): Promise<void> {
  const { up, down, out } = await connected(world);
  down.onFrameToo = () => {
    throw new StorageError("OVS_PROTOCOL", "that is not how we talk here");
  };
  out.send(frameOf(0, 1), null, null, null);
  await world.until(() => up.closed.length === 1 && down.closed.length === 1, "both have ended");
  t.same(down.closed, ["that is not how we talk here"]);
  const refusing = await world.server.network.listen(world.address(), () => {
    throw new StorageError("OVS_FULL", "no room");
  });
  const late = new Recorder();
  await world.client.network.connect(refusing.address, late, 5000);
  await world.until(() => late.closed.length === 1, "it is refused");
}

async function addresses(t: Test, world: ContractWorld): Promise<void> {
  const { listener, out, up } = await connected(world);
  const none = () => new Recorder();
  await t.rejects(world.server.network.listen(listener.address, none), { code: "OVS_BUSY" });
  await listener.close();
  await listener.close();
  const recorder = new Recorder();
  const errno = listener.address.startsWith("unix:") ? /\(ENOENT\)/ : /\(ECONNREFUSED\)/;
  const refused = { code: "OVS_UNAVAILABLE", message: errno };
  await t.rejects(world.client.network.connect(listener.address, recorder, 1000), refused);
  t.same(recorder.closed, [], "a connection that never was does not end");
  t.ok(out.open, "closing a listener leaves its connections");
  const again = await world.server.network.listen(listener.address, none);
  t.equal(again.address, listener.address);
  await world.server.network.stop();
  await world.until(() => up.closed.length === 1, "stop closes connections");
  await t.rejects(world.server.network.listen(world.address(), none), { code: "OVS_CLOSED" });
}
