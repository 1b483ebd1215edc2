// SPDX-License-Identifier: Apache-2.0
// What the tests of the ASD share: a real world on a temporary folder, and pages with checksums.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inlineCrc } from "../../src/asd/index.js";
import { type AsdStore, ReadJob, type StoreOptions, type StorePut } from "../../src/asd/store.js";
import { MIB } from "../../src/base/units.js";
import { createWorld, type NodeWorld } from "../../src/platform/node/world.js";
import type { World } from "../../src/platform/world.js";

export const PAGE = 4096;
export const CLUSTER = "00000000-0000-4000-8000-000000000001";
export const DISK = "00000000-0000-4000-8000-00000000d15c";
export const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);

/** Random numbers below a limit, the same for the same start. */
export function randomOf(start: number): (limit: number) => number {
  let state = start >>> 0;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

/** A folder on a real disk, since O_DIRECT is refused elsewhere. */
export function temporary(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), "ovs-asd-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

export function makeWorld(arenaMib = 160): NodeWorld {
  return createWorld({
    name: "test",
    arenaBytes: arenaMib * MIB,
    receivePoolBytes: 32 * MIB,
    terminal: null,
  });
}

export function storeOptions(path: string, changes: Partial<StoreOptions> = {}): StoreOptions {
  return {
    path,
    place: { clusterUuid: CLUSTER, diskUuid: DISK, site: "s", rack: "r", node: "n" },
    format: true,
    capacityBytes: 128 * MIB,
    cacheBytes: 4 * MIB,
    readBytes: 16 * MIB,
    onFatal: () => {},
    ...changes,
  };
}

/** Fills arena memory with the content that a number stands for. */
export function fill(world: World, at: number, bytes: number, content: number): void {
  const words = world.arena.u32.subarray(at / 4, (at + bytes) / 4);
  let state = (content * 2654435761) >>> 0;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = state;
  }
}

/** A put of `pages` pages of that content, lying at `at`. */
export function pagesPut(
  world: World,
  key: string,
  options: { at: number; pages: number; content: number },
): StorePut {
  const { at, pages, content } = options;
  fill(world, at, pages * PAGE, content);
  const crcs = new Uint32Array(pages);
  world.codec.crc32cClusters(at, pages, crcs, 0);
  const pieces = Uint32Array.of(at, pages * PAGE);
  return { key, length: pages * PAGE, crcs, value: null, pieces };
}

export function smallPut(key: string, value: Uint8Array): StorePut {
  const crcs = Uint32Array.of(inlineCrc(value));
  return { key, length: value.byteLength, crcs, value, pieces: null };
}

/** Reads parts and gives a copy of their bytes; the job has statuses and CRCs. */
export async function readParts(
  world: World,
  store: AsdStore,
  parts: ReadonlyArray<[key: string, first: number, pages: number]>,
): Promise<{ job: ReadJob; bytes: Uint8Array }> {
  const job = new ReadJob();
  for (const [key, first, pages] of parts) job.add(key, first, pages);
  await store.read(job);
  const bytes = world.arena.slice(job.arena, job.pagesTotal * PAGE).slice();
  store.reads.release(job);
  return { job, bytes };
}
