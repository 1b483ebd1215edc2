// SPDX-License-Identifier: Apache-2.0
// `npm run format`: writes every source as the formatters want it.

import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { cppSources } from "./check/clang-format.mjs";
import { biome } from "./check/lint.mjs";
import { openProject, sources } from "./check/project.mjs";
import { wrapComments } from "./format/comments.mjs";

const project = openProject(new URL("..", import.meta.url).pathname);
const run = (program, args) =>
  spawnSync(program, args, { cwd: project.root, stdio: "inherit" }).status ?? 1;

for (const file of sources(project, /\.(ts|mjs)$/)) {
  const wrapped = wrapComments(project.text(file));
  if (wrapped !== project.text(file)) writeFileSync(join(project.root, file), wrapped);
}
const biomeCode = run(biome(), ["check", "--write", "."]);
const clangCode = run("clang-format", ["-i", ...cppSources(project)]);
process.exitCode = biomeCode || clangCode;
