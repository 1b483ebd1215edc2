#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// The one program: `ovs SUBCOMMAND …`. Each subcommand is loaded when it is asked for.

import { Command } from "commander";

const program = new Command("ovs").description("Open vStorage").showHelpAfterError();

program
  .command("nbd-serve")
  .description("serve a raw file or a disk in memory over NBD")
  .helpOption(false)
  .allowUnknownOption()
  .argument("[args...]")
  .action(async (_args: string[], _options: unknown, command: Command) => {
    const { nbdServe } = await import("./nbdserve.js");
    process.exit(await nbdServe(command.args));
  });

await program.parseAsync();
