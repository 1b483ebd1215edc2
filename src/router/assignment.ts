// SPDX-License-Identifier: Apache-2.0
// Which thread a vDisk lives on, and who this router's folder is. A vDisk's journal, map and caches
// lie in the folder of a *shard*; a shard belongs to thread (shard mod threads). The assignment is
// kept in the router's folder, so that a later start with another number of threads finds
// everything again. It holds no truth that is needed: where it is lost, the folders are lost too.

import { z } from "zod";
import { formatUuid } from "../base/bytes.js";
import { messageOf, StorageError } from "../base/errors.js";
import type { Files } from "../platform/disk.js";
import type { World } from "../platform/world.js";

const FILE_BYTES_MAX = 1024 * 1024;
const SHARDS_MAX = 64;

const fileSchema = z.object({
  version: z.number(),
  cluster: z.string(),
  /** Uuid of this folder; in the headers of its journal segments. */
  router: z.string(),
  /** How often it was started. */
  starts: z.number().int().nonnegative(),
  shards: z.record(
    z.string(),
    z
      .number()
      .int()
      .min(0)
      .max(SHARDS_MAX - 1),
  ),
});

const VERSION = 1;

/** The router's folder: its uuid, its starts, and the shard of each vDisk. */
export class Assignment {
  readonly #files: Files;
  readonly #path: string;
  readonly #threads: number;
  readonly #shards: Map<string, number>;
  readonly #cluster: string;
  readonly router: string;
  readonly starts: number;

  private constructor(
    files: Files,
    path: string,
    threads: number,
    file: z.infer<typeof fileSchema>,
  ) {
    this.#files = files;
    this.#path = path;
    this.#threads = threads;
    this.#cluster = file.cluster;
    this.router = file.router;
    this.starts = file.starts;
    this.#shards = new Map(Object.entries(file.shards));
  }

  /**
   * Reads `<folder>/assignment.json`, or makes it, and counts this start, durably. Refuses a file
   * of another version or cluster; OVS_CORRUPT in words when it is not ours.
   */
  static async open(
    world: World,
    folder: string,
    options: { threads: number; cluster: string },
  ): Promise<Assignment> {
    const { files } = world.disk;
    const path = `${folder}/assignment.json`;
    const bytes = await files.readSmall(path, FILE_BYTES_MAX);
    const file = bytes
      ? readFile(bytes, path, options.cluster)
      : {
          version: VERSION,
          cluster: options.cluster,
          router: formatUuid(world.random.bytes(16)),
          starts: 0,
          shards: {},
        };
    file.starts++;
    const assignment = new Assignment(files, path, options.threads, file);
    await assignment.#write();
    return assignment;
  }

  /** The shards that live on a thread: all that were ever used, and one for each thread. */
  shardsOf(thread: number): number[] {
    const last = Math.max(this.#threads - 1, ...this.#shards.values());
    const shards: number[] = [];
    for (let shard = thread; shard <= last; shard += this.#threads) shards.push(shard);
    return shards;
  }

  /** The thread that a shard lives on. */
  threadOf(shard: number): number {
    return shard % this.#threads;
  }

  /** The vDisk's shard; a new vDisk gets the one with the fewest, durably. */
  async shardOf(id: string): Promise<number> {
    const known = this.#shards.get(id);
    if (known !== undefined) return known;
    const counts = new Array<number>(this.#threads).fill(0);
    for (const shard of this.#shards.values()) {
      if (shard < this.#threads) counts[shard] = (counts[shard] ?? 0) + 1;
    }
    const shard = counts.indexOf(Math.min(...counts));
    this.#shards.set(id, shard);
    await this.#write();
    return shard;
  }

  /** The vDisk is deleted: its place is free, durably. */
  async forget(id: string): Promise<void> {
    if (this.#shards.delete(id)) await this.#write();
  }

  async #write(): Promise<void> {
    const file: z.infer<typeof fileSchema> = {
      version: VERSION,
      cluster: this.#cluster,
      router: this.router,
      starts: this.starts,
      shards: Object.fromEntries(this.#shards),
    };
    await this.#files.writeSmall(this.#path, new TextEncoder().encode(JSON.stringify(file)));
  }
}

function readFile(bytes: Uint8Array, path: string, cluster: string): z.infer<typeof fileSchema> {
  let file: z.infer<typeof fileSchema>;
  try {
    file = fileSchema.parse(JSON.parse(new TextDecoder().decode(bytes)));
  } catch (error) {
    throw new StorageError("OVS_CORRUPT", `${path} cannot be read: ${messageOf(error)}`);
  }
  if (file.version !== VERSION) {
    throw new StorageError(
      "OVS_WRONG_VERSION",
      `${path} has version ${file.version}, this program reads version ${VERSION}`,
    );
  }
  if (file.cluster !== cluster) {
    throw new StorageError(
      "OVS_WRONG_IDENTITY",
      `${path} belongs to cluster ${file.cluster}, not to ${cluster}`,
    );
  }
  return file;
}
