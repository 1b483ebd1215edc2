// SPDX-License-Identifier: Apache-2.0
// What a run of benchmarks leaves behind: a table on the terminal, a JSON file with every round
// and the machine's description, and an SVG plot of the ratios.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import Table from "cli-table3";
import { formatPlot } from "./plot.js";
import type { Line } from "./stats.js";
import { median, met, score } from "./stats.js";

export interface RowReport {
  row: string;
  seconds: number;
  lines: Line[];
  /** Why the row could not be measured; null when it was. */
  failure: string | null;
}

/** All that a file of results holds. */
export interface Results {
  when: string;
  /** Rounds of each side, seconds of a round, and of the whole run. */
  rounds: number;
  roundSeconds: number;
  tookSeconds: number;
  machine: Record<string, string | number>;
  reports: RowReport[];
  /** What a reader must know of this run besides. */
  note?: string;
}

/** The table: ours, peer, ratio, target. */
export function formatTable(reports: readonly RowReport[]): string {
  const table = new Table({
    head: ["row", "work", "unit", "ours", "peer", "ratio", "target", "", "CPU s"],
    colAligns: ["left", "left", "left", "right", "right", "right", "right", "left", "right"],
    style: { head: [], border: [] },
  });
  for (const report of reports) {
    if (report.failure !== null) {
      table.push([report.row, { colSpan: 8, content: `failed: ${report.failure}` }]);
    }
    for (const line of report.lines) table.push([report.row, ...cells(line)]);
  }
  return table.toString();
}

/** The cells of a line behind the name of its row. */
export function cells(line: Line): string[] {
  const peer = line.peer === null ? "" : `${line.peer} ${round(median(line.peers))}`;
  const cpu = line.oursCpuSeconds.length > 0 ? round(median(line.oursCpuSeconds)) : "";
  const peersCpu =
    line.peersCpuSeconds.length > 0 ? ` / ${round(median(line.peersCpuSeconds))}` : "";
  return [
    line.label,
    line.unit,
    round(median(line.ours)),
    peer,
    line.peer === null ? "" : score(line).toFixed(2),
    line.target === null ? "" : `${line.better === "higher" ? "≥" : "≤"} ${line.target}`,
    verdict(line),
    cpu + peersCpu,
  ];
}

function verdict(line: Line): string {
  const answer = met(line);
  if (answer === null) return "";
  return answer ? "met" : "MISSED";
}

function round(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString("en-US");
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** Writes `<folder>/<name>.json` and `.svg`; returns their paths. */
export function writeResults(folder: string, name: string, results: Results): string[] {
  mkdirSync(folder, { recursive: true });
  const json = `${folder}/${name}.json`;
  const svg = `${folder}/${name}.svg`;
  writeFileSync(json, `${JSON.stringify(results, null, 1)}\n`);
  writeFileSync(svg, formatPlot(results.reports.flatMap((report) => report.lines)));
  return [json, svg];
}

/** What a reader must know to judge the figures. */
export function describeMachine(): Record<string, string | number> {
  const cpu = cpus();
  return {
    cpu: cpu[0]?.model ?? "unknown",
    cores: cpu.length,
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
    system: osName(),
  };
}

function osName(): string {
  try {
    const text = readFileSync("/etc/os-release", "utf8");
    return /^PRETTY_NAME="(.*)"$/m.exec(text)?.[1] ?? "Linux";
  } catch {
    return "Linux";
  }
}
