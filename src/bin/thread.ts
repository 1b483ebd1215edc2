// SPDX-License-Identifier: Apache-2.0
// The main of worker threads: picks the role by name.

import { parentPort, workerData } from "node:worker_threads";
import { assert } from "../base/assert.js";
import { createWorld } from "../platform/node/world.js";
import { type HostConfig, hostArenaBytes, VolumeHost } from "../router/host.js";

const { role, data } = workerData as { role: string; data: HostConfig };
assert(role === "router-host" && parentPort !== null, "this file is the main of a thread");
const port = parentPort;
const world = createWorld({
  name: `router-${data.thread}`,
  arenaBytes: hostArenaBytes(data),
  receivePoolBytes: data.memory.receiveBytes,
  logTo: data.logTo,
});
new VolumeHost(world, data, {
  post: (message) => port.postMessage(message),
  onMessage: (handler) => {
    port.on("message", handler);
  },
});
