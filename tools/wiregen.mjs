// SPDX-License-Identifier: Apache-2.0
// Makes from the declarations in src/wire/formats (compiled to dist/) the codecs, the C++ header,
// the documentation and the golden vectors.
//
//   node tools/wiregen.mjs                 writes what differs
//   node tools/wiregen.mjs --check         fails when anything differs
//   node tools/wiregen.mjs --renew NAME    lets a format that was never released change its vector

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { cppOf } from "./wiregen/cpp.mjs";
import { docsOf } from "./wiregen/docs.mjs";
import { goldenOf } from "./wiregen/golden.mjs";
import { typescriptOf } from "./wiregen/typescript.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const args = process.argv.slice(2);
const isCheck = args.includes("--check");
const renew = new Set(args.filter((_, i) => args[i - 1] === "--renew"));
const GOLDEN = "test/wire/golden.json";

const areas = await loadAreas();
const owners = new Map(areas.flatMap((area) => area.parts.map((part) => [part, area.name])));
function areaOf(part) {
  const owner = owners.get(part);
  if (!owner) throw new Error(`${part.name} is used but in no area's list of parts`);
  return owner;
}

const wanted = new Map();
for (const area of areas)
  wanted.set(`src/wire/generated/${area.name}.ts`, typescriptOf(area, areaOf));
wanted.set("native/common/wire.h", cppOf(areas));
wanted.set("docs/formats.md", docsOf(areas));
const before = existsSync(join(root, GOLDEN))
  ? JSON.parse(readFileSync(join(root, GOLDEN), "utf8"))
  : [];
try {
  const vectors = goldenOf(areas, before, renew);
  wanted.set(
    GOLDEN,
    `[\n${vectors.map((vector) => `  ${JSON.stringify(vector)}`).join(",\n")}\n]\n`,
  );
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
process.exit(settle());

async function loadAreas() {
  const folder = join(root, "dist/src/wire/formats");
  const sources = readdirSync(join(root, "src/wire/formats"))
    .filter((name) => name.endsWith(".ts"))
    .sort();
  const loaded = [];
  for (const source of sources) {
    const module = await import(pathToFileURL(join(folder, source.replace(/\.ts$/, ".js"))).href);
    loaded.push(module.default);
  }
  return loaded;
}

/** Writes, or with --check reports, what differs; returns the exit code. */
function settle() {
  const differing = [...wanted].filter(
    ([path, text]) =>
      !existsSync(join(root, path)) || readFileSync(join(root, path), "utf8") !== text,
  );
  const folder = join(root, "src/wire/generated");
  mkdirSync(folder, { recursive: true });
  const strays = readdirSync(folder)
    .map((name) => `src/wire/generated/${name}`)
    .filter((path) => !wanted.has(path));
  if (isCheck) {
    for (const path of [...differing.map(([name]) => name), ...strays])
      console.error(`${path} is not what the declarations give: run node tools/wiregen.mjs`);
    return differing.length + strays.length > 0 ? 1 : 0;
  }
  for (const [path, text] of differing) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
    console.log(`wrote ${path}`);
  }
  for (const path of strays) rmSync(join(root, path));
  return 0;
}
