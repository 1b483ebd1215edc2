// SPDX-License-Identifier: Apache-2.0
// The TypeScript face of the addon `exit` (native/exit/binding.cc): the one way a process of the
// product ends itself.

import { assert } from "../base/assert.js";
import { loadAddon } from "./load.js";

interface Addon {
  endProcess(code: number): never;
}

/**
 * Ends the process with this exit code (0 to 255), after the listeners of `exit`. Unlike
 * `process.exit`, it never waits for another thread: Node may wait there for ever
 * (nodejs/node#54918). What was written to standard output before is out: Node writes to files,
 * terminals and pipes synchronously here.
 */
export function endProcess(code: number): never {
  assert(Number.isInteger(code) && code >= 0 && code <= 255, "an exit code");
  process.exitCode = code;
  process.emit("exit", code);
  return loadAddon<Addon>("exit").endProcess(code);
}
