// SPDX-License-Identifier: Apache-2.0
// Answers binding.gyp's questions about native.json: node tools/native.mjs sources|libraries ADDON
import { readFileSync } from "node:fs";

const [what, name] = process.argv.slice(2);
const addon = JSON.parse(readFileSync(new URL("../native.json", import.meta.url), "utf8")).addons[
  name
];
if (!addon) throw new Error(`native.json has no addon "${name}"`);
const lines =
  what === "sources"
    ? [...addon.core, ...addon.binding]
    : addon.libraries.map((library) => `-l${library}`);
console.log(lines.join("\n"));
