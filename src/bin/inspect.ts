// SPDX-License-Identifier: Apache-2.0
// `ovs inspect FILE`.

import { createWorld } from "../platform/node/world.js";
import { INSPECT_BYTES, inspectFile } from "./inspectfile.js";

/** Prints the file (an absolute path) in words, or a JSON object a line. The exit code is 0. */
export async function inspectMain(
  file: string,
  json: boolean,
  print: (text: string) => void,
): Promise<number> {
  const world = createWorld({ name: "inspect", arenaBytes: INSPECT_BYTES, terminal: null });
  try {
    await inspectFile(world, file, (words, fields) => print(json ? JSON.stringify(fields) : words));
    return 0;
  } finally {
    await world.stop();
  }
}
