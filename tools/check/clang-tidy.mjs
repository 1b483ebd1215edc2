// SPDX-License-Identifier: Apache-2.0
// clang-tidy over the addons' cores (.clang-tidy). It takes seconds a file, so a file is looked at
// again only when it, a header of its addon or the rules changed; .stamps/tidy remembers.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findingsOfEach } from "./tool.mjs";

/** Findings of clang-tidy. */
export async function check(project) {
  const path = join(project.root, ".stamps/tidy");
  const done = existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : {};
  const now = {};
  const changed = [];
  for (const file of project.files) {
    if (!/^native\/\w+\/core\/.*\.cc$/.test(file)) continue;
    const value = hashOf(project, inputsOf(project, file));
    if (done[file] === value) now[file] = value;
    else changed.push({ file, value });
  }
  const { flags } = JSON.parse(project.text("native.json"));
  const compiler = flags.filter((flag) => /^-(std|f)/.test(flag));
  const runs = changed.map(({ file }) => ["--quiet", file, "--", ...compiler, "-Inative"]);
  const results = await findingsOfEach(project, "clang-tidy", runs);
  for (const [index, { file, value }] of changed.entries()) {
    if (results[index].length === 0) now[file] = value;
  }
  mkdirSync(join(project.root, ".stamps"), { recursive: true });
  writeFileSync(path, JSON.stringify(now));
  return results.flat();
}

// All that the findings about a core's source depend on.
function inputsOf(project, file) {
  const [, addon] = file.split("/");
  const isHeader = new RegExp(`^native/(common|${addon})/.*\\.h$`);
  return [
    ".clang-tidy",
    "native.json",
    ...project.files.filter((each) => isHeader.test(each)),
    file,
  ];
}

function hashOf(project, files) {
  const hash = createHash("sha256");
  for (const file of files) {
    if (project.files.includes(file)) hash.update(file).update("\0").update(project.text(file));
  }
  return hash.digest("hex");
}
