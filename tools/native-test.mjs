// SPDX-License-Identifier: Apache-2.0
// `npm run native-test`: the tests of the addons' cores (native/ADDON/test), built by CMake without
// Node, under the address and undefined-behaviour sanitizers.

import { availableParallelism } from "node:os";
import { inherit, Stop, step } from "./bootstrap/run.mjs";

const FOLDER = ".cache/cores";

async function main() {
  await step("cores under sanitizers", async (run) => {
    await run("cmake", ["-S", ".", "-B", FOLDER, "-DOVS_SANITIZE=address,undefined"]);
    await run("cmake", ["--build", FOLDER, "--parallel", String(availableParallelism())]);
  });
  return inherit("ctest", ["--test-dir", FOLDER, "--output-on-failure", "--no-tests=error"], {
    UBSAN_OPTIONS: "print_stacktrace=1",
  });
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof Stop)) throw error;
  console.error(error.message);
  process.exitCode = error.code;
}
