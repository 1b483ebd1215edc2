// SPDX-License-Identifier: Apache-2.0
// `npm run check [-- NAME…]`: everything that must hold for the sources besides what the tests
// prove. The types are checked by the compilation that stands before it (tools/bootstrap.mjs).
// Each check is a file in tools/check and gives its findings as lines; no finding means it holds.

import { check as clangFormat } from "./check/clang-format.mjs";
import { check as clangTidy } from "./check/clang-tidy.mjs";
import { check as docs } from "./check/docs.mjs";
import { check as formats } from "./check/formats.mjs";
import { check as headers } from "./check/headers.mjs";
import { check as layers } from "./check/layers.mjs";
import { check as lint } from "./check/lint.mjs";
import { check as lock } from "./check/lock.mjs";
import { check as natives } from "./check/natives.mjs";
import { openProject } from "./check/project.mjs";
import { check as proofs } from "./check/proofs.mjs";
import { check as purity } from "./check/purity.mjs";
import { check as results } from "./check/results.mjs";
import { check as size } from "./check/size.mjs";
import { check as skips } from "./check/skips.mjs";
import { check as state } from "./check/state.mjs";
import { check as words } from "./check/words.mjs";

const CHECKS = {
  headers,
  docs,
  proofs,
  size,
  words,
  lock,
  skips,
  natives,
  layers,
  purity,
  state,
  lint,
  formats,
  results,
  "clang-format": clangFormat,
  "clang-tidy": clangTidy,
};

async function main(wanted) {
  for (const name of wanted) {
    if (Object.hasOwn(CHECKS, name)) continue;
    console.error(`no check is called ${name}; there are ${Object.keys(CHECKS).join(", ")}`);
    return 2;
  }
  const project = openProject(new URL("..", import.meta.url).pathname);
  let failed = 0;
  for (const name of wanted.length > 0 ? wanted : Object.keys(CHECKS)) {
    const startMs = performance.now();
    const findings = await CHECKS[name](project);
    const time = `${((performance.now() - startMs) / 1000).toFixed(1)} s`;
    console.log(`${findings.length === 0 ? "ok    " : "not ok"} ${name} (${time})`);
    for (const finding of findings) console.log(`  ${finding}`);
    if (findings.length > 0) failed++;
  }
  if (failed > 0) console.log(`${failed} checks failed`);
  return failed === 0 ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
