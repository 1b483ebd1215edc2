// SPDX-License-Identifier: Apache-2.0
// What no daemon may ever log in a simulation: that stored data are not what was written, where no
// disk has lied. It is told at once, and not when the damage is read, if it is ever.

import type { SimCluster } from "./cluster.js";
import type { SimProcess } from "./process.js";
import type { LogLine } from "./trace.js";

/** Of a daemon whose disk has done what it was told to. */
const NEVER = [
  "a cluster's checksum is wrong",
  "a page is not what was written",
  "an index entry is damaged",
  "several keys name the same pages",
];

/** Tells in words what the cluster's daemons log and must not. */
export function watchLogs(cluster: SimCluster, onAlarm: (words: string) => void): void {
  cluster.scene.trace.onLog = (line) => {
    if (!isAlarm(line)) return;
    const process = cluster.processes.find(({ name }) => name === nameOf(line.node));
    if (process !== undefined && hasHonestDisks(process)) onAlarm(`${line.node}: ${wordsOf(line)}`);
  };
}

function isAlarm({ message, fields }: LogLine): boolean {
  return NEVER.includes(message) || fields.kind === "corrupt" || fields.code === "OVS_CORRUPT";
}

/** Of "router#3/0", a thread of the router's third life. */
function nameOf(node: string): string {
  return node.replace(/#.*/, "");
}

function hasHonestDisks({ spec }: SimProcess): boolean {
  return spec.host.storage.devices.every(({ faults }) => !faults.hasLied);
}

function wordsOf({ message, fields }: LogLine): string {
  return "reason" in fields ? `${message}: ${fields.reason}` : message;
}
