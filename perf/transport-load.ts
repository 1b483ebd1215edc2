// SPDX-License-Identifier: Apache-2.0
// node transport-load.js serve SOCKET            the service: GET gives bytes, PUT takes them
// node transport-load.js get|put SOCKET BYTES DEPTH SECONDS
// The second prints {"value": requests a second, "cpuSeconds": of both processes}. Every answer of
// GET lands in memory of its own, as a router's reads do.

import { z } from "zod";
import { assert } from "../src/base/assert.js";
import { CLUSTER_BYTES, MIB } from "../src/base/units.js";
import { createWorld } from "../src/platform/node/world.js";
import { oneSegment } from "../src/platform/segments.js";
import { RpcClient } from "../src/rpc/client.js";
import { RpcServer } from "../src/rpc/server.js";

const Operation = { Get: 1, Put: 2, Cpu: 3 } as const;
const TIMEOUT_MS = 10_000;
const [role, path, bytesText, depthText, secondsText] = process.argv.slice(2);
assert(role !== undefined && path !== undefined, "ROLE SOCKET …");
const address = `unix:${path}`;
const world = createWorld({
  name: "transport-load",
  arenaBytes: 256 * MIB,
  receivePoolBytes: 128 * MIB,
});

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

async function serve(): Promise<void> {
  const memory = world.arena.region(64 * MIB, "content");
  world.arena.bytes.fill(7, memory, memory + 64 * MIB);
  const server = new RpcServer<null>(world, {
    self: { role: "load", id: "", cluster: null },
    session: () => null,
  });
  const answer = { list: new Uint32Array(2), count: 1 };
  server.handleFast(Operation.Get, (request) => {
    const { meta } = request;
    const clusters = meta[0]! | (meta[1]! << 8) | (meta[2]! << 16);
    answer.list[0] = memory + clusters * CLUSTER_BYTES;
    answer.list[1] = (meta[4]! | (meta[5]! << 8)) * CLUSTER_BYTES;
    request.reply(null, answer, null);
  });
  server.handleFast(Operation.Put, (request) => request.reply(null, null, null));
  server.handleControl(Operation.Cpu, z.null(), async () => cpuSeconds());
  await server.listen(address);
  process.once("SIGTERM", () => void server.stop().then(() => world.stop()));
}

async function load(bytes: number, depth: number, seconds: number): Promise<void> {
  const client = new RpcClient(world, {
    address,
    self: { role: "load", id: "", cluster: null },
    wants: { role: "load", id: null, cluster: null },
  });
  const serverCpu = () => client.callControl(Operation.Cpu, null, z.number(), options);
  const options = { timeoutMs: TIMEOUT_MS };
  const memory = world.arena.region(depth * bytes, "buffers");
  world.arena.bytes.fill(9, memory, memory + depth * bytes);
  const pieces = Array.from({ length: depth }, (_, i) => oneSegment(memory + i * bytes, bytes));
  const meta = new Uint8Array(8);
  const view = new DataView(meta.buffer);
  const before = cpuSeconds() + (await serverCpu());
  const begin = performance.now();
  const end = begin + seconds * 1000;
  let now = begin;
  let done = 0;
  let running = depth;
  await new Promise<void>((resolve) => {
    const handler = {
      onAnswer: (token: number, status: number, _meta: Uint8Array, _payload: number) => {
        assert(status === 0, "the call succeeds");
        done++;
        if ((done & 15) === 0) now = performance.now();
        if (now < end) next(token);
        else if (--running === 0) resolve();
      },
    };
    const next = (token: number): void => {
      const memoryOf = pieces[token]!;
      if (role === "put") {
        client.callWith(Operation.Put, null, memoryOf, null, TIMEOUT_MS, 0, handler, token);
        return;
      }
      view.setUint32(0, done % ((32 * MIB) / CLUSTER_BYTES), true);
      view.setUint32(4, bytes / CLUSTER_BYTES, true);
      client.callWith(Operation.Get, meta, null, memoryOf, TIMEOUT_MS, 0, handler, token);
    };
    world.turn.begin();
    for (let token = 0; token < depth; token++) next(token);
    world.turn.end();
  });
  const elapsed = (performance.now() - begin) / 1000;
  const used = cpuSeconds() + (await serverCpu()) - before;
  console.log(JSON.stringify({ value: done / elapsed, cpuSeconds: used }));
  await client.close();
  await world.stop();
}

if (role === "serve") await serve();
else await load(Number(bytesText), Number(depthText), Number(secondsText));
