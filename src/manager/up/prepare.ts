// SPDX-License-Identifier: Apache-2.0
// What is checked before anything is started: the options, the folder, its owner, room, addresses.
// Each failure is one sentence.

import { formatUuid } from "../../base/bytes.js";
import { messageOf, StorageError } from "../../base/errors.js";
import { MIB } from "../../base/units.js";
import type { World } from "../../platform/world.js";
import { humanSize } from "../cli/output.js";
import {
  type ClusterConfig,
  formatConfig,
  mergeConfig,
  newConfig,
  parseConfig,
  parseVdisk,
  type UpOptions,
} from "../model/config.js";
import type { Layout } from "./layout.js";

const CONFIG_BYTES_MAX = 4 * MIB;
/** Room for the registry, indexes and logs beside what was asked for. */
const SPARE_BYTES = 256 * MIB;
const ADDRESS_WAIT_MS = 3000;

/** A folder that is ours until `lock.release()`, and how to start it. */
export interface Prepared {
  config: ClusterConfig;
  lock: { release(): Promise<void> };
  /** Names of the vDisks that this start was told of: their sizes must be as said. */
  asked: ReadonlySet<string>;
  /** Things that a person should know, in words. */
  warnings: string[];
}

/** Takes the folder and makes this start's configuration; writes nothing before all is right. */
export async function prepare(
  world: World,
  layout: Layout,
  options: UpOptions,
  host: { cpus: number; addressTaken: (address: string) => Promise<string | null> },
): Promise<Prepared> {
  const { files } = world.disk;
  try {
    await files.makeFolder(layout.data);
  } catch (error) {
    throw new StorageError("OVS_INVALID", `${layout.data} cannot be made: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const lock = await takeFolder(world, layout);
  try {
    const kept = await files.readSmall(layout.config, CONFIG_BYTES_MAX);
    const config = kept
      ? mergeConfig(parseConfig(new TextDecoder().decode(kept), layout.config), options)
      : newConfig(options, freshUuid(world), host.cpus);
    const warnings = kept ? [] : await checkRoom(world, layout, config);
    for (const address of layout.nbd(config)) {
      const taken = await takenForLong(world, address, host.addressTaken);
      if (taken) throw new StorageError("OVS_INVALID", `${taken}: choose another with --nbd`);
    }
    for (const folder of [layout.run, layout.logs, `${layout.data}/asd`])
      await files.makeFolder(folder);
    await files.writeSmall(layout.config, new TextEncoder().encode(formatConfig(config)));
    const asked = new Set((options.vdisk ?? []).map((text) => parseVdisk(text).name));
    return { config, lock, warnings, asked };
  } catch (error) {
    await lock.release();
    throw error;
  }
}

async function takeFolder(world: World, layout: Layout): Promise<Prepared["lock"]> {
  try {
    return await world.disk.files.lock(layout.data);
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    if (error.code === "OVS_BUSY") {
      throw new StorageError(
        "OVS_BUSY",
        `\`ovs up\` runs on ${layout.data} already: ${error.message}`,
      );
    }
    throw new StorageError("OVS_INVALID", `${layout.data} cannot be used: ${error.message}`);
  }
}

/** Daemons of a supervisor that was killed die after it: a taken address is looked at again. */
async function takenForLong(
  world: World,
  address: string,
  addressTaken: (address: string) => Promise<string | null>,
): Promise<string | null> {
  const untilMs = world.clock.nowMs() + ADDRESS_WAIT_MS;
  for (;;) {
    const taken = await addressTaken(address);
    if (taken === null || world.clock.nowMs() > untilMs) return taken;
    await world.clock.sleep(100);
  }
}

function freshUuid(world: World): string {
  const bytes = world.random.bytes(16);
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  return formatUuid(bytes);
}

async function checkRoom(world: World, layout: Layout, config: ClusterConfig): Promise<string[]> {
  const { freeBytes } = await world.disk.files.space(layout.data);
  const needed = config.journalBytes + config.readCacheBytes + SPARE_BYTES;
  if (freeBytes < needed) {
    throw new StorageError(
      "OVS_INVALID",
      `${layout.data} has ${humanSize(freeBytes)} free and journal, read cache and indexes need ` +
        `${humanSize(needed)}: make room, or take a smaller --journal-size and --read-cache-size`,
    );
  }
  const disks = config.asds * config.asdBytes;
  if (freeBytes - needed >= disks) return [];
  return [
    `the ${config.asds} ASDs may grow to ${humanSize(disks)} together, and ${layout.data} has ` +
      `${humanSize(freeBytes - needed)} left for them`,
  ];
}
