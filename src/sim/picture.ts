// SPDX-License-Identifier: Apache-2.0
// A picture of one run, from its trace: time to the right, a row for each host and each process on
// it, for each kind of trouble, for each client. One SVG without scripts; what is under the pointer
// says what it is.
//
//   title, legend
//   run       phases
//   troubles  a row for each kind that happened, a bar for each trouble
//   h0        power, trouble of its links and disks
//   router    alive, frozen, dead, with warnings
//   client    when it was connected; answers of each second, the longest of them
//
// A line through all of it shows when a run has failed.

import type { ClientSecond } from "./meter.js";
import { type Bar, type Mark, type PictureRow, rowsOf } from "./picturerows.js";
import type { RunResult } from "./run.js";

const LEFT = 190;
const WIDTH = 1500;
const TOP = 96;
const ROW = 18;
const BAR = 12;
const CLIENT_ROW = 48;
/** Width of a figure of a label. */
const LABEL = 5;

/** What is drawn how; in the order of the legend. */
export const COLOURS = {
  alive: ["#4c9f70", "alive"],
  starting: ["#b7dcc3", "starts"],
  frozen: ["#5aa9e6", "frozen"],
  dead: ["#3b3b3b", "dead"],
  dark: ["#000000", "without power"],
  network: ["#f4a259", "network trouble"],
  disk: ["#d291bc", "disk trouble"],
  trouble: ["#8d6a9f", "trouble"],
  phase: ["#d9d9d9", "phase of the run"],
  answered: ["#2e6f95", "answers per second"],
  slow: ["#d1495b", "longest answer of the second"],
  good: ["#2a9d8f", "answered call"],
  bad: ["#e63946", "refused call, fault, error"],
  warning: ["#e9c46a", "warning"],
} as const;
export type Colour = keyof typeof COLOURS;

/** The picture of a run that was traced in full: SVG, or a page with nothing else on it. */
export function pictureOf(result: RunResult, { isHtml }: { isHtml: boolean }): string {
  const svg = new Drawing(result).svg();
  if (!isHtml) return svg;
  const title = `seed ${result.seed}`;
  const page = `<!doctype html>\n<html lang="en"><head><meta charset="utf-8">`;
  return `${page}<title>${title}</title></head><body>\n${svg}</body></html>\n`;
}

class Drawing {
  readonly #result: RunResult;
  readonly #endMs: number;
  readonly #parts: string[] = [];
  #y = TOP;

  constructor(result: RunResult) {
    this.#result = result;
    this.#endMs = Math.max(1, result.simulatedMs);
  }

  svg(): string {
    const { rows, clients, failedMs } = rowsOf(this.#result);
    for (const row of rows) this.#row(row);
    for (const [name, seconds] of this.#clients()) {
      this.#client(name, seconds, clients.get(name)?.bars ?? []);
    }
    this.#failure(failedMs);
    const width = LEFT + WIDTH + 20;
    const height = this.#y + 30;
    const font = 'font-family="sans-serif" font-size="11"';
    return [
      `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ${font}>`,
      `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
      ...this.#head(),
      ...this.#grid(),
      ...this.#parts,
      "</svg>\n",
    ].join("\n");
  }

  #head(): string[] {
    const { seed, failure, digest, acknowledged, simulatedMs } = this.#result;
    const [first] = failure.split("\n", 1);
    const came = failure === "" ? "passed" : `FAILED: ${first}`;
    const hex = digest.toString(16).padStart(8, "0");
    const seconds = (simulatedMs / 1000).toFixed(1);
    const title =
      `seed ${seed} ${came} (digest ${hex}, ${seconds} simulated seconds, ` +
      `${acknowledged} requests answered)`;
    const parts = [text(8, 20, title.slice(0, 240), 'font-size="14" font-weight="bold"')];
    const kinds = Object.values(COLOURS);
    for (const [i, [colour, name]] of kinds.entries()) {
      const x = 8 + (i % 7) * 230;
      const y = 34 + Math.floor(i / 7) * 18;
      parts.push(`<rect x="${x}" y="${y}" width="${BAR}" height="${BAR}" fill="${colour}"/>`);
      parts.push(text(x + 18, y + 10, name));
    }
    return parts;
  }

  /** A line and a number for every few seconds. */
  #grid(): string[] {
    const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500];
    const step = 1000 * (steps.find((each) => this.#endMs / 1000 / each <= 20) ?? 1000);
    const parts: string[] = [];
    for (let ms = 0; ms <= this.#endMs; ms += step) {
      const x = this.#x(ms);
      parts.push(
        `<line x1="${x}" y1="${TOP - 8}" x2="${x}" y2="${this.#y}" stroke="#e5e5e5"/>`,
        text(x, TOP - 12, `${ms / 1000} s`, 'text-anchor="middle" fill="#666666"'),
      );
    }
    return parts;
  }

  #row({ name, indent, bars, marks }: PictureRow): void {
    const y = this.#y;
    this.#parts.push(text(8 + 12 * indent, y + 10, name, indent === 0 ? BOLD : ""));
    for (const bar of bars) this.#bar(bar, y, BAR);
    this.#labels(bars, y);
    for (const mark of marks) this.#mark(mark, y);
    this.#y += ROW;
  }

  #bar({ fromMs, toMs, colour, words }: Bar, y: number, height: number): void {
    const x = this.#x(fromMs);
    const width = Math.max(2, this.#x(Math.min(toMs, this.#endMs)) - x).toFixed(1);
    this.#parts.push(
      `<rect x="${x}" y="${y}" width="${width}" height="${height}" fill="${COLOURS[colour][0]}">` +
        `<title>${escaped(`${words}, ${span(fromMs, toMs)}`)}</title></rect>`,
    );
  }

  /** Each behind its bar, where nothing else is. */
  #labels(bars: readonly Bar[], y: number): void {
    const sorted = [...bars].sort((a, b) => a.fromMs - b.fromMs);
    for (const [i, { fromMs, toMs, label }] of sorted.entries()) {
      if (label === undefined) continue;
      const x = Math.max(this.#x(fromMs) + 2, this.#x(toMs)) + 2;
      const room = LABEL * label.length;
      const next = sorted[i + 1];
      const others = sorted.slice(0, i).some((bar) => this.#x(bar.toMs) > x - 2);
      if (others || (next !== undefined && this.#x(next.fromMs) < x + room)) continue;
      this.#parts.push(text(x, y + 9, label, 'font-size="8" fill="#666666"'));
    }
  }

  #failure(failedMs: number | null): void {
    if (failedMs === null) return;
    const x = this.#x(failedMs);
    this.#parts.push(
      `<line x1="${x}" y1="${TOP - 8}" x2="${x}" y2="${this.#y}" stroke="${COLOURS.bad[0]}" ` +
        `stroke-width="1.5"><title>FAILED, ${seconds(failedMs)}</title></line>`,
    );
  }

  /** A name that was used again has one row. */
  #clients(): Map<string, ClientSecond[]> {
    const all = new Map<string, ClientSecond[]>();
    const count = Math.ceil(this.#endMs / 1000);
    for (const client of this.#result.clients) {
      const known = all.get(client.name);
      const list = known ?? Array.from({ length: count }, () => noAnswers());
      all.set(client.name, list);
      for (const [i, second] of client.seconds.entries()) {
        const sum = list[i];
        if (sum === undefined || second === undefined) continue;
        sum.answers += second.answers;
        sum.sumMs += second.sumMs;
        sum.mostMs = Math.max(sum.mostMs, second.mostMs);
      }
    }
    return all;
  }

  #mark({ atMs, colour, words }: Mark, y: number): void {
    this.#parts.push(
      `<rect x="${this.#x(atMs)}" y="${y - 1}" width="2" height="${BAR + 2}" ` +
        `fill="${COLOURS[colour][0]}"><title>${escaped(`${words}, ${seconds(atMs)}`)}</title></rect>`,
    );
  }

  /** Bars upward: answers of each second; a line: the longest of them, both to their own scale. */
  #client(name: string, list: readonly ClientSecond[], connected: readonly Bar[]): void {
    const bottom = this.#y + CLIENT_ROW - 10;
    const most = Math.max(1, ...list.map(({ answers }) => answers));
    const slowest = Math.max(1, ...list.map(({ mostMs }) => mostMs));
    const room = CLIENT_ROW - 14;
    this.#parts.push(text(8, this.#y + 12, name, BOLD));
    const scale = `to ${most}/s, to ${slowest.toFixed(0)} ms`;
    this.#parts.push(text(8, this.#y + 26, scale, 'fill="#666666"'));
    const line: string[] = [];
    for (const [i, { answers, sumMs, mostMs }] of list.entries()) {
      const x = this.#x(i * 1000);
      const width = Math.max(0.5, this.#x((i + 1) * 1000) - x - 0.5).toFixed(1);
      const height = ((room * answers) / most).toFixed(1);
      const mean = answers === 0 ? 0 : sumMs / answers;
      const words = `${answers} answers, mean ${mean.toFixed(1)} ms, longest ${mostMs.toFixed(1)} ms`;
      this.#parts.push(
        `<rect x="${x}" y="${bottom - Number(height)}" width="${width}" height="${height}" ` +
          `fill="${COLOURS.answered[0]}"><title>${words}, ${seconds(i * 1000)}</title></rect>`,
      );
      line.push(`${this.#x(i * 1000 + 500)},${(bottom - (room * mostMs) / slowest).toFixed(1)}`);
    }
    this.#parts.push(
      `<polyline points="${line.join(" ")}" fill="none" stroke="${COLOURS.slow[0]}"/>`,
    );
    for (const bar of connected) this.#bar(bar, bottom + 1, 3);
    this.#y += CLIENT_ROW;
  }

  #x(ms: number): number {
    return Number((LEFT + (WIDTH * Math.min(ms, this.#endMs)) / this.#endMs).toFixed(1));
  }
}

function noAnswers(): ClientSecond {
  return { answers: 0, sumMs: 0, mostMs: 0 };
}

const BOLD = 'font-weight="bold"';

function text(x: number, y: number, words: string, more = ""): string {
  return `<text x="${x}" y="${y}" ${more}>${escaped(words)}</text>`;
}

function span(fromMs: number, toMs: number): string {
  return `${seconds(fromMs)} to ${seconds(toMs)}`;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(3)} s`;
}

function escaped(words: string): string {
  const plain = words
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
  // What XML cannot hold at all.
  return [...plain].map((char) => (char < " " && char !== "\n" ? " " : char)).join("");
}
