// SPDX-License-Identifier: Apache-2.0
// Size: a file has at most 600 lines, a line at most 100 columns. The formatters break code; this
// is for comments and long strings, where the limit is a little wider because of messages.

import { sources } from "./project.mjs";

const LINES_MAX = 600;
const COLUMNS_MAX = 100;

/** Findings about every source file that is not generated. */
export function check(project) {
  const findings = [];
  for (const file of sources(project)) {
    const lines = project.text(file).split("\n");
    const count = lines.at(-1) === "" ? lines.length - 1 : lines.length;
    if (count > LINES_MAX)
      findings.push(`${file}: ${count} lines, at most ${LINES_MAX} are allowed`);
    for (const [index, line] of lines.entries()) {
      const columns = [...line].length;
      if (columns <= COLUMNS_MAX || isUnbreakable(line)) continue;
      findings.push(`${file}:${index + 1}: ${columns} columns, at most ${COLUMNS_MAX} are allowed`);
    }
  }
  return findings;
}

// A line that a formatter leaves long because a string or a template in it cannot be broken.
function isUnbreakable(line) {
  return !/^\s*(\/\/|\*|\/\*|#)/.test(line) && /["'`]/.test(line);
}
