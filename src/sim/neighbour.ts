// SPDX-License-Identifier: Apache-2.0
// Another user of an ASD, beside the proxies: bursts of puts, deletes and reads of a few keys of
// its own, several at a time. The proxies never write a key twice and read little; what an ASD
// promises of keys that change while they are read is looked at here.
//
// Each key is a register of the same checker that looks at vDisks (history.ts): 0 is no value, and
// every answer is durable. Its disk is one that loses nothing.

import { AsdClient, AsdPartStatus } from "../asd/client.js";
import { StorageError } from "../base/errors.js";
import { MIB } from "../base/units.js";
import { oneSegment } from "../platform/segments.js";
import { ASD_PAGE_BYTES } from "../wire/generated/asd.js";
import type { SimCluster } from "./cluster.js";
import type { Dice } from "./dice.js";
import { History, UNIT_BYTES } from "./history.js";
import { SimHost } from "./host.js";
import { Life } from "./life.js";
import { fillUnits, GARBAGE, valuesOf } from "./pattern.js";
import { SimWorld } from "./world.js";

export interface NeighbourOptions {
  /** Mean time between two bursts in milliseconds; 0: there is no neighbour. */
  everyMs: number;
  /** Requests at the same time. */
  depth: number;
  /** Requests of each of those, one after the other. */
  length: number;
  /** Keys that most requests go to. */
  hotKeys: number;
  readShare: number;
  /** Of the others. */
  deleteShare: number;
}

const DEPTH_MAX = 6;
const PAGES_MAX = 6;
const UNITS_PER_PAGE = ASD_PAGE_BYTES / UNIT_BYTES;
const TIMEOUT_MS = 5000;
const AGAIN_MS = 200;
/** What the backend keeps begins with other bytes. */
const PREFIX = "neighbour/";

/** A neighbour of its own kind; half of the seeds have none. */
export function someNeighbour(dice: Dice): NeighbourOptions {
  return {
    everyMs: dice.chance(0.5) ? 0 : dice.pick([2000, 4000]),
    depth: dice.between(2, DEPTH_MAX),
    length: dice.between(2, 8),
    hotKeys: dice.pick([2, 4, 8]),
    readShare: dice.pick([0.3, 0.5]),
    deleteShare: dice.pick([0.2, 0.5]),
  };
}

export class Neighbour {
  readonly #cluster: SimCluster;
  readonly #options: NeighbourOptions;
  readonly #dice: Dice;
  readonly #asd: number;
  readonly #onViolation: (words: string) => void;
  readonly #world: SimWorld;
  readonly #history = new History();
  /** Places of values in the arena, one for each request at a time. */
  readonly #free: number[];
  /** Keys by their numbers; those with too many writes of unknown outcome are changed no more. */
  readonly #hot: number[] = [];
  #client: AsdClient | null = null;
  #keys = 0;
  #last = 0;
  #actors = 0;
  #running = false;

  /** `asd`: number of the disk, which must not lose anything. */
  constructor(
    cluster: SimCluster,
    options: NeighbourOptions,
    parts: { dice: Dice; asd: number; onViolation: (words: string) => void },
  ) {
    this.#cluster = cluster;
    this.#options = options;
    this.#dice = parts.dice;
    this.#asd = parts.asd;
    this.#onViolation = parts.onViolation;
    const { scene } = cluster;
    const host = new SimHost(scene, "nb", "127.1.9.2");
    const sizes = { arenaBytes: MIB, receivePoolBytes: MIB };
    this.#world = new SimWorld(host, new Life("neighbour", scene.timeline), sizes);
    const bytes = PAGES_MAX * ASD_PAGE_BYTES;
    const at = this.#world.arena.region(DEPTH_MAX * bytes, "values of the neighbour");
    this.#free = Array.from({ length: DEPTH_MAX }, (_, i) => at + i * bytes);
    for (let i = 0; i < options.hotKeys; i++) this.#hot.push(this.#keys++);
  }

  /** Begins; bursts follow each other until `stop`. */
  start(): void {
    if (this.#options.everyMs === 0) return;
    this.#running = true;
    this.#later();
  }

  /** Makes no more requests. */
  stop(): void {
    this.#running = false;
  }

  /** Requests are under way. */
  get isBusy(): boolean {
    return this.#actors > 0;
  }

  /** Reads all its keys; each must be answered, and be right. */
  async readAll(): Promise<void> {
    if (this.#options.everyMs === 0) return;
    for (let key = 0; key < this.#keys; key++) {
      while (!(await this.#with((client, at) => this.#read(client, at, key)))) {
        await this.#world.clock.sleep(AGAIN_MS);
      }
    }
  }

  #later(): void {
    const { timeline } = this.#cluster.scene;
    timeline.after(this.#dice.around(this.#options.everyMs), null, () => {
      if (!this.#running) return;
      if (this.#actors === 0) {
        for (let i = 0; i < this.#options.depth; i++) void this.#act();
      }
      this.#later();
    });
  }

  /** Requests one after the other, until one is not answered. */
  async #act(): Promise<void> {
    this.#actors++;
    let goesOn = true;
    for (let i = 0; goesOn && i < this.#options.length; i++) {
      const { readShare, deleteShare } = this.#options;
      const isRead = this.#dice.chance(readShare);
      const isDelete = this.#dice.chance(deleteShare);
      goesOn = await this.#with((client, at) => {
        const key = this.#someKey();
        return isRead ? this.#read(client, at, key) : this.#change(client, at, key, isDelete);
      });
    }
    this.#actors--;
  }

  #someKey(): number {
    const i = this.#dice.below(this.#hot.length);
    if (this.#history.isCrowded(this.#hot[i]!, 1)) this.#hot[i] = this.#keys++;
    return this.#hot[i]!;
  }

  /** False when it was not answered. */
  async #with(work: (client: AsdClient, at: number) => Promise<void>): Promise<boolean> {
    const at = this.#free.pop()!;
    try {
      await work(await this.#connected(), at);
      return true;
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      return false;
    } finally {
      this.#free.push(at);
    }
  }

  /** An operator may have moved the disk. */
  async #connected(): Promise<AsdClient> {
    const place = this.#cluster.asds[this.#asd]!.spec.whereIs!();
    if (this.#client !== null && this.#client.address !== place.address) {
      const old = this.#client;
      this.#client = null;
      await old.close();
    }
    this.#client ??= new AsdClient(this.#world, {
      ...place,
      self: { role: "test", id: "", cluster: place.clusterUuid },
    });
    return this.#client;
  }

  async #change(client: AsdClient, at: number, key: number, isDelete: boolean): Promise<void> {
    const operation = ++this.#last;
    const [name, pages] = [nameOf(key), pagesOf(key)];
    const bytes = pages * ASD_PAGE_BYTES;
    this.#history.writeBegins(operation, key, 1, isDelete);
    if (isDelete) await client.apply({ deletes: [name] }, { timeoutMs: TIMEOUT_MS });
    else {
      fillUnits(this.#world.arena.slice(at, bytes), operation, key * PAGES_MAX * UNITS_PER_PAGE);
      const crcs = new Uint32Array(pages);
      this.#world.codec.crc32cClusters(at, pages, crcs, 0);
      const value = { key: name, length: bytes, crcs, pieces: oneSegment(at, bytes) };
      await client.apply({ values: [value] }, { timeoutMs: TIMEOUT_MS });
    }
    this.#history.writeEnds(operation, true);
  }

  async #read(client: AsdClient, at: number, key: number): Promise<void> {
    const operation = ++this.#last;
    const bytes = pagesOf(key) * ASD_PAGE_BYTES;
    this.#history.readBegins(operation, key, 1);
    const part = { key: nameOf(key), offset: 0, bytes, into: at };
    const { statuses } = await client.multiGet([part], { timeoutMs: TIMEOUT_MS }).catch((error) => {
      this.#history.readIsOver(operation);
      throw error;
    });
    const [status] = statuses;
    const found = status === AsdPartStatus.missing ? 0 : this.#valueAt(at, key, status!);
    const violation = this.#history.readEnds(operation, Uint32Array.of(found));
    if (violation === null) return;
    const words = `key ${key} of asd-${this.#asd} holds ${found} (status ${status})`;
    this.#onViolation(`neighbour: ${words}; allowed: ${violation.allowed.join(", ")}`);
  }

  #valueAt(at: number, key: number, status: number): number {
    if (status !== AsdPartStatus.ok) return GARBAGE;
    const bytes = this.#world.arena.slice(at, pagesOf(key) * ASD_PAGE_BYTES);
    const values = valuesOf(bytes, key * PAGES_MAX * UNITS_PER_PAGE);
    return values.every((value) => value === values[0]) ? values[0]! : GARBAGE;
  }
}

function nameOf(key: number): Uint8Array {
  return Buffer.from(`${PREFIX}${key}`);
}

function pagesOf(key: number): number {
  return 1 + (key % PAGES_MAX);
}
