// SPDX-License-Identifier: Apache-2.0
// The load of the backend row, in a process of its own: a BackendClient against a running cluster.
// Prints one JSON object: for uploads MiB/s, for reads IOPS, with CPU seconds of this process.
//
//   backend-load DATA_DIR CLUSTER_UUID put SECONDS DEPTH OBJECT_MIB
//   backend-load DATA_DIR CLUSTER_UUID read SECONDS DEPTH READ_KIB

import { BackendClient, CLIENT_DEFAULTS } from "../src/backend/client.js";
import { KIB, MIB } from "../src/base/units.js";
import { createWorld } from "../src/platform/node/world.js";
import { RegistryClient } from "../src/registry/client.js";

const NAMESPACE = "perf";
const [folder, cluster, what, ...numbers] = process.argv.slice(2) as [string, string, string];
const [seconds, depth, size] = numbers.map(Number) as [number, number, number];

const world = createWorld({ name: "perf", arenaBytes: 512 * MIB, terminal: "warn" });
const registry = new RegistryClient(world, {
  address: `unix:${folder}/run/registry.sock`,
  cluster,
  role: "router",
});
const client = new BackendClient(world, {
  ...CLIENT_DEFAULTS,
  self: { role: "router", id: "perf", cluster },
  registry,
  proxies: [`unix:${folder}/run/proxy.sock`],
});
await client.start();
await client.createNamespace(NAMESPACE, 1);

/** Runs `work` in `depth` lanes for a while; returns how often it was done, a second. */
async function lanes(work: (lane: number) => Promise<void>): Promise<number> {
  const until = performance.now() + 1000 * seconds;
  const begin = performance.now();
  let count = 0;
  const lane = async (index: number) => {
    while (performance.now() < until) {
      await work(index);
      count++;
    }
  };
  await Promise.all(Array.from({ length: depth }, (_, index) => lane(index)));
  return count / ((performance.now() - begin) / 1000);
}

async function put(): Promise<number> {
  const bytes = size * MIB;
  const data = world.arena.region(bytes, "data");
  for (let i = 0; i < bytes / 4; i++) world.arena.u32[data / 4 + i] = i * 2_654_435_761;
  const crcs = new Uint32Array(bytes / 4096);
  world.codec.crc32cClusters(data, crcs.length, crcs, 0);
  const first = Math.floor(world.clock.wallMs());
  let serial = 0;
  const rate = await lanes(async () => {
    await client.put({
      namespace: NAMESPACE,
      name: `o/${first}-${serial++}`,
      payload: { list: Uint32Array.of(data, bytes), count: 1 },
      bytes,
      crcs,
      ownerEpoch: 1,
      extras: { compares: [], operations: [] },
      timeoutMs: 30_000,
    });
  });
  return rate * size;
}

/** A call of `depth` parts at a time, as a volume's turn asks for them. */
async function read(): Promise<number> {
  const bytes = size * KIB;
  const objects = await client.list(NAMESPACE, "o/", { limit: 1000 });
  const parts = objects.length;
  const memory = world.arena.region(depth * bytes, "reads");
  const rate = await lanes(async (lane) => {
    const { name, bytes: objectBytes } = objects[world.random.below(parts)]!;
    const offset = world.random.below(objectBytes / bytes) * bytes;
    await client.read(NAMESPACE, [{ name, offset, bytes, into: memory + lane * bytes }], 30_000);
  });
  return rate;
}

const cpu = process.cpuUsage();
const value = what === "put" ? await put() : await read();
const { user, system } = process.cpuUsage(cpu);
const { counters } = client.status();
console.log(JSON.stringify({ value, cpuSeconds: (user + system) / 1e6, counters }));
await client.stop();
await registry.close();
await world.stop();
