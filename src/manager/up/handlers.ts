// SPDX-License-Identifier: Apache-2.0
// The operations of a one-machine cluster.

import { StorageError } from "../../base/errors.js";
import { ASDS_MAX, checkName, checkVdiskSize } from "../model/config.js";
import type { BackendStatus, Handlers, VdiskStatus } from "../operations/operations.js";
import type { UpCluster } from "./cluster.js";
import type { ProcessStatus } from "./supervisor.js";

/** How long `status` waits for a router that does not answer. */
const STATUS_MS = 3_000;

/** The handlers of all operations over a running cluster. */
export function makeHandlers(cluster: UpCluster): Handlers {
  return {
    status: async () => {
      const [vdisks, asds, backend] = await Promise.all([
        vdisksOrNone(cluster),
        cluster.backend.asds(),
        cluster.backend.status(),
      ]);
      return {
        data: cluster.layout.data,
        cluster: cluster.config.cluster,
        processes: cluster.supervisor.status(),
        vdisks: vdisks ?? [],
        asds,
        backend: { ...backend, health: worst(backend.health, vdisks, cluster.supervisor.status()) },
        nbd: cluster.layout.nbd(cluster.config),
      };
    },
    vdiskCreate: async ({ name, sizeBytes }) => {
      checkName(name);
      checkVdiskSize(sizeBytes);
      return await cluster.router.create(name, sizeBytes);
    },
    vdiskList: () => cluster.router.list(),
    vdiskInfo: ({ name }) => cluster.router.info(name),
    vdiskResize: async ({ name, sizeBytes }) => {
      checkVdiskSize(sizeBytes);
      const resized = await cluster.router.resize(name, sizeBytes);
      // A later start must not take the old size for a contradiction.
      const vdisks = cluster.config.vdisks.map((vdisk) =>
        vdisk.name === name ? { name, sizeBytes } : vdisk,
      );
      await cluster.keep({ ...cluster.config, vdisks });
      return resized;
    },
    vdiskDelete: async ({ name }) => {
      await cluster.router.info(name);
      // First of all: a start after a crash in the middle must not make an empty one of its name.
      const vdisks = cluster.config.vdisks.filter((vdisk) => vdisk.name !== name);
      await cluster.keep({ ...cluster.config, vdisks });
      await cluster.router.remove(name);
      return {};
    },
    vdiskSync: async ({ name, timeoutMs }) => {
      const width = await cluster.router.sync(name, timeoutMs);
      // The router waits for what the living ASDs allow (P-A10); full is what the policy promises.
      return { ...width, full: width.full && width.spareMin >= cluster.config.policy.m };
    },
    vdiskRecover: ({ name, acceptLoss }) => cluster.router.recover(name, acceptLoss),
    asdList: () => cluster.backend.asds(),
    asdAdd: ({ count }) => addAsds(cluster, count),
    asdReplace: ({ id }) => replaceAsd(cluster, id),
    asdRemove: ({ id }) => removeAsd(cluster, id),
    cacheDrop: async () => {
      await cluster.router.dropCaches();
      return {};
    },
    backendInfo: () => cluster.backend.status(),
    backendVerify: () => cluster.backend.verify(),
  };
}

/**
 * While the router restarts, or hangs, there is nothing to say of vDisks (null); the rest is told
 * all the same, and soon.
 */
async function vdisksOrNone(cluster: UpCluster): Promise<VdiskStatus[] | null> {
  try {
    return await cluster.router.list(STATUS_MS);
  } catch (error) {
    if (error instanceof StorageError) return null;
    throw error;
  }
}

/** A backend that is well does not help while a daemon is down or a vDisk is not served. */
function worst(
  health: BackendStatus["health"],
  vdisks: VdiskStatus[] | null,
  processes: ProcessStatus[],
): BackendStatus["health"] {
  if (health !== "ok") return health;
  const runs = processes.every((process) => process.state === "running");
  const serves = vdisks?.every((vdisk) => vdisk.state === "serving") ?? false;
  return runs && serves ? "ok" : "degraded";
}

async function addAsds(cluster: UpCluster, count: number) {
  const first = cluster.config.asds;
  if (first + count > ASDS_MAX) {
    throw new StorageError(
      "OVS_INVALID",
      `there are ${first} ASDs, and ${ASDS_MAX} are possible on one machine`,
    );
  }
  const indexes = Array.from({ length: count }, (_, i) => first + i);
  await cluster.startAsds(indexes);
  await cluster.keep({ ...cluster.config, asds: first + count });
  const all = await cluster.backend.asds();
  return all.filter((asd) => indexes.some((index) => asd.id === `asd-${index}`));
}

function indexOf(cluster: UpCluster, id: string): number {
  const match = /^asd-(\d{1,4})$/.exec(id);
  const index = match ? Number(match[1]) : -1;
  if (index < 0 || !cluster.backend.expected().includes(index)) {
    throw new StorageError("OVS_NOT_FOUND", `there is no ASD ${id}: \`ovs asd list\` shows them`);
  }
  return index;
}

async function replaceAsd(cluster: UpCluster, id: string) {
  const index = indexOf(cluster, id);
  const { k } = cluster.config.policy;
  const others = (await cluster.backend.asds()).filter(
    (asd) => asd.id !== id && asd.state.startsWith("up"),
  );
  if (others.length < k) {
    throw new StorageError(
      "OVS_INVALID",
      `without ${id} only ${others.length} ASDs are up, and ${k} are needed to make its fragments ` +
        "anew: bring others back first",
    );
  }
  await cluster.supervisor.remove(id);
  await cluster.backend.forget(index);
  await setAside(cluster, index);
  await cluster.startAsds([index]);
  const asd = (await cluster.backend.asds()).find((one) => one.id === id);
  if (!asd) throw new StorageError("OVS_NOT_FOUND", `${id} did not come up`);
  return asd;
}

/**
 * What lies in a replaced disk's folder is kept beside it: it may be the last copy of
 * something.
 */
async function setAside(cluster: UpCluster, index: number): Promise<void> {
  const { files } = cluster.world.disk;
  const folder = cluster.layout.asdFolder(index);
  if ((await files.stat(folder)) === null || (await files.list(folder)).length === 0) return;
  for (let number = 1; ; number++) {
    const aside = `${folder}.replaced-${number}`;
    if ((await files.stat(aside)) !== null) continue;
    await files.rename(folder, aside);
    cluster.world.log.warn(`the replaced disk is kept as ${aside}: remove it when all is well`);
    return;
  }
}

async function removeAsd(cluster: UpCluster, id: string) {
  const index = indexOf(cluster, id);
  await cluster.backend.drain(index);
  await cluster.supervisor.remove(id);
  await cluster.backend.forget(index);
  return {};
}
