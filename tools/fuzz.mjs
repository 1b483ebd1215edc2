// SPDX-License-Identifier: Apache-2.0
// `npm run fuzz [-- SECONDS [NAME…]]`: runs the fuzzers (native/ADDON/fuzz/NAME.cc), each for so
// many seconds (10 unless told), as many at a time as there are cores. Inputs that reach new code
// are kept in .cache/corpus/ADDON_NAME; native/ADDON/fuzz/NAME.corpus/ may hold inputs to begin
// with. An input that fails is left in .cache/crashes.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { at, filesBelow, ROOT } from "./bootstrap/project.mjs";
import { Stop, since, step } from "./bootstrap/run.mjs";

const FOLDER = ".cache/fuzz";
const SECONDS = 10;
const INPUT_BYTES_MAX = 65_536;
const SHOWN_LINES = 60;

async function main(args) {
  const seconds = args[0] === undefined ? SECONDS : Number(args[0]);
  if (!Number.isInteger(seconds) || seconds < 1) {
    throw new Stop("usage: npm run fuzz -- [SECONDS [NAME…]]", 2);
  }
  const sources = filesBelow("native", (file) => /^native\/\w+\/fuzz\/\w+\.cc$/.test(file));
  const wanted = args.slice(1);
  const chosen = sources.filter(
    (file) => wanted.length === 0 || wanted.some((name) => targetOf(file).includes(name)),
  );
  if (chosen.length === 0) {
    console.log("there are no such fuzzers");
    return wanted.length === 0 ? 0 : 2;
  }
  await step("fuzzers", async (run) => {
    const compiler = "-DCMAKE_CXX_COMPILER=clang++";
    await run("cmake", ["-S", ".", "-B", FOLDER, compiler, "-DOVS_SANITIZE=address,undefined"]);
    const jobs = String(availableParallelism());
    const targets = chosen.flatMap((file) => ["--target", targetOf(file)]);
    await run("cmake", ["--build", FOLDER, "--parallel", jobs, ...targets]);
  });
  const queue = [...chosen];
  let failed = 0;
  const worker = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      if (!(await fuzz(file, seconds))) failed++;
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return failed === 0 ? 0 : 1;
}

// native/nbd/fuzz/option.cc → fuzz_nbd_option, the target in CMakeLists.txt.
function targetOf(file) {
  const [, addon, , name] = file.split("/");
  return `fuzz_${addon}_${name.replace(/\.cc$/, "")}`;
}

// Runs one fuzzer; true when nothing was found.
async function fuzz(file, seconds) {
  const name = targetOf(file);
  const startMs = performance.now();
  const corpus = at(".cache/corpus", name.slice("fuzz_".length));
  const crashes = at(".cache/crashes");
  for (const folder of [corpus, crashes]) mkdirSync(folder, { recursive: true });
  const seeds = at(file.replace(/\.cc$/, ".corpus"));
  const folders = existsSync(seeds) ? [corpus, seeds] : [corpus];
  const options = [
    `-max_total_time=${seconds}`,
    `-max_len=${INPUT_BYTES_MAX}`,
    "-timeout=10",
    "-rss_limit_mb=2048",
    "-print_final_stats=1",
    `-artifact_prefix=${crashes}/${name}-`,
  ];
  const words = file.replace(/^(native\/(\w+)\/fuzz\/).*$/, "$1$2.dict");
  if (existsSync(at(words))) options.push(`-dict=${at(words)}`);
  const { code, output } = await collect(at(FOLDER, name), [...options, ...folders]);
  const runs = /number_of_executed_units: *(\d+)/.exec(output)?.[1] ?? "0";
  const found = readdirSync(corpus).length;
  const word = code === 0 ? "ok" : "not ok";
  console.log(`${word} ${name}: ${runs} inputs, ${found} in the corpus (${since(startMs)})`);
  if (code !== 0) console.log(output.split("\n").slice(-SHOWN_LINES).join("\n"));
  return code === 0;
}

function collect(program, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    const keep = (chunk) => {
      output = (output + chunk).slice(-1_000_000);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    const stop = () => child.kill("SIGTERM");
    process.once("SIGINT", stop);
    process.once("SIGTERM", stop);
    child.on("error", (error) => reject(new Stop(`cannot run ${program}: ${error.message}`)));
    child.on("close", (code) => {
      process.off("SIGINT", stop);
      process.off("SIGTERM", stop);
      resolve({ code: code ?? 1, output });
    });
  });
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof Stop)) throw error;
  console.error(error.message);
  process.exitCode = error.code;
}
