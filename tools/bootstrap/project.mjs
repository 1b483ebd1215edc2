// SPDX-License-Identifier: Apache-2.0
// Where the project's files lie, and stamps: small files that say for which input a step was last
// done. A stamp holds a hash of everything the step depends on, so a step whose stamp is current
// has nothing to do.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The project's root folder, without a slash at the end. */
export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** An absolute path from one relative to the root. */
export function at(...parts) {
  return join(ROOT, ...parts);
}

/** The content of a file of the project, parsed as JSON. */
export function readJson(path) {
  return JSON.parse(readFileSync(at(path), "utf8"));
}

/**
 * All files below `folder` (relative to the root) that `wanted` accepts, sorted, relative to it.
 */
export function filesBelow(folder, wanted = () => true) {
  if (!existsSync(at(folder))) return [];
  const found = [];
  for (const entry of readdirSync(at(folder), { withFileTypes: true })) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) found.push(...filesBelow(path, wanted));
    else if (entry.isFile() && wanted(path)) found.push(path);
  }
  return found.sort();
}

/** Hash over the names and contents of `files` (relative to the root) and over `extra` strings. */
export function hashOf(files, ...extra) {
  const hash = createHash("sha256");
  for (const file of files) {
    hash.update(`${file}\0`);
    hash.update(existsSync(at(file)) ? readFileSync(at(file)) : "absent");
    hash.update("\0");
  }
  for (const text of extra) hash.update(`${text}\0`);
  return hash.digest("hex");
}

/** True when the step `name` was last done for `value`. */
export function isCurrent(name, value) {
  const path = at(".stamps", name);
  return existsSync(path) && readFileSync(path, "utf8") === value;
}

/**
 * Notes that the step `name` is done for `value`; without a value, that it has to be done again.
 */
export function stamp(name, value) {
  mkdirSync(at(".stamps"), { recursive: true });
  if (value === undefined) rmSync(at(".stamps", name), { force: true });
  else writeFileSync(at(".stamps", name), value);
}

/**
 * Runs `work` while no other bootstrap works on this tree. A lock whose holder died is taken over.
 */
export async function withLock(work) {
  const path = at(".stamps", "lock");
  mkdirSync(at(".stamps"), { recursive: true });
  let told = false;
  for (;;) {
    try {
      writeFileSync(path, String(process.pid), { flag: "wx" });
      break;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    }
    const holder = lockHolder(path);
    if (holder === 0) rmSync(path, { force: true });
    else if (!told) console.log(`bootstrap: waiting for another one (pid ${holder})`);
    told ||= holder !== 0;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  const release = () => rmSync(path, { force: true });
  process.on("exit", release);
  try {
    return await work();
  } finally {
    process.off("exit", release);
    release();
  }
}

// The living process that holds the lock, 0 when there is none.
function lockHolder(path) {
  const pid = existsSync(path) ? Number(readFileSync(path, "utf8")) : 0;
  if (!Number.isInteger(pid) || pid <= 0) return 0;
  return existsSync(`/proc/${pid}`) ? pid : 0;
}
