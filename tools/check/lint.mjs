// SPDX-License-Identifier: Apache-2.0
// Biome: format, sorted imports and rules of TypeScript, JavaScript and JSON (biome.json).

import { createRequire } from "node:module";
import { findingsOf } from "./tool.mjs";

/** Biome's program. */
export function biome() {
  return createRequire(import.meta.url).resolve("@biomejs/cli-linux-x64/biome");
}

/** Biome's findings; warnings count as errors. */
export function check(project) {
  const args = ["check", "--error-on-warnings", "--max-diagnostics=50", "--colors=off", "."];
  return findingsOf(project, biome(), args);
}
