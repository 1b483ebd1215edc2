// SPDX-License-Identifier: Apache-2.0
// The options of the simulator's command line.

import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { type Cuts, noCuts, numbersOf } from "../../sim/cuts.js";
import { ALL_TROUBLES, type TroubleKind } from "../../sim/kinds.js";

export const HELP = `npm run sim -- [options]: the whole cluster in one process, under a seed

  --seed N       first seed (a random one); with --seeds 1 it is told in full
  --seeds N      how many (1 with --seed, else as many as fit in --minutes)
  --minutes M    begins no more seeds after so long (1 without --seeds)
  --seconds S    simulated seconds of trouble of each seed (60)
  --workers W    processes (one for each core)
  --until-failure  ends at the first seed that fails, and says how many it took
  --coverage     at the end, the lines of src/ that were run (it is slower)
  --never-run FILE  with --coverage: the lines that were not, as a list

  --more KIND,…  these kinds of trouble happen often, whatever the seed says

One seed (--seed N):
  --trace        prints everything that happened
  --picture FILE a drawing of the run by node and time: FILE.svg, or FILE.html
  --replay N[:DIGEST]  runs seed N again and compares; without a digest, runs it in two processes
  --shrink       of a seed that fails: leaves out what it can, and says how to run the rest

What --shrink leaves out, and you can:
  --without KIND,…       kinds of trouble: ${wrapped(ALL_TROUBLES)}
  --first-troubles N     troubles after the Nth
  --skip-troubles 3,5-7  single ones, by the numbers in the trace
  --idle-clients 0,2     clients, by their number

Ends with 0: all is well; 1: a seed failed or a digest differs; 2: the options make no sense;
130: interrupted, and until then all was well.`;

export interface Settings {
  seed: number;
  seeds: number;
  minutes: number;
  workers: number;
  untilFailure: boolean;
  trace: boolean;
  coverage: boolean;
  /** Path of a file to write, or "". */
  neverRun: string;
  shrink: boolean;
  /** Path of a file to write, or "". */
  picture: string;
  /** The digest that `seed` must come to, "" for that of another process; null: no replay. */
  replay: string | null;
  cuts: Cuts;
}

const TEXT = { type: "string" } as const;
const SWITCH = { type: "boolean", default: false } as const;
const OPTIONS = {
  seed: TEXT,
  seeds: TEXT,
  minutes: TEXT,
  seconds: TEXT,
  workers: TEXT,
  picture: TEXT,
  replay: TEXT,
  "never-run": TEXT,
  more: TEXT,
  without: TEXT,
  "first-troubles": TEXT,
  "skip-troubles": TEXT,
  "idle-clients": TEXT,
  "until-failure": SWITCH,
  trace: SWITCH,
  coverage: SWITCH,
  shrink: SWITCH,
  help: { ...SWITCH, short: "h" },
} as const;

type Values = ReturnType<typeof valuesOf>;

function valuesOf(args: string[]) {
  return parseArgs({ args, options: OPTIONS }).values;
}

/** What the arguments say; null when help is asked for. Throws with what is wrong, in words. */
export function settingsOf(args: string[]): Settings | null {
  const values = valuesOf(args);
  if (values.help) return null;
  const replay = replayOf(values.replay);
  const isAboutOne = checkTogether(values);
  const seedWords = replay === null ? values.seed : String(replay.seed);
  const isSingle = isAboutOne || (seedWords !== undefined && values.minutes === undefined);
  const all = values.seeds === undefined ? 1 : Number.POSITIVE_INFINITY;
  return {
    seed: whole("seed", seedWords, Math.floor(Math.random() * 2 ** 31)),
    seeds: whole("seeds", values.seeds, isSingle ? 1 : Number.MAX_SAFE_INTEGER, 1),
    minutes: number("minutes", values.minutes, isSingle ? Number.POSITIVE_INFINITY : all),
    workers: whole("workers", values.workers, availableParallelism(), 1),
    untilFailure: values["until-failure"],
    trace: values.trace,
    coverage: values.coverage,
    neverRun: values["never-run"] ?? "",
    shrink: values.shrink,
    picture: pictureOf(values.picture),
    replay: replay?.digest ?? null,
    cuts: {
      ...noCuts(whole("seconds", values.seconds, 60, 1)),
      more: kindsOf("more", values.more),
      without: kindsOf("without", values.without),
      firstTroubles: whole("first-troubles", values["first-troubles"], Number.POSITIVE_INFINITY),
      skip: list("skip-troubles", values["skip-troubles"]),
      idle: list("idle-clients", values["idle-clients"]),
    },
  };
}

/** Refuses options that say nothing together; true when they are about one seed. */
function checkTogether(values: Values): boolean {
  const one = (["trace", "picture", "replay", "shrink"] as const).find((name) => values[name]);
  const many = (["minutes", "workers", "until-failure", "coverage"] as const).find(
    (name) => values[name],
  );
  if (values["never-run"] !== undefined && !values.coverage) {
    throw new Error("--never-run is a part of --coverage: say both");
  }
  if (one === undefined) return false;
  if (many !== undefined || (values.seeds ?? "1") !== "1") {
    throw new Error(`--${one} is about one seed, --${many ?? "seeds"} about many`);
  }
  if (values.replay !== undefined) {
    const other = (["seed", "picture", "shrink"] as const).find((name) => values[name]);
    if (other !== undefined) throw new Error(`--replay and --${other} do not go together`);
  } else if (values.seed === undefined) {
    throw new Error(`--${one} is about one seed: say --seed N`);
  }
  if (values.shrink && (values.trace || values.picture !== undefined)) {
    throw new Error("--shrink ends with what to run: --trace and --picture go with that");
  }
  return true;
}

function number(name: string, words: string | undefined, none: number): number {
  if (words === undefined) return none;
  const value = Number(words);
  if (words.trim() !== "" && Number.isFinite(value) && value >= 0) return value;
  throw new Error(`--${name} ${words} is not a number`);
}

/** A whole number of at least `least`. */
function whole(name: string, words: string | undefined, none: number, least = 0): number {
  const value = number(name, words, none);
  if (words === undefined || (Number.isSafeInteger(value) && value >= least)) return value;
  throw new Error(`--${name} ${words}: a whole number from ${least} on is expected`);
}

function pictureOf(path: string | undefined): string {
  if (path === undefined || /\.(svg|html?)$/.test(path)) return path ?? "";
  throw new Error(`--picture ${path}: a name that ends in .svg or .html is expected`);
}

function list(name: string, words: string | undefined): number[] {
  const numbers = words === undefined ? [] : numbersOf(words);
  if (numbers === null) throw new Error(`--${name} ${words}: numbers like 3,5-7 are expected`);
  return numbers;
}

function kindsOf(name: string, words: string | undefined): TroubleKind[] {
  if (words === undefined) return [];
  return words.split(",").map((each) => {
    const kind = ALL_TROUBLES.find((known) => known === each.trim());
    if (kind === undefined) throw new Error(`--${name} ${each}: there is no such kind of trouble`);
    return kind;
  });
}

function replayOf(words: string | undefined): { seed: number; digest: string } | null {
  if (words === undefined) return null;
  const match = /^(\d{1,15})(?::([0-9a-f]{8}))?$/.exec(words);
  if (match === null) throw new Error(`--replay ${words}: SEED or SEED:DIGEST is expected`);
  return { seed: Number(match[1]), digest: match[2] ?? "" };
}

/** The list, with an indent, in lines that fit. */
function wrapped(words: readonly string[]): string {
  let text = "";
  let column = 50;
  for (const [i, word] of words.entries()) {
    const part = i === words.length - 1 ? word : `${word}, `;
    if (column + part.length > 98) {
      text = `${text.trimEnd()}\n${" ".repeat(25)}`;
      column = 25;
    }
    text += part;
    column += part.length;
  }
  return text;
}
