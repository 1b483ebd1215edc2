// SPDX-License-Identifier: Apache-2.0
// `ovs nbd-serve`: one disk in memory or one raw file behind the NBD server of the product, for
// foreign test suites, benchmarks, and a look at an image.

import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { alignUp } from "../base/bytes.js";
import { messageOf, StorageError } from "../base/errors.js";
import { MIB, parseSize } from "../base/units.js";
import { FileTarget } from "../nbd/file.js";
import { SLOT_BYTES, SLOTS_DEFAULT } from "../nbd/limits.js";
import { NbdListener } from "../nbd/listener.js";
import { MemoryTarget } from "../nbd/memory.js";
import { NbdServer } from "../nbd/server.js";
import type { BlockTarget } from "../nbd/target.js";
import type { NodeWorld } from "../platform/node/world.js";
import { createWorld } from "../platform/node/world.js";

const HELP = `usage: ovs nbd-serve [options] FILE | memory:SIZE

Serves a raw file or a disk in memory over NBD until SIGTERM, or until the last
client leaves when it was started by one (-s, --exit-with-last).

  -k, --socket PATH     listen on a unix socket
  -t, --tcp HOST:PORT   listen on TCP (port 0: any free port)
  -s, --stdio           serve the one client on stdin and stdout
  -e, --export NAME     name of the export (default: disk)
  -D, --description TEXT
  -r, --read-only       refuse writes
  -x, --exit-with-last  end when the last client has left
      --slots N         buffers of 132 KiB (default: ${SLOTS_DEFAULT})
  -h, --help

With LISTEN_PID and LISTEN_FDS set (systemd socket activation) the sockets handed
over are served. Without any of these it listens on tcp:127.0.0.1:10809.
`;

interface Options {
  disk: string;
  addresses: string[];
  fds: number[];
  name: string;
  description: string;
  readOnly: boolean;
  exitWithLast: boolean;
  slots: number;
}

/** Runs the command; resolves with the exit code. */
export async function nbdServe(args: string[]): Promise<number> {
  let options: Options | null;
  try {
    options = readOptions(args);
  } catch (error) {
    process.stderr.write(`nbd-serve: ${messageOf(error)}\nTry \`ovs nbd-serve --help\`.\n`);
    return 2;
  }
  if (options === null) {
    process.stdout.write(HELP);
    return 0;
  }
  try {
    await serve(options);
    return 0;
  } catch (error) {
    process.stderr.write(`nbd-serve: ${messageOf(error)}\n`);
    return error instanceof StorageError && error.kind === "invalid" ? 2 : 1;
  }
}

function readOptions(args: string[]): Options | null {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      socket: { type: "string", short: "k", multiple: true },
      tcp: { type: "string", short: "t", multiple: true },
      stdio: { type: "boolean", short: "s" },
      export: { type: "string", short: "e" },
      description: { type: "string", short: "D" },
      "read-only": { type: "boolean", short: "r" },
      "exit-with-last": { type: "boolean", short: "x" },
      slots: { type: "string" },
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help) return null;
  if (positionals.length !== 1) throw new Error("give one FILE or memory:SIZE");
  const fds = values.stdio ? [0] : activatedSockets();
  const addresses = [
    ...(values.socket ?? []).map((path) => `unix:${resolve(path)}`),
    ...(values.tcp ?? []).map((address) => `tcp:${address}`),
  ];
  if (values.stdio && addresses.length > 0) throw new Error("-s goes with no other socket");
  if (fds.length === 0 && addresses.length === 0) addresses.push("tcp:127.0.0.1:10809");
  const slots = Number(values.slots ?? SLOTS_DEFAULT);
  if (!Number.isInteger(slots) || slots < 2 || slots > 16_384) {
    throw new Error(`--slots is a number from 2 to 16384, not "${values.slots}"`);
  }
  return {
    disk: positionals[0]!,
    addresses,
    fds,
    name: values.export || "disk",
    description: values.description ?? "",
    readOnly: values["read-only"] ?? false,
    exitWithLast: (values["exit-with-last"] ?? false) || (values.stdio ?? false),
    slots,
  };
}

/** Descriptors 3, 4, … that systemd (or libnbd) has opened for this very process. */
function activatedSockets(): number[] {
  const { LISTEN_PID, LISTEN_FDS } = process.env;
  if (LISTEN_PID === undefined || Number(LISTEN_PID) !== process.pid) return [];
  const count = Number(LISTEN_FDS);
  if (!Number.isInteger(count) || count < 1 || count > 64) {
    throw new Error(`LISTEN_FDS is "${LISTEN_FDS}", not a number from 1 to 64`);
  }
  return Array.from({ length: count }, (_, index) => 3 + index);
}

async function serve(options: Options): Promise<void> {
  const world = createWorld({
    name: "nbd-serve",
    arenaBytes: alignUp(options.slots * SLOT_BYTES + 4 * MIB, MIB),
    receivePoolBytes: MIB,
  });
  try {
    await serveIn(world, options);
  } finally {
    await world.stop();
  }
}

async function serveIn(world: NodeWorld, options: Options): Promise<void> {
  let stop = (): void => {};
  const stopped = new Promise<void>((resolve) => {
    stop = resolve;
  });
  const server = new NbdServer(world, {
    slots: options.slots,
    onClosed: (left) => {
      if (left === 0 && options.exitWithLast) stop();
    },
  });
  const target = await openTarget(world, server, options);
  const listener = new NbdListener({
    nbd: world.nbd,
    log: world.log,
    slots: options.slots,
    onNegotiated: (ticket) => void server.adopt(ticket, target),
    onRefused: () => {
      if (options.fds[0] === 0) stop();
    },
  });
  const { name, description } = options;
  listener.setExports([
    { name, description, sizeBytes: target.sizeBytes, readOnly: target.readOnly },
  ]);
  for (const address of options.addresses) listener.listen(address);
  for (const fd of options.fds) listener.listenFd(fd);
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
  // On stdout only where no client listens to it.
  const say = options.fds.includes(0) ? process.stderr : process.stdout;
  if (options.addresses.length > 0) say.write(`ready ${listener.addresses.join(" ")}\n`);
  await stopped;
  listener.close();
  await server.stop();
  if (target instanceof FileTarget) await target.close();
}

async function openTarget(
  world: NodeWorld,
  server: NbdServer,
  options: Options,
): Promise<BlockTarget> {
  const { disk, readOnly } = options;
  if (disk.startsWith("memory:")) {
    const sizeBytes = parseSize(disk.slice("memory:".length));
    return new MemoryTarget(world.arena, server.requests, sizeBytes, readOnly);
  }
  return await FileTarget.open(world, server.requests, resolve(disk), readOnly);
}
