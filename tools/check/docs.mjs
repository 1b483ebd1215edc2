// SPDX-License-Identifier: Apache-2.0
// Comments that a reader needs: each source opens with what it is (a C++ source in its header where
// it has one). Below src/ each function and class that is exported says what it is for, and so do
// their parts that others call: public methods and accessors of classes, members of interfaces that
// are functions. A method that implements or overrides a documented one needs no comment again.

import ts from "typescript";
import { isGenerated, productSources, sources } from "./project.mjs";
import { parse, place } from "./syntax.mjs";

/** Findings about opening comments, and about what is exported below src/. */
export function check(project) {
  const findings = [];
  for (const file of sources(project)) {
    if (hasHeader(project, file) || file.includes("/fixtures/")) continue;
    const lines = project.text(file).split("\n");
    const line = lines[lines[0].startsWith("#!") ? 2 : 1] ?? "";
    if (!/^(\/\/|#) \S/.test(line)) findings.push(`${file}:2: no comment says what this file is`);
  }
  const trees = productSources(project)
    .filter((file) => !isGenerated(project, file))
    .map((file) => parse(project, file));
  const interfaces = interfacesOf(trees);
  for (const tree of trees) {
    for (const statement of tree.statements) {
      if (!isExported(statement)) continue;
      for (const { node, name } of undocumented(tree, statement, interfaces)) {
        findings.push(`${place(tree, node)}: no comment says what ${name} is for`);
      }
    }
  }
  return findings;
}

function hasHeader(project, file) {
  return file.endsWith(".cc") && project.files.includes(file.replace(/\.cc$/, ".h"));
}

function isExported(statement) {
  return hasModifier(statement, ts.SyntaxKind.ExportKeyword);
}

function hasModifier(node, ...kinds) {
  return (node.modifiers ?? []).some((modifier) => kinds.includes(modifier.kind));
}

// What of an exported statement lacks a comment: nodes with their names.
function undocumented(tree, statement, interfaces) {
  const name = statement.name?.text ?? "this";
  if (ts.isInterfaceDeclaration(statement)) {
    return missing(tree, name, statement.members.filter(isFunctionMember));
  }
  const found = [];
  if (ts.isVariableStatement(statement)) {
    const [first] = statement.declarationList.declarations;
    if (!isFunctionValue(first.initializer) || isDocumented(tree, statement)) return found;
    return [{ node: statement, name: first.name.getText(tree) }];
  }
  if (!ts.isFunctionDeclaration(statement) && !ts.isClassDeclaration(statement)) return found;
  if (!isDocumented(tree, statement) && !isAlone(tree, statement)) {
    found.push({ node: statement, name });
  }
  if (ts.isFunctionDeclaration(statement)) return found;
  const told = toldElsewhere(statement, interfaces);
  const own = statement.members.filter(
    (member) => isPublicFunction(member) && !told.has(nameOf(member)),
  );
  return [...found, ...missing(tree, name, own)];
}

// Those of the members that lack a comment. Overloads, and a getter with its setter, share one.
function missing(tree, owner, members) {
  const documented = members.filter((member) => isDocumented(tree, member)).map(nameOf);
  const names = new Set(documented);
  const found = [];
  for (const member of members) {
    const name = nameOf(member);
    if (names.has(name)) continue;
    names.add(name);
    found.push({ node: member, name: `${owner}.${name}` });
  }
  return found;
}

function nameOf(member) {
  return member.name === undefined ? "()" : member.name.getText();
}

function isPublicFunction(member) {
  if (!ts.isMethodDeclaration(member) && !ts.isAccessor(member)) return false;
  const { PrivateKeyword, ProtectedKeyword, OverrideKeyword } = ts.SyntaxKind;
  if (hasModifier(member, PrivateKeyword, ProtectedKeyword, OverrideKeyword)) return false;
  return !ts.isPrivateIdentifier(member.name);
}

function isFunctionMember(member) {
  if (ts.isMethodSignature(member) || ts.isCallSignatureDeclaration(member)) return true;
  return ts.isPropertySignature(member) && member.type !== undefined && isFunctionType(member.type);
}

function isFunctionType(type) {
  if (ts.isParenthesizedTypeNode(type)) return isFunctionType(type.type);
  if (ts.isUnionTypeNode(type)) return type.types.some(isFunctionType);
  return ts.isFunctionTypeNode(type);
}

function isFunctionValue(value) {
  return value !== undefined && (ts.isArrowFunction(value) || ts.isFunctionExpression(value));
}

// All interfaces below src/ by name: what they extend, and the members that have a comment.
function interfacesOf(trees) {
  const interfaces = new Map();
  for (const tree of trees) {
    for (const statement of tree.statements) {
      if (!ts.isInterfaceDeclaration(statement)) continue;
      const known = interfaces.get(statement.name.text) ?? { bases: [], documented: [] };
      interfaces.set(statement.name.text, known);
      known.bases.push(...heritage(statement, ts.SyntaxKind.ExtendsKeyword));
      const members = statement.members.filter((member) => isDocumented(tree, member));
      known.documented.push(...members.map(nameOf));
    }
  }
  return interfaces;
}

// Names of members that an interface of the class documents, or one that it extends.
function toldElsewhere(statement, interfaces) {
  const told = new Set();
  const seen = new Set();
  const names = heritage(statement, ts.SyntaxKind.ImplementsKeyword);
  while (names.length > 0) {
    const name = names.pop();
    const known = interfaces.get(name);
    if (known === undefined || seen.has(name)) continue;
    seen.add(name);
    for (const member of known.documented) told.add(member);
    names.push(...known.bases);
  }
  return told;
}

function heritage(statement, keyword) {
  const clauses = (statement.heritageClauses ?? []).filter((clause) => clause.token === keyword);
  return clauses.flatMap((clause) => clause.types.map((type) => type.expression.getText()));
}

// The opening comment of a file is about the one class that it exports.
function isAlone(tree, statement) {
  if (!ts.isClassDeclaration(statement)) return false;
  const classes = tree.statements.filter((each) => ts.isClassDeclaration(each) && isExported(each));
  return classes.length === 1;
}

// A comment without a word is none.
function isDocumented(tree, node) {
  return /\/\*\*[\s*]*[^\s*/]/.test(tree.text.slice(node.getFullStart(), node.getStart(tree)));
}
