// SPDX-License-Identifier: Apache-2.0
// What the pages say must be there: files that they link to, sources that docs/durability.md names
// for a rule, and tests that it quotes as a proof.

import { dirname, join } from "node:path/posix";

const PAGE = "docs/durability.md";

/** Findings about links of all pages, and about sources and tests that the page of proofs names. */
export function check(project) {
  const findings = [];
  const files = new Set(project.files);
  for (const page of project.files.filter((file) => file.endsWith(".md"))) {
    for (const [, target] of project.text(page).matchAll(/\]\(([^)#:\s]+)(?:#[^)]*)?\)/g)) {
      if (!files.has(join(dirname(page), target))) findings.push(`${page}: no file ${target}`);
    }
  }
  if (!files.has(PAGE)) return findings;
  const text = project.text(PAGE);
  for (const [, source] of text.matchAll(/`([a-z]+\/[\w./]+\.ts)`/g)) {
    if (!files.has(`src/${source}`)) findings.push(`${PAGE}: no source src/${source}`);
  }
  for (const [, test, titles] of text.matchAll(/`([a-z]+\/[a-z]+)`((?:,? "[^"]+")*)/g)) {
    const file = files.has(`test/${test}.test.ts`) ? `test/${test}.test.ts` : "";
    if (file === "" && !files.has(`src/${test}`)) findings.push(`${PAGE}: no test ${test}`);
    if (file === "") continue;
    for (const [, title] of titles.matchAll(/"([^"]+)"/g)) {
      if (!isIn(project.text(file), title)) findings.push(`${file} has no test "${title}"`);
    }
  }
  return findings;
}

// A title may leave words out, as `…`; what is left must stand in one line, in this order.
function isIn(text, title) {
  const parts = title.split("…").map((part) => part.trim());
  return text.split("\n").some((line) => {
    let at = 0;
    return parts.every((part) => {
      const found = line.indexOf(part, at);
      at = found + part.length;
      return found >= 0;
    });
  });
}
