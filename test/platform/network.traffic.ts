// SPDX-License-Identifier: Apache-2.0
// The part of the contract of networks about traffic: ends in the middle of it, many connections,
// and random frames of random sizes in both directions.

import type { Test } from "tap";
import { MIB } from "../../src/base/units.js";
import type { Connection } from "../../src/platform/network.js";
import { oneSegment } from "../../src/platform/segments.js";
import { seeded } from "./disk.contract.js";
import { type ContractWorld, connected, frameOf, Recorder } from "./network.sides.js";

type Case = (t: Test, world: ContractWorld) => Promise<void>;

const CROWD = 300;
const LANES = 6;
const FRAMES = 80;
const PEER_CLOSED = "closed by the other side";

async function lastWords(t: Test, world: ContractWorld): Promise<void> {
  const { up, down, out } = await connected(world);
  let sent = 0;
  for (let i = 0; i < 20; i++) {
    out.send(frameOf(2, i), null, oneSegment(world.client.memory, 100_000), () => sent++);
  }
  await world.until(() => sent === 20, "the kernel has taken all");
  out.close("that was all");
  await world.until(() => down.closed.length === 1, "the other side ends");
  t.same(
    down.frames.map(({ requestId }) => requestId),
    Array.from({ length: 20 }, (_, i) => i),
    "what was sent arrives although its sender has closed",
  );
  for (const { payload } of down.frames) world.server.network.release(payload);
  t.same(down.closed, [PEER_CLOSED]);
  await world.until(() => up.closed.length === 1, "and this one");
  t.same(up.closed, ["that was all"]);
}

async function dropped(t: Test, world: ContractWorld): Promise<void> {
  const { down, out } = await connected(world);
  let sent = 0;
  for (let i = 0; i < 5; i++) out.send(frameOf(2, i), new Uint8Array(100), null, () => sent++);
  out.close("changed my mind");
  await world.until(() => down.closed.length === 1 && sent === 5, "both sides know");
  t.same(down.frames, [], "what was only staged never left");
}

/** Data that nobody has read are thrown away with the socket, and the sender hears of it. */
async function unread(t: Test, world: ContractWorld): Promise<void> {
  const { up, down, out, back } = await connected(world);
  back.reading(false);
  let sent = 0;
  // Some may have been read before the socket was let alone.
  for (let i = 0; i < 3; i++) {
    out.send(frameOf(2, i), null, oneSegment(world.client.memory, 20_000), () => sent++);
    await world.until(() => sent === i + 1, "it lies in the kernel");
  }
  const known = down.frames.length;
  back.close("not interested");
  await world.until(() => up.closed.length === 1, "the sender hears of it");
  t.match(up.closed[0], /closed by the other side|ECONNRESET/);
  t.equal(down.frames.length, known, "nothing comes after its end");
  for (const { payload } of down.frames) world.server.network.release(payload);
}

async function crowd(t: Test, world: ContractWorld): Promise<void> {
  const { server, client } = world;
  const downs: Recorder[] = [];
  const listener = await server.network.listen(world.address(), () => {
    const down = new Recorder();
    downs.push(down);
    return down;
  });
  const ups = Array.from({ length: CROWD }, () => new Recorder());
  const made = ups.map((up) => client.network.connect(listener.address, up, 20_000));
  for (const [i, connection] of (await Promise.all(made)).entries()) {
    connection.send(frameOf(2, i), null, null, null);
  }
  const told = () => downs.reduce((sum, { frames }) => sum + frames.length, 0);
  await world.until(() => told() === CROWD, "everybody was heard");
  const ids = downs.map(({ frames }) => frames[0]!.requestId).sort((a, b) => a - b);
  t.same(
    ids,
    Array.from({ length: CROWD }, (_, i) => i),
  );
}

async function forgotten(t: Test, world: ContractWorld): Promise<void> {
  const { client, server } = world;
  const bytes = 60 * MIB;
  server.arena.bytes.fill(6, server.memory, server.memory + bytes);
  // On a machine that is busy elsewhere the answer may have come whole when it is looked for.
  for (let attempt = 1; ; attempt++) {
    const { up, out, back } = await connected(world);
    const at = client.memory;
    client.arena.bytes.fill(0, at, at + bytes);
    out.expect(5, oneSegment(at, bytes));
    back.send(frameOf(1, 5), null, oneSegment(server.memory, bytes), null);
    await world.until(() => client.arena.bytes[at] === 6, "the answer is arriving");
    t.ok(out.tryForget(6), "another one is not touched");
    if (up.frames.length > 0 && attempt < 10) continue;
    t.equal(out.tryForget(5), false, "its memory is being written");
    t.ok(out.open, "and nothing has changed");
    out.forget(5);
    t.notOk(out.open);
    client.arena.bytes.fill(1, at, at + bytes);
    await world.until(() => up.closed.length === 1, "it has ended");
    t.match(up.closed[0], /still arriving/);
    t.ok(
      Buffer.alloc(bytes, 1).equals(client.arena.slice(at, bytes)),
      "memory that is given back is not written",
    );
    return;
  }
}

/** What a payload that is cut off had of the pool goes back to it. */
async function cutOff(t: Test, world: ContractWorld): Promise<void> {
  const bytes = 60 * MIB;
  for (let i = 0; i < 4; i++) {
    const { down, out } = await connected(world);
    out.send(frameOf(0, i), null, oneSegment(world.client.memory, bytes), null);
    const isOnItsWay = () => out.queuedBytes > 0 && out.queuedBytes < bytes;
    await world.until(() => isOnItsWay() || down.frames.length > 0, "it is on its way");
    out.close("enough");
    await world.until(() => down.closed.length === 1, "the other side ends");
    if (down.frames.length === 0) t.match(down.closed[0], /in the middle of a frame|ECONNRESET/);
    for (const { payload } of down.frames) world.server.network.release(payload);
  }
  const { down, out } = await connected(world);
  out.send(frameOf(0, 9), null, oneSegment(world.client.memory, bytes), null);
  await world.until(() => down.frames.length === 1, "there is room for a whole one");
  world.server.network.release(down.frames[0]!.payload);
}

/** One direction of a connection: sends random frames and knows what has to arrive. */
class Lane {
  readonly expected: Array<{ id: number; meta: number; payload: number; fill: number }> = [];
  sent = 0;
  readonly #random: (limit: number) => number;
  readonly #side: ContractWorld["client"];
  readonly #out: Connection;

  constructor(random: (limit: number) => number, side: ContractWorld["client"], out: Connection) {
    this.#random = random;
    this.#side = side;
    this.#out = out;
  }

  /** Fill `f` lies in the side's memory at f × 256 KiB. */
  send(): void {
    const random = this.#random;
    const id = this.expected.length;
    const fill = random(200);
    const payload = random(3) === 0 ? 0 : random(random(4) === 0 ? 250_000 : 5000);
    const meta = random(3) === 0 ? 0 : random(random(8) === 0 ? 60_000 : 300);
    this.expected.push({ id, meta, payload, fill });
    const segments = payload === 0 ? null : oneSegment(this.#side.memory + fill * 262_144, payload);
    const bytes = meta === 0 ? null : new Uint8Array(meta).fill(fill);
    this.#out.send(frameOf(random(3), id), bytes, segments, () => this.sent++);
  }
}

/** What has come of a lane is the beginning of what was sent; its payloads go back to the pool. */
class Sink extends Recorder {
  wrong = "";
  came = 0;
  lane: Lane | null = null;

  constructor(random: (limit: number) => number, side: ContractWorld["client"]) {
    super();
    this.onFrameToo = (connection, frame) => {
      const expected = this.lane!.expected[this.came++]!;
      const payload = side.arena.slice(frame.payload, frame.payload === 0 ? 0 : frame.payloadBytes);
      const isRight =
        frame.requestId === expected.id &&
        frame.payloadBytes === expected.payload &&
        frame.meta.byteLength === expected.meta &&
        frame.meta.every((byte) => byte === expected.fill) &&
        payload.every((byte) => byte === expected.fill);
      if (!isRight) this.wrong ||= `frame ${this.came - 1} is not what was sent`;
      if (frame.payload !== 0) side.network.release(frame.payload);
      if (random(10) > 0) return;
      connection.reading(false);
      setImmediate(() => connection.reading(true));
    };
  }
}

async function randomTraffic(t: Test, world: ContractWorld): Promise<void> {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9);
  const random = seeded(seed);
  const { client, server } = world;
  for (const { arena, memory } of [client, server]) {
    for (let fill = 0; fill < 200; fill++) {
      arena.bytes.fill(fill, memory + fill * 262_144, memory + (fill + 1) * 262_144);
    }
  }
  const sinks: Sink[] = [];
  const accepted: Array<{ sink: Sink; back: Connection }> = [];
  const listener = await server.network.listen(world.address(), (back) => {
    const sink = new Sink(random, server);
    accepted.push({ sink, back });
    return sink;
  });
  const lanes: Lane[] = [];
  for (let i = 0; i < LANES; i++) {
    const up = new Sink(random, client);
    const out = await client.network.connect(listener.address, up, 20_000);
    await world.until(() => accepted.length > i, "it is accepted");
    const { sink, back } = accepted[i]!;
    sink.lane = new Lane(random, client, out);
    up.lane = new Lane(random, server, back);
    lanes.push(sink.lane, up.lane);
    sinks.push(sink, up);
  }
  for (let i = 0; i < FRAMES * lanes.length; i++) {
    lanes[random(lanes.length)]!.send();
    if (random(40) === 0) await new Promise<void>((resolve) => void setImmediate(resolve));
  }
  const isOver = () =>
    lanes.every(({ sent, expected }, i) => {
      return sent === expected.length && sinks[i]!.came === expected.length;
    });
  await world.until(() => isOver() || sinks.some(({ wrong }) => wrong !== ""), `SEED=${seed}`);
  t.same(
    sinks.map(({ wrong }) => wrong),
    sinks.map(() => ""),
    `SEED=${seed}`,
  );
}

export const TRAFFIC_CASES: ReadonlyArray<[string, Case]> = [
  ["what was sent arrives although its sender has closed", lastWords],
  ["what was only staged does not leave with a close", dropped],
  ["who closes without reading is heard of", unread],
  ["many connect at once", crowd],
  ["an answer that is arriving cannot be forgotten", forgotten],
  ["a payload that is cut off gives its memory back", cutOff],
  ["random frames in both directions come as they were sent", randomTraffic],
];
