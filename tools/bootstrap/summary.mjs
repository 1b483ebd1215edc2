// SPDX-License-Identifier: Apache-2.0
// The closing line of .ci/run: node tools/bootstrap/summary.mjs FAILED-STEPS FILE… adds up the
// counts that test runs left in the files. A step that failed without a failed test counts as one,
// and so does a run that left no counts. Exits 1 when anything failed or nothing passed.

import { existsSync, readFileSync } from "node:fs";

const [steps, ...files] = process.argv.slice(2);
const sum = { passed: 0, failed: 0, skipped: 0 };
let missing = 0;
for (const file of files) {
  const counts = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : null;
  if (!counts) missing++;
  else for (const key of Object.keys(sum)) sum[key] += counts[key];
}
sum.failed = Math.max(sum.failed, Number(steps), missing);
console.log(`\n${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`);
process.exitCode = sum.failed === 0 && sum.passed > 0 ? 0 : 1;
