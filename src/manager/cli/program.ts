// SPDX-License-Identifier: Apache-2.0
// The command line: every command of `ovs` with its options and help. What a command does lies
// behind `Actions`; this file only declares and prints.

import { Command, CommanderError, InvalidArgumentError } from "commander";
import { StorageError } from "../../base/errors.js";
import { formatSize, parseSize } from "../../base/units.js";
import type { UpOptions } from "../model/config.js";
import { checkName, checkVdiskSize } from "../model/config.js";
import type { Operation } from "../operations/operations.js";
import { OPERATIONS } from "../operations/operations.js";
import {
  asdTable,
  backendText,
  humanSize,
  lossesText,
  table,
  vdiskTable,
  verifyText,
} from "./output.js";

export const EXIT_OK = 0;
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
export const EXIT_DEGRADED = 3;

/** What the commands need from the program around them. */
export interface Actions {
  /** Calls an operation of the `ovs up` that runs on a data directory. */
  call<Input, Output>(
    data: string,
    operation: Operation<Input, Output>,
    input: Input,
  ): Promise<Output>;
  /** Runs `ovs up`; resolves with the exit code. */
  up(options: UpOptions): Promise<number>;
  /** Prints one of our files in words; `data`: the folder that FILE is relative to. */
  inspect(file: string, options: { data: string; json: boolean }): Promise<number>;
  /** Writes a text and a line end to standard output. */
  print(text: string): void;
}

interface Common {
  data: string;
  json?: boolean;
}

const DATA = ["--data <dir>", "data directory", "./ovs-data"] as const;

function size(text: string): number {
  try {
    return parseSize(text);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : "");
  }
}

function whole(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError("write a whole number");
  return Number(text);
}

/** The roles that have mains of their own; `ovs up` starts them. */
export const ROLES: ReadonlyArray<readonly [name: string, summary: string]> = [
  ["asd", "serve one disk (also: asd list, add, replace, remove)"],
  ["proxy", "erasure-code and place objects"],
  ["router", "own vDisks and serve them"],
  ["registry", "the embedded registry of one machine"],
  ["nbd-serve", "serve a raw file or memory over NBD: nbd-serve [-k SOCK | -s] FILE|memory:SIZE"],
];

/** Builds the whole command tree. `exit` receives the code of the command that ran. */
export function makeProgram(
  version: string,
  actions: Actions,
  exit: (code: number) => void,
): Command {
  const program = new Command("ovs");
  program
    .description(
      "Open vStorage: block storage that survives the loss of a disk, a server or a data centre",
    )
    .version(version)
    .helpOption("-h, --help", "show help")
    .showHelpAfterError("(--help shows what is possible)")
    .exitOverride();
  addUp(program, actions, exit);
  addStatus(program, actions, exit);
  addVdisk(program, actions, exit);
  addAsd(program, actions);
  addBackend(program, actions, exit);
  program
    .command("inspect <file>")
    .description("show a journal segment, extent file, SCO, TLog or map in words")
    .option("--data <dir>", "data directory that <file> lies in, unless it begins with /", ".")
    .option("--json", "print JSON")
    .action(async (file: string, { data, json }: Common) => {
      exit(await actions.inspect(file, { data, json: json === true }));
    });
  const roles = ROLES.map(([name, summary]) => `  ${name.padEnd(10)} ${summary}`).join("\n");
  program.addHelpText(
    "after",
    `\nDaemons and tools with options of their own (ovs NAME --help):\n${roles}`,
  );
  return program;
}

function addUp(program: Command, actions: Actions, exit: (code: number) => void): void {
  const list = (value: string, before: string[] | undefined) => [...(before ?? []), value];
  program
    .command("up")
    .description("run a whole cluster on this machine, in the foreground")
    .option(...DATA)
    .option("--asds <n>", "number of ASDs (6)")
    .option("--asd-size <size>", "room of each ASD (10G)")
    .option(
      "--policy <k,m,c,x>",
      "data, parity, acknowledged at, most per failure domain (4,2,5,6)",
    )
    .option("--vdisk <name:size>", "vDisk to have, repeatable (vd0:10G)", list)
    .option(
      "--nbd <address>",
      "unix:PATH or tcp:HOST:PORT, repeatable (a socket in DIR/run and tcp:127.0.0.1:10809)",
      list,
    )
    .option("--journal-size <size>", "journal of all vDisks together (4G)")
    .option("--cache-size <size>", "read cache in memory (1G)")
    .option("--read-cache-size <size>", "read cache on the local disk (4G)")
    .option("--sco-size <size>", "size of the objects in the backend (16M)")
    .option("--router-threads <n>", "worker threads of the router (cores - 1)")
    .option("--lost-after <seconds>", "an ASD that is away for longer counts as lost (600)")
    .addHelpText(
      "after",
      "\nThe options are kept in DIR/ovs.toml; a later start needs none of them. Ctrl-C stops cleanly.",
    )
    .action(async (options: UpOptions) => exit(await actions.up(options)));
}

function addStatus(program: Command, actions: Actions, exit: (code: number) => void): void {
  program
    .command("status")
    .description(OPERATIONS.status.summary)
    .option(...DATA)
    .option("--json", "print JSON")
    .action(async (options: Common) => {
      const status = await actions.call(options.data, OPERATIONS.status, {});
      if (options.json) actions.print(JSON.stringify(status, null, 2));
      else {
        const processes = table(
          ["PROCESS", "PID", "STATE", "RESTARTS", "ADDRESS", ""],
          status.processes.map((p) => [
            p.id,
            String(p.pid),
            p.state,
            String(p.restarts),
            p.address,
            p.lastExit,
          ]),
        );
        const parts = [
          processes,
          vdiskTable(status.vdisks),
          asdTable(status.asds),
          backendText(status.backend),
        ];
        actions.print(parts.join("\n\n"));
      }
      exit(status.backend.health === "ok" ? EXIT_OK : EXIT_DEGRADED);
    });
}

function addVdisk(program: Command, actions: Actions, exit: (code: number) => void): void {
  const vdisk = program
    .command("vdisk")
    .description("create, list, show, grow, delete, sync, recover vDisks");
  const one = (name: string, summary: string) =>
    vdisk
      .command(name)
      .description(summary)
      .option(...DATA)
      .option("--json", "print JSON");
  const show = (json: boolean | undefined, value: Parameters<typeof vdiskTable>[0]) => {
    const single = value.length === 1 ? value[0] : value;
    actions.print(json ? JSON.stringify(single, null, 2) : vdiskTable(value));
  };
  one("create <name> <size>", OPERATIONS.vdiskCreate.summary).action(
    async (name: string, text: string, options: Common) => {
      const input = { name: checkName(name), sizeBytes: checkVdiskSize(size(text)) };
      show(options.json, [await actions.call(options.data, OPERATIONS.vdiskCreate, input)]);
    },
  );
  one("list", OPERATIONS.vdiskList.summary).action(async (options: Common) => {
    const all = await actions.call(options.data, OPERATIONS.vdiskList, {});
    actions.print(options.json ? JSON.stringify(all, null, 2) : vdiskTable(all));
  });
  one("info <name>", OPERATIONS.vdiskInfo.summary).action(async (name: string, options: Common) => {
    const info = await actions.call(options.data, OPERATIONS.vdiskInfo, { name });
    if (options.json) actions.print(JSON.stringify(info, null, 2));
    else actions.print(infoText(info));
  });
  one("resize <name> <size>", OPERATIONS.vdiskResize.summary).action(
    async (name: string, text: string, options: Common) => {
      const input = { name, sizeBytes: checkVdiskSize(size(text)) };
      show(options.json, [await actions.call(options.data, OPERATIONS.vdiskResize, input)]);
    },
  );
  one("delete <name>", OPERATIONS.vdiskDelete.summary).action(
    async (name: string, options: Common) => {
      await actions.call(options.data, OPERATIONS.vdiskDelete, { name });
      actions.print(options.json ? "{}" : `${name} is deleted`);
    },
  );
  one("sync <name>", OPERATIONS.vdiskSync.summary)
    .option("--timeout <seconds>", "give up after that long", whole, 3600)
    .action(async (name: string, options: Common & { timeout: number }) => {
      const input = { name, timeoutMs: options.timeout * 1000 };
      const result = await actions.call(options.data, OPERATIONS.vdiskSync, input);
      const words = result.full
        ? "in the backend at full width"
        : "in the backend, NOT at full width";
      actions.print(
        options.json
          ? JSON.stringify(result, null, 2)
          : `${name} is ${words}: the loss of ${lossesText(result.spareMin)} is survived`,
      );
      exit(result.full ? EXIT_OK : EXIT_DEGRADED);
    });
  one("recover <name>", OPERATIONS.vdiskRecover.summary)
    .option("--accept-loss", "give up what was only in the lost journal")
    .action(async (name: string, options: Common & { acceptLoss?: boolean }) => {
      const input = { name, acceptLoss: options.acceptLoss === true };
      const status = await actions.call(options.data, OPERATIONS.vdiskRecover, input);
      show(options.json, [status]);
      exit(status.state === "serving" ? EXIT_OK : EXIT_DEGRADED);
    });
}

function infoText(info: Parameters<typeof vdiskTable>[0][number]): string {
  return table(
    ["", ""],
    Object.entries(info).map(([key, value]) => [
      key.replace(/Bytes$/, ""),
      key.endsWith("Bytes")
        ? `${humanSize(Number(value))} (${formatSize(Number(value))})`
        : String(value),
    ]),
  ).trimStart();
}

function addAsd(program: Command, actions: Actions): void {
  const asd = program
    .command("asd")
    .description(
      "list, add, replace, remove ASDs; `ovs asd --path DIR --address ADDRESS` serves one disk",
    );
  const one = (name: string, summary: string) =>
    asd
      .command(name)
      .description(summary)
      .option(...DATA)
      .option("--json", "print JSON");
  const show = (options: Common, asds: Parameters<typeof asdTable>[0]) =>
    actions.print(options.json ? JSON.stringify(asds, null, 2) : asdTable(asds));
  one("list", OPERATIONS.asdList.summary).action(async (options: Common) => {
    show(options, await actions.call(options.data, OPERATIONS.asdList, {}));
  });
  one("add [count]", OPERATIONS.asdAdd.summary).action(
    async (text: string | undefined, options: Common) => {
      show(
        options,
        await actions.call(options.data, OPERATIONS.asdAdd, { count: whole(text ?? "1") }),
      );
    },
  );
  one("replace <id>", OPERATIONS.asdReplace.summary).action(async (id: string, options: Common) => {
    const asd = await actions.call(options.data, OPERATIONS.asdReplace, { id });
    actions.print(options.json ? JSON.stringify(asd, null, 2) : asdTable([asd]));
  });
  one("remove <id>", OPERATIONS.asdRemove.summary).action(async (id: string, options: Common) => {
    await actions.call(options.data, OPERATIONS.asdRemove, { id });
    actions.print(options.json ? "{}" : `${id} is empty and taken out`);
  });
}

function addBackend(program: Command, actions: Actions, exit: (code: number) => void): void {
  program
    .command("cache")
    .description("read caches")
    .command("drop")
    .description(OPERATIONS.cacheDrop.summary)
    .option(...DATA)
    .option("--json", "print JSON")
    .action(async (options: Common) => {
      await actions.call(options.data, OPERATIONS.cacheDrop, {});
      actions.print(options.json ? "{}" : "the read caches are empty");
    });
  const backend = program.command("backend").description("the object store behind the vDisks");
  backend
    .command("info")
    .description(OPERATIONS.backendInfo.summary)
    .option(...DATA)
    .option("--json", "print JSON")
    .action(async (options: Common) => {
      const info = await actions.call(options.data, OPERATIONS.backendInfo, {});
      actions.print(options.json ? JSON.stringify(info, null, 2) : backendText(info));
      exit(info.health === "ok" ? EXIT_OK : EXIT_DEGRADED);
    });
  backend
    .command("verify")
    .description(OPERATIONS.backendVerify.summary)
    .option(...DATA)
    .option("--json", "print JSON")
    .action(async (options: Common) => {
      const report = await actions.call(options.data, OPERATIONS.backendVerify, {});
      actions.print(options.json ? JSON.stringify(report, null, 2) : verifyText(report));
      exit(report.unreadable > 0 ? EXIT_FAILED : report.clean ? EXIT_OK : EXIT_DEGRADED);
    });
}

/** Exit code for an error that ended a command, printed to `print`. */
export function exitCodeOf(error: unknown, print: (text: string) => void): number {
  if (error instanceof InvalidArgumentError) print(`ovs: ${error.message}`);
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT_OK : EXIT_USAGE;
  if (!(error instanceof StorageError)) throw error;
  print(`ovs: ${error.message}`);
  switch (error.kind) {
    case "invalid":
      return error.code === "OVS_INVALID" || error.code === "OVS_OUT_OF_RANGE"
        ? EXIT_USAGE
        : EXIT_FAILED;
    case "unavailable":
      return EXIT_DEGRADED;
    case "full":
    case "fenced":
    case "corrupt":
    case "closed":
      return EXIT_FAILED;
  }
}
