// SPDX-License-Identifier: Apache-2.0
// `ovs proxy`: erasure-codes, places and repairs objects.

import { parseArgs } from "node:util";
import {
  PROXY_ARENA_BYTES,
  PROXY_DEFAULTS,
  PROXY_RECEIVE_BYTES,
  ProxyDaemon,
} from "../backend/proxy.js";
import { messageOf, StorageError } from "../base/errors.js";
import { MIB } from "../base/units.js";
import { createWorld } from "../platform/node/world.js";
import { RegistryClient } from "../registry/client.js";
import { type Daemon, runDaemon } from "./daemon.js";

/** For the registry client and messages, beside what the proxy itself needs. */
const SPARE_BYTES = 16 * MIB;

const HELP = `ovs proxy: erasure-codes, places and repairs objects

  --address ADDRESS   where it listens, repeatable: unix:PATH or tcp:HOST:PORT (loopback only)
  --registry ADDRESS  where the registry listens
  --cluster UUID      cluster that it belongs to
  --id ID             name of this proxy (proxy)
  --lost-after SECONDS  an ASD that is away for longer counts as lost (600)
  --log DIR           folder of logs`;

interface ProxyArguments {
  id: string;
  addresses: string[];
  registry: string;
  cluster: string;
  lostAfterMs: number;
  logTo: string | null;
}

function readArguments(args: string[]): ProxyArguments | null {
  const one = { type: "string" } as const;
  const { values } = parseArgs({
    args,
    options: {
      address: { type: "string", multiple: true },
      registry: one,
      cluster: one,
      id: one,
      "lost-after": one,
      log: one,
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help) return null;
  const need = (name: "registry" | "cluster"): string => {
    const value = values[name];
    if (value !== undefined) return value;
    throw new StorageError("OVS_INVALID", `ovs proxy needs --${name} (--help shows all)`);
  };
  const seconds = values["lost-after"] ?? String(PROXY_DEFAULTS.lostAfterMs / 1000);
  if (!/^\d{1,8}$/.test(seconds)) {
    throw new StorageError("OVS_INVALID", `--lost-after ${seconds} is not a number of seconds`);
  }
  if (values.address === undefined) {
    throw new StorageError("OVS_INVALID", "ovs proxy needs --address (--help shows all)");
  }
  return {
    id: values.id ?? "proxy",
    addresses: values.address,
    registry: need("registry"),
    cluster: need("cluster"),
    lostAfterMs: Number(seconds) * 1000,
    logTo: values.log ?? null,
  };
}

/** Serves until SIGTERM; resolves with the exit code. */
export async function proxyMain(args: string[]): Promise<number> {
  let read: ProxyArguments | null;
  try {
    read = readArguments(args);
  } catch (error) {
    process.stderr.write(`ovs proxy: ${messageOf(error)}\n`);
    return 2;
  }
  if (read === null) {
    process.stdout.write(`${HELP}\n`);
    return 0;
  }
  const { id, cluster, addresses, lostAfterMs } = read;
  const world = createWorld({
    name: id,
    arenaBytes: PROXY_ARENA_BYTES + SPARE_BYTES,
    receivePoolBytes: PROXY_RECEIVE_BYTES,
    logTo: read.logTo,
  });
  const registry = new RegistryClient(world, {
    address: read.registry,
    cluster,
    role: "proxy",
    id,
  });
  const proxy = new ProxyDaemon(world, {
    ...PROXY_DEFAULTS,
    id,
    clusterUuid: cluster,
    addresses,
    registry,
    lostAfterMs,
  });
  const daemon: Daemon = {
    start: () => proxy.start(),
    stop: async () => {
      await proxy.stop();
      await registry.close();
    },
  };
  try {
    return await runDaemon(id, daemon);
  } finally {
    await world.stop();
  }
}
