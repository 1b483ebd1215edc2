// SPDX-License-Identifier: Apache-2.0
// Brings a clone to where it can run, then does what was asked: node tools/bootstrap.mjs COMMAND.
// Plain JavaScript without dependencies, because it is what installs them. Steps whose stamp is
// current cost nothing, so this stands in front of every command of package.json.

import { existsSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { at, withLock } from "./bootstrap/project.mjs";
import { inherit, Stop } from "./bootstrap/run.mjs";
import { addons, debianPackages, npmPackages, testRunner, typescript } from "./bootstrap/steps.mjs";
import { testCommand, vmCommand } from "./bootstrap/tests.mjs";

// What each command needs: groups of tools/packages.json, and whether anything is compiled.
const COMMANDS = {
  build: { groups: ["build"], run: async () => 0 },
  start: { groups: ["build"], run: start },
  test: { groups: ["build", "test", "check", "vm"], run: testCommand },
  check: { groups: ["build", "check"], run: (args) => script("tools/check.mjs", args) },
  perf: {
    groups: ["build", "test"],
    // A peer of many packages: only who names it gets it.
    extra: (args) => (args.includes("ceph") ? ["ceph"] : []),
    run: (args) => script("dist/perf/run.js", args),
  },
  soak: { groups: ["build", "test"], run: (args) => script("tools/soak.mjs", args) },
  sim: { groups: ["build"], run: (args) => script("dist/src/bin/sim.js", args) },
  simbugs: { groups: ["build"], run: (args) => script("tools/simbugs.mjs", args) },
  sweep: { groups: ["build"], run: (args) => script("dist/src/bin/sweep.js", args) },
  vm: { groups: ["build", "test", "vm", "qemu"], run: vmCommand },
  "native-test": { groups: ["build", "check"], compile: false, run: nativeTest },
  fuzz: {
    groups: ["build", "check"],
    compile: false,
    run: (args) => script("tools/fuzz.mjs", args),
  },
  format: { groups: ["check"], compile: false, run: () => script("tools/format.mjs", []) },
};

function nativeTest(args) {
  return script("tools/native-test.mjs", args);
}

/** Runs a script of the project in a process of its own; gives its exit code. */
function script(path, args) {
  return inherit(process.execPath, [at(path), ...args]);
}

// `ovs up` takes over this very process, so that signals and the exit code need no passing on.
async function start(args) {
  const path = at("dist/src/bin/ovs.js");
  if (!existsSync(path)) throw new Stop("src/bin/ovs.ts is not there: nothing to start");
  process.argv = [process.execPath, path, "up", ...args];
  await import(pathToFileURL(path).href);
  return undefined;
}

async function main() {
  const [name, ...rest] = process.argv.slice(2);
  const command = Object.hasOwn(COMMANDS, name ?? "") ? COMMANDS[name] : undefined;
  if (!command) {
    throw new Stop(`usage: node tools/bootstrap.mjs ${Object.keys(COMMANDS).join("|")} [-- …]`, 2);
  }
  if (Number(process.versions.node.split(".")[0]) < 20) {
    throw new Stop(`Node 20 or newer is needed, this is ${process.version}`, 2);
  }
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new Stop(`Linux on x86-64 is needed, this is ${process.platform} on ${process.arch}`, 2);
  }
  const args = rest[0] === "--" ? rest.slice(1) : rest;
  // Compiled files of another Node are used as they are: Node-API addons do not depend on it.
  if (!process.env.OVS_NO_BUILD) {
    await withLock(async () => {
      await debianPackages([...command.groups, ...(command.extra?.(args) ?? [])]);
      await npmPackages();
      if (command.compile === false) return;
      if (name === "test" || name === "vm") await testRunner();
      await addons();
      await typescript();
    });
  }
  return command.run(args);
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof Stop)) throw error;
  console.error(error.message);
  process.exitCode = error.code;
}
