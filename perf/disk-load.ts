// SPDX-License-Identifier: Apache-2.0
// node disk-load.js FILE DEPTH SECONDS: random 4 KiB writes through World.disk, `DEPTH` in flight,
// each completion staging the next, after a second to get warm. Prints {"value": IOPS,
// "cpuSeconds": …}.

import { assert } from "../src/base/assert.js";
import { CLUSTER_BYTES, MIB } from "../src/base/units.js";
import { createWorld } from "../src/platform/node/world.js";

const [file, depthText, secondsText] = process.argv.slice(2);
const depth = Number(depthText);
const seconds = Number(secondsText);
assert(file !== undefined && depth > 0 && seconds > 0, "FILE DEPTH SECONDS");

const world = createWorld({ name: "disk-load", arenaBytes: 8 * MIB });
const { disk, arena, turn } = world;
const id = await disk.open(file, { create: false, exclusive: false, write: true, direct: true });
const clusters = Math.floor((await disk.size(id)) / CLUSTER_BYTES);
const memory = arena.region(depth * CLUSTER_BYTES, "buffers");
arena.bytes.set(world.random.bytes(depth * CLUSTER_BYTES), memory);

// xorshift32: as cheap as fio's generator.
let seed = 1 + world.random.below(2 ** 31);
const next = (): number => {
  seed ^= seed << 13;
  seed ^= seed >>> 17;
  seed ^= seed << 5;
  return (seed >>> 0) % clusters;
};

const WARM_MS = 1000;
let done = 0;
let running = depth;
let now = performance.now();
let begin = now + WARM_MS;
const end = begin + seconds * 1000;
let warm = false;
let cpu = process.cpuUsage();

function startMeasuring(): void {
  warm = true;
  done = 0;
  begin = now;
  cpu = process.cpuUsage();
}

await new Promise<void>((resolve) => {
  const handler = disk.handler((tag, result) => {
    assert(result === CLUSTER_BYTES, `a write succeeds (${result})`);
    done++;
    if ((done & 63) === 0) {
      now = performance.now();
      if (!warm && now >= begin) startMeasuring();
    }
    if (now < end) write(tag);
    else if (--running === 0) resolve();
  });
  const write = (tag: number): void => {
    const at = memory + tag * CLUSTER_BYTES;
    disk.write(handler, tag, id, next() * CLUSTER_BYTES, at, CLUSTER_BYTES);
  };
  turn.begin();
  for (let tag = 0; tag < depth; tag++) write(tag);
  turn.end();
});

const elapsed = (performance.now() - begin) / 1000;
const used = process.cpuUsage(cpu);
await world.stop();
const cpuSeconds = (used.user + used.system) / 1e6;
console.log(JSON.stringify({ value: done / elapsed, cpuSeconds }));
