// SPDX-License-Identifier: Apache-2.0
// Every check of `npm run check` can fail: each is given a small tree with a planted violation and
// must name its place, and one without and must be silent.

import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import t, { type Test } from "tap";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const SPDX = "// SPDX-License-Identifier: Apache-2.0\n";

interface Project {
  readonly root: string;
}

type Check = (project: Project) => string[] | Promise<string[]>;

async function load<T>(path: string): Promise<T> {
  return (await import(join(ROOT, "tools", path))) as T;
}

// Runs the check `name` over a tree of `files` and gives its findings.
async function findings(t: Test, name: string, files: Record<string, string>): Promise<string[]> {
  const root = mkdtempSync(join(tmpdir(), "ovs-check-"));
  t.teardown(() => rmSync(root, { recursive: true, force: true }));
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), text);
  }
  const { openProject } = await load<{ openProject(root: string): Project }>("check/project.mjs");
  const { check } = await load<{ check: Check }>(`check/${name}.mjs`);
  return check(openProject(root));
}

// The only finding matches `expected`.
async function refuses(
  t: Test,
  name: string,
  files: Record<string, string>,
  expected: RegExp,
): Promise<void> {
  const found = await findings(t, name, files);
  t.equal(found.length, 1, `${name} finds one thing in ${JSON.stringify(files)}: ${found}`);
  t.match(found[0], expected);
}

async function accepts(t: Test, name: string, files: Record<string, string>): Promise<void> {
  t.strictSame(await findings(t, name, files), []);
}

t.test("an import upward or into a service is refused", async (t) => {
  const from = (file: string, name: string, word = "import") => ({
    [file]: `${word} { A } from "${name}";\nexport const a = A;\n`,
  });
  await refuses(t, "layers", from("src/base/a.ts", "../wire/b.js"), /^src\/base\/a\.ts:1: .*wire/);
  await refuses(t, "layers", from("src/base/a.ts", "../wire/b.js", "export"), /base\/a\.ts:1/);
  await refuses(t, "layers", from("src/asd/a.ts", "../nbd/b.js"), /layer 4/);
  await refuses(t, "layers", from("src/backend/x/a.ts", "../../volume/b.js"), /src\/volume/);
  await refuses(t, "layers", from("src/backend/a.ts", "../asd/store.js"), /only client\.ts/);
  await refuses(t, "layers", from("src/edge/a.ts", "../router/owner.js"), /src\/router/);
  await refuses(t, "layers", from("src/base/a.ts", "../asd/client.js"), /upward/);
  await refuses(t, "layers", from("src/base/a.ts", "../../tools/b.js"), /outside src/);
  await refuses(t, "layers", from("src/news/a.ts", "../base/b.js"), /src\/news has no layer/);
  const typed = 'export type A = import("../volume/b.js").A;\n';
  await refuses(t, "layers", { "src/base/a.ts": typed }, /src\/volume/);
  const dynamic = 'export const a = () => import("../volume/b.js");\n';
  await refuses(t, "layers", { "src/base/a.ts": dynamic }, /src\/volume/);
});

t.test("imports downward, within a folder and of a client are accepted", async (t) => {
  await accepts(t, "layers", {
    "src/volume/a.ts": 'import { A } from "../base/b.js";\nexport const a = A;\n',
    "src/volume/x/a.ts": 'import { A } from "../a.js";\nexport const a = A;\n',
    "src/backend/a.ts": 'import { A } from "../asd/client.js";\nexport const a = A;\n',
    "src/edge/a.ts": 'import { A } from "../router/client.js";\nexport const a = A;\n',
    "src/bin/a.ts": 'import { A } from "../router/owner.js";\nexport const a = A;\n',
    "src/platform/node/a.ts": 'import { A } from "../../native/b.js";\nexport const a = A;\n',
    "src/base/a.ts": 'import { A } from "zod";\nexport const a = A;\n',
  });
});

t.test("a clock, a random number, a file or a socket not from the World is refused", async (t) => {
  const planted = [
    "export const a = Date.now();",
    "export const a = new Date();",
    "export const a = Math.random();",
    "setTimeout(() => {}, 1);",
    "globalThis.setInterval(() => {}, 1);",
    "export const a = { wait: setImmediate };",
    "export const a = process.hrtime.bigint();",
    "export const a = performance.now();",
    "export const a = globalThis.performance.now();",
    "export const a = crypto.randomUUID();",
    'import { readFileSync } from "node:fs";\nexport const a = readFileSync;',
    'import * as net from "net";\nexport const a = net;',
    'import { randomBytes } from "node:crypto";\nexport const a = randomBytes;',
    'export { spawn } from "node:child_process";',
    'export const a = import("node:fs/promises");',
  ];
  for (const text of planted) {
    await refuses(t, "purity", { "src/volume/a.ts": text }, /^src\/volume\/a\.ts:\d+: .*World$/);
    await accepts(t, "purity", { "src/platform/node/a.ts": text, "src/bin/b.ts": text });
  }
});

t.test("there is no other way to a clock, a timer, chance, a file or a socket", async (t) => {
  const planted = [
    // Aliases, and members by other means.
    "const { now } = Date;\nexport const a = now;",
    "export const a = (clock = Date) => clock.now();",
    "const { random } = Math;\nexport const a = random;",
    "const M = Math;\nexport const a = M.random();",
    'export const a = Math["random"]();',
    "const { hrtime } = process;\nexport const a = hrtime;",
    'export const a = process["uptime"]();',
    "export const a = process.memoryUsage.rss();",
    "export const a = { Date };",
    "export const a = [globalThis].map((all) => all.setTimeout);",
    "export const a = Object.values(globalThis);",
    'export const a = globalThis["performance"];',
    "export const a = new (class extends Date {})();",
    "export const a = `${new Date().getTime()}`;",
    // A name of the file itself is no excuse elsewhere, nor is one that is only said to be there.
    "export const b = (Date: { now(): number }) => Date.now();\nexport const a = () => Date.now();",
    "declare const performance: { now(): number };\nexport const a = performance.now();",
    "declare function setTimeout(work: () => void): void;\nsetTimeout(() => {});",
    // Other timers, orders, clocks and chances of the runtime.
    "export const a = process.nextTick;",
    "queueMicrotask(() => {});",
    "export const a = AbortSignal.timeout(1);",
    "export const a = new MessageChannel();",
    "export const a = Atomics.wait;",
    "export const a = new Intl.DateTimeFormat().format();",
    "export const a = new FinalizationRegistry(() => {});",
    "export const a = new WeakRef({});",
    "export const a = crypto.getRandomValues;",
    "export const a = Buffer.allocUnsafe(8);",
    'export const a = fetch("http://127.0.0.1/");',
    "export const a = new EventSource('http://127.0.0.1/');",
    "console.log(1);",
    // Modules, however they are called.
    'import { setTimeout as sleep } from "node:timers/promises";\nexport const a = sleep;',
    'import fs from "fs";\nexport const a = fs;',
    'import fs = require("node:fs");\nexport const a = fs;',
    'import { createRequire } from "node:module";\nexport const a = createRequire;',
    'import { type Stats, statSync } from "node:fs";\nexport const a: Stats = statSync("/");',
    'import * as crypto from "node:crypto";\nexport const a = crypto;',
    'import crypto from "crypto";\nexport const a = crypto;',
    'import { webcrypto } from "node:crypto";\nexport const a = webcrypto;',
    'import { promisify } from "node:util";\nexport const a = promisify;',
    'import "node:inspector";',
    'import { on } from "node:events";\nexport const a = on;',
    'import { pino } from "pino";\nexport const a = pino;',
    'export * from "node:os";',
    'export const a = import("node:" + "fs");',
    "export const a = (name: string) => import(name);",
    'export const a = require("node:fs");',
    "export const a = import.meta.url;",
    'import { createWorld } from "../platform/node/world.js";\nexport const a = createWorld;',
    'import { loadDiskAddon } from "../native/disk.js";\nexport const a = loadDiskAddon;',
    'import { main } from "../bin/ovs.js";\nexport const a = main;',
    'import { credentials } from "@grpc/grpc-js";\nexport const a = credentials;',
    // Everything that can be reached from anything.
    'export const a = eval("Date");',
    'export const a = new Function("return Date");',
    'export const a = (() => 0).constructor("return Date")();',
    'export const a = (() => 0)["constructor"]("return Date")();',
    'const { constructor: make } = () => 0;\nexport const a = make("return Date");',
  ];
  for (const text of planted) {
    await refuses(t, "purity", { "src/volume/a.ts": text }, /^src\/volume\/a\.ts:\d+: .*World$/);
  }
});

t.test("what only looks like a clock is accepted", async (t) => {
  await accepts(t, "purity", {
    "src/volume/a.ts":
      'import type { Stats } from "node:fs";\n' +
      'import { createHash } from "node:crypto";\n' +
      "export interface Entry { Date: number; at: Date; stats: Stats }\n" +
      "export const of = (entry: Entry, performance: number) => entry.Date + performance;\n" +
      "export const digest = () => createHash('sha256');\n",
    "src/volume/b.ts":
      'import { describeErrno } from "../native/transport.js";\n' +
      'import type { World } from "../platform/node/world.js";\n' +
      'import { z } from "zod";\n' +
      "export const of = (world: World, { Date: at }: { Date: number }) => {\n" +
      "  const setTimeout = world.clock.after;\n  setTimeout(Math.max(at, 1), () => {});\n" +
      "  return { process: at, Date: describeErrno(1), is: z, performance: world.performance };\n" +
      "};\n" +
      "export class A {\n  fetch: typeof globalThis.fetch | null = null;\n" +
      "  constructor(readonly crypto = 1) {}\n  Date(): number {\n    return this.crypto;\n  }\n}\n",
  });
});

t.test("state of a module is refused, constants are not", async (t) => {
  const planted = [
    "let count = 0;\nexport const next = () => ++count;",
    "export let mode = 1;",
    "const seen = new Map<string, number>();\nexport const a = seen;",
    "const list: number[] = [];\nexport const a = list;",
    "export class A {\n  static count = 0;\n}",
    "export class A {\n  static readonly all = new Set<A>();\n}",
  ];
  for (const text of planted) {
    await refuses(t, "state", { "src/volume/a.ts": text }, /^src\/volume\/a\.ts:\d/);
  }
  await accepts(t, "state", {
    "src/volume/a.ts":
      'const NAMES = new Map([["a", 1]]);\nexport const get = (name: string) => {\n' +
      "  let found = NAMES.get(name);\n  found ??= 0;\n  return found;\n};\n" +
      "export class A {\n  static readonly MAX = 3;\n  count = 0;\n}\n",
  });
});

t.test("a source without the licence's line is refused", async (t) => {
  for (const file of ["src/a.ts", "tools/a.mjs", "native/a/a.cc", "native/a.h", "tools/a.sh"]) {
    await refuses(t, "headers", { [file]: "// Nothing.\n" }, new RegExp(`^${file}:1`));
  }
  await accepts(t, "headers", {
    "src/a.ts": SPDX,
    "tools/a.sh": "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n",
    "README.md": "Anything.\n",
  });
});

t.test("a file or an exported function without a comment is refused", async (t) => {
  const intro = `${SPDX}// What it is.\n`;
  const doc = "/** What it does. */\n";
  const code = "export function a(): void {}\n";
  await refuses(t, "docs", { "src/a.ts": SPDX + doc + code }, /^src\/a\.ts:2/);
  await refuses(t, "docs", { "native/a.cc": `${SPDX}#include <x>\n` }, /^native\/a\.cc:2/);
  await refuses(t, "docs", { "src/a.ts": intro + code }, /^src\/a\.ts:3: .* what a is for/);
  const classes = "export class A {}\nexport class B {}\n";
  await accepts(t, "docs", { "src/a.ts": `${intro}\nexport class A {}\n` });
  await refuses(
    t,
    "docs",
    { "src/a.ts": intro + doc + classes },
    /^src\/a\.ts:5: .* what B is for/,
  );
  await accepts(t, "docs", {
    "src/a.ts": intro + doc + code,
    "tools/a.mjs": intro + code,
    "native/a.cc": SPDX,
    "native/a.h": intro,
  });
});

t.test("a public method or function member without a comment is refused", async (t) => {
  const source = (code: string) => ({ "src/a.ts": `${SPDX}// What it is.\n\n${code}\n` });
  const refused = (code: string, name: string) => {
    return refuses(t, "docs", source(code), new RegExp(`^src/a\\.ts:\\d+: .* what ${name} is for`));
  };
  await refused("export class A {\n  b(): void {}\n}", "A\\.b");
  await refused("export class A {\n  static async b(): Promise<void> {}\n}", "A\\.b");
  await refused("export class A {\n  get b(): number {\n    return 1;\n  }\n}", "A\\.b");
  await refused("export class A {\n  // Not a doc comment.\n  b(): void {}\n}", "A\\.b");
  await refused("export class A {\n  /** */\n  b(): void {}\n}", "A\\.b");
  await refused("export interface A {\n  b(): void;\n}", "A\\.b");
  await refused("export interface A {\n  readonly b: ((c: number) => void) | null;\n}", "A\\.b");
  await refused("export const a = (b: number): number => b;", "a");
  const told = "interface B {\n  /** Does it. */\n  b(): void;\n}\n";
  const untold = "interface B {\n  b(): void;\n}\n";
  const child = "interface C extends B {\n  c: number;\n}\n";
  const made = (base: string) => `export class A implements ${base} {\n  b(): void {}\n}`;
  await refused(untold + made("B"), "A\\.b");
  await refused(told + made("Unknown"), "A\\.b");
  await accepts(t, "docs", source(told + made("B")));
  await accepts(t, "docs", source(told + child + made("C")));
  const elsewhere = `${SPDX}// Another file.\nexport ${told}`;
  await accepts(t, "docs", { ...source(made("B")), "src/b.ts": elsewhere });
});

t.test("what nobody calls from outside needs no comment, nor what has one", async (t) => {
  const code = [
    "class Inner {\n  b(): void {}\n}",
    "interface Hidden {\n  b(): void;\n}",
    "export interface Plain {\n  b: number;\n  /** Tells. */\n  c?: () => void;\n}",
    "export class A extends Inner {",
    "  constructor() {\n    super();\n  }",
    "  override b(): void {}",
    "  private c(): void {}",
    "  protected d(): void {}",
    "  #e(): void {}",
    "  /** What it is. */\n  get f(): number {\n    return 1;\n  }",
    "  set f(value: number) {}",
    "  /**\n   * In several lines.\n   */\n  g(): void {}",
    "}",
    "export const list: Hidden[] = [];",
  ];
  const text = `${SPDX}// What it is.\n\n${code.join("\n")}\n`;
  const generated = "// Generated by a tool.\nexport class A {\n  b(): void {}\n}\n";
  await accepts(t, "docs", { "src/a.ts": text, "src/b.ts": SPDX + generated });
});

t.test("a page that names what is not there is refused", async (t) => {
  const page = (text: string) => ({ "docs/durability.md": `${text}\n` });
  await refuses(t, "proofs", { "a.md": "[b](docs/b.md#c)\n" }, /^a\.md: no file docs\/b\.md/);
  await refuses(t, "proofs", page("`volume/a.ts`"), /no source src\/volume\/a\.ts/);
  await refuses(t, "proofs", page("`volume/a` A1"), /no test volume\/a/);
  const source = { "test/volume/a.test.ts": 't.test("A1: one, then two", run);\n' };
  const wrong = { ...source, ...page('`volume/a` "A1: one …", "two …, then"') };
  await refuses(t, "proofs", wrong, /^test\/volume\/a\.test\.ts has no test "two …, then"/);
  await accepts(t, "proofs", {
    ...source,
    ...page('`volume/a` "A1: one …", "… then two"; `volume/a` A1; `volume/b.ts`; [c](../c.md)'),
    "c.md": "[there](https://example.org/a), [here](#d)\n",
    "src/volume/b.ts": "x\n",
  });
});

t.test("a file or a line that is too long is refused", async (t) => {
  await refuses(t, "size", { "src/a.ts": "a\n".repeat(601) }, /601 lines/);
  await refuses(t, "size", { "src/a.ts": `ok\n// ${"a".repeat(98)}\n` }, /^src\/a\.ts:2: 101/);
  await accepts(t, "size", {
    "src/a.ts": "a\n".repeat(600),
    "src/b.ts": `// ${"─".repeat(97)}\n`,
    "src/c.ts": `// Generated by a tool.\n${"a\n".repeat(900)}`,
  });
});

t.test("words for unfinished work or switched-off rules are refused", async (t) => {
  const words = ["TO DO", "FIX ME", "as  any", "@ts- ignore", "biome- ignore", "NOLI NT"];
  for (const word of words) {
    const text = `x ${word.replace(/ (?=\S+$)/, "")} y\n`;
    await refuses(t, "words", { "src/a.ts": text }, /^src\/a\.ts:1/);
  }
  for (const call of ["skip", "only", "todo"]) {
    await refuses(t, "words", { "test/a.test.ts": `t.${call}("x");\n` }, /^test\/a\.test\.ts:1/);
    await accepts(t, "words", { "src/a.ts": `reader.${call}(4);\n` });
  }
});

t.test("a lock file that names a host or lost a hash is refused", async (t) => {
  const project = (entry: object, locked = "1") => ({
    "package.json": JSON.stringify({ dependencies: { a: "1" } }),
    "package-lock.json": JSON.stringify({
      packages: { "": { dependencies: { a: locked } }, "node_modules/a": entry },
    }),
  });
  const good = { version: "1.0.0", integrity: "sha512-x" };
  await accepts(t, "lock", project(good));
  await refuses(t, "lock", project({ ...good, resolved: "https://host/a.tgz" }), /names a host/);
  await refuses(t, "lock", project({ version: "1.0.0" }), /no hash/);
  await refuses(t, "lock", project({ integrity: "sha512-x" }), /no version/);
  await refuses(t, "lock", project(good, "2"), /not those of package\.json/);
});

t.test("a listed skip needs a reason and a file", async (t) => {
  const list = (entry: object) => ({
    "test/a.test.ts": "",
    "test/skips.json": JSON.stringify([entry]),
  });
  await accepts(t, "skips", list({ file: "test/a.test.ts", test: "x", why: "no io_uring" }));
  await refuses(t, "skips", list({ file: "test/b.test.ts", test: "x", why: "y" }), /no such file/);
  await refuses(t, "skips", list({ file: "test/a.test.ts", test: "x", why: "" }), /needs/);
});

t.test("addons, their lists and their targets have to agree", async (t) => {
  const project = (core: string[], target = "a", text = "") => ({
    "native.json": JSON.stringify({ addons: { a: { core, binding: [] } } }),
    "binding.gyp": `{ "target_name": "${target}" }`,
    "native/a/core/a.cc": text,
  });
  await accepts(t, "natives", project(["native/a/core/a.cc"]));
  await refuses(t, "natives", project([]), /does not list native\/a\/core\/a\.cc/);
  await refuses(t, "natives", project(["native/a/core/a.cc"], "b"), /no target a/);
  const both = ["native/a/core/a.cc", "native/a/core/b.cc"];
  await refuses(t, "natives", project(both), /b\.cc does not exist/);
  const node = '#include "x.h"\n#include <napi.h>\n';
  await refuses(t, "natives", project(["native/a/core/a.cc"], "a", node), /Node's headers/);
});

t.test("C++ that clang-format or clang-tidy would change is refused", async (t) => {
  const root = (text: string) => ({
    ".clang-format": "BasedOnStyle: Google\n",
    ".clang-tidy": "Checks: '-*,bugprone-*'\nWarningsAsErrors: '*'\n",
    "native.json": JSON.stringify({ flags: ["-std=c++20"] }),
    "native/a/core/a.cc": text,
  });
  await accepts(t, "clang-format", root("int A() { return 1; }\n"));
  t.match(
    (await findings(t, "clang-format", root("int  A()\n{return 1;}\n"))).join("\n"),
    /a\.cc:1/,
  );
  await accepts(t, "clang-tidy", root("int A() { return 1; }\n"));
  const division = "double A(int b) { return b / 2; }\n";
  t.match((await findings(t, "clang-tidy", root(division))).join("\n"), /integer-division/);
});

t.test("TypeScript that Biome would change is refused", async (t) => {
  const root = mkdtempSync(join(tmpdir(), "ovs-lint-"));
  t.teardown(() => rmSync(root, { recursive: true, force: true }));
  mkdirSync(join(root, ".git"));
  copyFileSync(join(ROOT, "biome.json"), join(root, "biome.json"));
  symlinkSync(join(ROOT, "node_modules"), join(root, "node_modules"));
  writeFileSync(join(root, ".gitignore"), "node_modules\n");
  const { check } = await load<{ check: Check }>("check/lint.mjs");
  writeFileSync(join(root, "a.ts"), 'export const a = "b";\n');
  t.strictSame(await check({ root }), []);
  const planted = {
    "lint/suspicious/noExplicitAny": "export const a = (b: any): string => String(b);\n",
    "lint/correctness/noUnusedVariables": "const a = 1;\n",
    "lint/style/noEnum": "export enum A {\n  B = 1,\n}\n",
    format: "export const a = 'b'\n",
    organizeImports:
      'import { b } from "./b.js";\nimport { a } from "./a.js";\n\nexport { a, b };\n',
  };
  for (const [rule, text] of Object.entries(planted)) {
    writeFileSync(join(root, "a.ts"), text);
    t.match((await check({ root })).join("\n"), new RegExp(rule), rule);
  }
});

t.test("a stale generated format is refused", async (t) => {
  const root = mkdtempSync(join(tmpdir(), "ovs-formats-"));
  t.teardown(() => rmSync(root, { recursive: true, force: true }));
  mkdirSync(join(root, "tools"));
  const { check } = await load<{ check: Check }>("check/formats.mjs");
  writeFileSync(join(root, "tools/wiregen.mjs"), 'console.log("a.ts differs");process.exit(1);\n');
  t.match((await check({ root })).join("\n"), /a\.ts differs/);
  writeFileSync(join(root, "tools/wiregen.mjs"), "\n");
  t.strictSame(await check({ root }), []);
});

t.test("comments that are too long are broken without losing a word", async (t) => {
  const { wrapComments } = await load<{ wrapComments(text: string): string }>(
    "format/comments.mjs",
  );
  const words = (text: string) => text.match(/[a-z0-9]+/g)?.sort();
  const long = "word ".repeat(45).trim();
  const texts = [`// ${long}\n// and more.\n`, `  /** ${long} */\n`, `a = 1; // ${long}\nb = 2;\n`];
  for (const text of texts) {
    const wrapped = wrapComments(text);
    t.ok(wrapped.split("\n").every((line) => line.length <= 100));
    t.strictSame(words(wrapped), words(text));
    t.equal(wrapComments(wrapped), wrapped, "a second time changes nothing");
  }
  const drawing = `//  ┌${"─".repeat(120)}┐\n`;
  t.equal(wrapComments(drawing), drawing);
});
