// SPDX-License-Identifier: Apache-2.0
// `ovs asd`: serves one disk.

import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { ASD_ARENA_BYTES, ASD_RECEIVE_BYTES, type AsdConfig, AsdDaemon } from "../asd/daemon.js";
import { messageOf, StorageError } from "../base/errors.js";
import { MIB, parseSize } from "../base/units.js";
import { endProcess } from "../native/exit.js";
import { createWorld } from "../platform/node/world.js";
import { runDaemon } from "./daemon.js";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const HELP = `ovs asd: serves one disk

  --path DIR          folder of the disk
  --address ADDRESS   where it listens, repeatable: unix:PATH or tcp:HOST:PORT (loopback only)
  --cluster UUID      cluster that the disk belongs to
  --format            format the folder when it is empty
  --disk UUID         the disk that must be there (when formatting: the one to make)
  --capacity SIZE     room that it may fill, such as 10G (default: the file system)
  --cache SIZE        memory for index entries (64M)
  --site, --rack, --node NAME   failure domains, kept when the folder is formatted (local)
  --name NAME         name in logs (asd)
  --log DIR           folder of logs`;

interface AsdArguments extends Omit<AsdConfig, "onFatal"> {
  name: string;
  logTo: string | null;
}

function readArguments(args: string[]): AsdArguments | null {
  const one = { type: "string" } as const;
  const { values } = parseArgs({
    args,
    options: {
      path: one,
      address: { type: "string", multiple: true },
      cluster: one,
      disk: one,
      format: { type: "boolean" },
      capacity: one,
      cache: one,
      site: one,
      rack: one,
      node: one,
      name: one,
      log: one,
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help) return null;
  const need = (name: "path" | "cluster"): string => {
    const value = values[name];
    if (value !== undefined) return value;
    throw new StorageError("OVS_INVALID", `ovs asd needs --${name} (--help shows all)`);
  };
  const uuid = (name: "cluster" | "disk", value: string): string => {
    if (UUID.test(value)) return value;
    throw new StorageError(
      "OVS_INVALID",
      `--${name} ${value} is not a uuid (8-4-4-4-12 hex digits)`,
    );
  };
  if (!values.address) throw new StorageError("OVS_INVALID", "ovs asd needs --address");
  const domain = (name: "site" | "rack" | "node"): string => {
    const value = values[name] ?? "local";
    if (/^[a-z0-9][a-z0-9._-]{0,62}$/.test(value)) return value;
    throw new StorageError("OVS_INVALID", `--${name} ${value}: take small letters, digits, . _ -`);
  };
  return {
    path: resolve(need("path")),
    addresses: values.address,
    place: {
      clusterUuid: uuid("cluster", need("cluster")),
      diskUuid: values.disk === undefined ? null : uuid("disk", values.disk),
      site: domain("site"),
      rack: domain("rack"),
      node: domain("node"),
    },
    format: values.format ?? false,
    capacityBytes: values.capacity === undefined ? 0 : parseSize(values.capacity),
    cacheBytes: values.cache === undefined ? 64 * MIB : parseSize(values.cache),
    name: values.name ?? "asd",
    logTo: values.log ?? null,
  };
}

/** Serves until SIGTERM; resolves with the exit code. */
export async function asdMain(args: string[]): Promise<number> {
  let config: AsdArguments | null;
  try {
    config = readArguments(args);
  } catch (error) {
    process.stderr.write(`ovs asd: ${messageOf(error)}\n`);
    return 2;
  }
  if (config === null) {
    process.stdout.write(`${HELP}\n`);
    return 0;
  }
  const { name, logTo, ...asd } = config;
  const world = createWorld({
    name,
    arenaBytes: ASD_ARENA_BYTES,
    receivePoolBytes: ASD_RECEIVE_BYTES,
    logTo,
  });
  const daemon = new AsdDaemon(world, {
    ...asd,
    // What is durable is unknown after a failed sync: only a new start, from the disk, can tell.
    onFatal: (error) => {
      process.stderr.write(`${name}: the disk has failed: ${messageOf(error)}\n`);
      world.clock.after(100, () => endProcess(1));
    },
  });
  const code = await runDaemon(name, daemon);
  await world.stop();
  return code;
}
