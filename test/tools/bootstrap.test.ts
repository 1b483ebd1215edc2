// SPDX-License-Identifier: Apache-2.0
// The bootstrap in a small project of its own: a copy of tools/ over tiny sources. What it builds,
// what it leaves alone, what it removes, and which exit codes and signals come through.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import t, { type Test } from "tap";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const OVS = `
declare const process: { argv: string[]; exit(code: number): never; on(...args: unknown[]): void };
declare const console: { log(...args: unknown[]): void };
declare function setInterval(work: () => void, ms: number): void;
const [, , command, ...rest] = process.argv;
if (rest[0] === "exit") process.exit(Number(rest[1]));
console.log("ready", command, JSON.stringify(rest));
process.on("SIGTERM", () => process.exit(5));
setInterval(() => {}, 1000);
`;
const LONG = `
import { renameSync, writeFileSync } from "node:fs";
import t from "tap";
writeFileSync("pid.new", String(process.pid));
renameSync("pid.new", "pid");
t.test("long", () => new Promise((resolve) => setTimeout(resolve, 1e6)));
`;
// The sources declare what they use, because reading the types of Node takes seconds.
const OPTIONS = {
  module: "nodenext",
  target: "es2022",
  lib: ["es2022"],
  types: [],
  outDir: "dist",
};

interface Outcome {
  readonly code: number | null;
  readonly output: string;
}

class Project {
  readonly root = mkdtempSync(join(tmpdir(), "ovs-bootstrap-"));

  constructor() {
    for (const file of ["tools", "ovs"]) {
      cpSync(join(ROOT, file), join(this.root, file), { recursive: true });
    }
    // Without dependencies of its own it never installs anything into the borrowed folder.
    const { tap } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
    this.write("package.json", JSON.stringify({ name: "small", type: "module", tap }));
    this.write("package-lock.json", JSON.stringify({ packages: { "": {} } }));
    symlinkSync(join(ROOT, "node_modules"), join(this.root, "node_modules"));
    this.write("native.json", JSON.stringify({ flags: [], addons: {} }));
    const compilerOptions = { ...OPTIONS, rootDir: ".", tsBuildInfoFile: "dist/.tsbuildinfo" };
    const settings = { ...compilerOptions, incremental: true, strict: true };
    const include = ["src/**/*.ts", "test/**/*.ts"];
    this.write("tsconfig.json", JSON.stringify({ compilerOptions: settings, include }));
    this.write("src/bin/ovs.ts", OVS);
  }

  write(file: string, text: string): void {
    mkdirSync(dirname(join(this.root, file)), { recursive: true });
    writeFileSync(join(this.root, file), text);
  }

  has(file: string): boolean {
    return existsSync(join(this.root, file));
  }

  read(file: string): string {
    return readFileSync(join(this.root, file), "utf8");
  }

  run(args: string[], env: Record<string, string> = {}): Outcome {
    const result = spawnSync(process.execPath, ["tools/bootstrap.mjs", ...args], {
      cwd: this.root,
      encoding: "utf8",
      env: { ...process.env, CI: "", TAP: "", OVS_NO_BUILD: "", ...env },
    });
    return { code: result.status, output: `${result.stdout}${result.stderr}` };
  }
}

function project(t: Test): Project {
  const made = new Project();
  t.teardown(() => rmSync(made.root, { recursive: true, force: true }));
  return made;
}

// Resolves with what the child printed once that holds `text`; rejects when it ends before.
function printed(child: ChildProcess, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let output = "";
    const keep = (chunk: Buffer): void => {
      output += chunk;
      if (output.includes(text)) resolve(output);
    };
    child.stdout?.on("data", keep);
    child.stderr?.on("data", keep);
    child.on("close", () => reject(new Error(`it ended without ${text}: ${output}`)));
  });
}

// Waits until `holds` gives something true and gives that; fails after a minute.
async function until<T>(what: string, holds: () => T): Promise<T> {
  const endMs = Date.now() + 60_000;
  for (;;) {
    const value = holds();
    if (value) return value;
    if (Date.now() > endMs) throw new Error(`not within a minute: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

t.test("a step runs when its input changed, and only then", async (t) => {
  const made = project(t);
  t.match(made.run(["build"]), { code: 0, output: /TypeScript, 1 files/ });
  t.ok(made.has("dist/src/bin/ovs.js"));
  t.strictSame(made.run(["build"]), { code: 0, output: "" }, "nothing to do, nothing to say");
  made.write("src/base/a.ts", "export const a = 1;\n");
  t.match(made.run(["build"]), { code: 0, output: /TypeScript, 2 files/ });
  rmSync(join(made.root, "dist/src/base/a.js"));
  t.equal(made.run(["build"]).code, 0);
  t.ok(made.has("dist/src/base/a.js"), "a lost output is made again");
});

t.test("a source that does not compile stops everything, also the next time", async (t) => {
  const made = project(t);
  made.write("src/base/a.ts", 'export const a: number = "b";\n');
  for (const _ of [1, 2]) t.match(made.run(["build"]), { code: 1, output: /a\.ts.*TS2322/ });
  made.write("src/base/a.ts", "export const a = 1;\n");
  t.equal(made.run(["build"]).code, 0);
});

t.test("compiled files whose source is gone are removed", async (t) => {
  const made = project(t);
  made.write("test/a.test.ts", "export {};\n");
  made.run(["build"]);
  t.ok(made.has("dist/test/a.test.js"));
  rmSync(join(made.root, "test/a.test.ts"));
  made.run(["build"]);
  t.notOk(made.has("dist/test/a.test.js"));
});

t.test("start hands its options, exit code and signals to ovs up", async (t) => {
  const made = project(t);
  t.equal(made.run(["start", "--", "exit", "3"]).code, 3);
  const args = ["tools/bootstrap.mjs", "start", "--", "--data", "x y"];
  const child = spawn(process.execPath, args, { cwd: made.root });
  const ended = new Promise((resolve) => child.on("close", resolve));
  t.match(await printed(child, "ready"), /ready up \["--data","x y"\]/);
  child.kill("SIGTERM");
  t.equal(await ended, 5);
});

t.test("a wrong command or argument is a usage error", async (t) => {
  const made = project(t);
  for (const args of [[], ["nonsense"], ["constructor"]]) {
    t.match(made.run(args), { code: 2, output: /usage/ });
  }
  const asIs = { OVS_NO_BUILD: "1" };
  t.match(made.run(["test", "--", "--nonsense"], asIs), { code: 2, output: /no option/ });
  t.match(made.run(["test", "--", "nowhere"], asIs), { code: 2, output: /no test file/ });
});

t.test("npm test -- FILE runs that file, fails when it does, and lists skips in CI", async (t) => {
  const made = project(t);
  const test = (body: string): string => `import t from "tap";\n${body}\n`;
  made.write("dist/test/good.test.js", test('t.test("holds", async (t) => t.ok(true));'));
  made.write("dist/test/bad.test.js", test('t.test("fails", async (t) => t.ok(false));'));
  made.write(
    "dist/test/odd.test.js",
    test('t.test("skips", { skip: "no kernel" }, async () => {});'),
  );
  // Nothing is built: the runner's own build is that of the project whose packages are borrowed.
  const run = (args: string[], env = {}): Outcome =>
    made.run(["test", "--", ...args], { ...env, OVS_NO_BUILD: "1" });
  t.match(run(["test/good.test.ts"]), { code: 0, output: /\n1 passed, 0 failed, 0 skipped\n$/ });
  const odd = join("dist/test/odd.test.js");
  t.match(run([odd], { CI: "true" }), { code: 1, output: /skips\.json does not list/ });
  made.write(
    "test/skips.json",
    JSON.stringify([{ file: "test/odd.test.ts", test: "skips", why: "no kernel" }]),
  );
  t.equal(run([odd], { CI: "true" }).code, 0);
  const all = run(["--only-tests", "--summary", "sum.json"]);
  t.match(all, { code: 1, output: /\n1 passed, 1 failed, 1 skipped\n$/ });
  const summary = JSON.parse(made.read("sum.json"));
  t.strictSame(summary, { passed: 1, failed: 1, skipped: 1 });
  const closing = (steps: string, ...files: string[]): Outcome => {
    const script = ["tools/bootstrap/summary.mjs", steps, ...files];
    const result = spawnSync(process.execPath, script, { cwd: made.root, encoding: "utf8" });
    return { code: result.status, output: result.stdout };
  };
  made.write("good.json", JSON.stringify({ passed: 2, failed: 0, skipped: 0 }));
  t.match(closing("0", "good.json"), { code: 0, output: "2 passed, 0 failed, 0 skipped" });
  t.match(closing("1", "good.json"), { code: 1, output: "2 passed, 1 failed, 0 skipped" });
  t.match(closing("0", "good.json", "sum.json"), { code: 1, output: "3 passed, 1 failed" });
  t.match(closing("0", "good.json", "none.json"), { code: 1, output: "2 passed, 1 failed" });
});

t.test("an interrupted test run ends, and so does the test", async (t) => {
  const made = project(t);
  made.write("dist/test/long.test.js", LONG);
  const child = spawn(process.execPath, ["tools/bootstrap.mjs", "test", "--", "long"], {
    cwd: made.root,
    env: { ...process.env, OVS_NO_BUILD: "1" },
  });
  const ended = new Promise((resolve) => child.on("close", resolve));
  const pid = Number(await until("the test runs", () => made.has("pid") && made.read("pid")));
  child.kill("SIGTERM");
  t.equal(await ended, 143);
  await until("the test has ended", () => !existsSync(`/proc/${pid}`));
});

t.test("./ovs works from any folder and through links", async (t) => {
  const made = project(t);
  const link = join(made.root, "link");
  symlinkSync("ovs", link);
  const run = (program: string): Outcome => {
    const result = spawnSync(program, ["x", "exit", "4"], { cwd: "/", encoding: "utf8" });
    return { code: result.status, output: `${result.stdout}${result.stderr}` };
  };
  t.match(run(link), { code: 1, output: /npm run build/ });
  made.run(["build"]);
  for (const program of [link, join(made.root, "ovs")]) t.equal(run(program).code, 4);
});
