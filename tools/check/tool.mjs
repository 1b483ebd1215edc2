// SPDX-License-Identifier: Apache-2.0
// Runs a program that does a check of its own and turns its output into findings.

import { spawnSync } from "node:child_process";

const OUTPUT_MAX = 1 << 26;

/** What the program printed, as findings, when it ended with anything but 0. */
export function findingsOf(project, program, args) {
  const result = spawnSync(program, args, {
    cwd: project.root,
    encoding: "utf8",
    maxBuffer: OUTPUT_MAX,
  });
  if (result.error) return [`cannot run ${program}: ${result.error.message}`];
  if (result.status === 0) return [];
  const lines = `${result.stdout}${result.stderr}`.split("\n").filter((line) => line.trim() !== "");
  return [`${program} ended with ${result.status ?? result.signal}`, ...lines];
}
