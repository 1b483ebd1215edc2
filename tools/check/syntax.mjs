// SPDX-License-Identifier: Apache-2.0
// Parsing of TypeScript for the checks: syntax only, so it is fast and needs no types.

import ts from "typescript";

/** The syntax tree of a file of the project, with parents set. */
export function parse(project, file) {
  return ts.createSourceFile(file, project.text(file), ts.ScriptTarget.ES2022, true);
}

/** `file:line` of a node. */
export function place(tree, node) {
  const { line } = tree.getLineAndCharacterOfPosition(node.getStart(tree));
  return `${tree.fileName}:${line + 1}`;
}

/** Calls `visit` with every node below `tree`. */
export function walk(tree, visit) {
  const each = (node) => {
    visit(node);
    ts.forEachChild(node, each);
  };
  ts.forEachChild(tree, each);
}

/** Every import and re-export: the module's name, its node, and whether only types come from it. */
export function imports(tree) {
  const found = [];
  walk(tree, (node) => {
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) {
      const name = node.moduleSpecifier;
      if (!name || !ts.isStringLiteral(name)) return;
      found.push({ name: name.text, node, isType: isTypeOnly(node) });
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      const [name] = node.arguments;
      if (name && ts.isStringLiteralLike(name))
        found.push({ name: name.text, node, isType: false });
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
      found.push({ name: node.argument.literal.text, node, isType: true });
    }
  });
  return found;
}

function isTypeOnly(node) {
  if (ts.isExportDeclaration(node)) return node.isTypeOnly;
  const clause = node.importClause;
  if (!clause) return false;
  if (clause.isTypeOnly) return true;
  const named = clause.namedBindings;
  if (clause.name || !named || !ts.isNamedImports(named)) return false;
  return named.elements.every((element) => element.isTypeOnly);
}
