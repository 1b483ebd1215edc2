// SPDX-License-Identifier: Apache-2.0
// node registry-load.js ADDRESS KIND DEPTH SECONDS: `DEPTH` callers, each with a key of its own,
// that compare and swap (KIND transact) or get. ADDRESS: `unix:…` or `tcp:…` of `ovs registry`, or
// `etcd:HOST:PORT`. Prints {"value": calls a second, "cpuSeconds": …, "p99Ms": …}.

import { assert } from "../src/base/assert.js";
import { MIB } from "../src/base/units.js";
import { createWorld } from "../src/platform/node/world.js";
import { RegistryClient } from "../src/registry/client.js";
import { EtcdRegistry } from "../src/registry/etcd.js";
import type { Registry } from "../src/registry/registry.js";
import { percentile } from "./lib/stats.js";

const VALUE_BYTES = 400;
const [address, kind, depthText, secondsText] = process.argv.slice(2);
const depth = Number(depthText);
const seconds = Number(secondsText);
assert(address !== undefined && depth > 0 && seconds > 0, "ADDRESS KIND DEPTH SECONDS");
assert(kind === "transact" || kind === "get", "transact or get");

const world = createWorld({ name: "registry-load", arenaBytes: 64 * MIB });
const registry: Registry = address.startsWith("etcd:")
  ? new EtcdRegistry(world.clock, { endpoints: [address.slice("etcd:".length)] })
  : new RegistryClient(world, { address, cluster: null, role: "perf" });

const times: number[] = [];
let end = 0;

async function caller(index: number): Promise<void> {
  const key = `perf/${process.pid}/${index}`;
  const value = world.random.bytes(VALUE_BYTES);
  let revision = 0;
  const swap = async () => {
    const result = await registry.transact({
      compares: [{ key, target: "modRevision", is: "=", number: revision }],
      success: [{ kind: "put", key, value }],
      failure: [],
    });
    assert(result.succeeded, "nobody else writes this key");
    revision = result.revision;
  };
  await swap();
  while (true) {
    const begin = performance.now();
    if (begin >= end) return;
    if (kind === "transact") await swap();
    else assert((await registry.get(key)) !== null, "the key is there");
    times.push(performance.now() - begin);
  }
}

await registry.range("", { limit: 1 });
const begin = performance.now();
const cpu = process.cpuUsage();
end = begin + seconds * 1000;
await Promise.all(Array.from({ length: depth }, (_, index) => caller(index)));
const elapsed = (performance.now() - begin) / 1000;
const used = process.cpuUsage(cpu);
await registry.close();
await world.stop();
const cpuSeconds = (used.user + used.system) / 1e6;
const p99Ms = Math.round(percentile(times, 0.99) * 100) / 100;
console.log(JSON.stringify({ value: times.length / elapsed, cpuSeconds, p99Ms }));
process.exit(0);
