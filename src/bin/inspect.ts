// SPDX-License-Identifier: Apache-2.0
// `ovs inspect FILE`.

import { resolve } from "node:path";
import { createWorld } from "../platform/node/world.js";
import { INSPECT_BYTES, inspectFile } from "./inspectfile.js";

/** Prints the file in words, or a JSON object a line; resolves with the exit code. */
export async function inspectMain(
  file: string,
  json: boolean,
  print: (text: string) => void,
): Promise<number> {
  const world = createWorld({ name: "inspect", arenaBytes: INSPECT_BYTES, terminal: null });
  try {
    await inspectFile(world, resolve(file), (words, fields) =>
      print(json ? JSON.stringify(fields) : words),
    );
    return 0;
  } finally {
    await world.stop();
  }
}
