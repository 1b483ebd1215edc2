// SPDX-License-Identifier: Apache-2.0
// What both hosts of the backend have: the view of the OSDs, connections to them, manifests, and
// reads. The proxy adds uploads and maintenance, the router's client adds the way to proxies.

import { MIB } from "../base/units.js";
import { ArenaPool } from "../platform/arena.js";
import type { World } from "../platform/world.js";
import type { Registry } from "../registry/registry.js";
import { type ReadCounters, Reader } from "./download.js";
import { Hedge } from "./hedge.js";
import { ManifestCache } from "./manifestcache.js";
import { type OsdFactory, OsdPool } from "./osdpool.js";
import { PieceReader } from "./pieces.js";
import { BackendTopology } from "./topology.js";

/**
 * Least memory for decoding: half of it has room for a slice of every fragment of the widest code.
 */
export const DECODE_BYTES_MIN = 16 * MIB;
const CONNECT_WAIT_MS = 3000;
const CONNECT_LOOK_MS = 5;

export interface CoreOptions {
  /** Manifests that are kept (about half a KiB each). */
  manifestsMax: number;
  /** Bytes of the arena for fragments that are decoded from. */
  decodeBytes: number;
  /** Makes the connection to an OSD. */
  factory: OsdFactory;
  /** See ReadHost.onDamage. */
  onDamage: (namespace: string, name: string, fragment: number) => void;
}

export class BackendCore {
  readonly world: World;
  readonly registry: Registry;
  readonly topology: BackendTopology;
  readonly pool: OsdPool;
  readonly manifests: ManifestCache;
  readonly hedge = new Hedge();
  readonly pieces: PieceReader;
  readonly reader: Reader;
  /** For decoding. */
  readonly memory: ArenaPool;
  readonly counters: ReadCounters = {
    reads: 0,
    parts: 0,
    bytes: 0,
    decodedPieces: 0,
    decodedBytes: 0,
  };
  readonly onDamage: CoreOptions["onDamage"];

  constructor(world: World, registry: Registry, options: CoreOptions) {
    this.world = world;
    this.registry = registry;
    this.onDamage = options.onDamage;
    this.topology = new BackendTopology(world, registry);
    this.pool = new OsdPool(world, this.topology, options.factory);
    this.manifests = new ManifestCache(registry, options.manifestsMax);
    this.pieces = new PieceReader(world.clock, this.pool, this.hedge);
    const bytes = Math.max(options.decodeBytes, DECODE_BYTES_MIN);
    this.memory = new ArenaPool(world.arena.region(bytes, "decoding"), bytes);
    this.reader = new Reader(this);
  }

  /** Reads the topology and connects; waits a moment for the OSDs, not for dead ones. */
  async start(): Promise<void> {
    await this.topology.start();
    this.pool.start();
    const { clock } = this.world;
    const untilMs = clock.nowMs() + CONNECT_WAIT_MS;
    while (clock.nowMs() < untilMs && [...this.pool.all()].some((osd) => osd.connecting)) {
      await clock.sleep(CONNECT_LOOK_MS);
    }
  }

  /** Stops following the topology and closes the connections to the OSDs. */
  async stop(): Promise<void> {
    this.topology.stop();
    await this.pool.stop();
  }
}
