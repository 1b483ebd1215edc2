// SPDX-License-Identifier: Apache-2.0
// The backend against real ASDs and the embedded registry, all in this process.
import { closeSync, openSync, readSync, statSync, writeSync } from "node:fs";
import t, { type Test } from "tap";
import { BackendClient, CLIENT_DEFAULTS } from "../../src/backend/client.js";
import { drainOsd } from "../../src/backend/drain.js";
import {
  PROXY_ARENA_BYTES,
  PROXY_DEFAULTS,
  PROXY_RECEIVE_BYTES,
  ProxyDaemon,
} from "../../src/backend/proxy.js";
import { setOsdState } from "../../src/backend/records.js";
import { OBJECT_BYTES_MAX } from "../../src/backend/store.js";
import { KIB, MIB } from "../../src/base/units.js";
import type { NodeWorld } from "../../src/platform/node/world.js";
import type { Registry } from "../../src/registry/registry.js";
import { OsdState } from "../../src/wire/generated/osd.js";
import { type TestAsd, TestCluster } from "./cluster.js";
import { FaultyRegistry } from "./faults.js";

t.setTimeout(280_000);

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
const NO_EXTRAS = { compares: [], operations: [] };
/** Room for the longest object from a random page on. */
const DATA_BYTES = OBJECT_BYTES_MAX + MIB;

/** A cluster with proxies and one client that can make, put and check objects. */
class Bench {
  readonly cluster: TestCluster;
  readonly proxies: ProxyDaemon[] = [];
  world!: NodeWorld;
  client!: BackendClient;
  data = 0;
  back = 0;
  #state = seed;
  readonly #contents = new Map<string, { start: number; bytes: number }>();

  private constructor(cluster: TestCluster) {
    this.cluster = cluster;
  }

  static async start(
    t: Test,
    options: { asds?: number; policies?: string[]; proxies?: Registry[] | number } = {},
  ): Promise<Bench> {
    const policies = options.policies ?? ["4,2,5,6"];
    const cluster = await TestCluster.start({ asds: options.asds ?? 6, policies });
    const bench = new Bench(cluster);
    t.teardown(() => bench.stop());
    const count = options.proxies ?? 1;
    for (let i = 0; i < (count as number); i++) await bench.addProxy(cluster.registry);
    await bench.addClient();
    await bench.client.createNamespace("vd", 1);
    return bench;
  }

  async addProxy(registry: Registry): Promise<ProxyDaemon> {
    const index = this.proxies.length;
    const world = this.cluster.world(`proxy-${index}`, PROXY_ARENA_BYTES, PROXY_RECEIVE_BYTES);
    const proxy = new ProxyDaemon(world, {
      ...PROXY_DEFAULTS,
      id: `proxy-${index}`,
      clusterUuid: this.cluster.cluster,
      addresses: [`unix:${this.cluster.folder}/proxy-${index}.sock`],
      registry,
      maintenanceTickMs: 50,
      lostAfterMs: 60_000,
      putTimeoutMs: 3000,
    });
    await proxy.start();
    this.proxies.push(proxy);
    return proxy;
  }

  async addClient(): Promise<void> {
    const { cluster } = this;
    this.world = cluster.world("client", 2 * DATA_BYTES + 88 * MIB);
    this.client = new BackendClient(this.world, {
      ...CLIENT_DEFAULTS,
      self: { role: "test", id: "client", cluster: cluster.cluster },
      registry: cluster.registry,
      proxies: this.proxies.flatMap((proxy) => proxy.addresses),
    });
    await this.client.start();
    this.data = this.world.arena.region(DATA_BYTES, "data");
    this.back = this.world.arena.region(DATA_BYTES, "back");
    const words = DATA_BYTES / 4;
    for (let i = 0; i < words; i++) this.world.arena.u32[this.data / 4 + i] = this.below(2 ** 32);
  }

  async stop(): Promise<void> {
    await this.client?.stop();
    for (const proxy of this.proxies) await proxy.stop();
    await this.cluster.stop();
  }

  below(limit: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * limit);
  }

  /** Puts `bytes` bytes of the data, from a random page on. */
  async put(name: string, bytes: number, ownerEpoch = 1, timeoutMs = 10_000) {
    const pages = Math.ceil(bytes / 4096);
    const start = this.below(DATA_BYTES / 4096 - pages) * 4096;
    const crcs = new Uint32Array(pages);
    const { codec, arena } = this.world;
    const last = arena.slice(this.data + start + (pages - 1) * 4096, 4096);
    codec.crc32cClusters(this.data + start, pages, crcs, 0);
    const used = bytes - (pages - 1) * 4096;
    crcs[pages - 1] = codec.crc32cOf(
      Buffer.concat([last.subarray(0, used), Buffer.alloc(4096 - used)]),
      0,
    );
    const payload = { list: Uint32Array.of(this.data + start, bytes), count: 1 };
    this.#contents.set(name, { start, bytes });
    return await this.client.put({
      namespace: "vd",
      name,
      payload,
      bytes,
      crcs,
      ownerEpoch,
      extras: NO_EXTRAS,
      timeoutMs,
    });
  }

  /** Reads some pages and says whether they are right. */
  async isRight(name: string, offset: number, bytes: number): Promise<boolean> {
    const { arena } = this.world;
    const { start, bytes: size } = this.#contents.get(name)!;
    arena.bytes.fill(0xee, this.back, this.back + bytes);
    await this.client.read("vd", [{ name, offset, bytes, into: this.back }], 10_000);
    const real = Math.max(0, Math.min(bytes, size - offset));
    const want = arena.slice(this.data + start + offset, real);
    const rest = arena.slice(this.back + real, bytes - real);
    return Buffer.compare(arena.slice(this.back, real), want) === 0 && rest.every((b) => b === 0);
  }

  async isAllRight(name: string): Promise<boolean> {
    return await this.isRight(name, 0, Math.ceil(this.#contents.get(name)!.bytes / 4096) * 4096);
  }

  /** Many parts of many objects in one call. */
  async areRight(names: string[], count: number): Promise<boolean> {
    const { arena } = this.world;
    const parts = [];
    let into = this.back;
    for (let i = 0; i < count; i++) {
      const name = names[this.below(names.length)]!;
      const pages = Math.floor(this.#contents.get(name)!.bytes / 4096);
      const first = this.below(pages);
      const bytes = (1 + this.below(Math.min(pages - first, 40))) * 4096;
      parts.push({ name, offset: first * 4096, bytes, into });
      into += bytes;
    }
    await this.client.read("vd", parts, 10_000);
    return parts.every(({ name, offset, bytes, into: at }) => {
      const want = arena.slice(this.data + this.#contents.get(name)!.start + offset, bytes);
      return Buffer.compare(arena.slice(at, bytes), want) === 0;
    });
  }

  async until(what: string, isTrue: () => boolean | Promise<boolean>, ms = 20_000): Promise<void> {
    const end = Date.now() + ms;
    while (!(await isTrue())) {
      if (Date.now() > end) throw new Error(`waited in vain: ${what}`);
      await this.world.clock.sleep(20);
    }
  }

  async stopAsd(asd: TestAsd): Promise<void> {
    await this.cluster.stopAsd(asd);
    await this.until("the loss is seen", () => this.seen(asd.id).every((up) => !up));
  }

  async startAsd(asd: TestAsd): Promise<void> {
    await this.cluster.startAsd(asd);
    await this.until("the OSD is back", () => this.seen(asd.id).every((up) => up));
  }

  /** Whether client and proxies have a connection to the OSD. */
  seen(id: number): boolean[] {
    const all = [this.client.status().osds, ...this.proxies.map((p) => p.status().osds)];
    return all.map((osds) => osds.find((osd) => osd.id === id)?.up ?? false);
  }

  /** Keys on all living ASDs. */
  keys(): number {
    return this.cluster.asds.reduce((sum, asd) => sum + (asd.daemon?.status()?.keys ?? 0), 0);
  }
}

/** Flips a byte of a page that is not all zeroes in an ASD's first extent file. */
function flip(bench: Bench, asd: TestAsd, count: number): number {
  const [path] = bench.cluster.extentsOf(asd);
  const file = openSync(path!, "r+");
  const page = Buffer.alloc(4096);
  let flipped = 0;
  for (let at = 0; at < statSync(path!).size && flipped < count; at += 4096) {
    if (readSync(file, page, 0, 4096, at) === 0 || page.every((byte) => byte === 0)) continue;
    page[77]! ^= 4;
    writeSync(file, page, 77, 1, at + 77);
    flipped++;
  }
  closeSync(file);
  return flipped;
}

t.test(
  `objects of all sizes are written, read in parts, listed and removed (SEED=${seed})`,
  async (t) => {
    const bench = await Bench.start(t);
    const sizes = [1, 4095, 4096, 4097, 70_000, 256 * KIB, 1_000_001, 5 * MIB, OBJECT_BYTES_MAX];
    for (const bytes of sizes) {
      const result = await bench.put(`sco/${bytes}`, bytes);
      t.equal(result.fragments, 6);
      t.ok(await bench.isAllRight(`sco/${bytes}`), `${bytes} bytes`);
    }
    const names = sizes.filter((bytes) => bytes >= 4096).map((bytes) => `sco/${bytes}`);
    for (let round = 0; round < 20; round++) {
      if (!(await bench.areRight(names, 1 + bench.below(40)))) t.fail(`parts of round ${round}`);
    }
    const list = await bench.client.list("vd", "sco/", { limit: 100 });
    t.same(
      list.map(({ bytes }) => bytes).sort((a, b) => a - b),
      sizes,
    );
    t.ok(list.every(({ spare }) => spare === 2));
    t.same(await bench.client.waitFullWidth("vd", 1000), { full: true, spareMin: 2 });
    await t.rejects(bench.put("sco/1", 1), { code: "OVS_EXISTS" });
    await t.rejects(bench.isRight("sco/4096", 4096, 4096), { code: "OVS_OUT_OF_RANGE" });
    await t.rejects(
      bench.client.read("vd", [{ name: "no", offset: 0, bytes: 4096, into: bench.back }], 1000),
      {
        code: "OVS_NOT_FOUND",
      },
    );
    await bench.client.remove("vd", ["sco/4096", "none"], 1, NO_EXTRAS);
    await t.rejects(bench.isRight("sco/4096", 0, 4096), { code: "OVS_NOT_FOUND" });
    const report = await bench.client.verify(
      { namespaces: null, repair: false, leaks: true },
      60_000,
    );
    t.match(report, { objects: sizes.length - 1, corrupt: 0, missing: 0, leaked: 0, spareMin: 2 });
    await bench.client.deleteNamespace("vd", 1);
    await bench.until("everything is gone", async () => {
      await bench.client.repair(10_000);
      return bench.keys() === 0;
    });
    await bench.client.createNamespace("vd", 5);
  },
);

t.test(
  "two of six OSDs may die; what is written meanwhile grows to full width later",
  async (t) => {
    const bench = await Bench.start(t);
    const { asds } = bench.cluster;
    await bench.put("a", 16 * MIB);
    await bench.put("b", 333_333);
    await bench.stopAsd(asds[1]!);
    const narrow = await bench.put("c", 3 * MIB);
    t.equal(narrow.fragments, 5);
    t.same(
      await bench.client.waitFullWidth("vd", 100),
      { full: true, spareMin: 1 },
      "what the living allow",
    );
    await bench.stopAsd(asds[4]!);
    await t.rejects(bench.put("d", 4096, 1, 2000), { code: "OVS_UNAVAILABLE" });
    for (const name of ["a", "b", "c"]) t.ok(await bench.isAllRight(name), `${name} is decoded`);
    for (let round = 0; round < 10; round++) {
      if (!(await bench.areRight(["a", "b", "c"], 30))) t.fail(`parts of round ${round}`);
    }
    t.ok(bench.client.status().counters.decodedPieces! > 0);
    t.same(await bench.client.waitFullWidth("vd", 100), { full: true, spareMin: 0 });
    await bench.startAsd(asds[1]!);
    await bench.startAsd(asds[4]!);
    t.same(await bench.client.waitFullWidth("vd", 20_000), { full: true, spareMin: 2 });
    await bench.stopAsd(asds[0]!);
    await bench.stopAsd(asds[2]!);
    for (const name of ["a", "b", "c"])
      t.ok(await bench.isAllRight(name), `${name} without two others`);
  },
);

t.test("an OSD is drained when no upload of before the mark can be under way", async (t) => {
  const bench = await Bench.start(t);
  const { registry } = bench.cluster;
  const [osd] = bench.cluster.asds;
  let nowMs = 1000;
  const clock = {
    ...bench.world.clock,
    nowMs: () => nowMs,
    sleep: async (ms: number) => {
      nowMs += ms;
    },
  };
  const asked: number[] = [];
  const counts = [0, null, 0];
  const count = async () => {
    asked.push(nowMs);
    return counts.length > 1 ? counts.shift()! : 0;
  };
  await drainOsd({ clock, registry }, osd!.id, count, Number.POSITIVE_INFINITY);
  t.ok(asked.at(-1)! >= 61_000, `the last look began at ${asked.at(-1)}`);
  const silent = drainOsd({ clock, registry }, osd!.id, async () => null, nowMs + 90_000);
  await t.rejects(silent, { code: "OVS_TIMEOUT", message: /does not answer/ });
});

t.test("empty OSDs take the place of lost ones, and two others may be lost then", async (t) => {
  const bench = await Bench.start(t);
  const { asds } = bench.cluster;
  for (let i = 0; i < 5; i++) await bench.put(`o/${i}`, 1 + bench.below(4 * MIB));
  await bench.stopAsd(asds[2]!);
  await bench.stopAsd(asds[5]!);
  for (const asd of [asds[2]!, asds[5]!])
    await setOsdState(bench.cluster.registry, asd.id, OsdState.gone);
  await bench.cluster.addAsd();
  await bench.cluster.addAsd();
  await bench.until(
    "repair",
    async () => (await bench.client.waitFullWidth("vd", 1000)).spareMin === 2,
  );
  await bench.stopAsd(asds[0]!);
  await bench.stopAsd(asds[1]!);
  bench.client.dropCache();
  for (let i = 0; i < 5; i++) t.ok(await bench.isAllRight(`o/${i}`));
});

t.test("damaged fragments are read around, reported and repaired", async (t) => {
  const bench = await Bench.start(t);
  const { asds } = bench.cluster;
  for (let i = 0; i < 4; i++) await bench.put(`o/${i}`, 700_000);
  t.ok(flip(bench, asds[3]!, 20) > 0);
  t.ok(flip(bench, asds[0]!, 3) > 0);
  for (let i = 0; i < 4; i++) t.ok(await bench.isAllRight(`o/${i}`), "right in spite of it");
  const found = await bench.client.verify(
    { namespaces: ["vd"], repair: true, leaks: false },
    60_000,
  );
  const seen = bench.client.status().counters.corruptPieces! + found.corrupt;
  t.ok(seen > 0, "damage is counted");
  const after = await bench.client.verify({ namespaces: null, repair: true, leaks: true }, 60_000);
  t.match(after, { objects: 4, corrupt: 0, missing: 0, lacking: 0, unreadable: 0, spareMin: 2 });
  for (let i = 0; i < 4; i++) t.ok(await bench.isAllRight(`o/${i}`));
});

t.test("an owner whose time is over is refused and leaves nothing behind", async (t) => {
  const bench = await Bench.start(t);
  await bench.put("before", 100_000);
  const keys = bench.keys();
  await bench.client.raiseFence("vd", 4);
  await bench.client.raiseFence("vd", 4);
  await t.rejects(bench.client.raiseFence("vd", 3), { code: "OVS_FENCED" });
  await t.rejects(bench.put("late", 100_000, 3), { code: "OVS_FENCED" });
  await t.rejects(bench.client.remove("vd", ["before"], 3, NO_EXTRAS), { code: "OVS_FENCED" });
  t.ok((await bench.put("now", 50_000, 4)).fragments >= 5);
  await bench.client.remove("vd", ["now"], 4, NO_EXTRAS);
  await t.rejects(
    bench.client.remove("vd", ["before"], 4, {
      compares: [{ key: "/ns/vd/x", target: "version", is: ">", number: 0 }],
      operations: [],
    }),
    { code: "OVS_FENCED" },
  );
  await bench.until("garbage is gone", async () => {
    await bench.client.repair(10_000);
    return bench.keys() <= keys;
  });
  t.ok(await bench.isAllRight("before"));
});

t.test("a lost or late answer of the registry neither doubles nor loses a commit", async (t) => {
  const bench = await Bench.start(t, { proxies: 0 });
  const faulty = new FaultyRegistry(bench.cluster.registry);
  await bench.client.stop();
  await bench.addProxy(faulty);
  await bench.addClient();
  for (const fault of ["lose-answer", "drop", "delay"] as const) {
    faulty.strike("/ns/vd/o/", fault);
    const result = await bench.put(`o/${fault}`, 300_000);
    t.ok(result.fragments >= 5, fault);
    t.ok(await bench.isAllRight(`o/${fault}`));
  }
  t.equal(faulty.hit, 3);
  t.same(await faulty.deliver(), [false], "the late one can do nothing any more");
  // The fence rises while the first answer is on its way: refused, and refused for ever.
  faulty.strike("/ns/vd/o/", "delay");
  const put = bench.put("o/fenced", 300_000);
  await bench.until("the commit is under way", () => faulty.delayed.length === 1);
  await bench.client.raiseFence("vd", 2);
  await t.rejects(put, { code: "OVS_FENCED" });
  t.same(await faulty.deliver(), [false]);
  const report = await bench.client.verify(
    { namespaces: null, repair: false, leaks: true },
    60_000,
  );
  t.match(report, { objects: 3, missing: 0, leaked: 0 });
});

t.test("what a dead uploader left is collected by its marks", async (t) => {
  const bench = await Bench.start(t, { proxies: 0 });
  const faulty = new FaultyRegistry(bench.cluster.registry);
  await bench.client.stop();
  const proxy = await bench.addProxy(faulty);
  await bench.addProxy(bench.cluster.registry);
  await bench.addClient();
  await bench.put("kept", 100_000);
  await bench.proxies[0]!.status();
  const before = bench.keys();
  faulty.strike("/ns/vd/o/", ...new Array<"delay">(1000).fill("delay"));
  // Both proxies get it, one of them never learns of its commit and is stopped.
  const tries = [bench.put("lost/1", 400_000, 1, 20_000), bench.put("lost/2", 400_000, 1, 20_000)];
  await bench.until("a commit hangs", () => faulty.delayed.length > 0);
  await proxy.stop();
  for (const result of await Promise.all(tries)) t.ok(result.fragments >= 5);
  t.ok(bench.keys() > before);
  await bench.until("garbage is collected", async () => {
    await bench.client.repair(10_000);
    return (
      (await bench.client.verify({ namespaces: null, repair: false, leaks: true }, 60_000))
        .leaked === 0 && bench.keys() === 6 * 2 * 3
    );
  });
  for (const name of ["kept", "lost/1", "lost/2"]) t.ok(await bench.isAllRight(name));
  await faulty.deliver();
  t.equal((await bench.client.list("vd", "", { limit: 10 })).length, 3);
});

t.test(
  "a put whose proxy never answers is settled: it is not there and never will be",
  async (t) => {
    const bench = await Bench.start(t, { proxies: 0 });
    const faulty = new FaultyRegistry(bench.cluster.registry);
    await bench.client.stop();
    await bench.addProxy(faulty);
    await bench.addClient();
    faulty.strike("/ns/vd/o/", ...new Array<"delay">(1000).fill("delay"));
    const put = bench.put("o", 400_000, 1, 1500);
    await t.rejects(put, { code: "OVS_UNAVAILABLE", message: /o was not stored/ });
    faulty.calm();
    t.ok(faulty.delayed.length > 0);
    t.same(new Set(await faulty.deliver()), new Set([false]), "late commits are refused");
    t.ok((await bench.put("o", 400_000)).fragments >= 5, "the name is free");
    t.ok(await bench.isAllRight("o"));
  },
);

t.test("who cannot reach the OSDs reads through a proxy", async (t) => {
  const bench = await Bench.start(t);
  await bench.put("o", 9 * MIB);
  // An ASD does not serve an edge, a proxy does.
  const far = new BackendClient(bench.world, {
    ...CLIENT_DEFAULTS,
    decodeBytes: 16 * MIB,
    self: { role: "edge", id: "far", cluster: bench.cluster.cluster },
    registry: bench.cluster.registry,
    proxies: bench.proxies.flatMap((proxy) => proxy.addresses),
  });
  await far.start();
  await bench.client.stop();
  bench.client = far;
  t.ok(await bench.isAllRight("o"));
  t.ok(await bench.isRight("o", 4096, 12_288));
  t.equal(far.status().counters.fallbackReads, 2);
  await bench.proxies[0]!.stop();
  await t.rejects(bench.isRight("o", 0, 4096), { code: "OVS_UNAVAILABLE" });
});
