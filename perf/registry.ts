// SPDX-License-Identifier: Apache-2.0
// The registry row: calls a second through `ovs registry` over a unix socket, every transaction
// durable when it is answered, beside Debian's etcd with one member on the same disk. The load is
// the same program for both (registry-load.ts), in a process of its own.

import { existsSync, mkdirSync } from "node:fs";
import { cpuSecondsOf, runLoad, type Server, startServer } from "./lib/process.js";
import type { Row, RowContext } from "./lib/row.js";
import type { Line, Round } from "./lib/stats.js";
import { alternate } from "./lib/stats.js";

const LOAD = new URL("./registry-load.js", import.meta.url).pathname;
const MAIN = new URL("../src/bin/registry.js", import.meta.url).href;
const ETCD_PORTS = { client: 24_790, peer: 24_800 };
const ETCD = `127.0.0.1:${ETCD_PORTS.client}`;
const START_MS = 30_000;
const TARGET_RATIO = 1;

interface Case {
  label: string;
  kind: "transact" | "get";
  depth: number;
}

const CASES: readonly Case[] = [
  { label: "durable compare-and-swaps, 64 at a time", kind: "transact", depth: 64 },
  { label: "durable compare-and-swaps, 1 at a time", kind: "transact", depth: 1 },
  { label: "gets, 64 at a time", kind: "get", depth: 64 },
];

export const registryRow: Row = {
  name: "registry",
  target: "durable compare-and-swaps, 64 at a time: ≥ 1 × etcd with one member, ≥ 1000/s",
  async run(context: RowContext): Promise<Line[]> {
    const address = `unix:${context.folder}/registry.sock`;
    const ours = await startOurs(context.folder, address);
    const etcd = await startEtcd(`${context.folder}/etcd`);
    try {
      const lines: Line[] = [];
      for (const { label, kind, depth } of CASES) {
        context.say(`${context.rounds} rounds of ${label}`);
        const load = (at: string, server: Server) => measure(at, kind, depth, context, server);
        const rounds = await alternate(
          context.rounds,
          () => load(address, ours),
          () => load(`etcd:${ETCD}`, etcd),
        );
        const target = kind === "transact" && depth > 1 ? TARGET_RATIO : null;
        lines.push({ label, unit: "/s", better: "higher", peer: "etcd", target, ...rounds });
      }
      return lines;
    } finally {
      await ours.stop();
      await etcd.stop();
    }
  },
};

async function startOurs(folder: string, address: string): Promise<Server> {
  const script =
    `const { registryMain } = await import(${JSON.stringify(MAIN)});` +
    "process.exit(await registryMain(process.argv.slice(1)));";
  const args = ["--path", `${folder}/registry`, "--address", address];
  return await startServer(
    process.execPath,
    ["--input-type=module", "-e", script, "--", ...args],
    () => existsSync(address.slice("unix:".length)),
    { timeoutMs: START_MS },
  );
}

async function startEtcd(folder: string): Promise<Server> {
  mkdirSync(folder, { mode: 0o700 });
  const client = `http://${ETCD}`;
  const peer = `http://127.0.0.1:${ETCD_PORTS.peer}`;
  const flags = {
    name: "one",
    "data-dir": folder,
    "listen-client-urls": client,
    "advertise-client-urls": client,
    "listen-peer-urls": peer,
    "initial-advertise-peer-urls": peer,
    "initial-cluster": `one=${peer}`,
    "log-level": "error",
  };
  const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
  const isReady = async () => {
    try {
      return (await fetch(`${client}/health`)).ok;
    } catch {
      return false;
    }
  };
  return await startServer("etcd", args, isReady, { timeoutMs: START_MS });
}

async function measure(
  address: string,
  kind: string,
  depth: number,
  context: RowContext,
  server: Server,
): Promise<Round> {
  const before = cpuSecondsOf([server.pid]);
  const args = [address, kind, depth, context.seconds / 2];
  const timeoutMs = (context.seconds + 60) * 1000;
  const said = await runLoad<Round>(LOAD, args, { timeoutMs });
  return { ...said, cpuSeconds: said.cpuSeconds + cpuSecondsOf([server.pid]) - before };
}
