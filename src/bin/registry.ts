// SPDX-License-Identifier: Apache-2.0
// `ovs registry`: the registry of one machine.

import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { messageOf, StorageError } from "../base/errors.js";
import { MIB, parseSize } from "../base/units.js";
import { endProcess } from "../native/exit.js";
import { createWorld } from "../platform/node/world.js";
import { type RegistryConfig, RegistryDaemon } from "../registry/service.js";
import { runDaemon } from "./daemon.js";

const ARENA_BYTES = 128 * MIB;

const HELP = `ovs registry: the consistent key-value store of one machine

  --path DIR         its folder; an empty or missing one becomes a registry
  --address ADDRESS  where it listens: unix:PATH or tcp:HOST:PORT (loopback only)
  --cluster UUID     cluster that it serves (default: whoever asks)
  --quota SIZE       bytes on disk from which on it takes no more (default: 8G)
  --log DIR          folder of logs
`;

function readConfig(args: string[]): { config: RegistryConfig; logTo: string | null } | null {
  const one = { type: "string" } as const;
  const { values } = parseArgs({
    args,
    options: {
      path: one,
      address: one,
      cluster: one,
      quota: one,
      log: one,
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help) return null;
  const need = (name: "path" | "address"): string => {
    const value = values[name];
    if (value) return value;
    throw new StorageError("OVS_INVALID", `ovs registry needs --${name} (--help shows all)`);
  };
  const path = resolve(need("path"));
  const config = {
    path,
    address: need("address"),
    cluster: values.cluster ?? null,
    quotaBytes: parseSize(values.quota ?? "8G"),
    onFatal: (error: StorageError) => {
      const damaged = error.kind === "corrupt" ? `the registry in ${path} is damaged: ` : "";
      const advice = damaged === "" ? "" : "; put back a copy of its folder";
      process.stderr.write(`registry: ${damaged}${messageOf(error)}${advice}\n`);
      // What was acknowledged is durable; a new process reads what else is there.
      endProcess(1);
    },
  };
  return { config, logTo: values.log ? resolve(values.log) : null };
}

/** Runs the daemon; resolves with the exit code. */
export async function registryMain(args: string[]): Promise<number> {
  let read: ReturnType<typeof readConfig>;
  try {
    read = readConfig(args);
  } catch (error) {
    process.stderr.write(`registry: ${messageOf(error)}\n`);
    return 2;
  }
  if (read === null) {
    process.stdout.write(HELP);
    return 0;
  }
  const { config, logTo } = read;
  const world = createWorld({ name: "registry", arenaBytes: ARENA_BYTES, logTo });
  try {
    return await runDaemon("registry", new RegistryDaemon(world, config));
  } finally {
    await world.stop();
  }
}
