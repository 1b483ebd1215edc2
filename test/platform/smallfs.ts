// SPDX-License-Identifier: Apache-2.0
// A small file system for tests that fill it.

import { spawnSync } from "node:child_process";
import { mkdirSync, truncateSync, writeFileSync } from "node:fs";

/** Mounts one of so many bytes under the folder; null where that is not allowed. */
export function mountSmall(
  folder: string,
  bytes: number,
): { path: string; unmount: () => void } | null {
  const image = `${folder}/image`;
  const path = `${folder}/mounted`;
  mkdirSync(path);
  writeFileSync(image, "");
  truncateSync(image, bytes);
  const run = (...command: string[]) =>
    spawnSync(command[0]!, command.slice(1), { stdio: "ignore" }).status === 0;
  if (!run("mkfs.ext4", "-q", image) || !run("mount", "-o", "loop", image, path)) return null;
  return { path, unmount: () => run("umount", "-l", path) };
}
