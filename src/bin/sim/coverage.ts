// SPDX-License-Identifier: Apache-2.0
// Which lines of src/ were run, from what V8 has written for each process (NODE_V8_COVERAGE). Lines
// of the compiled code are counted, one for one with the source but for what types leave out; lines
// with nothing but a comment or a bracket do not count.

import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

/** dist/src */
const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const NO_CODE = /^\s*(\/\/.*|\/?\*.*|[\])};,]*|export \{\};)$/;

interface Range {
  startOffset: number;
  endOffset: number;
  count: number;
}

interface ScriptCoverage {
  url: string;
  functions: Array<{ ranges: Range[] }>;
}

export interface Coverage {
  /** A table: each folder of src/, its lines and how many of them were run in any process. */
  folders: string[];
  /** Places of the compiled code that no process has run, with their first line. */
  neverRun: string[];
}

/** Reads what the processes have written to `folder`; there may be a file of each or none. */
export function readCoverage(folder: string): Coverage {
  const covered = new Map<string, Uint8Array>();
  for (const name of readdirSync(folder)) {
    const report = JSON.parse(readFileSync(join(folder, name), "utf8"));
    for (const script of report.result as ScriptCoverage[]) paint(script, covered);
  }
  const sums = new Map<string, { lines: number; run: number }>();
  const all = { lines: 0, run: 0 };
  const neverRun: string[] = [];
  for (const name of readdirSync(ROOT, { recursive: true, encoding: "utf8" }).sort()) {
    if (!name.endsWith(".js")) continue;
    const counts = countLines(readFileSync(join(ROOT, name), "utf8"), covered.get(name) ?? null);
    for (const each of counts.neverRun) neverRun.push(`${join("dist/src", name)}:${each}`);
    const top = name.split("/")[0]!;
    const sum = sums.get(top) ?? { lines: 0, run: 0 };
    sums.set(top, sum);
    for (const each of [sum, all]) {
      each.lines += counts.lines;
      each.run += counts.run;
    }
  }
  const row = (name: string, { lines, run }: { lines: number; run: number }) => {
    const share = ((100 * run) / Math.max(1, lines)).toFixed(1);
    return `${name.padEnd(14)}${`${run}`.padStart(8)} of ${`${lines}`.padStart(6)} lines ${share} %`;
  };
  const rows = [...sums].sort(([a], [b]) => (a < b ? -1 : 1));
  const folders = [...rows.map(([name, sum]) => row(`src/${name}`, sum)), row("src/", all)];
  return { folders, neverRun };
}

/** Marks the characters that were run: of nested ranges the innermost comes last, and decides. */
function paint({ url, functions }: ScriptCoverage, covered: Map<string, Uint8Array>): void {
  if (!url.startsWith("file:")) return;
  const name = relative(ROOT, fileURLToPath(url));
  if (name.startsWith("..")) return;
  const ranges = functions.flatMap((each) => each.ranges);
  const end = Math.max(...ranges.map(({ endOffset }) => endOffset));
  const mine = new Uint8Array(end);
  for (const { startOffset, endOffset, count } of ranges) {
    mine.fill(count > 0 ? 1 : 0, startOffset, endOffset);
  }
  const sum = covered.get(name);
  if (sum === undefined) covered.set(name, mine);
  else for (let i = 0; i < sum.length; i++) sum[i]! |= mine[i] ?? 0;
}

interface LineCounts {
  lines: number;
  run: number;
  /** "12-14: the line 12". */
  neverRun: string[];
}

function countLines(text: string, covered: Uint8Array | null): LineCounts {
  let [lines, run, at] = [0, 0, 0];
  const neverRun: string[] = [];
  let gap: { first: number; last: number; words: string } | null = null;
  const close = (): void => {
    if (gap !== null) neverRun.push(`${gap.first}-${gap.last}: ${gap.words}`);
    gap = null;
  };
  for (const [i, line] of text.split("\n").entries()) {
    if (!NO_CODE.test(line)) {
      lines++;
      const isRun = covered?.[at + line.search(/\S/)] === 1;
      if (isRun) run++;
      if (isRun) close();
      else if (gap === null) gap = { first: i + 1, last: i + 1, words: line.trim() };
      else gap.last = i + 1;
    }
    at += line.length + 1;
  }
  close();
  return { lines, run, neverRun };
}
