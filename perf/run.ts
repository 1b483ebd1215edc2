// SPDX-License-Identifier: Apache-2.0
// npm run perf [-- ROW… | --list | --quick | --rounds N | --seconds N | --folder DIR]
// Measures rows of the table beside their peers, prints the table, writes perf/results/.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { parseArgs } from "node:util";
import { messageOf } from "../src/base/errors.js";
import { backendRow } from "./backend.js";
import { diskRow } from "./disk.js";
import { erasureRow } from "./erasure.js";
import type { RowReport } from "./lib/report.js";
import { formatTable, writeResults } from "./lib/report.js";
import type { Row } from "./lib/row.js";
import { nbdRow } from "./nbd.js";
import { registryRow } from "./registry.js";
import { transportRow } from "./transport.js";
import { VDISK_ROWS } from "./vdisk/rows.js";

/** In the order of the table. A new row is one import and one entry. */
const ROWS: readonly Row[] = [
  erasureRow,
  diskRow,
  nbdRow,
  ...VDISK_ROWS,
  backendRow,
  transportRow,
  registryRow,
];

const ROUNDS = 5;
const SECONDS = 6;
const RESULTS = new URL("../../perf/results", import.meta.url).pathname;

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      list: { type: "boolean" },
      quick: { type: "boolean" },
      rounds: { type: "string" },
      seconds: { type: "string" },
      folder: { type: "string" },
    },
  });
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
  const reports: RowReport[] = [];
  for (const row of chosen) {
    reports.push(await measure(row, { rounds, seconds, parent: values.folder ?? tmpdir() }));
  }
  console.log(formatTable(reports));
  const name = positionals.length > 0 ? positionals.join("-") : "all";
  for (const path of writeResults(RESULTS, name, reports)) console.log(path);
  return reports.some((report) => report.failure !== null) ? 1 : 0;
}

async function measure(
  row: Row,
  options: { rounds: number; seconds: number; parent: string },
): Promise<RowReport> {
  const folder = mkdtempSync(`${options.parent}/ovs-perf-`);
  const begin = performance.now();
  const say = (message: string) => console.error(`${row.name}: ${message}`);
  const { rounds, seconds } = options;
  const report: RowReport = { row: row.name, seconds: 0, lines: [], failure: null };
  try {
    report.lines = await row.run({ folder, rounds, seconds, say });
  } catch (error) {
    report.failure = messageOf(error);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  report.seconds = (performance.now() - begin) / 1000;
  return report;
}

process.exitCode = await main();
