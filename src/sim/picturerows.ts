// SPDX-License-Identifier: Apache-2.0
// Reads a trace as rows of bars and marks: what each host and process was when, and what met it.
// It knows the words that nemesis, processes, hosts and the run write into the trace.

import type { Colour } from "./picture.js";
import type { RunResult } from "./run.js";
import type { TraceLine } from "./trace.js";

/** Marks of one row; more would only be a blur. */
const MARKS_MAX = 1000;

export interface Bar {
  fromMs: number;
  toMs: number;
  colour: Colour;
  words: string;
  /** Written beside it where there is room. */
  label?: string;
}

export interface Mark {
  atMs: number;
  colour: Colour;
  words: string;
}

export interface PictureRow {
  name: string;
  /** 0: a host or the like; 1: a part of it. */
  indent: number;
  bars: Bar[];
  marks: Mark[];
}

interface Trouble {
  kind: string;
  fromMs: number;
  toMs: number;
  /** Hosts or processes that it meets, as far as it says so. */
  whom: string[];
}

export interface PictureRows {
  /** From top to bottom. */
  rows: PictureRow[];
  /** When clients had a connection, and what ended it; by their names. */
  clients: Map<string, PictureRow>;
  /** When what must not be was seen; null for a run that passed. */
  failedMs: number | null;
}

/** All that is drawn but for the answers that clients got. */
export function rowsOf(result: RunResult): PictureRows {
  const reader = new Reader(result);
  for (const line of result.trace) reader.read(line);
  return { rows: reader.rows(), clients: reader.clients(), failedMs: reader.failedMs };
}

class Reader {
  readonly #result: RunResult;
  readonly #rows = new Map<string, PictureRow>();
  readonly #troubles = new Map<number, Trouble>();
  readonly #hostOf: Map<string, string>;
  /** What a process is now, and since when. */
  readonly #states = new Map<string, { colour: Colour; fromMs: number; words: string }>();
  readonly #darkSince = new Map<string, number>();
  readonly #clients = new Map<string, PictureRow>();
  /** Clients that have a connection, and since when. */
  readonly #connected = new Map<string, number>();
  failedMs: number | null = null;
  #phase = { fromMs: 0, words: "clients work, things go wrong" };

  constructor(result: RunResult) {
    this.#result = result;
    this.#hostOf = new Map(result.nodes.map(({ name, host }) => [name, host]));
    this.#row("run", 0);
    this.#row("operator", 0);
    for (const host of new Set(result.nodes.map((node) => node.host))) {
      this.#row(host, 0);
      const mine = result.nodes.filter((node) => node.host === host);
      for (const { name } of mine) this.#row(name, 1);
    }
  }

  read(line: TraceLine): void {
    const { node, text, timeMs } = line;
    if (node === "nemesis") this.#nemesis(line);
    else if (node === "run") this.#run(line);
    else if (node === "operator") this.#operator(line);
    else if (this.#hostOf.has(node)) this.#process(node, line);
    else if (this.#hostOf.has(baseOf(node))) this.#log(baseOf(node), line);
    else if ([...this.#hostOf.values()].includes(node)) this.#host(node, line);
    else if (node.startsWith("client")) this.#client(node, text, timeMs);
  }

  #client(name: string, text: string, timeMs: number): void {
    if (text === "connected") this.#connected.set(name, timeMs);
    else if (text.startsWith("the connection has ended")) this.#parted(name, timeMs, text);
  }

  #parted(name: string, timeMs: number, words: string): void {
    const row = this.#clients.get(name) ?? { name, indent: 0, bars: [], marks: [] };
    this.#clients.set(name, row);
    const fromMs = this.#connected.get(name);
    if (fromMs === undefined) return;
    row.bars.push({ fromMs, toMs: timeMs, colour: "alive", words: `connected; ${words}` });
    this.#connected.delete(name);
  }

  /** Once all is read. */
  clients(): Map<string, PictureRow> {
    for (const name of [...this.#connected.keys()]) {
      this.#parted(name, this.#result.simulatedMs, "until the end");
    }
    return this.#clients;
  }

  rows(): PictureRow[] {
    const endMs = this.#result.simulatedMs;
    for (const name of this.#states.keys()) this.#become(name, null, endMs, "");
    for (const [host, fromMs] of this.#darkSince)
      this.#bar(host, "dark", fromMs, endMs, "no power");
    this.#row("run", 0).bars.push({ ...this.#phase, toMs: endMs, colour: "phase" });
    const kinds = new Map<string, PictureRow>();
    for (const [number, trouble] of this.#troubles) {
      const row = this.#drawTrouble(number, trouble, kinds.get(trouble.kind) ?? null);
      kinds.set(trouble.kind, row);
    }
    const [run, operator, ...nodes] = this.#rows.values();
    const names = [...kinds.keys()].sort();
    return [run!, operator!, ...names.map((name) => kinds.get(name)!), ...nodes];
  }

  #drawTrouble(number: number, trouble: Trouble, known: PictureRow | null): PictureRow {
    const { kind, fromMs, toMs, whom } = trouble;
    const row = known ?? { name: kind, indent: 1, bars: [], marks: [] };
    const label = `${number}`;
    const words = `${number} ${kind}${whom.length > 0 ? ` of ${whom.join(" > ")}` : ""}`;
    row.bars.push({ fromMs, toMs, colour: "trouble", words, label });
    const colour = colourOf(kind);
    for (const name of whom) {
      if (!this.#rows.has(name)) continue;
      if (colour === "frozen") this.#freeze(name, fromMs, toMs, words);
      else if (colour !== "trouble")
        this.#bar(this.#hostOf.get(name) ?? name, colour, fromMs, toMs, words);
    }
    return row;
  }

  /** A host freezes with all that runs on it. */
  #freeze(name: string, fromMs: number, toMs: number, words: string): void {
    this.#bar(name, "frozen", fromMs, toMs, words);
    for (const [process, host] of this.#hostOf) {
      if (host === name) this.#bar(process, "frozen", fromMs, toMs, words);
    }
  }

  #nemesis({ text, timeMs }: TraceLine): void {
    const match = /^(\d+) (.*)$/.exec(text);
    if (match === null) return;
    const number = Number(match[1]);
    const words = match[2]!;
    const trouble = this.#troubles.get(number);
    if (trouble === undefined) {
      this.#troubles.set(number, { kind: words, fromMs: timeMs, toMs: timeMs, whom: [] });
      return;
    }
    if (words.startsWith("meets ")) trouble.whom.push(...words.slice(6).split(" > "));
    else if (words === "goes on") trouble.toMs = this.#result.simulatedMs;
    else if (words.endsWith(" is over")) trouble.toMs = timeMs;
  }

  #run({ text, timeMs }: TraceLine): void {
    if (text.startsWith("FAILED")) {
      this.failedMs ??= timeMs;
      this.#mark("run", timeMs, "bad", text);
    }
    const words = /^all troubles/.test(text)
      ? "all is healed and looked at"
      : /^stopped in order/.test(text)
        ? "started again, all is read"
        : null;
    if (words === null) return;
    this.#row("run", 0).bars.push({ ...this.#phase, toMs: timeMs, colour: "phase" });
    this.#phase = { fromMs: timeMs, words };
    this.#mark("run", timeMs, "trouble", text);
  }

  #operator({ text, timeMs }: TraceLine): void {
    const isAnswer = text.startsWith("{") || text.startsWith("[");
    if (isAnswer) this.#mark("operator", timeMs, "good", `${callOf(text)}: ${text}`);
    else this.#mark("operator", timeMs, text.includes("refused: ") ? "bad" : "good", text);
  }

  #process(name: string, { text, timeMs }: TraceLine): void {
    if (text.startsWith("start ")) this.#become(name, "starting", timeMs, text);
    else if (text === "ready") this.#become(name, "alive", timeMs, "alive");
    else if (text.startsWith("ends: "))
      this.#become(name, "dead", timeMs, `dead, ${text.slice(6)}`);
    else if (text.startsWith("stopped")) this.#become(name, "dead", timeMs, text);
  }

  #log(name: string, { text, timeMs }: TraceLine): void {
    if (text.startsWith("warn ")) this.#mark(name, timeMs, "warning", text);
    else if (text.startsWith("error ")) this.#mark(name, timeMs, "bad", text);
  }

  #host(host: string, { text, timeMs }: TraceLine): void {
    if (text === "loses power") {
      this.#darkSince.set(host, timeMs);
      for (const [process, where] of this.#hostOf) {
        if (where === host) this.#become(process, "dead", timeMs, "dead, without power");
      }
    } else if (text === "has power again") {
      this.#bar(host, "dark", this.#darkSince.get(host) ?? 0, timeMs, "no power");
      this.#darkSince.delete(host);
    } else if (text.startsWith("disk ")) this.#mark(host, timeMs, "bad", text);
  }

  #become(name: string, colour: Colour | null, timeMs: number, words: string): void {
    const old = this.#states.get(name);
    if (old !== undefined) this.#bar(name, old.colour, old.fromMs, timeMs, old.words);
    if (colour !== null) this.#states.set(name, { colour, fromMs: timeMs, words });
  }

  #bar(row: string, colour: Colour, fromMs: number, toMs: number, words: string): void {
    this.#row(row, 0).bars.push({ fromMs, toMs, colour, words });
  }

  #mark(row: string, atMs: number, colour: Colour, words: string): void {
    const { marks } = this.#row(row, 0);
    if (marks.length < MARKS_MAX) marks.push({ atMs, colour, words });
  }

  #row(name: string, indent: number): PictureRow {
    let row = this.#rows.get(name);
    if (row === undefined) {
      row = { name, indent, bars: [], marks: [] };
      this.#rows.set(name, row);
    }
    return row;
  }
}

/** `router#2/0` is a thread of the second life of `router`. */
function baseOf(node: string): string {
  return node.split("#", 1)[0]!;
}

function callOf(text: string): string {
  if (text.includes('"full"')) return "sync";
  return text.includes('"missing"') ? "verify" : "call";
}

function colourOf(kind: string): Colour {
  if (kind.startsWith("freeze")) return "frozen";
  if (/link|partition|one way|connections/.test(kind)) return "network";
  return /disk|read|rot|writes/.test(kind) && !kind.startsWith("power") ? "disk" : "trouble";
}
