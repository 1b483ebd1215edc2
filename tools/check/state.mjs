// SPDX-License-Identifier: Apache-2.0
// No module-level mutable state: any daemon can exist several times in one process. Refused are
// `let` and `var` at the top of a module, empty collections there (nothing but a later change can
// fill them), and static fields that may be assigned.

import ts from "typescript";
import { productSources } from "./project.mjs";
import { parse, place, walk } from "./syntax.mjs";

const COLLECTIONS = new Set(["Map", "Set", "WeakMap", "WeakSet", "Array"]);

/** Findings about every file below src/. */
export function check(project) {
  const findings = [];
  for (const file of productSources(project)) {
    const tree = parse(project, file);
    const say = (node, what) => findings.push(`${place(tree, node)}: ${what}`);
    for (const statement of tree.statements) {
      if (ts.isVariableStatement(statement)) checkVariables(statement, say);
    }
    walk(tree, (node) => {
      if (ts.isPropertyDeclaration(node)) checkField(node, say);
    });
  }
  return findings;
}

function checkVariables(statement, say) {
  const list = statement.declarationList;
  const isConst = (list.flags & ts.NodeFlags.Const) !== 0;
  for (const declaration of list.declarations) {
    const name = declaration.name.getText();
    if (!isConst) say(declaration, `${name} is mutable state of the module`);
    else if (isEmptyCollection(declaration.initializer)) {
      say(declaration, `${name} begins empty, so it is mutable state of the module`);
    }
  }
}

function isEmptyCollection(value) {
  if (!value) return false;
  if (ts.isArrayLiteralExpression(value)) return value.elements.length === 0;
  if (!ts.isNewExpression(value) || !ts.isIdentifier(value.expression)) return false;
  return COLLECTIONS.has(value.expression.text) && (value.arguments ?? []).length === 0;
}

function checkField(node, say) {
  const kinds = new Set((node.modifiers ?? []).map((modifier) => modifier.kind));
  if (!kinds.has(ts.SyntaxKind.StaticKeyword)) return;
  if (!kinds.has(ts.SyntaxKind.ReadonlyKeyword)) {
    say(node, `the static field ${node.name.getText()} is not readonly`);
  } else if (isEmptyCollection(node.initializer)) {
    say(node, `the static field ${node.name.getText()} begins empty, so it is mutable`);
  }
}
