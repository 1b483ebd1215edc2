// SPDX-License-Identifier: Apache-2.0
// node dist/perf/table.js [FILE] [--write README | --check README]
// Makes the README's table from a file of results (perf/results/committed.json): prints it, writes
// it between its two marks, or fails when what stands there is something else.

import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { formatMarkdown, insertTable } from "./lib/markdown.js";
import type { Results } from "./lib/report.js";

const COMMITTED = new URL("../../perf/results/committed.json", import.meta.url).pathname;

function main(): number {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { write: { type: "string" }, check: { type: "string" } },
  });
  const results = JSON.parse(readFileSync(positionals[0] ?? COMMITTED, "utf8")) as Results;
  const table = formatMarkdown(results);
  const readme = values.write ?? values.check;
  if (readme === undefined) {
    process.stdout.write(table);
    return 0;
  }
  const before = readFileSync(readme, "utf8");
  const after = insertTable(before, table);
  if (values.write !== undefined) {
    writeFileSync(readme, after);
    return 0;
  }
  if (after === before) return 0;
  console.error(`${readme}: the table is not that of the results; node dist/perf/table.js --write`);
  return 1;
}

process.exitCode = main();
