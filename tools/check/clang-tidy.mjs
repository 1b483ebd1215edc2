// SPDX-License-Identifier: Apache-2.0
// clang-tidy over the addons' cores (.clang-tidy). It takes seconds a file, so a file is looked at
// again only when it, a header or the rules changed; .stamps/tidy remembers.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findingsOf } from "./tool.mjs";

/** Findings of clang-tidy. */
export function check(project) {
  const isCore = (file) => /^native\/\w+\/core\/.*\.cc$/.test(file);
  const { flags } = JSON.parse(project.text("native.json"));
  const headers = project.files.filter((file) => /^native\/.*\.h$/.test(file));
  const common = hashOf(project, [".clang-tidy", "native.json", ...headers]);
  const stamps = join(project.root, ".stamps/tidy");
  const done = existsSync(stamps) ? JSON.parse(readFileSync(stamps, "utf8")) : {};
  const now = {};
  const findings = [];
  const compiler = flags.filter((flag) => /^-(std|f)/.test(flag));
  for (const file of project.files.filter(isCore)) {
    const value = `${common} ${hashOf(project, [file])}`;
    const args = ["--quiet", file, "--", ...compiler, "-Inative"];
    const found = done[file] === value ? [] : findingsOf(project, "clang-tidy", args);
    if (found.length === 0) now[file] = value;
    findings.push(...found);
  }
  mkdirSync(join(project.root, ".stamps"), { recursive: true });
  writeFileSync(stamps, JSON.stringify(now));
  return findings;
}

function hashOf(project, files) {
  const hash = createHash("sha256");
  for (const file of files) {
    if (project.files.includes(file)) hash.update(file).update("\0").update(project.text(file));
  }
  return hash.digest("hex");
}
