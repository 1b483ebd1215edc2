// SPDX-License-Identifier: Apache-2.0
// `npm run soak [-- NAME…]`: the long forms of the integration tests, one after the other, each
// with what it says on the way. A form that fails does not keep the next from running. Some need
// 20 GiB of disk below TMPDIR. SEED gives a random form its dice back.

import { at } from "./bootstrap/project.mjs";
import { lines, Stop, since } from "./bootstrap/run.mjs";
import { TapReader } from "./bootstrap/tap.mjs";

const HEARTBEAT_MS = 60_000;
const FORM_S_MAX = 4 * 3600;

// `only` is the beginning of the title of the one test that the form is about.
const FORMS = [
  { name: "lost", file: "lost", about: "the router's folder is lost, clean and dirty" },
  { name: "damage", file: "damage", about: "200 flipped bits in each file of two disks" },
  {
    name: "pressure",
    file: "pressure",
    about: "a minute of writes into a journal that is too small",
    only: "a journal smaller than the load",
  },
  { name: "kills", file: "kills", about: "100 processes die by SIGKILL", env: { KILLS: "100" } },
  { name: "image", file: "image", about: "2 GiB of files, disks lost, returned, replaced" },
  {
    name: "overwrite",
    file: "pressure",
    about: "a vDisk of 4 GiB is overwritten 10 times on six disks of 2 GiB",
    only: "ten overwrites of a vDisk",
  },
];

async function main(args) {
  const unknown = args.find((name) => !FORMS.some((form) => form.name === name));
  if (unknown !== undefined) {
    const names = FORMS.map((form) => `  ${form.name.padEnd(10)} ${form.about}`).join("\n");
    throw new Stop(`usage: npm run soak [-- NAME…]\n${names}`, 2);
  }
  const chosen = FORMS.filter((form) => args.length === 0 || args.includes(form.name));
  const results = [];
  for (const form of chosen) {
    console.log(`\n== ${form.name}: ${form.about} ==`);
    const startMs = performance.now();
    const { passed, failed } = await run(form, startMs);
    const word = failed === 0 && passed > 0 ? "ok" : "not ok";
    results.push(`${word.padEnd(6)} ${form.name.padEnd(10)} ${since(startMs)}`);
    console.log(results.at(-1));
  }
  console.log(`\n${results.join("\n")}`);
  return results.every((line) => line.startsWith("ok")) ? 0 : 1;
}

// Shows the tests, comments and failures of one form as they come; gives the counts.
async function run(form, startMs) {
  const reader = new TapReader();
  const env = { OVS_LONG: "1", TAP_TIMEOUT: String(FORM_S_MAX), ...form.env };
  if (form.only) env.TAP_GREP = `/^${form.only}/`;
  const path = at(`dist/test/integration/${form.file}.test.js`);
  const beat = setInterval(() => console.log(`  … ${since(startMs)}`), HEARTBEAT_MS);
  let failing = false;
  const show = (line) => {
    reader.line(`    ${line}`);
    failing = failing ? line !== "  ..." : /^ *not ok /.test(line);
    const isSaid = /^ {0,4}(ok \d|not ok \d|# (?!Subtest|time=|\{))/.test(line);
    if ((isSaid && !/# SKIP filter/.test(line)) || failing) console.log(`  ${line}`);
  };
  reader.line(`# Subtest: ${form.name}`);
  const code = await lines(process.execPath, [path], show, env).finally(() => clearInterval(beat));
  reader.line(code === 0 ? "ok 1" : "not ok 1");
  reader.end();
  const sum = reader.files[0] ?? { passed: 0, failed: 1 };
  return { passed: sum.passed, failed: code === 0 ? sum.failed : Math.max(1, sum.failed) };
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof Stop)) throw error;
  console.error(error.message);
  process.exitCode = error.code;
}
