// SPDX-License-Identifier: Apache-2.0
// What a run of benchmarks leaves behind: a table on the terminal, a JSON file with every round
// and the machine's description, and an SVG plot of the ratios.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import Table from "cli-table3";
import type { Line } from "./stats.js";
import { median, met, score } from "./stats.js";

export interface RowReport {
  row: string;
  seconds: number;
  lines: Line[];
  /** Why the row could not be measured; null when it was. */
  failure: string | null;
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

function cells(line: Line): string[] {
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
export function writeResults(
  folder: string,
  name: string,
  reports: readonly RowReport[],
): string[] {
  mkdirSync(folder, { recursive: true });
  const json = `${folder}/${name}.json`;
  const svg = `${folder}/${name}.svg`;
  const content = { when: new Date().toISOString(), machine: describeMachine(), reports };
  writeFileSync(json, `${JSON.stringify(content, null, 1)}\n`);
  writeFileSync(svg, formatPlot(reports.flatMap((report) => report.lines)));
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

/** Bars of ours / peer with the target as a tick; lines without a peer are left out. */
export function formatPlot(lines: readonly Line[]): string {
  const shown = lines.filter((line) => line.peer !== null);
  const barHeight = 26;
  const left = 420;
  const width = 960;
  const scores = shown.flatMap((line) => [score(line), line.target ?? 0]);
  const most = Math.max(1.25, ...scores) * 1.1;
  const x = (value: number) => left + ((width - left - 70) * value) / most;
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${shown.length * barHeight + 40}"`,
    ` font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>`,
    `<line x1="${x(1)}" y1="20" x2="${x(1)}" y2="${shown.length * barHeight + 28}" stroke="#888"/>`,
    `<text x="${x(1)}" y="14" text-anchor="middle">peer = 1</text>`,
  ];
  for (const [index, line] of shown.entries()) {
    parts.push(bar(line, 24 + index * barHeight, left, x));
  }
  parts.push("</svg>\n");
  return parts.join("\n");
}

function bar(line: Line, y: number, left: number, x: (value: number) => number): string {
  const value = score(line);
  const color = met(line) === false ? "#c0392b" : "#2c7fb8";
  const label = `${line.label} vs ${line.peer}`.replace(/[<&>]/g, " ");
  const text = `<text x="${left - 8}" y="${y + 14}" text-anchor="end">${label}</text>`;
  const box = `<rect x="${left}" y="${y}" width="${x(value) - left}" height="18" fill="${color}"/>`;
  const figure = `<text x="${x(value) + 5}" y="${y + 14}">${value.toFixed(2)}</text>`;
  if (line.target === null) return text + box + figure;
  const at = x(line.target);
  const tick = `<line x1="${at}" y1="${y - 2}" x2="${at}" y2="${y + 20}" stroke="black" stroke-width="2"/>`;
  return text + box + tick + figure;
}
