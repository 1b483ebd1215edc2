// SPDX-License-Identifier: Apache-2.0
// The table of results as Markdown, and its place in a page between two marks.

import { cells, type Results } from "./report.js";

const BEGIN = "<!-- Measured: begin. Made by dist/perf/table.js, not by hand. -->";
const END = "<!-- Measured: end. -->";
const HEAD = ["row", "work", "unit", "ours", "beside", "ratio", "target", "", "CPU s, ours / peer"];
const GIB = 2 ** 30;

/** What was measured, where and how, in words and as a table. */
export function formatMarkdown(results: Results): string {
  const { machine, rounds, roundSeconds, tookSeconds, when } = results;
  const memory = Math.round(Number(machine.memoryBytes) / GIB);
  const lines = [
    `Measured ${when.slice(0, 10)} in ${Math.round(tookSeconds / 60)} minutes on ` +
      `${machine.cores} cores (${machine.cpu}), ${memory} GiB of memory, all processes, peers and`,
    `load on one machine with one disk; ${machine.system}, Linux ${machine.kernel}, Node ` +
      `${machine.node}. Medians of ${rounds} alternating rounds of ${roundSeconds} s; the ratio is`,
    "the median of the rounds' ratios. CPU seconds are of all processes of a side in a round, for",
    "writes until all is in the backend.",
    ...(results.note === undefined ? [] : [results.note]),
    "",
    row(HEAD),
    row(["---", "---", "---", "---:", "---", "---:", "---", "---", "---:"]),
  ];
  for (const report of results.reports) {
    if (report.failure !== null) {
      lines.push(row([report.row, `not measured: ${report.failure}`, ...Array(7).fill("")]));
    }
    for (const line of report.lines) lines.push(row([report.row, ...cells(line)]));
  }
  return `${lines.join("\n")}\n`;
}

function row(values: readonly string[]): string {
  return `| ${values.map((value) => value.replace(/[|\n]/g, " ")).join(" | ")} |`;
}

/** The page with `table` between its marks. Throws when the marks are not there. */
export function insertTable(page: string, table: string): string {
  const begin = page.indexOf(BEGIN);
  const end = page.indexOf(END);
  if (begin < 0 || end < begin) throw new Error(`the page lacks the marks ${BEGIN} and ${END}`);
  return `${page.slice(0, begin + BEGIN.length)}\n\n${table}\n${page.slice(end)}`;
}
