// SPDX-License-Identifier: Apache-2.0
// What tools/wiregen.mjs makes from the declarations in src/wire/formats is up to date.

import { findingsOf } from "./tool.mjs";

/** Findings of the generator. */
export function check(project) {
  return findingsOf(project, process.execPath, ["tools/wiregen.mjs", "--check"]);
}
