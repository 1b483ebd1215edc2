// SPDX-License-Identifier: Apache-2.0
// node volume-load.js FOLDER WORK DEPTH SECONDS [JOURNAL_MIB [SPAN_MIB]]: the volume layer alone,
// without socket and backend. WORK: write (random 4 KiB), flush (each write followed by a flush).
// The backend takes everything and keeps nothing.
// Prints {"value": IOPS, "cpuSeconds": …, "p50us": …, "p99us": …}.

import { rmSync } from "node:fs";
import type { ObjectStore, PutRequest, PutResult } from "../src/backend/store.js";
import { assert } from "../src/base/assert.js";
import type { ErrorKind } from "../src/base/errors.js";
import { StorageError } from "../src/base/errors.js";
import { CLUSTER_BYTES, GIB, MIB } from "../src/base/units.js";
import type { Requests } from "../src/nbd/target.js";
import { RequestKind, SLOT_CLUSTERS_MAX } from "../src/nbd/target.js";
import { createWorld } from "../src/platform/node/world.js";
import { openVolume } from "../src/volume/open.js";
import { VolumeThread } from "../src/volume/thread.js";

const [folder, work, depthText, secondsText, journalText, spanText] = process.argv.slice(2);
const depth = Number(depthText);
const seconds = Number(secondsText);
const journalBytes = Number(journalText ?? 4096) * MIB;
const spanClusters = (Number(spanText ?? 4096) * MIB) / CLUSTER_BYTES;
assert(folder !== undefined && depth > 0 && seconds > 0, "FOLDER WORK DEPTH SECONDS");
assert(work === "write" || work === "flush", "write or flush");

class VoidStore implements ObjectStore {
  putBytes = 0;
  async createNamespace(): Promise<void> {}
  async deleteNamespace(): Promise<void> {}
  async raiseFence(): Promise<void> {}
  async put(request: PutRequest): Promise<PutResult> {
    this.putBytes += request.bytes;
    return await Promise.resolve({ revision: 1, fragments: 6, storedBytes: request.bytes });
  }
  async remove(): Promise<void> {}
  async read(): Promise<void> {
    await Promise.reject(new StorageError("OVS_NOT_FOUND", "this backend keeps nothing"));
  }
  async list(): Promise<[]> {
    return await Promise.resolve([]);
  }
  async waitFullWidth(): Promise<{ full: boolean; spareMin: number }> {
    return await Promise.resolve({ full: true, spareMin: 2 });
  }
}

const world = createWorld({ name: "volume-load", arenaBytes: 320 * MIB });
const slots = depth;
const done: number[] = [];
const base = world.arena.region(slots * SLOT_CLUSTERS_MAX * CLUSTER_BYTES, "slots");
const requests: Requests = {
  slots,
  kind: new Uint8Array(slots),
  flags: new Uint16Array(slots),
  offset: new Float64Array(slots),
  length: new Float64Array(slots),
  memory: new Uint32Array(slots),
  crcs: new Uint32Array(slots * SLOT_CLUSTERS_MAX),
  cookieLow: new Uint32Array(slots),
  cookieHigh: new Uint32Array(slots),
  connection: new Uint32Array(slots),
  complete(slot: number, error: ErrorKind | null) {
    assert(error === null, `no request fails (${error})`);
    finished(slot);
  },
  completeStatus() {},
  completeNotFast() {},
};
for (let slot = 0; slot < slots; slot++) {
  const at = base + slot * SLOT_CLUSTERS_MAX * CLUSTER_BYTES;
  requests.memory[slot] = at;
  world.arena.bytes.set(world.random.bytes(CLUSTER_BYTES), at);
  requests.crcs[slot * SLOT_CLUSTERS_MAX] = world.codec.crc32c(at, CLUSTER_BYTES, 0);
}

const kv = await world.kv.open(`${folder}/map`, {
  cacheBytes: 8 * MIB,
  writeBufferBytes: 8 * MIB,
  create: true,
});
const thread = await VolumeThread.create(world, requests, kv, {
  memoryCacheBytes: 64 * MIB,
  diskCache: null,
  pageCacheBytes: 32 * MIB,
  journalBytes: journalBytes * 2,
  destageBytes: 96 * MIB,
  readPatienceMs: 1000,
});
const store = new VoidStore();
const volume = await openVolume(
  thread,
  {
    vdiskId: new Uint8Array(16).fill(1),
    name: "load",
    sizeBytes: Math.max(10 * GIB, spanClusters * CLUSTER_BYTES),
    namespace: "load",
    epoch: 1,
    clusterUuid: new Uint8Array(16).fill(2),
    routerUuid: new Uint8Array(16),
    incarnation: 1,
    dir: folder,
    journalBytes,
    scoBytes: 16 * MIB,
    isNew: true,
    wasDirty: false,
    acceptLoss: false,
    batchBytes: process.env.BATCH ? Number(process.env.BATCH) : null,
    batchAgeMs: 10_000,
    segmentBytes: null,
  },
  store,
  { dirty: async () => {}, clean: async () => {} },
);

// xorshift32: as cheap as fio's generator.
let seed = 1 + world.random.below(2 ** 31);
const next = (): number => {
  seed ^= seed << 13;
  seed ^= seed >>> 17;
  seed ^= seed << 5;
  return (seed >>> 0) % spanClusters;
};

const begun = new Float64Array(slots);
const times = new Float64Array(4_000_000);
let count = 0;
let running = 0;
let end = 0;
let onIdle: (() => void) | null = null;

function finished(slot: number): void {
  const now = performance.now();
  if (work === "flush" && requests.kind[slot] === RequestKind.Write) {
    done.push(slot);
    return;
  }
  if (count < times.length) times[count] = now - begun[slot]!;
  count++;
  if (now < end) done.push(slot);
  else if (--running === 0) onIdle!();
}

/** Requests of a turn are admitted together, as from a socket. */
function pump(): void {
  if (done.length > 0) {
    world.turn.begin();
    for (const slot of done.splice(0, done.length)) begin(slot);
    world.turn.end();
  }
  if (running > 0) setImmediate(pump);
}

/** A new request, or with "flush" the flush that follows a write. */
function begin(slot: number): void {
  if (work === "flush" && requests.kind[slot] === RequestKind.Write) {
    requests.kind[slot] = RequestKind.Flush;
    requests.length[slot] = 0;
  } else {
    requests.kind[slot] = RequestKind.Write;
    requests.offset[slot] = next() * CLUSTER_BYTES;
    requests.length[slot] = CLUSTER_BYTES;
    begun[slot] = performance.now();
  }
  volume.admit(slot);
}

async function phase(forSeconds: number): Promise<void> {
  count = 0;
  running = slots;
  end = performance.now() + forSeconds * 1000;
  const idle = new Promise<void>((resolve) => {
    onIdle = resolve;
  });
  for (let slot = 0; slot < slots; slot++) {
    requests.kind[slot] = RequestKind.Read;
    done.push(slot);
  }
  pump();
  await idle;
}

const cpu = process.cpuUsage();
const start = performance.now();
await phase(seconds);
const elapsed = (performance.now() - start) / 1000;
const used = process.cpuUsage(cpu);
const sorted = times.subarray(0, Math.min(count, times.length)).sort();
const at = (share: number): number =>
  Math.round((sorted[Math.floor(sorted.length * share)] ?? 0) * 1000);
console.log(
  JSON.stringify({
    value: Math.round(count / elapsed),
    cpuSeconds: (used.user + used.system) / 1e6,
    p50us: at(0.5),
    p99us: at(0.99),
    p999us: at(0.999),
    records: volume.status().sequence,
    putMib: Math.round(store.putBytes / MIB),
    journalMib: Math.round(volume.status().journal.usedBytes / MIB),
    waiting: volume.status().waiting,
  }),
);
rmSync(folder, { recursive: true, force: true });
process.exit(0);
