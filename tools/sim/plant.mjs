// SPDX-License-Identifier: Apache-2.0
// Puts a planted bug of bugs.mjs into a copy of the compiled product.

import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { at } from "../bootstrap/project.mjs";

const BUILT = at("dist/src");
/** What tsconfig.json says, for one file alone. */
const COMPILER = {
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ES2022,
  verbatimModuleSyntax: true,
};

/** How often the bug's place is in its source: once, or it must be mended. */
export function placesOf({ file, find }) {
  return readFileSync(at(file), "utf8").split(find).length - 1;
}

/** A copy of the compiled product in `folder`, which is emptied before. */
export function copyProduct(folder) {
  rmSync(folder, { recursive: true, force: true });
  cpSync(BUILT, join(folder, "src"), { recursive: true });
}

/** The changed source, compiled; throws when its place is not there once, or does not compile. */
export function compilePlanted(bug) {
  const { name, file, find, replace } = bug;
  if (placesOf(bug) !== 1) {
    throw new Error(`"${name}": its place in ${file} is not there once: mend tools/sim/bugs.mjs`);
  }
  const changed = readFileSync(at(file), "utf8").replace(find, () => replace);
  const { outputText, diagnostics } = ts.transpileModule(changed, {
    compilerOptions: COMPILER,
    fileName: file,
    reportDiagnostics: true,
  });
  if (diagnostics.length > 0) {
    const words = ts.flattenDiagnosticMessageText(diagnostics[0].messageText, " ");
    throw new Error(`"${name}": the changed ${file} does not compile: ${words}`);
  }
  return outputText;
}

/** Plants the bug into a copy; what it answers takes it out again. */
export function plant(bug, folder) {
  const path = bug.file.replace(/\.ts$/, ".js");
  writeFileSync(join(folder, path), compilePlanted(bug));
  return () => cpSync(join(BUILT, "..", path), join(folder, path));
}
