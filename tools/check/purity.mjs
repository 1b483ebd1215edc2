// SPDX-License-Identifier: Apache-2.0
// Purity: above the platform nobody reads a clock, a random number, a file or a socket by itself;
// all of it comes from the World. Otherwise the cluster could not run in one process under a seed.

import ts from "typescript";
import { productSources } from "./project.mjs";
import { imports, parse, place, walk } from "./syntax.mjs";

/** Where the real world begins. */
const ALLOWED = /^src\/(platform\/node|native|bin)\//;

const MODULES = new Set(
  (
    "child_process cluster dgram dns dns/promises fs fs/promises http http2 https inspector net " +
    "os perf_hooks process readline timers timers/promises tls worker_threads"
  ).split(" "),
);

const GLOBALS = new Set([
  "Date",
  "performance",
  "setTimeout",
  "setInterval",
  "setImmediate",
  "clearTimeout",
  "clearInterval",
  "clearImmediate",
  "fetch",
  "WebSocket",
  "Atomics.waitAsync",
]);

const MEMBERS = new Set([
  "Math.random",
  "process.hrtime",
  "process.nextTick",
  "process.cwd",
  "process.env",
  "process.exit",
  "process.kill",
  "process.on",
  "process.once",
  "process.pid",
  "crypto.randomBytes",
  "crypto.randomInt",
  "crypto.randomUUID",
  "crypto.getRandomValues",
  "crypto.randomFill",
  "crypto.randomFillSync",
]);

const RANDOM_NAMES = new Set(
  [...MEMBERS].filter((name) => name.startsWith("crypto.")).map((name) => name.slice(7)),
);

/** Findings about every file below src/ that is not part of the platform. */
export function check(project) {
  const findings = [];
  for (const file of productSources(project)) {
    if (ALLOWED.test(file)) continue;
    const tree = parse(project, file);
    const say = (node, what) =>
      findings.push(`${place(tree, node)}: ${what} only through the World`);
    for (const found of imports(tree)) checkImport(found, say);
    const own = declaredNames(tree);
    walk(tree, (node) => checkUse(node, own, say));
  }
  return findings;
}

function checkImport({ name, node, isType }, say) {
  if (isType) return;
  const bare = name.replace(/^node:/, "");
  if (MODULES.has(bare)) say(node, name);
  if (bare !== "crypto" || !ts.isImportDeclaration(node)) return;
  const named = node.importClause?.namedBindings;
  if (!named || !ts.isNamedImports(named)) return;
  for (const element of named.elements) {
    const imported = (element.propertyName ?? element.name).text;
    if (RANDOM_NAMES.has(imported)) say(element, `crypto.${imported}`);
  }
}

// Names that the file itself declares: a parameter called `performance` is no clock.
function declaredNames(tree) {
  const names = new Set();
  walk(tree, (node) => {
    const isDeclaration =
      ts.isVariableDeclaration(node) ||
      ts.isParameter(node) ||
      ts.isBindingElement(node) ||
      ts.isImportSpecifier(node) ||
      ts.isFunctionDeclaration(node);
    if (isDeclaration && node.name && ts.isIdentifier(node.name)) names.add(node.name.text);
  });
  return names;
}

function checkUse(node, own, say) {
  if (ts.isPropertyAccessExpression(node)) {
    const base = node.expression;
    const owner =
      ts.isPropertyAccessExpression(base) && isGlobalThis(base.expression) ? base.name : base;
    if (!ts.isIdentifier(owner) || own.has(owner.text)) return;
    const member = `${owner.text}.${node.name.text}`;
    if (MEMBERS.has(member)) say(node, member);
    if (isGlobalThis(owner) && GLOBALS.has(node.name.text)) say(node, node.name.text);
  } else if (ts.isIdentifier(node) && GLOBALS.has(node.text) && !own.has(node.text)) {
    if (isValue(node)) say(node, node.text);
  }
}

function isGlobalThis(node) {
  return ts.isIdentifier(node) && (node.text === "globalThis" || node.text === "global");
}

// True when the identifier stands for a value, not for a type, a member or a key.
function isValue(node) {
  const { parent } = node;
  if (ts.isPropertyAccessExpression(parent)) return parent.expression === node;
  if (ts.isPropertyAssignment(parent)) return parent.initializer === node;
  if (ts.isTypeNode(parent) || ts.isTypeQueryNode(parent) || ts.isQualifiedName(parent))
    return false;
  if (ts.isExpressionWithTypeArguments(parent)) return ts.isClassLike(parent.parent.parent);
  const isName = "name" in parent && parent.name === node;
  return !isName;
}
