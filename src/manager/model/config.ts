// SPDX-License-Identifier: Apache-2.0
// The configuration of a one-machine cluster: what `ovs up` was told, kept in `DIR/ovs.toml`, and
// how a later start may change it. Everything is checked here, before anything is started.

import { parse, stringify, TomlError } from "smol-toml";
import { formatPolicy, type Policy, parsePolicy } from "../../backend/policy.js";
import { messageOf, StorageError } from "../../base/errors.js";
import {
  CLUSTER_BYTES,
  formatSize,
  GIB,
  MIB,
  parseSize,
  VDISK_BYTES_MAX,
} from "../../base/units.js";

export const CONFIG_VERSION = 1;
export const ASDS_MAX = 64;
export const VDISKS_MAX = 4096;
const LOST_AFTER_S_MAX = 365 * 86_400;
/** A thread's share of the journal, at least. */
const JOURNAL_BYTES_A_THREAD = 4 * MIB;

/** A vDisk that `ovs up` makes when it is not there. */
export interface VdiskConfig {
  name: string;
  sizeBytes: number;
}

/** What is kept in `ovs.toml`. Sizes in bytes. */
export interface ClusterConfig {
  version: number;
  /** The cluster's uuid, made at the first start. */
  cluster: string;
  asds: number;
  asdBytes: number;
  policy: Policy;
  vdisks: VdiskConfig[];
  nbd: string[];
  journalBytes: number;
  cacheBytes: number;
  readCacheBytes: number;
  scoBytes: number;
  routerThreads: number;
  /** Milliseconds until an ASD that is away counts as lost. */
  lostAfterMs: number;
}

/** Options as a user gives them: all optional, sizes as text. */
export interface UpOptions {
  data: string;
  asds?: string;
  asdSize?: string;
  policy?: string;
  vdisk?: string[];
  nbd?: string[];
  journalSize?: string;
  cacheSize?: string;
  readCacheSize?: string;
  scoSize?: string;
  routerThreads?: string;
  lostAfter?: string;
}

const NAME = /^[a-z0-9][a-z0-9._-]{0,62}$/;

function invalid(message: string): StorageError {
  return new StorageError("OVS_INVALID", message);
}

/** Checks a name of a vDisk; throws OVS_INVALID in words. */
export function checkName(name: string): string {
  if (!NAME.test(name)) {
    throw invalid(
      `"${name}" is not a name: use 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit`,
    );
  }
  return name;
}

/** Checks the size of a vDisk; throws OVS_INVALID in words. */
export function checkVdiskSize(sizeBytes: number): number {
  if (sizeBytes < CLUSTER_BYTES || sizeBytes > VDISK_BYTES_MAX || sizeBytes % CLUSTER_BYTES !== 0) {
    throw invalid(
      `a vDisk of ${formatSize(sizeBytes)} is not possible: sizes are multiples of 4K, from 4K to 64T`,
    );
  }
  return sizeBytes;
}

function parseCount(what: string, text: string, min: number, max: number): number {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= min && value <= max)) {
    throw invalid(`${what} "${text}" is not a whole number from ${min} to ${max}`);
  }
  return value;
}

/** A size, or an error that says where it was written. */
function sizeOf(what: string, text: string): number {
  try {
    return parseSize(text);
  } catch (error) {
    throw invalid(`${what}: ${messageOf(error)}`);
  }
}

function parseBounded(what: string, text: string, min: number, max: number, unit: number): number {
  const bytes = sizeOf(what, text);
  if (bytes < min || bytes > max || bytes % unit !== 0) {
    throw invalid(
      `${what} ${text} is not possible: from ${formatSize(min)} to ${formatSize(max)}, ` +
        `in steps of ${formatSize(unit)}`,
    );
  }
  return bytes;
}

/** Reads `NAME:SIZE`. */
export function parseVdisk(text: string): VdiskConfig {
  const at = text.lastIndexOf(":");
  if (at < 0) throw invalid(`"${text}" is not NAME:SIZE (as in vd0:10G)`);
  return {
    name: checkName(text.slice(0, at)),
    sizeBytes: checkVdiskSize(sizeOf(`the vDisk ${text}`, text.slice(at + 1))),
  };
}

/** Checks an NBD address: `unix:/path` or `tcp:HOST:PORT` on loopback. */
export function checkNbdAddress(text: string): string {
  if (/^unix:.{1,100}$/.test(text)) return text;
  const match = /^tcp:(.+):(\d{1,5})$/.exec(text);
  if (!match || Number(match[2]) > 65_535) {
    throw invalid(`"${text}" is not an NBD address: write unix:PATH or tcp:HOST:PORT`);
  }
  const host = match[1]!;
  if (host !== "localhost" && host !== "[::1]" && host !== "::1" && !host.startsWith("127.")) {
    throw invalid(
      `NBD on ${host} would be open to everyone: only loopback (127.0.0.1, ::1) is possible ` +
        "without authentication",
    );
  }
  return text;
}

/** The configuration of a new cluster. `cpus` decides the router's threads. */
export function newConfig(options: UpOptions, cluster: string, cpus: number): ClusterConfig {
  const config: ClusterConfig = {
    version: CONFIG_VERSION,
    cluster,
    asds: parseCount("--asds", options.asds ?? "6", 1, ASDS_MAX),
    asdBytes: parseBounded("--asd-size", options.asdSize ?? "10G", GIB / 4, 1024 * 1024 * GIB, MIB),
    policy: parsePolicy(options.policy ?? "4,2,5,6"),
    vdisks: (options.vdisk ?? ["vd0:10G"]).map(parseVdisk),
    nbd: (options.nbd ?? []).map(checkNbdAddress),
    journalBytes: parseBounded(
      "--journal-size",
      options.journalSize ?? "4G",
      64 * MIB,
      1024 * GIB,
      MIB,
    ),
    cacheBytes: parseBounded("--cache-size", options.cacheSize ?? "1G", 16 * MIB, 3 * GIB, MIB),
    readCacheBytes: parseBounded(
      "--read-cache-size",
      options.readCacheSize ?? "4G",
      0,
      1024 * GIB,
      MIB,
    ),
    scoBytes: parseBounded("--sco-size", options.scoSize ?? "16M", MIB, 64 * MIB, MIB),
    routerThreads: parseCount(
      "--router-threads",
      options.routerThreads ?? String(Math.max(1, cpus - 1)),
      1,
      64,
    ),
    lostAfterMs: 1000 * parseCount("--lost-after", options.lostAfter ?? "600", 1, LOST_AFTER_S_MAX),
  };
  checkWhole(config);
  return config;
}

function checkWhole(config: ClusterConfig): void {
  const { k, m } = config.policy;
  if (k + m > config.asds) {
    throw invalid(
      `the policy needs ${k + m} ASDs (k + m) and there are ${config.asds}: ` +
        "take more with --asds, or another --policy",
    );
  }
  if (config.journalBytes < config.routerThreads * JOURNAL_BYTES_A_THREAD) {
    const least = formatSize(config.routerThreads * JOURNAL_BYTES_A_THREAD);
    throw invalid(
      `--journal-size ${formatSize(config.journalBytes)} is too little for ` +
        `${config.routerThreads} threads: at least ${formatSize(JOURNAL_BYTES_A_THREAD)} each, ` +
        `so take ${least} or more, or fewer --router-threads`,
    );
  }
  const names = new Set<string>();
  for (const vdisk of config.vdisks) {
    if (names.has(vdisk.name)) throw invalid(`the vDisk ${vdisk.name} is named twice`);
    names.add(vdisk.name);
  }
  if (config.vdisks.length > VDISKS_MAX) throw invalid(`more than ${VDISKS_MAX} vDisks`);
}

/**
 * What a later start makes of a kept configuration: options that are not given stay; caches,
 * journal, NBD addresses and threads may change; ASDs are added; vDisks of the same size are fine;
 * anything else that differs is a contradiction, refused in words.
 */
export function mergeConfig(kept: ClusterConfig, options: UpOptions): ClusterConfig {
  const given = newConfig(
    {
      ...options,
      asds: options.asds ?? String(kept.asds),
      policy: options.policy ?? formatPolicy(kept.policy),
      journalSize: options.journalSize ?? formatSize(kept.journalBytes),
      routerThreads: options.routerThreads ?? String(kept.routerThreads),
    },
    kept.cluster,
    2,
  );
  const refuse = (option: string, is: string, wants: string): never => {
    throw invalid(
      `${option} ${wants} contradicts this data directory, which has ${is}: leave the option out, ` +
        "or use another --data",
    );
  };
  if (options.asds !== undefined && given.asds < kept.asds) {
    refuse("--asds", `${kept.asds} ASDs (take one out with \`ovs asd remove\`)`, options.asds);
  }
  if (options.asdSize !== undefined && given.asdBytes < kept.asdBytes) {
    refuse("--asd-size", formatSize(kept.asdBytes), options.asdSize);
  }
  if (formatPolicy(given.policy) !== formatPolicy(kept.policy)) {
    refuse("--policy", formatPolicy(kept.policy), options.policy ?? "");
  }
  const merged: ClusterConfig = {
    ...kept,
    asds: given.asds,
    asdBytes: options.asdSize !== undefined ? given.asdBytes : kept.asdBytes,
    nbd: options.nbd !== undefined ? given.nbd : kept.nbd,
    journalBytes: options.journalSize !== undefined ? given.journalBytes : kept.journalBytes,
    cacheBytes: options.cacheSize !== undefined ? given.cacheBytes : kept.cacheBytes,
    readCacheBytes:
      options.readCacheSize !== undefined ? given.readCacheBytes : kept.readCacheBytes,
    scoBytes: options.scoSize !== undefined ? given.scoBytes : kept.scoBytes,
    routerThreads: options.routerThreads !== undefined ? given.routerThreads : kept.routerThreads,
    lostAfterMs: options.lostAfter !== undefined ? given.lostAfterMs : kept.lostAfterMs,
    vdisks: [...kept.vdisks],
  };
  if (options.vdisk !== undefined) {
    for (const vdisk of given.vdisks) {
      const old = merged.vdisks.find((one) => one.name === vdisk.name);
      if (!old) merged.vdisks.push(vdisk);
      else if (old.sizeBytes !== vdisk.sizeBytes) {
        const grows = vdisk.sizeBytes > old.sizeBytes;
        const way = grows ? "grow it with `ovs vdisk resize`" : "a vDisk can only grow";
        refuse(
          "--vdisk",
          `${old.name}:${formatSize(old.sizeBytes)} (${way})`,
          `${vdisk.name}:${formatSize(vdisk.sizeBytes)}`,
        );
      }
    }
  }
  checkWhole(merged);
  return merged;
}

/** The text of `ovs.toml`. */
export function formatConfig(config: ClusterConfig): string {
  return `# Kept by \`ovs up\`: the options of the last start. Change it through the options.\n${stringify(
    {
      version: config.version,
      cluster: config.cluster,
      asds: config.asds,
      "asd-size": formatSize(config.asdBytes),
      policy: formatPolicy(config.policy),
      vdisk: config.vdisks.map((vdisk) => `${vdisk.name}:${formatSize(vdisk.sizeBytes)}`),
      nbd: config.nbd,
      "journal-size": formatSize(config.journalBytes),
      "cache-size": formatSize(config.cacheBytes),
      "read-cache-size": formatSize(config.readCacheBytes),
      "sco-size": formatSize(config.scoBytes),
      "router-threads": config.routerThreads,
      "lost-after": config.lostAfterMs / 1000,
    },
  )}\n`;
}

/** Reads `ovs.toml`; OVS_INVALID or OVS_WRONG_VERSION in words. */
export function parseConfig(text: string, path: string): ClusterConfig {
  let table: Record<string, unknown>;
  try {
    table = parse(text);
  } catch (error) {
    // What follows the first line is a drawing of the place.
    const [words = ""] = messageOf(error).split("\n");
    const line = error instanceof TomlError ? ` in line ${error.line}` : "";
    throw new StorageError("OVS_INVALID", `${path} is not TOML${line}: ${words}`, {
      cause: error,
    });
  }
  if (table.version !== CONFIG_VERSION) {
    throw new StorageError(
      "OVS_WRONG_VERSION",
      `${path} has version ${String(table.version)}, this program reads version ${CONFIG_VERSION}`,
    );
  }
  const cluster = table.cluster;
  if (typeof cluster !== "string" || !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(cluster)) {
    throw invalid(`${path} has no cluster uuid`);
  }
  const text1 = (key: string): string | undefined =>
    table[key] === undefined ? undefined : String(table[key]);
  const list = (key: string): string[] => {
    const value = table[key];
    return Array.isArray(value) ? value.map(String) : [];
  };
  return inFile(path, () =>
    newConfig(
      {
        data: path,
        asds: text1("asds"),
        asdSize: text1("asd-size"),
        policy: text1("policy"),
        vdisk: list("vdisk"),
        nbd: list("nbd"),
        journalSize: text1("journal-size"),
        cacheSize: text1("cache-size"),
        readCacheSize: text1("read-cache-size"),
        scoSize: text1("sco-size"),
        routerThreads: text1("router-threads"),
        lostAfter: text1("lost-after"),
      },
      cluster,
      2,
    ),
  );
}

/** Errors of `read` name the file. */
function inFile<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw invalid(`${path}: ${messageOf(error)}`);
  }
}
