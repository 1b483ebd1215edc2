// SPDX-License-Identifier: Apache-2.0
// What simbugs has found: found.json keeps it by the bug's name, and the table of docs/simulator.md
// is made of it.

import { readFileSync, writeFileSync } from "node:fs";
import { at } from "../bootstrap/project.mjs";
import { BUGS } from "./bugs.mjs";

const FOUND = at("tools/sim/found.json");
const PAGE = at("docs/simulator.md");
const BEGIN = "<!-- made by tools/simbugs.mjs: begin -->\n";
const END = "<!-- made by tools/simbugs.mjs: end -->\n";

/** By name: `{seed, seeds, as}`, or `{tried}` for one that was not found in so many seeds. */
export function readFound() {
  return JSON.parse(readFileSync(FOUND, "utf8"));
}

/** Keeps what the list of bugs still has, in its order, and writes the table anew. */
export function writeFound(found) {
  const known = BUGS.filter(({ name }) => found[name] !== undefined);
  const kept = Object.fromEntries(known.map(({ name }) => [name, found[name]]));
  writeFileSync(FOUND, `${JSON.stringify(kept, null, 2)}\n`);
  const [before, after] = around(readFileSync(PAGE, "utf8"));
  writeFileSync(PAGE, before + tableOf(kept) + after);
}

/** What is wrong with what is written down: bugs without a result, a table that differs. */
export function staleFound() {
  const found = readFound();
  const words = BUGS.filter(({ name }) => !found[name]?.seeds).map(
    ({ name }) => `"${name}": not found`,
  );
  for (const name of Object.keys(found)) {
    if (!BUGS.some((bug) => bug.name === name)) words.push(`"${name}": there is no such bug`);
  }
  const page = readFileSync(PAGE, "utf8");
  const [before, after] = around(page);
  if (page !== before + tableOf(found) + after) words.push("the table differs from found.json");
  return words;
}

function around(page) {
  const [begin, end] = [page.indexOf(BEGIN) + BEGIN.length, page.indexOf(END)];
  if (begin < BEGIN.length || end < begin) throw new Error(`${PAGE} has no place for the table`);
  return [page.slice(0, begin), page.slice(end)];
}

/** The table; each bug that was looked for is a line. */
export function tableOf(found) {
  const lines = ["| planted bug | rule | seeds | found as |", "| --- | --- | --- | --- |"];
  for (const { name, rule } of BUGS) {
    const result = found[name];
    if (result === undefined) continue;
    lines.push(lineOf({ name, rule }, result));
  }
  return `${lines.join("\n")}\n`;
}

/** The bug's line of the table. */
export function lineOf({ name, rule }, { seeds, as, tried }) {
  const cells = as === undefined ? ["**none**", `not in ${tried}`] : [seeds, as];
  return `| ${[name, rule, ...cells].join(" | ")} |`;
}
