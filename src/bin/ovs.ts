#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// The one program. Daemons have mains of their own, loaded only when asked for; everything else is
// the command line of manager/cli.

import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import type { Actions } from "../manager/cli/program.js";
import { endProcess } from "../native/exit.js";

type RoleMain = (args: string[]) => Promise<number>;

const ASD_COMMANDS = new Set([
  "list",
  "add",
  "replace",
  "remove",
  "help",
  "--help",
  "-h",
  undefined,
]);

/** The main of a role, or null when the arguments are for the command line. */
async function roleMain(
  name: string | undefined,
  first: string | undefined,
): Promise<RoleMain | null> {
  switch (name) {
    case "asd":
      return ASD_COMMANDS.has(first) ? null : (await import("./asd.js")).asdMain;
    case "registry":
      return (await import("./registry.js")).registryMain;
    case "proxy":
      return (await import("./proxy.js")).proxyMain;
    case "router":
      return (await import("./router.js")).routerMain;
    case "nbd-serve":
      return (await import("./nbdserve.js")).nbdServe;
    default:
      return null;
  }
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

function version(): string {
  const file = new URL("../../../package.json", import.meta.url);
  return String((JSON.parse(readFileSync(file, "utf8")) as { version: string }).version);
}

async function commandLine(args: string[]): Promise<number> {
  const { makeProgram, exitCodeOf } = await import("../manager/cli/program.js");
  const { callOperation } = await import("../manager/client.js");
  let code = 0;
  const actions: Actions = {
    call: async (data, operation, input) => {
      const { withWorld } = await import("./cliworld.js");
      return await withWorld((world) => callOperation(world, resolve(data), operation, input));
    },
    up: async (options) => await (await import("./up.js")).upMain(options),
    inspect: async (file, { data, json }) =>
      await (await import("./inspect.js")).inspectMain(resolve(data, file), json, print),
    print,
  };
  try {
    const program = makeProgram(version(), actions, (exit) => {
      code = exit;
    });
    await program.parseAsync(args, { from: "user" });
  } catch (error) {
    return exitCodeOf(error, (text) => process.stderr.write(`${text}\n`));
  }
  return code;
}

async function main(): Promise<void> {
  // A reader that has seen enough (`ovs inspect … | head`) is no failure.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    endProcess(error.code === "EPIPE" ? 0 : 1);
  });
  const args = process.argv.slice(2);
  const role = await roleMain(args[0], args[1]);
  const code = role ? await role(args.slice(1)) : await commandLine(args);
  endProcess(code);
}

await main();
