// SPDX-License-Identifier: Apache-2.0
// A plot of results as SVG: a bar for each line that has a target, as long as the share of the
// target that was reached. Lines without a target are left out; what is far beyond it is cut.

import type { Line } from "./stats.js";
import { median, met, score } from "./stats.js";

const BAR_HEIGHT = 24;
const LEFT = 470;
const WIDTH = 1000;
const MOST = 3;
const HEAD = 24;
const GOOD = "#2c7fb8";
const BAD = "#c0392b";

/** The plot of some lines. */
export function formatPlot(lines: readonly Line[]): string {
  const shown = lines.filter((line) => line.target !== null);
  const height = HEAD + shown.length * BAR_HEIGHT + 8;
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}"`,
    ` font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>`,
    `<text x="${x(1)}" y="14" text-anchor="middle">target</text>`,
  ];
  for (const [index, line] of shown.entries()) parts.push(bar(line, HEAD + index * BAR_HEIGHT));
  parts.push(`<line x1="${x(1)}" y1="18" x2="${x(1)}" y2="${height - 4}" stroke="black"/>`);
  parts.push("</svg>\n");
  return parts.join("\n");
}

function x(share: number): number {
  return LEFT + ((WIDTH - LEFT - 110) * Math.min(share, MOST)) / MOST;
}

/** What was reached of the target; more than 1 is better than the target. */
function shareOf(line: Line): number {
  const value = score(line);
  return line.better === "higher" ? value / line.target! : line.target! / value;
}

function bar(line: Line, y: number): string {
  const end = x(shareOf(line));
  const color = met(line) === false ? BAD : GOOD;
  const beside = line.peer === null ? "" : ` vs ${line.peer}`;
  const label = `${line.label}${beside}`.replace(/[<&>]/g, " ");
  const what = line.peer === null ? `${median(line.ours).toFixed(2)} ${line.unit}` : "×";
  const figure = line.peer === null ? what : `${score(line).toFixed(2)} ${what}`;
  return (
    `<text x="${LEFT - 8}" y="${y + 13}" text-anchor="end">${label}</text>` +
    `<rect x="${LEFT}" y="${y}" width="${(end - LEFT).toFixed(1)}" height="17" fill="${color}"/>` +
    `<text x="${(end + 5).toFixed(1)}" y="${y + 13}">${figure}</text>`
  );
}
