// SPDX-License-Identifier: Apache-2.0
// Purity: above the platform nobody reads a clock, a random number, a file or a socket by itself;
// all of it comes from the World. Otherwise the cluster could not run in one process under a seed.
//
// What is not known to be pure is refused: a name that no file declares must be one of GLOBALS, a
// module one of MODULES. So there is no alias, no new function of the runtime, and no other way to
// the real world that has to be thought of first.

import { posix } from "node:path";
import ts from "typescript";
import { productSources } from "./project.mjs";
import { imports, parse, place, walk } from "./syntax.mjs";

/** Where the real world begins. */
const ALLOWED = /^src\/(platform\/node|native|bin)\//;

/** Global names that are the same in every world. */
const GLOBALS = new Set(
  (
    "AggregateError Array ArrayBuffer BigInt BigInt64Array BigUint64Array Boolean Buffer DataView " +
    "Error Float32Array Float64Array Infinity Int16Array Int32Array Int8Array Iterator JSON Map " +
    "Math NaN Number Object Promise RangeError RegExp Set SharedArrayBuffer String Symbol " +
    "TextDecoder TextEncoder TypeError Uint16Array Uint32Array Uint8Array WeakMap WeakSet " +
    "arguments decodeURIComponent encodeURIComponent structuredClone undefined"
  ).split(" "),
);

/** Members of them that are not. */
const IMPURE_MEMBERS = new Map([
  ["Math", new Set(["random"])],
  ["Buffer", new Set(["allocUnsafe", "allocUnsafeSlow"])],
]);

/** From here everything can be reached, also what is called by no name. */
const IMPURE_KEYS = new Set(["constructor"]);

/** Modules that compute and do nothing else: all of them, or these names of them. */
const MODULES = new Map([
  ["@grpc/proto-loader", ["fromJSON"]],
  ["cli-table3", null],
  ["commander", null],
  ["msgpackr", null],
  ["node:crypto", ["createCipheriv", "createDecipheriv", "createHash", "createHmac", "hkdfSync"]],
  ["node:util", ["getSystemErrorName"]],
  ["smol-toml", null],
  ["zod", null],
]);

/** What may be taken from where the real world is, and from modules that open sockets. */
const EXCEPTIONS = [
  // Words for numbers.
  { from: /^src\//, module: "src/native/transport.js", names: /^(describe\w+|FAULT_\w+)$/ },
  // The codec is the real one, called at once.
  { from: /^src\/sim\//, module: "src/native/erasure.js", names: /^ErasureSession$/ },
  // How the simulator waits until no promise can settle any more.
  { from: /^src\/sim\//, module: "src/platform/node/ticks.js", names: /^runInTicks$/ },
  // etcd is outside of the simulation, which has a registry of its own.
  { from: /^src\/registry\/etcd\w*\.ts$/, module: "@grpc/grpc-js", names: /./ },
];

/** Findings about every file below src/ that is not part of the platform. */
export function check(project) {
  const findings = [];
  const files = productSources(project).filter((file) => !ALLOWED.test(file));
  const { checker, trees } = bound(project, files);
  for (const file of files) {
    const tree = trees.get(file);
    const say = (node, what) =>
      findings.push(`${place(tree, node)}: ${what} only through the World`);
    for (const found of imports(tree)) if (!found.isType) checkImport(file, found, say);
    walk(tree, (node) => checkUse(node, checker, say));
  }
  return findings;
}

/** The syntax trees, with a checker that knows which names the files declare, and no others. */
function bound(project, files) {
  const trees = new Map(files.map((file) => [file, parse(project, file)]));
  const host = {
    getSourceFile: (file) => trees.get(file),
    fileExists: (file) => trees.has(file),
    readFile: (file) => project.text(file),
    writeFile: () => undefined,
    getDefaultLibFileName: () => "none.d.ts",
    getCurrentDirectory: () => "",
    getCanonicalFileName: (file) => file,
    useCaseSensitiveFileNames: () => true,
    getNewLine: () => "\n",
  };
  const options = { noLib: true, noResolve: true, types: [], target: ts.ScriptTarget.ES2022 };
  const checker = ts.createProgram(files, options, host).getTypeChecker();
  return { checker, trees };
}

function checkImport(file, { name, node }, say) {
  const isOurs = name.startsWith(".");
  const module = isOurs ? posix.join(posix.dirname(file), name) : name;
  if (isOurs && !ALLOWED.test(module)) return;
  const names = namesOf(node);
  const isFine = (imported) => isPure(file, module, imported);
  for (const imported of names ?? ["*"]) if (!isFine(imported)) return say(node, module);
}

function isPure(file, module, imported) {
  if (MODULES.has(module)) return MODULES.get(module)?.includes(imported) ?? true;
  return EXCEPTIONS.some(
    ({ from, module: other, names }) =>
      from.test(file) && other === module && imported !== "*" && names.test(imported),
  );
}

/** The names that an import or export takes; null when it is all of them. */
function namesOf(node) {
  const clause = ts.isImportDeclaration(node) ? node.importClause : node;
  const named = clause?.namedBindings ?? clause?.exportClause;
  if (!named && clause?.name) return ["default"];
  if (!named || !(ts.isNamedImports(named) || ts.isNamedExports(named))) return null;
  const values = named.elements.filter((element) => !element.isTypeOnly);
  const names = values.map((element) => (element.propertyName ?? element.name).text);
  return clause.name ? ["default", ...names] : names;
}

function checkUse(node, checker, say) {
  if (ts.isMetaProperty(node) && node.keywordToken === ts.SyntaxKind.ImportKeyword) {
    say(node, "import.meta");
  } else if (ts.isExternalModuleReference(node)) {
    say(node, "require");
  } else if (isComputedImport(node)) {
    say(node, "a computed import");
  } else if (isKey(node)) {
    if (IMPURE_KEYS.has(node.text)) say(node, `.${node.text}`);
  } else if (ts.isIdentifier(node) && isValue(node) && !isDeclared(node, checker)) {
    const wrong = misuse(node);
    if (wrong !== null) say(node, wrong);
  }
}

function isComputedImport(node) {
  if (!ts.isCallExpression(node)) return false;
  const [name] = node.arguments;
  const isImport = node.expression.kind === ts.SyntaxKind.ImportKeyword;
  return isImport && !(name && ts.isStringLiteralLike(name));
}

/** The name of a member, whichever way it is written. */
function isKey(node) {
  const { parent } = node;
  if (ts.isPropertyAccessExpression(parent)) return parent.name === node;
  if (ts.isBindingElement(parent)) {
    return ts.isObjectBindingPattern(parent.parent) && parent.propertyName === node;
  }
  return (
    ts.isStringLiteralLike(node) &&
    ts.isElementAccessExpression(parent) &&
    parent.argumentExpression === node
  );
}

/** What is wrong with the use of a global name; null when nothing is. */
function misuse(node) {
  if (!GLOBALS.has(node.text)) return node.text;
  const impure = IMPURE_MEMBERS.get(node.text);
  if (!impure) return null;
  const { parent } = node;
  // Under another name nobody would know it again.
  const isMember = ts.isPropertyAccessExpression(parent) && parent.expression === node;
  if (!isMember) return node.text;
  return impure.has(parent.name.text) ? `${node.text}.${parent.name.text}` : null;
}

/** The project declares the name: not only that it exists. */
function isDeclared(node, checker) {
  const symbol = checker.resolveName(node.text, node, ts.SymbolFlags.Value, false);
  const isAmbient = (declaration) =>
    (ts.getCombinedModifierFlags(declaration) & ts.ModifierFlags.Ambient) !== 0;
  return symbol?.declarations?.some((declaration) => !isAmbient(declaration)) ?? false;
}

/** True when the identifier stands for a value, not for a type, a member or a key. */
function isValue(node) {
  const { parent } = node;
  if (ts.isShorthandPropertyAssignment(parent)) return true;
  if (ts.isPropertyAssignment(parent)) return parent.initializer === node;
  if (ts.isBindingElement(parent)) return parent.initializer === node;
  if (ts.isImportSpecifier(parent) || ts.isExportSpecifier(parent)) return false;
  if (ts.isTypeQueryNode(parent) || ts.isQualifiedName(parent) || ts.isMetaProperty(parent))
    return false;
  if (ts.isLabeledStatement(parent) || ts.isBreakOrContinueStatement(parent)) return false;
  if (ts.isTypePredicateNode(parent) || ts.isNamedTupleMember(parent)) return false;
  if (ts.isPartOfTypeNode(node)) return false;
  return !("name" in parent && parent.name === node);
}
