// SPDX-License-Identifier: Apache-2.0
// npm run perf [-- ROW… | --list | --quick | --rounds N | --seconds N | --folder DIR | --commit]
// Measures rows of the table beside their peers, prints the table, writes perf/results/. Without
// names of rows all are measured, in less than an hour. --commit writes the result that is kept in
// the repository, and its table into the README.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { parseArgs } from "node:util";
import { messageOf } from "../src/base/errors.js";
import { backendRow } from "./backend.js";
import { cephRow } from "./ceph.js";
import { diskRow } from "./disk.js";
import { erasureRow } from "./erasure.js";
import { formatMarkdown, insertTable } from "./lib/markdown.js";
import type { Results, RowReport } from "./lib/report.js";
import { describeMachine, formatTable, writeResults } from "./lib/report.js";
import type { Row } from "./lib/row.js";
import { nbdRow } from "./nbd.js";
import { registryRow } from "./registry.js";
import { simRow } from "./sim.js";
import { transportRow } from "./transport.js";
import { bytesRow } from "./vdisk/bytes.js";
import { idleRow } from "./vdisk/idle.js";
import { VDISK_ROWS } from "./vdisk/rows.js";
import { sizesRow } from "./vdisk/sizes.js";

/** In the order of the table. A new row is one import and one entry. */
const ROWS: readonly Row[] = [
  erasureRow,
  diskRow,
  nbdRow,
  ...VDISK_ROWS,
  cephRow,
  bytesRow,
  sizesRow,
  idleRow,
  backendRow,
  transportRow,
  registryRow,
  simRow,
];

const ROUNDS = 5;
const SECONDS = 5;
const RESULTS = new URL("../../perf/results", import.meta.url).pathname;
const README = new URL("../../README.md", import.meta.url).pathname;

const HELP = `npm run perf -- [ROW…] [options]: each row beside its peer; all rows without a name

  --list        the rows, each with its target
  --rounds N    alternating rounds of each side (${ROUNDS})
  --seconds N   of a round (${SECONDS})
  --quick       one round of 2 seconds: does it run?
  --folder DIR  where the data lie (the system's folder for temporary files)
  --commit      writes perf/results/committed.json and its table into the README`;

function argumentsOf() {
  return parseArgs({
    allowPositionals: true,
    options: {
      help: { type: "boolean", short: "h" },
      list: { type: "boolean" },
      quick: { type: "boolean" },
      rounds: { type: "string" },
      seconds: { type: "string" },
      folder: { type: "string" },
      commit: { type: "boolean" },
    },
  });
}

async function main(): Promise<number> {
  let parsed: ReturnType<typeof argumentsOf>;
  try {
    parsed = argumentsOf();
  } catch (error) {
    console.error(`${messageOf(error)}\n\n${HELP}`);
    return 2;
  }
  const { values, positionals } = parsed;
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  if (values.list) {
    for (const row of ROWS) console.log(`${row.name.padEnd(16)} ${row.target}`);
    return 0;
  }
  const unknown = positionals.filter((name) => !ROWS.some((row) => row.name === name));
  if (unknown.length > 0) {
    console.error(
      `no row ${unknown.join(", ")}; there are: ${ROWS.map((row) => row.name).join(" ")}`,
    );
    return 2;
  }
  const chosen =
    positionals.length > 0 ? ROWS.filter((row) => positionals.includes(row.name)) : ROWS;
  const rounds = Number(values.rounds ?? (values.quick ? 1 : ROUNDS));
  const seconds = Number(values.seconds ?? (values.quick ? 2 : SECONDS));
  const quick = values.quick === true;
  const when = new Date().toISOString();
  const begin = performance.now();
  const reports: RowReport[] = [];
  for (const row of chosen) {
    const parent = values.folder ?? tmpdir();
    reports.push(await measure(row, { rounds, seconds, quick, parent }));
  }
  console.log(formatTable(reports));
  const tookSeconds = Math.round((performance.now() - begin) / 1000);
  const machine = describeMachine();
  const results: Results = { when, rounds, roundSeconds: seconds, tookSeconds, machine, reports };
  const all = values.commit ? "committed" : "all";
  const name = positionals.length > 0 ? positionals.join("-") : all;
  for (const path of writeResults(RESULTS, name, results)) console.log(path);
  if (name === "committed") {
    writeFileSync(README, insertTable(readFileSync(README, "utf8"), formatMarkdown(results)));
  }
  return reports.some((report) => report.failure !== null) ? 1 : 0;
}

async function measure(
  row: Row,
  options: { rounds: number; seconds: number; quick: boolean; parent: string },
): Promise<RowReport> {
  const folder = mkdtempSync(`${options.parent}/ovs-perf-`);
  const begin = performance.now();
  const say = (message: string) => console.error(`${row.name}: ${message}`);
  const { rounds, seconds, quick } = options;
  const report: RowReport = { row: row.name, seconds: 0, lines: [], failure: null };
  try {
    report.lines = await row.run({ folder, rounds, seconds, quick, say });
  } catch (error) {
    // The folder is this run's own and says nothing to a reader.
    report.failure = messageOf(error).replaceAll(folder, "…").slice(0, 300);
    say(`failed: ${messageOf(error)}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  report.seconds = (performance.now() - begin) / 1000;
  return report;
}

process.exitCode = await main();
