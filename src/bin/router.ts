// SPDX-License-Identifier: Apache-2.0
// `ovs router`: owns vDisks and serves them over NBD.

import { parseArgs } from "node:util";
import { StorageError } from "../base/errors.js";
import { MIB } from "../base/units.js";
import { endProcess } from "../native/exit.js";
import { NodeThreads } from "../platform/node/threads.js";
import { createWorld } from "../platform/node/world.js";
import { type RouterConfig, RouterDaemon } from "../router/router.js";
import { runDaemon } from "./daemon.js";

const ARENA_BYTES = 64 * MIB;
const LOST_AFTER_MS = 600_000;

const HELP = `ovs router: owns vDisks and serves them over NBD

  --id ID                name of this router in the registry
  --path DIR             folder of journals, maps and caches
  --cluster UUID         cluster that it belongs to
  --registry ADDRESS     where the registry listens
  --proxy ADDRESS        where a proxy listens, repeatable
  --control ADDRESS      where this router's control service listens
  --nbd ADDRESS          where NBD is served, repeatable
  --journal-size BYTES   journal of all vDisks together
  --cache-size BYTES     read cache in memory
  --read-cache-size BYTES  read cache in the folder
  --sco-size BYTES       size of SCOs
  --threads N            worker threads
  --lost-after SECONDS   an ASD that is away for longer counts as lost (600)
  --log DIR              folder of logs

Addresses are unix:PATH or tcp:HOST:PORT (loopback only). Sizes in bytes.`;

function readConfig(args: string[]): RouterConfig | null {
  const one = { type: "string" } as const;
  const many = { type: "string", multiple: true } as const;
  const { values } = parseArgs({
    args,
    options: {
      id: one,
      path: one,
      cluster: one,
      registry: one,
      proxy: many,
      control: one,
      nbd: many,
      "journal-size": one,
      "cache-size": one,
      "read-cache-size": one,
      "sco-size": one,
      threads: one,
      "lost-after": one,
      log: one,
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help) return null;
  const need = (name: keyof typeof values): string => {
    const value = values[name];
    if (typeof value === "string") return value;
    throw new StorageError("OVS_INVALID", `ovs router needs --${name} (--help shows all)`);
  };
  const number = (name: keyof typeof values): number => {
    const value = Number(need(name));
    if (Number.isSafeInteger(value) && value >= 0) return value;
    throw new StorageError("OVS_INVALID", `--${name} ${need(name)} is not a whole number`);
  };
  return {
    id: need("id"),
    path: need("path"),
    cluster: need("cluster"),
    registry: need("registry"),
    proxies: values.proxy ?? [],
    control: need("control"),
    nbd: values.nbd ?? [],
    journalBytes: number("journal-size"),
    cacheBytes: number("cache-size"),
    readCacheBytes: number("read-cache-size"),
    scoBytes: number("sco-size"),
    threads: Math.max(1, number("threads")),
    lostAfterMs: values["lost-after"] === undefined ? LOST_AFTER_MS : 1000 * number("lost-after"),
    logTo: values.log ?? null,
  };
}

/** Serves until SIGTERM; resolves with the exit code. */
export async function routerMain(args: string[]): Promise<number> {
  let config: RouterConfig | null;
  try {
    config = readConfig(args);
  } catch (error) {
    process.stderr.write(`ovs router: ${error instanceof Error ? error.message : String(error)}\n`);
    return 2;
  }
  if (!config) {
    process.stdout.write(`${HELP}\n`);
    return 0;
  }
  const world = createWorld({ name: config.id, arenaBytes: ARENA_BYTES, logTo: config.logTo });
  const threads = new NodeThreads(new URL("./thread.js", import.meta.url).pathname);
  const die = (reason: string): never => {
    world.log.error(`the router ends itself: ${reason}`);
    process.stderr.write(`router: ${reason}\n`);
    endProcess(1);
  };
  return await runDaemon("router", new RouterDaemon(world, config, threads, die));
}
