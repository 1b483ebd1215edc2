// SPDX-License-Identifier: Apache-2.0
// One round of the erasure row, in a process of its own: encodes a ring of objects for a while and
// prints MiB of data per CPU second and per second as JSON.
//
//   erasure-load ours|ronomon K M FRAGMENT_BYTES OBJECTS SECONDS CHECKSUMS

import { createRequire } from "node:module";
import { ErasureSession } from "../src/native/erasure.js";
import { createWorld } from "../src/platform/node/world.js";

interface Ronomon {
  create(k: number, m: number): unknown;
  encode(
    context: unknown,
    sources: number,
    targets: number,
    data: Buffer,
    dataAt: number,
    dataBytes: number,
    parity: Buffer,
    parityAt: number,
    parityBytes: number,
    done: (error: Error | undefined) => void,
  ): void;
}

const UNIT_BYTES = 65_536;
const [side, ...numbers] = process.argv.slice(2);
const [k, m, fragmentBytes, objects, seconds, checksums] = numbers.map(Number) as [
  number,
  number,
  number,
  number,
  number,
  number,
];
const objectBytes = (k + m) * fragmentBytes;

/** Encodes object `i` of the ring, which lies in `memory` from `base` on. */
type Encode = (i: number) => Promise<void>;

function ours(): { memory: Uint8Array; encode: Encode; end: () => Promise<void> } {
  const world = createWorld({
    name: "perf",
    arenaBytes: objectBytes * objects + 4096,
    terminal: null,
  });
  const base = world.arena.region(objectBytes * objects, "objects");
  const session = new ErasureSession(world.arena.buffer);
  const layout = { k, m, unitBytes: UNIT_BYTES, stripes: fragmentBytes / UNIT_BYTES };
  const crcs = checksums ? new Uint32Array(objectBytes / 4096) : null;
  const dataBytes = k * fragmentBytes;
  const encode = (i: number) => {
    const at = base + i * objectBytes;
    return session.encode(layout, at, dataBytes, at + dataBytes, crcs);
  };
  return { memory: world.arena.bytes, encode, end: () => world.stop() };
}

function ronomon(): { memory: Uint8Array; encode: Encode; end: () => Promise<void> } {
  const peer = createRequire(import.meta.url)("@ronomon/reed-solomon") as Ronomon;
  const memory = Buffer.alloc(objectBytes * objects);
  const context = peer.create(k, m);
  // Which fragments are there and which are wanted: bit by bit.
  const sources = 2 ** k - 1;
  const targets = 2 ** (k + m) - 1 - sources;
  const dataBytes = k * fragmentBytes;
  const encode = (i: number) =>
    new Promise<void>((resolve, reject) => {
      const at = i * objectBytes;
      const done = (error: Error | undefined) => (error ? reject(error) : resolve());
      const parityBytes = m * fragmentBytes;
      const { length } = memory;
      if (at + objectBytes > length) reject(new Error("the ring is too small"));
      peer.encode(
        context,
        sources,
        targets,
        memory,
        at,
        dataBytes,
        memory,
        at + dataBytes,
        parityBytes,
        done,
      );
    });
  return { memory, encode, end: async () => undefined };
}

const { memory, encode, end } = side === "ours" ? ours() : ronomon();
for (let i = 0; i < memory.length; i++) memory[i] = (i * 2_654_435_761) >>> 13;
const warmUntil = performance.now() + 300;
for (let i = 0; performance.now() < warmUntil; i++) await encode(i % objects);
const begin = performance.now();
const cpu = process.cpuUsage();
let rounds = 0;
for (; performance.now() - begin < 1000 * seconds; rounds++) await encode(rounds % objects);
const took = (performance.now() - begin) / 1000;
const { user, system } = process.cpuUsage(cpu);
const cpuSeconds = (user + system) / 1e6;
const mib = (rounds * k * fragmentBytes) / 2 ** 20;
console.log(JSON.stringify({ perCpu: mib / cpuSeconds, perSecond: mib / took, cpuSeconds }));
await end();
