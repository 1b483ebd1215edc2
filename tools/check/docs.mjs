// SPDX-License-Identifier: Apache-2.0
// Comments that a reader needs: each source opens with what it is (a C++ source in its header where
// it has one), and each function and class that a file below src/ exports says what it is for.

import ts from "typescript";
import { isGenerated, productSources, sources } from "./project.mjs";
import { parse, place } from "./syntax.mjs";

/** Findings about opening comments, exported functions and classes. */
export function check(project) {
  const findings = [];
  for (const file of sources(project)) {
    if (hasHeader(project, file) || file.includes("/fixtures/")) continue;
    const lines = project.text(file).split("\n");
    const line = lines[lines[0].startsWith("#!") ? 2 : 1] ?? "";
    if (!/^(\/\/|#) \S/.test(line)) findings.push(`${file}:2: no comment says what this file is`);
  }
  for (const file of productSources(project)) {
    if (isGenerated(project, file)) continue;
    const tree = parse(project, file);
    for (const statement of tree.statements) {
      if (!isExported(statement) || isDocumented(tree, statement)) continue;
      if (isAlone(tree, statement)) continue;
      const name = statement.name?.text ?? "this";
      findings.push(`${place(tree, statement)}: no comment says what ${name} is for`);
    }
  }
  return findings;
}

function hasHeader(project, file) {
  return file.endsWith(".cc") && project.files.includes(file.replace(/\.cc$/, ".h"));
}

// The opening comment of a file is about the one class that it exports.
function isAlone(tree, statement) {
  if (!ts.isClassDeclaration(statement)) return false;
  const classes = tree.statements.filter((each) => ts.isClassDeclaration(each) && isExported(each));
  return classes.length === 1;
}

function isExported(statement) {
  if (!ts.isFunctionDeclaration(statement) && !ts.isClassDeclaration(statement)) return false;
  const modifiers = statement.modifiers ?? [];
  return modifiers.some((modifier) => modifier.kind === ts.SyntaxKind.ExportKeyword);
}

function isDocumented(tree, statement) {
  return /\/\*\*/.test(tree.text.slice(statement.getFullStart(), statement.getStart(tree)));
}
