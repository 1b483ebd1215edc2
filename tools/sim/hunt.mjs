// SPDX-License-Identifier: Apache-2.0
// Runs seeds on a product with a planted bug until one fails because of it: the same seed passes
// on the product as it is, and everything else in a seed is the same by construction.

import { fork } from "node:child_process";
import { join } from "node:path";
import { at } from "../bootstrap/project.mjs";
import { plant } from "./plant.mjs";

const SECONDS = 60;
/** A process that has not answered for so long hangs; a seed takes a few seconds. */
const HANGS_MS = 300_000;
const WORDS_MAX = 110;

/** A process that runs seeds, of the compiled product in a folder; started when it is needed. */
export class Runner {
  #program;
  #child = null;
  #answer = null;
  #known = new Map();

  constructor(folder) {
    this.#program = join(folder, "src/bin/sim.js");
  }

  /** What is wrong with the seed, in words; "" when it passes. */
  run(seed) {
    return new Promise((resolve) => {
      const limit = setTimeout(() => this.#end("it hangs"), HANGS_MS);
      this.#answer = (failure) => {
        clearTimeout(limit);
        this.#answer = null;
        resolve(failure);
      };
      this.#child ??= this.#start();
      this.#child.send(seed);
    });
  }

  /** As run; what it said of a seed before it says again. */
  async known(seed) {
    if (!this.#known.has(seed)) this.#known.set(seed, await this.run(seed));
    return this.#known.get(seed);
  }

  stop() {
    this.#child?.kill("SIGKILL");
    this.#child = null;
  }

  #start() {
    const cuts = { seconds: SECONDS, without: [], skip: [], idle: [] };
    const child = fork(this.#program, ["--worker", JSON.stringify(cuts)], {
      env: { ...process.env, OVS_NATIVE_DIR: at("build/Release") },
      stdio: ["ignore", "ignore", "ignore", "ipc"],
    });
    child.on("message", ({ failure }) => this.#answer?.(failure));
    child.once("exit", (code, signal) => {
      if (this.#child === child) this.#end(`the process ended (${signal ?? code})`);
    });
    return child;
  }

  #end(words) {
    this.stop();
    this.#answer?.(words);
  }
}

/**
 * Hunts a bug: at most `seeds` of them, from `first` on. `folder`: a copy of the product, the same
 * again afterwards; `sound` runs the product as it is. Answers the seed that found it, how many it
 * took and what was seen first; null: it was not found.
 */
export async function hunt(bug, { folder, sound, first, seeds, onSeed = () => {} }) {
  const restore = plant(bug, folder);
  const runner = new Runner(folder);
  try {
    for (let seed = first; seed < first + seeds; seed++) {
      const failure = await runner.run(seed);
      onSeed(seed, failure);
      if (failure === "") continue;
      const otherwise = await sound.known(seed);
      if (otherwise === "") return { seed, seeds: seed - first + 1, as: seenAs(failure) };
      console.log(`seed ${seed} fails without "${bug.name}" too: ${seenAs(otherwise)}`);
    }
    return null;
  } finally {
    runner.stop();
    restore();
  }
}

/** The first line of a failure, short, as a cell of a table. */
export function seenAs(failure) {
  const [line] = failure.split("\n", 1);
  const words = line.replace(/^(Error|AssertionError): /, "").replaceAll("|", "/");
  return words.length <= WORDS_MAX ? words : `${words.slice(0, WORDS_MAX - 1).trimEnd()}…`;
}
