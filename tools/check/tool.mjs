// SPDX-License-Identifier: Apache-2.0
// Runs programs that do a check of their own and turns their output into findings.

import { spawn } from "node:child_process";
import { availableParallelism } from "node:os";

const OUTPUT_MAX = 1 << 26;

/** What the program printed, as findings, when it ended with anything but 0. */
export function findingsOf(project, program, args) {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd: project.root, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    const keep = (chunk) => {
      output = (output + chunk).slice(-OUTPUT_MAX);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    child.on("error", (error) => resolve([`cannot run ${program}: ${error.message}`]));
    child.on("close", (code, signal) => {
      const lines = output.split("\n").filter((line) => line.trim() !== "");
      resolve(code === 0 ? [] : [`${program} ended with ${code ?? signal}`, ...lines]);
    });
  });
}

/**
 * The same for many runs of one program, as many at a time as there are cores: gives the findings
 * of each list of arguments, in their order.
 */
export async function findingsOfEach(project, program, runs) {
  const results = [];
  const queue = runs.map((args, index) => ({ args, index }));
  const worker = async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      results[next.index] = await findingsOf(project, program, next.args);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return results;
}
