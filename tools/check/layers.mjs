// SPDX-License-Identifier: Apache-2.0
// Layers: a file below src/ imports only from lower layers and from its own folder of src/. Of a
// service (a folder that is a daemon) the others see nothing but its client.ts, so that they
// could always be another process, as they are.

import { posix } from "node:path";
import { productSources } from "./project.mjs";
import { imports, parse, place } from "./syntax.mjs";

/** Height of each folder of src/, as docs/architecture.md draws them. */
export const LAYERS = {
  base: 0,
  wire: 1,
  platform: 2,
  native: 2,
  rpc: 3,
  nbd: 4,
  registry: 4,
  asd: 4,
  backend: 5,
  volume: 6,
  mds: 6,
  router: 7,
  edge: 7,
  manager: 8,
  sim: 9,
  bin: 10,
};

/** Folders of which others import client.ts only. The thin mains and the simulator start them. */
const SERVICES = new Set(["asd", "mds", "router", "edge", "manager"]);
const HOSTS = new Set(["bin", "sim"]);

/** Pairs of one layer that belong together: the world's interfaces and what carries them out. */
const PARTNERS = new Set(["platform native", "native platform"]);

/** Findings about the imports of every file below src/. */
export function check(project) {
  const findings = [];
  for (const file of productSources(project)) {
    const tree = parse(project, file);
    for (const { name, node } of imports(tree)) {
      const reason = name.startsWith(".") ? refusal(file, name) : null;
      if (reason) findings.push(`${place(tree, node)}: ${reason}`);
    }
  }
  return findings;
}

// Why `file` may not import `name`, or null.
function refusal(file, name) {
  const target = posix.join(posix.dirname(file), name);
  if (!target.startsWith("src/")) return `imports ${target}, which is outside src/`;
  const from = file.split("/")[1];
  const to = target.split("/")[1];
  for (const folder of [from, to]) {
    if (!Object.hasOwn(LAYERS, folder))
      return `src/${folder} has no layer in tools/check/layers.mjs`;
  }
  if (from === to) return null;
  const isPartner = PARTNERS.has(`${from} ${to}`);
  if (LAYERS[to] >= LAYERS[from] && !isPartner && target !== `src/${to}/client.js`) {
    return `src/${from} (layer ${LAYERS[from]}) imports src/${to} (layer ${LAYERS[to]})`;
  }
  if (LAYERS[to] > LAYERS[from]) return `src/${from} imports upward, src/${to}`;
  if (SERVICES.has(to) && !HOSTS.has(from) && target !== `src/${to}/client.js`) {
    return `of src/${to} only client.ts may be imported, not ${posix.basename(target)}`;
  }
  return null;
}
