// SPDX-License-Identifier: Apache-2.0
// Processes for service.test.ts: node service.child.js serve PATH ADDRESS: a registry with a short
// past; main ARGS…: the real main; watch ADDRESS: a watcher that can be stopped.

import { writeSync } from "node:fs";
import { runDaemon } from "../../src/bin/daemon.js";
import { registryMain } from "../../src/bin/registry.js";
import { createWorld } from "../../src/platform/node/world.js";
import { RegistryClient } from "../../src/registry/client.js";
import { RegistryDaemon } from "../../src/registry/service.js";

const [mode, ...rest] = process.argv.slice(2);
const ARENA_BYTES = 64 * 2 ** 20;

async function serve(path: string, address: string): Promise<number> {
  const world = createWorld({ name: "registry", arenaBytes: ARENA_BYTES, terminal: null });
  const daemon = new RegistryDaemon(world, {
    path,
    address,
    cluster: null,
    past: { revisionsMax: 400, bytesMax: 2 ** 26 },
    onFatal: () => process.exit(3),
  });
  return await runDaemon("registry", daemon);
}

async function watch(address: string): Promise<number> {
  const world = createWorld({ name: "watcher", arenaBytes: ARENA_BYTES, terminal: null });
  const client = new RegistryClient(world, { address, cluster: null, role: "test" });
  const { revision } = await client.range("", { limit: 1 });
  return await new Promise<number>((resolve, reject) => {
    const onEvents = () => {};
    const onEnd = (reason: string) => {
      writeSync(1, `${reason}\n`);
      resolve(0);
    };
    client
      .watch("", revision + 1, { onEvents, onEnd })
      .then(() => writeSync(1, "watching\n"), reject);
  });
}

if (mode === "serve") process.exit(await serve(rest[0]!, rest[1]!));
else if (mode === "main") process.exit(await registryMain(rest));
else process.exit(await watch(rest[0]!));
