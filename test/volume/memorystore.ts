// SPDX-License-Identifier: Apache-2.0
// An object store in memory that keeps the backend's rules and fails when told to.

import type {
  CommitExtras,
  ObjectInfo,
  ObjectStore,
  PutRequest,
  PutResult,
  ReadPart,
} from "../../src/backend/store.js";
import { compareBytes } from "../../src/base/bytes.js";
import { StorageError } from "../../src/base/errors.js";
import { CLUSTER_BYTES } from "../../src/base/units.js";
import type { World } from "../../src/platform/world.js";
import type { Compare } from "../../src/registry/registry.js";

interface Namespace {
  fence: number;
  objects: Map<string, Uint8Array>;
  keys: Map<string, { value: Uint8Array; version: number }>;
}

export class MemoryStore implements ObjectStore {
  readonly namespaces = new Map<string, Namespace>();
  world: World | null = null;
  /** Every call fails with this while it is set. */
  down: StorageError | null = null;
  /** Called before a put commits; may throw or wait. */
  beforePut: ((request: PutRequest) => Promise<void>) | null = null;
  beforeRead: ((parts: readonly ReadPart[]) => Promise<void>) | null = null;
  putBytes = 0;
  reads = 0;

  async createNamespace(namespace: string, ownerEpoch: number): Promise<void> {
    await this.#turn();
    if (this.namespaces.has(namespace)) return await this.raiseFence(namespace, ownerEpoch);
    this.namespaces.set(namespace, { fence: ownerEpoch, objects: new Map(), keys: new Map() });
  }

  async deleteNamespace(namespace: string): Promise<void> {
    await this.#turn();
    this.namespaces.delete(namespace);
  }

  async raiseFence(namespace: string, ownerEpoch: number): Promise<void> {
    await this.#turn();
    const space = this.space(namespace);
    if (space.fence > ownerEpoch)
      throw new StorageError("OVS_FENCED", `fence is at ${space.fence}`);
    space.fence = ownerEpoch;
  }

  async put(request: PutRequest): Promise<PutResult> {
    await this.#turn();
    const bytes = new Uint8Array(request.bytes);
    let at = 0;
    const { list, count } = request.payload;
    for (let i = 0; i < count; i++) {
      bytes.set(this.world!.arena.slice(list[2 * i]!, list[2 * i + 1]!), at);
      at += list[2 * i + 1]!;
    }
    if (at !== request.bytes) throw new Error("the payload has other bytes than stated");
    this.#checkCrcs(bytes, request.crcs);
    if (this.beforePut) await this.beforePut(request);
    await this.#turn();
    const space = this.space(request.namespace);
    if (space.fence !== request.ownerEpoch) throw new StorageError("OVS_FENCED", "another's fence");
    if (space.objects.has(request.name)) throw new StorageError("OVS_EXISTS", request.name);
    commit(space, request.extras);
    space.objects.set(request.name, bytes);
    this.putBytes += request.bytes;
    return { revision: 1, fragments: 6, storedBytes: Math.ceil(request.bytes * 1.5) };
  }

  async remove(
    namespace: string,
    names: readonly string[],
    ownerEpoch: number,
    extras: CommitExtras,
  ): Promise<void> {
    await this.#turn();
    const space = this.space(namespace);
    if (space.fence !== ownerEpoch) throw new StorageError("OVS_FENCED", "another owner's fence");
    commit(space, extras);
    for (const name of names) space.objects.delete(name);
  }

  async read(namespace: string, parts: readonly ReadPart[]): Promise<void> {
    await this.#turn();
    if (this.beforeRead) await this.beforeRead(parts);
    this.reads++;
    const space = this.space(namespace);
    for (const part of parts) {
      const object = space.objects.get(part.name);
      if (!object) throw new StorageError("OVS_NOT_FOUND", part.name);
      const target = this.world!.arena.slice(part.into, part.bytes);
      target.fill(0);
      target.set(object.subarray(part.offset, part.offset + part.bytes));
    }
  }

  async list(
    namespace: string,
    prefix: string,
    options: { after?: string; limit: number },
  ): Promise<ObjectInfo[]> {
    await this.#turn();
    const { after, limit } = options;
    return this.names(namespace, prefix)
      .filter((name) => after === undefined || name > after)
      .slice(0, limit)
      .map((name) => {
        return { name, bytes: this.space(namespace).objects.get(name)!.byteLength, spare: 2 };
      });
  }

  async waitFullWidth(): Promise<{ full: boolean; spareMin: number }> {
    await this.#turn();
    return { full: true, spareMin: 2 };
  }

  /** Names of a namespace's objects with a prefix, in order. */
  names(namespace: string, prefix: string): string[] {
    const names = [...(this.namespaces.get(namespace)?.objects.keys() ?? [])];
    return names.filter((name) => name.startsWith(prefix)).sort();
  }

  space(namespace: string): Namespace {
    const space = this.namespaces.get(namespace);
    if (!space) throw new StorageError("OVS_NOT_FOUND", `namespace ${namespace}`);
    return space;
  }

  async #turn(): Promise<void> {
    await new Promise<void>((resolve) => void setImmediate(resolve));
    if (this.down) throw this.down;
  }

  #checkCrcs(bytes: Uint8Array, crcs: Uint32Array): void {
    const pages = Math.ceil(bytes.byteLength / CLUSTER_BYTES);
    if (crcs.length !== pages) throw new Error("one CRC for each 4 KiB");
    for (let i = 0; i < pages; i++) {
      const page = new Uint8Array(CLUSTER_BYTES);
      page.set(bytes.subarray(i * CLUSTER_BYTES, (i + 1) * CLUSTER_BYTES));
      if (this.world!.codec.crc32cOf(page, 0) === crcs[i]) continue;
      throw new StorageError("OVS_CORRUPT", "a wrong CRC was given");
    }
  }
}

function commit(space: Namespace, extras: CommitExtras): void {
  for (const compare of extras.compares) {
    if (holds(space.keys.get(compare.key), compare)) continue;
    throw new StorageError("OVS_FENCED", `the compare of ${compare.key} failed`);
  }
  for (const operation of extras.operations) {
    if (operation.kind !== "put") throw new Error("tests put only");
    const version = (space.keys.get(operation.key)?.version ?? 0) + 1;
    space.keys.set(operation.key, { value: operation.value, version });
  }
}

function holds(
  entry: { value: Uint8Array; version: number } | undefined,
  compare: Compare,
): boolean {
  if (compare.is !== "=") return false;
  if (compare.target === "value") {
    return compareBytes(entry?.value ?? new Uint8Array(0), compare.value) === 0;
  }
  return compare.target === "version" && (entry?.version ?? 0) === compare.number;
}
