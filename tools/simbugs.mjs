// SPDX-License-Identifier: Apache-2.0
// Tests the simulator: plants each bug of tools/sim/bugs.mjs into a copy of the compiled product
// and counts the seeds until it is found. Fails when one is not.
//
//   node tools/simbugs.mjs [--seeds N] [--first N] [--missing] [--write] [PART OF A NAME…]
//
// With --missing it looks for those only that have no result yet, or were not found. With --write
// the results go to tools/sim/found.json and the table of docs/simulator.md; what was not looked
// for this time stays there as it was.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { parseArgs } from "node:util";
import { at } from "./bootstrap/project.mjs";
import { BUGS } from "./sim/bugs.mjs";
import { lineOf, readFound, writeFound } from "./sim/found.mjs";
import { hunt, Runner } from "./sim/hunt.mjs";
import { copyProduct, placesOf } from "./sim/plant.mjs";

const SEEDS = "500";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seeds: { type: "string", default: SEEDS },
    first: { type: "string", default: "1" },
    missing: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
  },
});
const [seeds, first] = [Number(values.seeds), Number(values.first)];
const wanted = BUGS.filter(({ name }) => {
  if (values.missing && readFound()[name]?.seeds) return false;
  return positionals.length === 0 || positionals.some((part) => name.includes(part));
});
const misplaced = BUGS.filter((bug) => placesOf(bug) !== 1);
for (const { name, file } of misplaced) {
  console.error(`"${name}": its place in ${file} is not there once: mend tools/sim/bugs.mjs`);
}
process.exitCode = misplaced.length === 0 ? await main() : 2;

async function main() {
  mkdirSync(at(".cache"), { recursive: true });
  const folder = mkdtempSync(at(".cache/simbugs-"));
  const sound = new Runner(at("dist"));
  let missed = 0;
  console.log("| planted bug | rule | seeds | found as |\n| --- | --- | --- | --- |");
  try {
    copyProduct(folder);
    for (const bug of wanted) {
      const result = await hunt(bug, { folder, sound, first, seeds });
      if (result === null) missed++;
      const kept = result ?? { tried: seeds };
      console.log(lineOf(bug, kept));
      if (values.write) writeFound({ ...readFound(), [bug.name]: kept });
    }
  } finally {
    sound.stop();
    rmSync(folder, { recursive: true, force: true });
  }
  if (missed > 0) console.log(`${missed} of ${wanted.length} were not found`);
  return missed > 0 ? 1 : 0;
}
