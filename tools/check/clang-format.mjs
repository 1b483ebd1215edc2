// SPDX-License-Identifier: Apache-2.0
// The C++ sources are as clang-format writes them (.clang-format).

import { sources } from "./project.mjs";
import { findingsOf } from "./tool.mjs";

/** The C++ files that are formatted: all but generated ones. */
export function cppSources(project) {
  return sources(project, /^native\/.*\.(cc|h)$/);
}

/** Findings of clang-format. */
export function check(project) {
  const files = cppSources(project);
  if (files.length === 0) return [];
  return findingsOf(project, "clang-format", ["--dry-run", "-Werror", ...files]);
}
