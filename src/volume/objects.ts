// SPDX-License-Identifier: Apache-2.0
// Whole small objects of a vDisk (TLogs, checkpoints) read into memory of their own.

import type { ObjectInfo, ObjectStore } from "../backend/store.js";
import { alignUp } from "../base/bytes.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { VolumeThread } from "./thread.js";

const LIST_LIMIT = 1000;
const READ_TIMEOUT_MS = 30_000;

/** All objects with a prefix, in order, after `after`. */
export async function listAll(
  store: ObjectStore,
  namespace: string,
  prefix: string,
  after?: string,
): Promise<ObjectInfo[]> {
  const all: ObjectInfo[] = [];
  for (let last = after; ; ) {
    const options = last === undefined ? { limit: LIST_LIMIT } : { after: last, limit: LIST_LIMIT };
    const objects = await store.list(namespace, prefix, options);
    all.push(...objects);
    if (objects.length < LIST_LIMIT) return all;
    last = objects[objects.length - 1]!.name;
  }
}

/** The bytes of an object, a copy. */
export async function readObject(
  thread: VolumeThread,
  store: ObjectStore,
  namespace: string,
  object: { name: string; bytes: number },
): Promise<Uint8Array> {
  const bytes = alignUp(object.bytes, CLUSTER_BYTES);
  const memory = await thread.destagePool.take(bytes);
  try {
    await store.read(
      namespace,
      [{ name: object.name, offset: 0, bytes, into: memory }],
      READ_TIMEOUT_MS,
    );
    return thread.world.arena.slice(memory, object.bytes).slice();
  } finally {
    thread.destagePool.give(memory);
  }
}

/** Puts bytes as an object; answers what the ASDs stored. */
export async function putObject(
  thread: VolumeThread,
  store: ObjectStore,
  request: Pick<
    Parameters<ObjectStore["put"]>[0],
    "namespace" | "name" | "ownerEpoch" | "extras" | "timeoutMs"
  >,
  content: { bytes: number; encode(target: Uint8Array, at: number): void },
): Promise<{ bytes: number; storedBytes: number }> {
  const { world, destagePool } = thread;
  const bytes = alignUp(content.bytes, CLUSTER_BYTES);
  const memory = await destagePool.take(bytes);
  try {
    world.arena.bytes.fill(0, memory, memory + bytes);
    content.encode(world.arena.bytes, memory);
    const crcs = new Uint32Array(bytes / CLUSTER_BYTES);
    world.codec.crc32cClusters(memory, crcs.length, crcs, 0);
    const payload = { list: new Uint32Array([memory, bytes]), count: 1 };
    const result = await store.put({ ...request, payload, bytes, crcs });
    return { bytes, storedBytes: result.storedBytes };
  } finally {
    destagePool.give(memory);
  }
}
