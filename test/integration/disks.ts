// SPDX-License-Identifier: Apache-2.0
// Disks of a real cluster that are lost and come back, for tests. A lost disk's folder is renamed
// before its daemon dies, so that no restart brings it back; the old bytes wait beside it.

import { rename, rm } from "node:fs/promises";
import { type Cluster, until } from "./cluster.js";

const REPAIR_MS = 300_000;

interface BackendRow {
  health: string;
  osdsUp: number;
  repairedFragments: number;
  corruptFragments: number;
}

function folder(cluster: Cluster, number: number): string {
  return `${cluster.data}/asd/${number}`;
}

/** Backend's part of `ovs status`. */
export async function backendOf(cluster: Cluster): Promise<BackendRow> {
  return (await cluster.json<{ backend: BackendRow }>("status")).backend;
}

async function stateOf(cluster: Cluster, number: number): Promise<string> {
  const { asds } = await cluster.json<{ asds: Array<{ id: string; state: string }> }>("status");
  return asds.find((asd) => asd.id === `asd-${number}`)?.state ?? "gone";
}

/** Takes disks away for good; resolves when `ovs status` shows them down. */
export async function loseDisks(cluster: Cluster, ...numbers: number[]): Promise<void> {
  for (const number of numbers) {
    await rename(folder(cluster, number), `${folder(cluster, number)}.away`);
    await cluster.kill(`asd-${number}`);
  }
  for (const number of numbers) {
    await until(`asd-${number} is down`, async () => (await stateOf(cluster, number)) === "down");
  }
}

/** Puts lost disks back with all their bytes; the supervisor finds them. */
export async function returnDisks(cluster: Cluster, ...numbers: number[]): Promise<void> {
  for (const number of numbers) {
    await rm(folder(cluster, number), { recursive: true, force: true });
    await rename(`${folder(cluster, number)}.away`, folder(cluster, number));
  }
  for (const number of numbers) {
    await until(`asd-${number} is up`, async () => (await stateOf(cluster, number)) === "up");
  }
}

/** Puts empty disks in the place of lost ones. */
export async function replaceDisks(cluster: Cluster, ...numbers: number[]): Promise<void> {
  for (const number of numbers) {
    await rm(`${folder(cluster, number)}.away`, { recursive: true });
    const result = await cluster.ovs("asd", "replace", `asd-${number}`);
    if (result.code !== 0) throw new Error(`asd replace: ${result.stdout}${result.stderr}`);
  }
}

/** Resolves when the repair, by itself, has made everything whole again. */
export async function whole(cluster: Cluster, vdisk = "vd0"): Promise<void> {
  let words = "";
  const isWhole = async () => {
    const sync = await cluster.ovs("vdisk", "sync", vdisk, "--timeout", "60");
    const { health } = await backendOf(cluster);
    words = `health ${health}, sync ${sync.code}: ${sync.stdout}${sync.stderr}`;
    return sync.code === 0 && health === "ok";
  };
  await until("all is whole", isWhole, REPAIR_MS).catch((error: unknown) => {
    throw new Error(`${String(error)} (${words})`);
  });
}
