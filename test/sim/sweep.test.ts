// SPDX-License-Identifier: Apache-2.0
// The crash-point sweep: cases that once found a bug, and fresh ones of every kind; all of them are
// `npm run sweep`.

import t from "tap";
import { Dice } from "../../src/sim/dice.js";
import { Losses } from "../../src/sim/losses.js";
import { MemoryPool } from "../../src/sim/memory.js";
import { type Crash, sweepOnce } from "../../src/sim/sweep.js";
import {
  casesOf,
  crashesOf,
  firstCrashes,
  pointsOf,
  recordedPoints,
  recoveryCases,
  type SweepCase,
  wordsOf,
} from "../../src/sim/sweepcases.js";
import { PrefixModel } from "../../src/sim/sweepmodel.js";
import { STORIES } from "../../src/sim/sweepstory.js";

t.setTimeout(600_000);

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const EACH = process.env.OVS_LONG === "1" ? 50 : 3;
const WAYS_MAX = 100;

/** What each found is told in docs/simulator.md. */
const PINNED = ["repair/51:host.3:kill:0"];

let uncaught: unknown = null;
process.on("unhandledRejection", (error) => {
  uncaught ??= error;
});

/** What nobody has caught, once. */
function stray(): unknown {
  const error = uncaught;
  uncaught = null;
  return error;
}

/** Runs it, and says what must not be. */
async function failureOf(seed: number, words: string, pool: MemoryPool): Promise<string> {
  const { story, crashes } = crashesOf(words)!;
  const { failure, fired, trace } = await sweepOnce({ seed, story, crashes, pool, stray });
  if (failure === "") return fired === crashes.length ? "" : `${words}: ${fired} crashes happened`;
  const last = trace.slice(-40).map(({ node, text }) => `${node}: ${text}`);
  return `${words}: ${failure}\n${last.join("\n")}`;
}

for (const words of PINNED) {
  t.test(`the contract holds at ${words}`, async (t) => {
    t.equal(await failureOf(1, words, new MemoryPool()), "");
  });
}

for (const { name } of STORIES) {
  t.test(`the contract holds at crash points of the story "${name}" (SEED=${SEED})`, async (t) => {
    const dice = new Dice(SEED).fork(name);
    const seed = dice.below(2 ** 31);
    const pool = new MemoryPool({ clears: false });
    const points = await pointsOf({ seed, pool, stray }, name);
    const first: Crash = dice.pick(firstCrashes(points));
    const recovery = await recordedPoints({ seed, pool, stray }, name, [first]);
    const cases = [...casesOf(name, points), ...recoveryCases(name, first, recovery)];
    const kinds = new Map<string, SweepCase[]>();
    for (const each of cases) {
      const { what, when } = each.point;
      const kind = `${each.first.length} ${what} ${when} ${each.crash.kind} ${each.crash.victim}`;
      kinds.set(kind, [...(kinds.get(kind) ?? []), each]);
    }
    t.ok(kinds.size >= 9, `there are kinds of cases: ${[...kinds.keys()].join(", ")}`);
    for (const [kind, list] of kinds) {
      const some = dice.shuffle(list).slice(0, EACH);
      t.ok(some.length > 0, `${kind}: ${some.length} of ${list.length}`);
      for (const { first, crash, all } of some) {
        const way = all ? dice.below(WAYS_MAX) : crash.way;
        const words = wordsOf(name, [...first, { ...crash, way }]);
        const failure = await failureOf(seed, words, pool);
        t.equal(failure, "", `seed ${seed} ${words}`);
      }
    }
  });
}

t.test("a case does the same again, whatever memory it gets", async (t) => {
  const [story, at] = ["line", 200 + (SEED % 800)];
  const crashes: Crash[] = [{ at, host: 0, victim: "host", kind: "power", way: 0 }];
  const pool = new MemoryPool({ clears: false });
  const digests = new Set<number>();
  for (const each of [new MemoryPool(), pool, pool]) {
    const { failure, digest } = await sweepOnce({ seed: SEED, story, crashes, pool: each, stray });
    t.equal(failure, "");
    digests.add(digest);
  }
  t.equal(digests.size, 1, `seed ${SEED}, a crash at ${at}`);
});

t.test("all ways of a loss are listed while they are few, then chosen ones", async (t) => {
  const [one, two, three] = [{}, {}, {}];
  const page = (page: number, ...records: object[]) => {
    return { path: "/f", page, count: records.length, records };
  };
  const few = new Losses([
    { pages: [page(0, one), page(1, one, two)], sizes: [], names: [], batches: [] },
  ]);
  // Four subsets of two writes, and four tears of each.
  t.equal(few.count, 4 + 8);
  const contents = (n: number) => {
    const chooser = few.chooser(n);
    return [chooser.sector("/f", 0, 0, 1), chooser.sector("/f", 1, 0, 2)].join();
  };
  t.same([0, 1, 2, 3].map(contents), ["0,0", "1,2", "1,1", "0,2"]);
  const sectors = (n: number) => {
    return Array.from({ length: 16 }, (_, i) => {
      return few.chooser(n).sector("/f", Math.floor(i / 8), i % 8, 1 + Math.floor(i / 8));
    }).join("");
  };
  t.equal(sectors(4), "1000000022222222", "only its first sector");
  t.equal(sectors(11), `11111111${"12".repeat(4)}`, "every second sector of the other");
  const many = new Losses([
    {
      pages: [page(0, one), page(1, two), page(2, three)],
      sizes: [{ path: "/f", count: 20 }],
      names: [{ path: "/", count: 3 }],
      batches: [],
    },
  ]);
  t.ok(many.count > 20 && many.count < 120, `${many.count} ways`);
  const none = many.chooser(0);
  t.same([none.sizes("/f", 20), none.names("/", 3), none.sector("/f", 2, 0, 1)], [0, 0, 0]);
  const all = many.chooser(1);
  t.same([all.sizes("/f", 20), all.names("/", 3), all.sector("/f", 2, 0, 1)], [20, 3, 1]);
  t.equal(new Losses([]).count, 1);
});

t.test("a vDisk shows the state after some request, and nothing in between", async (t) => {
  const write = (first: number, count: number, value: number) => ({ first, count, value });
  const told = (units: number[], lose: "power" | "kill"): string => {
    const model = new PrefixModel(4);
    for (const [i, group] of [[write(0, 2, 1)], [write(1, 2, 2)], [write(3, 1, 3)]].entries()) {
      model.begin(group);
      model.answered(i === 0);
    }
    model.begin([write(0, 1, 4), write(0, 1, 5)]);
    if (lose === "power") model.powerLost();
    else model.killed();
    return model.found(Uint32Array.from(units));
  };
  for (const units of [
    [1, 1, 0, 0],
    [1, 2, 2, 0],
    [1, 2, 2, 3],
    [4, 2, 2, 3],
    [5, 2, 2, 3],
  ]) {
    t.equal(told(units, "power"), "", `${units} after a loss of power`);
  }
  t.not(told([0, 0, 0, 0], "power"), "", "what was flushed is gone");
  t.not(told([1, 1, 0, 3], "power"), "", "a later one without an earlier one");
  t.not(told([1, 2, 0, 0], "power"), "", "half of a request");
  t.not(told([4, 2, 2, 0], "power"), "", "one under way without an answered one");
  t.equal(told([1, 2, 2, 3], "kill"), "");
  t.equal(told([5, 2, 2, 3], "kill"), "");
  t.not(told([1, 2, 2, 0], "kill"), "", "what was answered is gone");
});

t.test("a case in words is read as it was written", async (t) => {
  const words = "line/12:host.0:power:3/200:proxy-0.0:kill:0/201:all.2:power:0";
  const read = crashesOf(words)!;
  t.equal(wordsOf(read.story, read.crashes), words);
  for (const bad of ["", "lime/1:host.0:kill:0", "line/1:host.0:burn:0", "line/x", "line/1:host"]) {
    t.equal(crashesOf(bad), null, `"${bad}" is refused`);
  }
});
