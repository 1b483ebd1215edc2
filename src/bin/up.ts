// SPDX-License-Identifier: Apache-2.0
// `ovs up`: a whole cluster on this machine, in the foreground.

import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { messageOf, StorageError } from "../base/errors.js";
import { MIB } from "../base/units.js";
import { startLines } from "../manager/cli/lines.js";
import { EXIT_FAILED, EXIT_OK, EXIT_USAGE } from "../manager/cli/program.js";
import type { UpOptions } from "../manager/model/config.js";
import { UpCluster } from "../manager/up/cluster.js";
import { Layout } from "../manager/up/layout.js";
import { prepare } from "../manager/up/prepare.js";
import { addressTaken } from "../platform/node/ports.js";
import { NodeProcesses } from "../platform/node/processes.js";
import { createWorld } from "../platform/node/world.js";

const ARENA_BYTES = 64 * MIB;

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** Runs until SIGTERM or SIGINT; resolves with the exit code. */
export async function upMain(options: UpOptions): Promise<number> {
  const stopped = new Promise<void>((yes) => {
    process.on("SIGTERM", () => yes());
    process.on("SIGINT", () => yes());
  });
  const layout = new Layout(resolve(options.data));
  const early = createWorld({ name: "up", arenaBytes: MIB, terminal: "warn" });
  const host = { cpus: availableParallelism(), addressTaken };
  const { config, lock, warnings, asked } = await prepare(early, layout, options, host);
  for (const warning of warnings) say(`note: ${warning}`);

  const world = createWorld({
    name: "up",
    arenaBytes: ARENA_BYTES,
    logTo: layout.logs,
    terminal: "warn",
  });
  const program = fileURLToPath(new URL("./ovs.js", import.meta.url));
  const command = fileURLToPath(new URL("../../../ovs", import.meta.url));
  const cluster = new UpCluster(world, new NodeProcesses(program), layout, config, asked);
  let code = EXIT_OK;
  try {
    const started = cluster.start(say);
    // A signal during the start ends it: what was started is stopped in order.
    const first = await Promise.race([started.then(() => "started" as const), stopped]);
    if (first === "started") {
      const nbd = layout.nbd(config);
      say(startLines({ command, data: layout.data, nbd, vdisk: config.vdisks[0] ?? null }));
      say("ready");
      await stopped;
    } else started.catch(() => undefined);
    say("stopping");
  } catch (error) {
    process.stderr.write(`ovs up: ${messageOf(error)}\n`);
    code = error instanceof StorageError && error.kind === "invalid" ? EXIT_USAGE : EXIT_FAILED;
  }
  await cluster.stop();
  await lock.release();
  await world.stop();
  await early.stop();
  if (code === EXIT_OK) say("stopped");
  return code;
}
