// SPDX-License-Identifier: Apache-2.0
// Words that say that something is not done, or that a rule is switched off. They are put together
// here so that this file does not hold them itself.

import { sources } from "./project.mjs";

const WORDS = [
  ["\\bTO", "DO\\b"],
  ["\\bFIX", "ME\\b"],
  ["\\bXX", "X\\b"],
  ["\\bHA", "CK\\b"],
  ["\\bas a", "ny\\b"],
  ["@ts-", "ignore"],
  ["@ts-", "expect-error"],
  ["@ts-", "nocheck"],
  ["biome-", "ignore"],
  ["eslint-", "disable"],
  ["clang-format ", "off"],
  ["\\bNOL", "INT"],
].map((parts) => new RegExp(parts.join("")));

// In tests: a skip has to name its reason, `t.test(name, { skip: reason }, …)`.
const WORDS_OF_TESTS = /\.(skip|only|todo)\(/;

/** Findings about every source file and the build files, generated ones too. */
export function check(project) {
  const findings = [];
  const also = project.files.filter((file) => /(^|\/)(CMakeLists\.txt|run|ovs)$/.test(file));
  const files = [...sources(project), ...also];
  for (const file of new Set(files)) {
    for (const [index, line] of project.text(file).split("\n").entries()) {
      const forms = file.startsWith("test/") ? [...WORDS, WORDS_OF_TESTS] : WORDS;
      const word = forms.map((form) => form.exec(line)).find((match) => match !== null);
      if (word) findings.push(`${file}:${index + 1}: "${word[0]}" is not allowed`);
    }
  }
  return findings;
}
