// SPDX-License-Identifier: Apache-2.0
// The options of the simulator's command line.

import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { type Cuts, noCuts, numbersOf } from "../../sim/cuts.js";
import { ALL_TROUBLES, type TroubleKind } from "../../sim/nemesis.js";

export const HELP = `npm run sim -- [options]: the whole cluster in one process, under a seed

  --seed N       first seed (a random one); with --seeds 1 it is told in full
  --seeds N      how many (1 with --seed, else as many as fit in --minutes)
  --minutes M    goes on for so long (1)
  --seconds S    simulated seconds of trouble of each seed (60)
  --workers W    processes (one for each core)
  --until-failure  ends at the first seed that fails, and says how many it took
  --coverage     at the end, the lines of src/ that were run (it is slower)

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

Ends with 0: all is well; 1: a seed failed or a digest differs; 2: the options make no sense.`;

export interface Settings {
  seed: number;
  seeds: number;
  minutes: number;
  workers: number;
  untilFailure: boolean;
  trace: boolean;
  coverage: boolean;
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

/** What the arguments say; null when help is asked for. Throws with what is wrong, in words. */
export function settingsOf(args: string[]): Settings | null {
  const { values } = parseArgs({ args, options: OPTIONS });
  if (values.help) return null;
  const replay = replayOf(values.replay);
  const seedWords = replay === null ? values.seed : String(replay.seed);
  const needsOne = replay !== null || values.shrink || values.picture !== undefined;
  if (needsOne && seedWords === undefined) {
    throw new Error("--picture and --shrink are about one seed: say --seed N");
  }
  const isSingle = needsOne || (seedWords !== undefined && values.minutes === undefined);
  return {
    seed: number("seed", seedWords, Math.floor(Math.random() * 2 ** 31)),
    seeds: needsOne ? 1 : number("seeds", values.seeds, isSingle ? 1 : Number.MAX_SAFE_INTEGER),
    minutes: number("minutes", values.minutes, 1),
    workers: Math.max(1, number("workers", values.workers, availableParallelism())),
    untilFailure: values["until-failure"],
    trace: values.trace,
    coverage: values.coverage,
    shrink: values.shrink,
    picture: values.picture ?? "",
    replay: replay?.digest ?? null,
    cuts: {
      ...noCuts(number("seconds", values.seconds, 60)),
      without: kindsOf(values.without),
      firstTroubles: number("first-troubles", values["first-troubles"], Number.POSITIVE_INFINITY),
      skip: list("skip-troubles", values["skip-troubles"]),
      idle: list("idle-clients", values["idle-clients"]),
    },
  };
}

function number(name: string, words: string | undefined, none: number): number {
  if (words === undefined) return none;
  const value = Number(words);
  if (words.trim() !== "" && Number.isFinite(value) && value >= 0) return value;
  throw new Error(`--${name} ${words} is not a number`);
}

function list(name: string, words: string | undefined): number[] {
  const numbers = words === undefined ? [] : numbersOf(words);
  if (numbers === null) throw new Error(`--${name} ${words}: numbers like 3,5-7 are expected`);
  return numbers;
}

function kindsOf(words: string | undefined): TroubleKind[] {
  if (words === undefined) return [];
  return words.split(",").map((each) => {
    const kind = ALL_TROUBLES.find((known) => known === each.trim());
    if (kind === undefined) throw new Error(`--without ${each}: there is no such kind of trouble`);
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
