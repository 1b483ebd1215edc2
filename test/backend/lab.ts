// SPDX-License-Identifier: Apache-2.0
// A backend over OSDs in memory that can be slow, silent, full or damaged; everything else is real.
// memory; everything else is real.
import type { Test } from "tap";
import { BackendCore } from "../../src/backend/core.js";
import { LateDeletes } from "../../src/backend/marks.js";
import { createNamespace, Namespaces, uploadEpoch } from "../../src/backend/namespaces.js";
import { parsePolicy } from "../../src/backend/policy.js";
import { RateLimit } from "../../src/backend/ratelimit.js";
import { ensurePreset, registerOsd } from "../../src/backend/records.js";
import type { RepairHost } from "../../src/backend/repair.js";
import { noUploads, type Upload, upload } from "../../src/backend/upload.js";
import { widthOf } from "../../src/backend/width.js";
import { KIB, MIB } from "../../src/base/units.js";
import { ArenaPool } from "../../src/platform/arena.js";
import type { NodeWorld } from "../../src/platform/node/world.js";
import { FailureDomain } from "../../src/wire/generated/manifest.js";
import { openTestRegistry, type TestRegistry } from "./cluster.js";
import { FakeOsd } from "./fakeosd.js";
import { FaultyRegistry } from "./faults.js";

/** Of everything random in the lab. */
export const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
const DATA_BYTES = 8 * MIB;
const CLUSTER = "11111111-2222-3333-4444-555555555555";

/** One backend, with what tests ask of it. */
export class Lab {
  readonly home: TestRegistry;
  readonly world: NodeWorld;
  readonly registry: FaultyRegistry;
  readonly osds = new Map<number, FakeOsd>();
  readonly core: BackendCore;
  readonly namespaces: Namespaces;
  readonly late: LateDeletes;
  readonly repairs: RepairHost;
  readonly damage: string[] = [];
  readonly data: number;
  readonly back: number;
  readonly counters = noUploads();
  readonly #zeroes: number;
  readonly #parity: ArenaPool;
  #state = SEED;

  constructor(home: TestRegistry) {
    this.home = home;
    this.world = home.world;
    this.registry = new FaultyRegistry(home.registry);
    const { world, registry } = this;
    this.core = new BackendCore(world, registry, {
      manifestsMax: 100,
      decodeBytes: 16 * MIB,
      factory: ({ id }) => {
        const osd = this.osds.get(id) ?? new FakeOsd(world, id);
        this.osds.set(id, osd);
        return osd;
      },
      onDamage: (_, name, fragment) => this.damage.push(`${name}/${fragment}`),
    });
    this.namespaces = new Namespaces(registry, world.clock);
    this.late = new LateDeletes(world, this.core.pool);
    const pool = (bytes: number, name: string) =>
      new ArenaPool(world.arena.region(bytes, name), bytes);
    this.#parity = pool(16 * MIB, "parity");
    this.repairs = {
      core: this.core,
      namespaces: this.namespaces,
      late: this.late,
      memory: pool(16 * MIB, "repair"),
      rate: new RateLimit(world.clock, {
        bytesPerSecond: 1e9,
        bytesPerSecondBusy: 1e9,
        isBusy: () => false,
      }),
      putTimeoutMs: 1000,
      lostAfterMs: 60_000,
      isStopping: () => false,
    };
    this.#zeroes = world.arena.region(64 * KIB, "zeroes");
    this.data = world.arena.region(DATA_BYTES, "data");
    this.back = world.arena.region(DATA_BYTES, "back");
    for (let i = 0; i < DATA_BYTES / 4; i++) {
      world.arena.u32[this.data / 4 + i] = this.below(2 ** 32);
    }
  }

  static async start(
    t: Test,
    options: { osds?: number; policies?: string[]; perNode?: number } = {},
  ): Promise<Lab> {
    const home = await openTestRegistry(160 * MIB);
    const lab = new Lab(home);
    t.teardown(async () => {
      await lab.late.stop();
      await lab.core.stop();
      await home.stop();
    });
    await ensurePreset(home.registry, "default", {
      policies: (options.policies ?? ["4,2,5,6"]).map(parsePolicy),
      domain: FailureDomain.node,
    });
    for (let i = 0; i < (options.osds ?? 6); i++) {
      await lab.addOsd(`n${Math.floor(i / (options.perNode ?? 100))}`);
    }
    await lab.core.start();
    await createNamespace(home.registry, lab.world, "ns", { ownerEpoch: 1, preset: "default" });
    return lab;
  }

  async addOsd(node: string): Promise<number> {
    const diskUuid = `00000000-0000-0000-0000-${String(this.osds.size + 1).padStart(12, "0")}`;
    const id = await registerOsd(this.home.registry, {
      diskUuid,
      clusterUuid: CLUSTER,
      address: `unix:/${this.osds.size}`,
      site: "s",
      rack: "r",
      node,
      capacityBytes: 1e12,
    });
    if (!this.osds.has(id)) this.osds.set(id, new FakeOsd(this.world, id));
    return id;
  }

  get all(): FakeOsd[] {
    return [...this.osds.values()];
  }

  below(limit: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * limit);
  }

  async upload(name: string, bytes: number, change: object = {}): Promise<Upload> {
    const crcs = new Uint32Array(Math.ceil(bytes / 4096));
    this.world.codec.crc32cClusters(this.data, crcs.length, crcs, 0);
    return await upload(
      {
        world: this.world,
        registry: this.registry,
        pool: this.core.pool,
        namespaces: this.namespaces,
        late: this.late,
        memory: this.#parity,
        zeroes: this.#zeroes,
        putTimeoutMs: 1000,
        counters: this.counters,
        isStopping: () => false,
      },
      {
        namespace: "ns",
        name,
        uploadId: this.world.random.bytes(16),
        data: this.data,
        bytes,
        crcs,
        ownerEpoch: 1,
        epoch: uploadEpoch(await this.namespaces.get("ns")),
        extras: { compares: [], operations: [] },
        timeoutMs: 5000,
        ...change,
      },
    );
  }

  async put(name: string, bytes: number): Promise<Upload["result"]> {
    const { result, finished } = await this.upload(name, bytes);
    await finished;
    return result;
  }

  async isRight(name: string, offset: number, bytes: number): Promise<boolean> {
    const { arena } = this.world;
    arena.bytes.fill(0xee, this.back, this.back + bytes);
    const parts = [{ name, offset, bytes, into: this.back }];
    await this.core.reader.read("ns", parts, { timeoutMs: 3000, priority: 0 });
    const want = arena.slice(this.data + offset, bytes);
    return Buffer.compare(arena.slice(this.back, bytes), want) === 0;
  }

  /** OSDs that hold the object's fragments, by fragment. */
  places(name: string): FakeOsd[] {
    const view = this.core.manifests.get("ns", name);
    return view!.osds.map((id) => this.osds.get(id)!);
  }

  async width(): Promise<number> {
    const { registry, pool } = this.core;
    return (await widthOf({ registry, pool }, "ns", "default", 600_000)).spareMin ?? -1;
  }

  keys(letter: string): number {
    return this.all.reduce((sum, osd) => sum + osd.keys(letter).length, 0);
  }
}
