// SPDX-License-Identifier: Apache-2.0
// The README's table of measurements is that of the committed result, where there is one.

import { findingsOf } from "./tool.mjs";

const RESULT = "perf/results/committed.json";

/** Findings of perf/table.ts. */
export function check(project) {
  if (!project.files.includes(RESULT)) return [];
  return findingsOf(project, process.execPath, [
    "dist/perf/table.js",
    RESULT,
    "--check",
    "README.md",
  ]);
}
