// SPDX-License-Identifier: Apache-2.0
// Tests the simulator: plants each bug of tools/sim/bugs.mjs into a copy of the compiled product
// and counts the seeds until it is found. node tools/simbugs.mjs [--seeds N] [PART OF A NAME…]
// Fails when one is not found; prints the table of docs/simulator.md.

import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import ts from "typescript";
import { at } from "./bootstrap/project.mjs";
import { lines } from "./bootstrap/run.mjs";
import { BUGS } from "./sim/bugs.mjs";

const SEEDS = 500;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seeds: { type: "string" }, first: { type: "string" } },
});
const seeds = Number(values.seeds ?? SEEDS);
const first = Number(values.first ?? 1);
const wanted = BUGS.filter(
  ({ name }) => positionals.length === 0 || positionals.some((part) => name.includes(part)),
);
const compilerOptions = ts.parseJsonConfigFileContent(
  ts.readConfigFile(at("tsconfig.json"), ts.sys.readFile).config,
  ts.sys,
  at("."),
).options;

let missed = 0;
console.log("| planted bug | rule | found after |\n| --- | --- | --- |");
for (const bug of wanted) {
  const found = await hunt(bug);
  if (found === null) missed++;
  const after = found === null ? `**not in ${seeds} seeds**` : `${found} seeds`;
  console.log(`| ${bug.name} | ${bug.rule} | ${after.replace(/^1 seeds/, "1 seed")} |`);
}
if (missed > 0) console.log(`${missed} of ${wanted.length} were not found`);
process.exitCode = missed > 0 ? 1 : 0;

/** Seeds until the bug is found; null: it is not. */
async function hunt(bug) {
  const folder = at(".cache/simbugs");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  cpSync(at("dist/src"), join(folder, "src"), { recursive: true });
  plant(bug, folder);
  let count = null;
  const program = join(folder, "src/bin/sim.js");
  const options = ["--seed", String(first), "--seeds", String(seeds), "--minutes", "600"];
  await lines(
    process.execPath,
    [program, ...options, "--until-failure"],
    (line) => {
      const match = /^found after (\d+) seeds/.exec(line);
      if (match) count = Number(match[1]);
    },
    { OVS_NATIVE_DIR: at("build/Release") },
  );
  return count;
}

function plant({ name, file, find, replace }, folder) {
  const text = readFileSync(at(file), "utf8");
  if (text.split(find).length !== 2) {
    throw new Error(`"${name}": its place in ${file} is not there once: mend tools/sim/bugs.mjs`);
  }
  const changed = text.replace(find, () => replace);
  const { outputText } = ts.transpileModule(changed, { compilerOptions, fileName: file });
  const target = join(folder, file.replace(/\.ts$/, ".js"));
  mkdirSync(dirname(target), { recursive: true });
  writeFileSync(target, outputText);
}
