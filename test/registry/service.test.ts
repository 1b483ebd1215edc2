// SPDX-License-Identifier: Apache-2.0
// The registry as a process of its own, over real sockets: the contract, kills, restarts, bad
// input.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { hasCode } from "../../src/base/errors.js";
import { createWorld } from "../../src/platform/node/world.js";
import { RegistryClient, type RegistryClientOptions } from "../../src/registry/client.js";
import { REGISTRY_ROLE, RegistryOp } from "../../src/registry/protocol.js";
import type { WatchEvent } from "../../src/registry/registry.js";
import { RpcClient } from "../../src/rpc/client.js";
import {
  packRegistryIdentity,
  packRegistryTransaction,
  REGISTRY_IDENTITY_FOLDER_VERSION,
} from "../../src/wire/generated/registry.js";
import { until } from "../platform/fixture.js";
import { seeded } from "../platform/kv.contract.js";
import { always, bytes, put, Recorder, registryContract, text } from "./registry.contract.js";

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
const root = mkdtempSync(join(tmpdir(), "ovs-rs-"));
const world = createWorld({ name: "test", arenaBytes: 256 * 2 ** 20, terminal: null });
const children = new Set<ChildProcess>();
const CHILD = new URL("./service.child.js", import.meta.url).pathname;
let serial = 0;
const fresh = () => join(root, String(++serial));

t.teardown(async () => {
  for (const child of children) child.kill("SIGKILL");
  await world.stop();
  rmSync(root, { recursive: true, force: true });
});

function run(...args: string[]): ChildProcess {
  const child = spawn(process.execPath, [CHILD, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  children.add(child);
  child.once("exit", () => children.delete(child));
  return child;
}

async function ended(child: ChildProcess): Promise<number | string | null> {
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  return child.exitCode ?? child.signalCode;
}

async function output(
  child: ChildProcess,
): Promise<{ code: number | string | null; text: string }> {
  let said = "";
  child.stdout!.on("data", (data) => (said += data));
  child.stderr!.on("data", (data) => (said += data));
  await once(child, "close");
  return { code: child.exitCode ?? child.signalCode, text: said };
}

/** A registry process that can be killed and started again. */
class Service {
  readonly path = fresh();
  readonly address = `unix:${this.path}.sock`;
  child!: ChildProcess;

  async start(): Promise<this> {
    this.child = run("serve", this.path, this.address);
    this.child.stderr!.pipe(process.stderr);
    await once(this.child.stdout!, "data");
    this.child.stdout!.resume();
    return this;
  }

  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<number | string | null> {
    this.child.kill(signal);
    return await ended(this.child);
  }

  client(options: Partial<RegistryClientOptions> = {}): RegistryClient {
    return new RegistryClient(world, {
      address: this.address,
      cluster: null,
      role: "test",
      timeoutMs: 10_000,
      backoffMsMax: 20,
      ...options,
    });
  }
}

t.test("the contract, over a socket", async (t) => {
  const service = await new Service().start();
  const registry = service.client();
  const compact = async () => {
    const writes = Array.from({ length: 402 }, () =>
      registry.transact(always(put("compact", "x"))),
    );
    await Promise.all(writes);
  };
  await registryContract(t, () => ({ registry, compact, seed }));
  const stats = await registry.stats();
  t.ok(stats.revision > 400 && stats.compactedRevision > 1 && stats.connections === 1);
  t.equal(stats.watches, 0, "no watch is left behind");
  t.equal(stats.leases, 0);
  await registry.close();
  t.equal(await service.kill("SIGTERM"), 0, "it ends cleanly");
});

/** Follows a prefix through all ends of watches, and keeps what it believes the keys to be. */
class Follower {
  readonly state = new Map<string, string>();
  revision = 0;
  ends = 0;
  #stopped = false;
  readonly #client: RegistryClient;
  readonly #prefix: string;

  constructor(client: RegistryClient, prefix: string) {
    this.#client = client;
    this.#prefix = prefix;
  }

  stop(): void {
    this.#stopped = true;
  }

  async follow(): Promise<void> {
    while (!this.#stopped) {
      try {
        await this.#round();
      } catch (error) {
        if (!hasCode(error, "OVS_UNAVAILABLE") && !hasCode(error, "OVS_TIMEOUT")) throw error;
      }
    }
  }

  async #round(): Promise<void> {
    const { entries, revision } = await this.#client.range(this.#prefix, { limit: 1000 });
    this.state.clear();
    for (const { key, value } of entries) this.state.set(key, text(value));
    this.revision = revision;
    let over = false;
    const onEvents = (events: WatchEvent[], revision: number) => {
      if (revision <= this.revision) throw new Error("revisions grow");
      this.revision = revision;
      for (const { kind, entry } of events) {
        if (kind === "put") this.state.set(entry.key, text(entry.value));
        else this.state.delete(entry.key);
      }
    };
    const onEnd = () => {
      over = true;
      this.ends++;
    };
    const watch = await this.#client.watch(this.#prefix, revision + 1, { onEvents, onEnd });
    await until(() => over || this.#stopped, "the watch ends", 60_000);
    watch.cancel();
  }
}

t.test(`what was acknowledged survives kills of the service (SEED=${seed})`, async (t) => {
  const below = seeded(seed);
  const service = await new Service().start();
  const client = service.client();
  const watching = service.client();
  const follower = new Follower(watching, "chain/");
  const following = follower.follow();
  const { lease } = await client.leaseGrant(30);
  await client.transact(always(put("alive", "1", lease)));
  let stop = false;
  const acknowledged = new Map<string, number>();
  let unknown = 0;
  // Each chain counts up; a step whose outcome is unknown is settled by the same step again (P-B1).
  const chain = async (name: string) => {
    let entry = await client.get(name);
    for (let i = 1; !stop; ) {
      try {
        const result = await client.transact({
          compares: [
            { key: name, target: "modRevision", is: "=", number: entry?.modRevision ?? 0 },
          ],
          success: [put(name, String(i)), { kind: "get", key: name }],
          failure: [{ kind: "get", key: name }],
        });
        entry = result.entries.at(-1)!;
        t.equal(text(entry!.value), String(i), "nobody else writes this chain");
        acknowledged.set(name, i++);
      } catch (error) {
        if (!hasCode(error, "OVS_UNAVAILABLE") && !hasCode(error, "OVS_TIMEOUT")) throw error;
        unknown++;
      }
    }
  };
  const chains = Array.from({ length: 16 }, (_, i) => chain(`chain/${i}`));
  for (let round = 0; round < 5; round++) {
    const before = [...acknowledged.values()].reduce((a, b) => a + b, 0);
    const enough = before + 200 + below(600);
    await until(
      () => [...acknowledged.values()].reduce((a, b) => a + b, 0) > enough,
      "the chains go on after a restart",
      30_000,
    );
    t.equal(await service.kill(), "SIGKILL");
    await service.start();
    t.equal((await client.leaseKeepAlive(lease)).ttlSeconds, 30, "the lease is there");
  }
  stop = true;
  await Promise.all(chains);
  for (const [name, i] of acknowledged) {
    const entry = await client.get(name);
    t.equal(text(entry!.value), String(i), name);
    t.equal(entry!.version, i, "no step was made twice");
  }
  t.ok(unknown > 0, `${unknown} steps had an unknown outcome`);
  const { entries, revision } = await client.range("chain/", { limit: 1000 });
  await until(() => follower.revision >= revision, "the follower has come to the end");
  t.same(new Map(entries.map((e) => [e.key, text(e.value)])), follower.state);
  t.ok(follower.ends >= 5, "watches ended with every kill");
  follower.stop();
  await following;
  await watching.close();
  await client.close();
  await service.kill("SIGTERM");
});

t.test(
  "without a service calls wait until their deadline, then their outcome is unknown",
  async (t) => {
    const service = await new Service().start();
    const client = service.client({ timeoutMs: 300 });
    await client.transact(always(put("a", "1")));
    service.child.kill("SIGSTOP");
    await t.rejects(client.transact(always(put("a", "2"))), { code: "OVS_TIMEOUT" });
    service.child.kill("SIGCONT");
    let seen = "1";
    const look = async () => (seen = text((await client.get("a"))!.value));
    // Its sync may take long on a busy disk, and reads do not wait for it.
    const end = performance.now() + 20_000;
    while (seen === "1" && performance.now() < end) await look();
    t.equal(seen, "2", "this one was applied after all");
    await service.kill();
    const call = client.transact(always(put("a", "3")));
    await t.rejects(call, { code: /OVS_(TIMEOUT|UNAVAILABLE)/ });
    await t.rejects(client.get("a"), { code: /OVS_(TIMEOUT|UNAVAILABLE)/ });
    await service.start();
    const again = service.client();
    t.equal(text((await again.get("a"))!.value), "2");
    await again.close();
    await t.rejects(again.get("a"), { code: "OVS_CLOSED" });
    await client.close();
    await service.kill("SIGTERM");
  },
);

t.test("a watcher that does not take its events is told so, and nobody else suffers", async (t) => {
  const service = await new Service().start();
  const client = service.client();
  const watcher = run("watch", service.address);
  const lines: string[] = [];
  watcher.stdout!.on("data", (data) => lines.push(String(data)));
  await until(() => lines.length === 1, "it watches");
  watcher.kill("SIGSTOP");
  const recorder = new Recorder();
  const { revision } = await client.range("", { limit: 1 });
  const watch = await client.watch("", revision + 1, recorder);
  const value = "x".repeat(60_000);
  for (let i = 0; i < 60; i++) {
    await client.transact(always(...Array.from({ length: 15 }, (_, j) => put(`k${j}`, value))));
  }
  await until(() => recorder.calls.length === 60, "the other watcher gets everything", 60_000);
  watcher.kill("SIGCONT");
  await until(() => lines.length > 1, "it is told");
  t.match(lines[1], /lost|no room/);
  await ended(watcher);
  watch.cancel();
  await client.close();
  await service.kill("SIGTERM");
});

t.test("bad messages are answered in words, and the service lives", async (t) => {
  const service = await new Service().start();
  const rpc = new RpcClient(world, {
    address: service.address,
    self: { role: "test", id: "", cluster: null },
    wants: { role: REGISTRY_ROLE, id: null, cluster: null },
  });
  const below = seeded(seed);
  const operations = Object.values(RegistryOp).filter((o) => o < RegistryOp.status);
  const right = packRegistryTransaction({ compares: [], success: [], failure: [] });
  const call = (operation: number, meta: Uint8Array) =>
    rpc.call(operation, meta, null, null, { timeoutMs: 5000 });
  for (const operation of operations) {
    await t.rejects(
      call(operation, new Uint8Array(0)),
      { code: "OVS_PROTOCOL" },
      `empty ${operation}`,
    );
    for (let i = 0; i < 40; i++) {
      const meta = Uint8Array.from({ length: below(60) }, () => below(i % 2 === 0 ? 256 : 4));
      await call(operation, meta).catch((error) => {
        t.match(error.code, /OVS_(PROTOCOL|INVALID|NOT_FOUND|BUSY)/);
      });
    }
  }
  t.ok(await call(RegistryOp.transact, right));
  await t.rejects(call(RegistryOp.transact, right.subarray(1)), { code: "OVS_PROTOCOL" });
  await t.rejects(call(99, right), { code: "OVS_UNSUPPORTED" });
  rpc.notify(RegistryOp.watchEnd, bytes("not this"), null, null);
  const client = service.client();
  await client.transact(always(put("a", "1")));
  const wrong = service.client({ cluster: "one", timeoutMs: 500 });
  await wrong.get("a").catch((error) => t.match(error.message, /cluster|registry/));
  await wrong.close();
  await rpc.close();
  await client.close();
  t.equal(await service.kill("SIGTERM"), 0);
});

t.test("a folder that is held, foreign or of another version is refused", async (t) => {
  const service = await new Service().start();
  const main = (path: string, ...more: string[]) =>
    output(run("main", "--path", path, "--address", `unix:${fresh()}.sock`, ...more));
  const held = await main(service.path);
  t.equal(held.code, 1);
  t.match(held.text, new RegExp(`${service.child.pid}`), "the pid that holds it is named");
  await service.kill("SIGTERM");
  const foreign = fresh();
  mkdirSync(foreign);
  writeFileSync(join(foreign, "letters.txt"), "dear");
  t.match(await main(foreign), { code: 2, text: /letters\.txt/ });
  const identity = join(service.path, "identity");
  const right = readFileSync(identity);
  const newer = packRegistryIdentity({
    folderVersion: 2,
    registryUuid: new Uint8Array(16).fill(1),
    createdMs: 0,
  });
  t.equal(newer[REGISTRY_IDENTITY_FOLDER_VERSION], 2);
  writeFileSync(identity, newer);
  t.match(await main(service.path), { code: 2, text: /version 2/ });
  writeFileSync(
    identity,
    right.map((byte, i) => (i === 20 ? byte ^ 1 : byte)),
  );
  t.match(await main(service.path), { code: 1, text: /identity|CRC|checksum/i });
  writeFileSync(identity, right);
  await service.start();
  await service.kill("SIGTERM");
});

t.test("a folder whose formatting was killed is formatted again", async (t) => {
  const service = new Service();
  mkdirSync(service.path);
  for (const name of ["identity.7-1.tmp", "identity.1234-2.tmp"]) {
    writeFileSync(join(service.path, name), "half");
  }
  await service.start();
  t.equal(await service.kill("SIGTERM"), 0);
  t.same(readdirSync(service.path).sort(), ["identity", "kv", "lock"]);
});

t.test("the main says how it is used, when it serves, and ends on SIGTERM", async (t) => {
  t.match(await output(run("main", "--help")), { code: 0, text: /--address/ });
  t.match(await output(run("main")), { code: 2, text: /needs --path/ });
  t.match(await output(run("main", "--path", fresh())), { code: 2, text: /needs --address/ });
  t.match(await output(run("main", "--nonsense")), { code: 2 });
  const far = ["--path", fresh(), "--address", "tcp:0.0.0.0:7"];
  t.match(await output(run("main", ...far)), { code: 2, text: /other machines/ });
  const child = run("main", "--path", fresh(), "--address", `unix:${fresh()}.sock`);
  const said = output(child);
  await once(child.stdout!, "data");
  child.kill("SIGTERM");
  t.same(await said, { code: 0, text: "registry: ready\n" });
});
