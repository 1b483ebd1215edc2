// SPDX-License-Identifier: Apache-2.0
// Finds the compiled addons: build/Release/<name>.node at the project's root.

import { createRequire } from "node:module";
import { messageOf, StorageError } from "../base/errors.js";

const require = createRequire(import.meta.url);

/**
 * Loads an addon; every thread gets its own instance data. OVS_UNSUPPORTED in words when it is not
 * built.
 */
export function loadAddon<T>(name: string): T {
  const folder =
    process.env.OVS_NATIVE_DIR ?? new URL("../../../build/Release", import.meta.url).pathname;
  try {
    return require(`${folder}/${name}.node`) as T;
  } catch (error) {
    throw new StorageError(
      "OVS_UNSUPPORTED",
      `cannot load the addon ${name}: ${messageOf(error)}; run \`npm run build\``,
      { cause: error },
    );
  }
}
