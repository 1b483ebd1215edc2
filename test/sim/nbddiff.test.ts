// SPDX-License-Identifier: Apache-2.0
// Random requests, right and wrong ones, told to the real NBD server over a socket and to the
// simulated engine: the same errors, the same bytes, and the same parts in the slots of the target.

import t, { type Test } from "tap";
import { MIB } from "../../src/base/units.js";
import { requestBytesMax, SLOT_BYTES } from "../../src/nbd/limits.js";
import { NbdListener } from "../../src/nbd/listener.js";
import { MemoryTarget } from "../../src/nbd/memory.js";
import { NbdServer } from "../../src/nbd/server.js";
import {
  type BlockTarget,
  RequestFlag,
  RequestKind,
  type Requests,
  SLOT_CLUSTERS_MAX,
} from "../../src/nbd/target.js";
import { Life } from "../../src/sim/life.js";
import { SimNbdEngine } from "../../src/sim/nbd.js";
import { SimNbdClient } from "../../src/sim/nbdclient.js";
import { makeBench } from "../nbd/bench.js";
import { Client } from "../nbd/client.js";
import { seeded } from "../platform/disk.contract.js";
import { Bench } from "./netfixture.js";

t.setTimeout(280_000);

const SEED = Number(process.env.SEED ?? Date.now() % 1e9);
const STORIES = 4;
const REQUESTS = 300;
const SLOTS = 8;
const EXPORT_BYTES = 4 * MIB;
const { Read, Write, Flush, Trim, WriteZeroes, Cache, BlockStatus } = RequestKind;
const KINDS = [Read, Read, Read, Write, Write, Write, Flush, Trim, WriteZeroes, Cache, BlockStatus];
/** FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, and two that nobody knows. */
const FLAGS = [1, 2, 4, 8, 16, 64, 512];

interface Step {
  kind: number;
  flags: number;
  offset: number;
  length: number;
  data: Uint8Array | null;
}

function story(seed: number): Step[] {
  const random = seeded(seed);
  return Array.from({ length: REQUESTS }, () => {
    const kind = random(40) === 0 ? 20 + random(50) : KINDS[random(KINDS.length)]!;
    const flags = random(3) > 0 ? 0 : FLAGS[random(FLAGS.length)]! | FLAGS[random(FLAGS.length)]!;
    const unit = random(2) === 0 ? 4096 : 1;
    const near = random(12) === 0 ? EXPORT_BYTES - unit * random(9) : random(EXPORT_BYTES);
    const offset = random(50) === 0 ? 2 ** 50 : near - (near % unit);
    const most = random(30) === 0 ? requestBytesMax(SLOTS) - 1 + random(3) : 0;
    const some = unit * random(random(4) === 0 ? 300_000 / unit : 20_000 / unit);
    const length = kind === Flush && random(8) > 0 ? 0 : most || some;
    const data = kind === Write ? new Uint8Array(length) : null;
    for (let i = 0; data && i < length; i++) data[i] = (i * 7 + offset) & 0xff;
    return { kind, flags, offset: kind === Flush && length === 0 ? 0 : offset, length, data };
  });
}

/** A disk in memory that notes what it is given. */
class Noting implements BlockTarget {
  readonly sizeBytes = EXPORT_BYTES;
  readonly readOnly: boolean;
  notes: string[] = [];
  readonly #inner: MemoryTarget;
  readonly #requests: Requests;

  constructor(inner: MemoryTarget, requests: Requests) {
    this.#inner = inner;
    this.#requests = requests;
    this.readOnly = inner.readOnly;
  }

  admit(slot: number): void {
    const { kind, flags, offset, length, crcs } = this.#requests;
    const [first, end] = [offset[slot], offset[slot] + length[slot]];
    const sums: number[] = [];
    for (let i = 0; kind[slot] === Write && i < SLOT_CLUSTERS_MAX; i++) {
      const at = (Math.floor(first / 4096) + i) * 4096;
      // Of whole clusters only; the others are the target's.
      if (at >= first && at + 4096 <= end) sums.push(crcs[slot * SLOT_CLUSTERS_MAX + i]);
    }
    // Extended headers say that a payload follows; the simulated ones have no need to.
    const said = flags[slot] & ~RequestFlag.PayloadLen;
    this.notes.push(`${kind[slot]} ${said} ${first}+${length[slot]} ${sums}`);
    this.#inner.admit(slot);
  }

  /** What came since the last call; parts of a request come in any order. */
  take(): string {
    return this.notes.splice(0).sort().join("; ");
  }
}

function line(step: Step, errno: number, data: Uint8Array | null, notes: string): string {
  let sum = data?.byteLength ?? 0;
  for (const byte of data ?? []) sum = (Math.imul(sum, 31) + byte) >>> 0;
  const { kind, flags, offset, length } = step;
  return `${kind} ${flags} ${offset}+${length}: errno ${errno}, ${sum.toString(16)} [${notes}]`;
}

async function really(steps: readonly Step[], readOnly: boolean): Promise<string[]> {
  const bench = makeBench({ slots: SLOTS });
  const { requests } = bench.server;
  const inner = new MemoryTarget(bench.world.arena, requests, EXPORT_BYTES, readOnly);
  const target = new Noting(inner, requests);
  bench.targets.set("vd0", target);
  bench.publish();
  const client = await Client.open(bench.address, { style: "extended", meta: true });
  const lines: string[] = [];
  for (const step of steps) {
    const { kind, flags, offset, length, data } = step;
    const reply =
      data === null
        ? await client.ask(kind, offset, length, flags)
        : await client.put(offset, data, flags);
    const found = kind === Read && reply.error === 0 ? reply.data : null;
    lines.push(line(step, reply.error, found, target.take()));
  }
  client.close();
  await bench.stop();
  return lines;
}

async function simulated(steps: readonly Step[], readOnly: boolean, seed: number) {
  const bench = new Bench(seed);
  const arenaMib = Math.ceil((SLOTS * SLOT_BYTES) / MIB) + 8;
  const process = bench.process(bench.host(1), { arenaMib });
  const nbd = new SimNbdEngine(process.host, process.life, process.codec);
  const server = new NbdServer({ ...process, nbd }, { slots: SLOTS });
  const inner = new MemoryTarget(process.arena, server.requests, EXPORT_BYTES, readOnly);
  const target = new Noting(inner, server.requests);
  const onNegotiated = (ticket: Parameters<typeof server.adopt>[0]) => {
    server.adopt(ticket, target);
  };
  const listener = new NbdListener({ nbd, log: process.log, slots: SLOTS, onNegotiated });
  listener.listen("unix:/run/nbd.sock");
  const shown = { name: "vd0", description: "", sizeBytes: EXPORT_BYTES, readOnly };
  listener.setExports([shown]);
  const made = SimNbdClient.connect({
    host: bench.host(1),
    life: new Life("client", bench.timeline),
    address: "unix:/run/nbd.sock",
    name: "vd0",
    allocation: true,
    connectMs: 2000,
    onEnd: () => undefined,
  });
  const client = await bench.settle(made);
  const lines: string[] = [];
  for (const step of steps) {
    const { kind, flags, offset, length, data } = step;
    let told: string | null = null;
    client.request(kind, flags, offset, length, data, (errno, bytes) => {
      told = line(step, errno, kind === Read && errno === 0 ? bytes : null, target.take());
    });
    await bench.until(() => told !== null, "the answer");
    lines.push(told!);
  }
  return lines;
}

function sameLines(t: Test, found: string[], expected: string[], seed: number): void {
  const at = expected.findIndex((line, i) => found[i] !== line);
  if (at < 0) return void t.equal(found.length, expected.length);
  t.fail(`SEED=${seed} request ${at}\nreal: ${expected[at]}\nhere: ${found[at]}`);
}

for (let i = 0; i < STORIES; i++) {
  const [seed, readOnly] = [SEED + i, i === 1];
  const what = readOnly ? "an export that is only read" : "an export";
  t.test(`NBD: the real and the simulated server agree on ${what} (SEED=${seed})`, async (t) => {
    const steps = story(seed);
    const real = await really(steps, readOnly);
    sameLines(t, await simulated(steps, readOnly, seed), real, seed);
  });
}
