// SPDX-License-Identifier: Apache-2.0
// `npm test`: the checks, the tests of the addons' cores, then the compiled tests under tap. Shows
// each test file as it ends and closes with the line `N passed, N failed, N skipped`.
//
//   npm test [-- FILE…]     only these files: test/x.test.ts, its compiled form, a part of its path
//   --only-tests            no checks, no tests of the cores
//   --fast                  without test/vm and *.slow.test.ts
//   --summary FILE          the counts as JSON
// In CI (CI=true) the fuzzers run shortly too, and a skip that test/skips.json does not list fails.

import { existsSync, writeFileSync } from "node:fs";
import { relative, resolve } from "node:path";
import { at, filesBelow, ROOT, readJson } from "./project.mjs";
import { inherit, lines, Stop, since } from "./run.mjs";
import { sourceOf, TapReader, totals, unlistedSkips } from "./tap.mjs";

/** Runs `npm test` with its arguments; gives the exit code. */
export async function testCommand(args) {
  const options = parse(args);
  const counts = { passed: 0, failed: 0, skipped: 0 };
  if (options.files.length === 0 && !options.onlyTests) {
    for (const [name, script] of phases()) {
      console.log(`\n== ${name} ==`);
      const code = await inherit(process.execPath, [at(script)]);
      if (code === 0) counts.passed++;
      else counts.failed++;
    }
    console.log("\n== tests ==");
  }
  const listed = await runTap(options, counts);
  if (options.summary) writeFileSync(options.summary, JSON.stringify(counts));
  console.log(`\n${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
  return counts.failed === 0 && listed ? 0 : 1;
}

/** Runs `npm run vm`: the long form of test/vm, or of those files of it that `args` name. */
export async function vmCommand(args) {
  process.env.OVS_LONG = "1";
  return await testCommand(["--only-tests", ...(args.length > 0 ? args : ["test/vm/"])]);
}

// Each counts as one test.
function phases() {
  const always = [
    ["check", "tools/check.mjs"],
    ["cores under sanitizers", "tools/native-test.mjs"],
  ];
  return process.env.CI === "true" ? [...always, ["fuzzers", "tools/fuzz.mjs"]] : always;
}

function parse(args) {
  const options = { files: [], onlyTests: false, fast: false, summary: "" };
  const rest = [...args];
  while (rest.length > 0) {
    const arg = rest.shift();
    if (arg === "--only-tests") options.onlyTests = true;
    else if (arg === "--fast") options.fast = true;
    else if (arg === "--summary") options.summary = resolve(rest.shift() ?? "");
    else if (arg.startsWith("-")) throw new Stop(`npm test has no option ${arg}`, 2);
    else options.files.push(...testFiles(arg));
  }
  return options;
}

// The compiled tests that an argument names.
function testFiles(arg) {
  const all = compiledTests();
  const path = relative(ROOT, resolve(arg));
  const exact = path.replace(/^(dist\/)?/, "dist/").replace(/\.ts$/, ".js");
  if (all.includes(exact)) return [exact];
  const part = arg.replace(/\.[tj]s$/, "");
  const found = all.filter((file) => file.includes(part));
  if (found.length === 0) throw new Stop(`no test file matches ${arg}`, 2);
  return found;
}

function compiledTests() {
  return filesBelow("dist/test", (file) => file.endsWith(".test.js"));
}

const HEARTBEAT_MS = 30_000;
const SLOW = /^dist\/test\/vm\/|\.slow\.test\.js$/;

// Adds to `counts`. Gives false when a skip is not listed where it has to be.
async function runTap({ files, fast }, counts) {
  const chosen =
    files.length > 0 ? files : compiledTests().filter((file) => !(fast && SLOW.test(file)));
  if (chosen.length === 0) {
    console.log("there are no tests");
    return true;
  }
  console.log(`running ${chosen.length} test file${chosen.length === 1 ? "" : "s"}`);
  const startMs = performance.now();
  const reader = new TapReader((file) => show(file, reader.files.length, chosen.length));
  const tap = at("node_modules/tap/dist/esm/run.mjs");
  const beat = setInterval(() => console.log(`… ${since(startMs)}`), HEARTBEAT_MS);
  const code = await lines(
    process.execPath,
    [tap, "run", "--disable-coverage", "--reporter=tap", ...chosen],
    (line) => reader.line(line),
  ).finally(() => clearInterval(beat));
  reader.end();
  const sum = totals(reader.files);
  for (const key of Object.keys(counts)) counts[key] += sum[key];
  for (const file of chosen) {
    if (reader.files.some((each) => each.name === file)) continue;
    console.log(`not ok ${sourceOf(file)}: it did not run`);
    counts.failed++;
  }
  if (code !== 0 && sum.failed === 0) {
    console.log(`not ok: tap ended with ${code}`);
    counts.failed++;
  }
  console.log(`${reader.files.length} test files in ${since(startMs)}`);
  return skipsAreListed(reader.files);
}

function show(file, index, count) {
  const word = file.failed > 0 ? "not ok" : "ok";
  const parts = [`${file.passed} passed`];
  if (file.failed > 0) parts.push(`${file.failed} failed`);
  if (file.skipped.length > 0) parts.push(`${file.skipped.length} skipped`);
  const time = `${(file.timeMs / 1000).toFixed(1)} s`;
  console.log(`${word} [${index}/${count}] ${sourceOf(file.name)}: ${parts.join(", ")} (${time})`);
  for (const skip of file.skipped)
    console.log(`    skipped: ${skip.test || "the file"}: ${skip.reason}`);
  if (file.failed > 0) console.log(file.lines.join("\n"));
}

function skipsAreListed(files) {
  const allowed = existsSync(at("test/skips.json")) ? readJson("test/skips.json") : [];
  const unlisted = unlistedSkips(files, allowed);
  if (unlisted.length === 0 || process.env.CI !== "true") return true;
  for (const { file, test, reason } of unlisted) {
    console.log(
      `not ok: test/skips.json does not list ${JSON.stringify({ file, test, why: reason })}`,
    );
  }
  return false;
}
