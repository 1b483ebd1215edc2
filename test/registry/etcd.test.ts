// SPDX-License-Identifier: Apache-2.0
// The same contract on a real etcd: what the embedded registry promises is what etcd does. The test
// starts Debian's etcd on loopback; where there is none it is skipped by name.

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { hasCode } from "../../src/base/errors.js";
import { EtcdRegistry } from "../../src/registry/etcd.js";
import { realClock, until } from "../platform/fixture.js";
import { always, put, Recorder, registryContract } from "./registry.contract.js";

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
const root = mkdtempSync(join(tmpdir(), "ovs-etcd-"));
t.teardown(() => rmSync(root, { recursive: true, force: true }));

function hasEtcd(): boolean {
  try {
    execFileSync("etcd", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

class Etcd {
  port = 0;
  #peer = 0;
  #child: ChildProcess | null = null;

  get endpoint(): string {
    return `127.0.0.1:${this.port}`;
  }

  async start(): Promise<void> {
    if (this.port === 0) {
      this.port = await freePort();
      this.#peer = await freePort();
    }
    const [client, peer] = [`http://${this.endpoint}`, `http://127.0.0.1:${this.#peer}`];
    const flags = {
      name: "one",
      "data-dir": join(root, "data"),
      "listen-client-urls": client,
      "advertise-client-urls": client,
      "listen-peer-urls": peer,
      "initial-advertise-peer-urls": peer,
      "initial-cluster": `one=${peer}`,
      "log-level": "error",
    };
    const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
    this.#child = spawn("etcd", args, { stdio: "ignore" });
  }

  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (!child) return;
    child.kill(signal);
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  }
}

async function answers(registry: EtcdRegistry): Promise<void> {
  for (let i = 0; i < 300; i++) {
    try {
      await registry.get("x");
      return;
    } catch (error) {
      if (!hasCode(error, "OVS_UNAVAILABLE") && !hasCode(error, "OVS_TIMEOUT")) throw error;
      await realClock.sleep(50);
    }
  }
  throw new Error("etcd does not answer");
}

const skip = hasEtcd() ? false : "needs etcd (Debian: etcd-server)";

t.test("the contract is etcd's", { skip }, async (t) => {
  const etcd = new Etcd();
  await etcd.start();
  t.teardown(() => etcd.stop("SIGKILL"));
  const registry = new EtcdRegistry(realClock, { endpoints: [etcd.endpoint], timeoutMs: 10_000 });
  await answers(registry);
  // etcd keeps the revision that it compacts at.
  const compact = (revision: number) => registry.compact(revision + 1);
  await registryContract(t, () => ({ registry, compact, seed }));
  await t.test("restarts end watches, and the client goes on", async (t) => {
    const { revision } = await registry.transact(always(put("restart/a", "1")));
    const { lease } = await registry.leaseGrant(30);
    const recorder = new Recorder();
    await registry.watch("restart/", revision + 1, recorder);
    await etcd.stop("SIGKILL");
    await until(() => recorder.ended !== null, "the watch ends");
    await t.rejects(registry.transact(always(put("restart/a", "2"))), {
      code: /OVS_(UNAVAILABLE|TIMEOUT)/,
    });
    await etcd.start();
    await answers(registry);
    t.match(await registry.get("restart/a"), { modRevision: revision });
    t.equal((await registry.leaseKeepAlive(lease)).ttlSeconds, 30);
    await registry.leaseRevoke(lease);
  });
  await t.test("an endpoint that is down is left for the next one", async (t) => {
    const down = `127.0.0.1:${await freePort()}`;
    const endpoints = [down, etcd.endpoint];
    const other = new EtcdRegistry(realClock, { endpoints, timeoutMs: 2000 });
    await t.rejects(other.get("restart/a"), { code: /OVS_(UNAVAILABLE|TIMEOUT)/ });
    t.not(await other.get("restart/a"), null);
    await other.close();
    await t.rejects(other.get("restart/a"), { code: "OVS_CLOSED" });
  });
  const recorder = new Recorder();
  await registry.watch("x", 1e9, recorder);
  await registry.close();
  t.match(recorder.ended, /closed/);
  await etcd.stop();
});
