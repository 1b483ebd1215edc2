// SPDX-License-Identifier: Apache-2.0
// Reads the TAP that `tap --reporter=tap` prints, line by line, and counts tests. What counts is a
// test at the top of a file (`t.test` at the first level); a skip counts at any level, because
// each one has to be listed in test/skips.json.

const POINT = /^( *)(not )?ok \d+(?: - (.*))?$/;
const SUBTEST = /^( *)# Subtest(?:: (.*))?$/;
const LEVEL = 4;

/** The result of one test file. */
function emptyFile(name) {
  return { name, passed: 0, failed: 0, skipped: [], lines: [], timeMs: 0 };
}

/** Collects results; `onFile` is called with each file's result as soon as the file ended. */
export class TapReader {
  files = [];
  #onFile;
  #file = emptyFile("");
  #path = [];
  // The point of a file that failed, until what tap says about the failure is read.
  #ending = null;

  constructor(onFile = () => {}) {
    this.#onFile = onFile;
  }

  /** Takes one line, without its newline. */
  line(line) {
    const subtest = SUBTEST.exec(line);
    const point = POINT.exec(line);
    if (subtest) this.#subtest(subtest[1].length / LEVEL, subtest[2] ?? "");
    if (subtest?.[1] !== "") this.#file.lines.push(line);
    if (point) this.#point(point);
    else if (this.#ending && line === "  ...") this.#endFile();
  }

  /** Call after the last line. */
  end() {
    if (this.#ending) this.#endFile();
  }

  #subtest(level, name) {
    if (level === 0) {
      this.end();
      this.#file = emptyFile(name);
    }
    this.#path.length = level;
    this.#path[level] = name;
  }

  #point([, indent, not, text = ""]) {
    const level = indent.length / LEVEL;
    if (!Number.isInteger(level)) return;
    const result = describe(text.replace(/ \{$/, ""));
    if (level === 0) {
      this.end();
      this.#ending = { result, failed: not !== undefined };
      if (!this.#ending.failed) this.#endFile();
      return;
    }
    const names = [...this.#path.slice(1, level), result.name];
    if (result.directive === "SKIP") {
      this.#file.skipped.push({ test: names.join(" > "), reason: result.reason });
    }
    if (level !== 1) return;
    // A test that is marked as not done yet proves nothing, so it counts as failed.
    const isUnknown = result.directive !== "" && result.directive !== "SKIP";
    if (not !== undefined || isUnknown) this.#file.failed++;
    else if (result.directive === "") this.#file.passed++;
  }

  #endFile() {
    const { result, failed } = this.#ending;
    const file = this.#file;
    file.name ||= result.name;
    file.timeMs = result.timeMs;
    const empty = file.passed + file.failed + file.skipped.length === 0;
    if (failed) {
      file.failed ||= 1;
    } else if (empty && result.directive === "SKIP" && result.reason !== "no tests found") {
      file.skipped.push({ test: "", reason: result.reason });
    } else if (empty) {
      file.failed = 1;
    }
    this.#ending = null;
    this.#file = emptyFile("");
    this.#path.length = 0;
    this.files.push(file);
    this.#onFile(file);
  }
}

// Splits the text of a test point into name, directive and time; `\#` is a literal `#`.
function describe(text) {
  const parts = text.split(/(?<!\\) ?#/);
  const name = parts[0].replaceAll("\\#", "#").trim();
  const found = { name, directive: "", reason: "", timeMs: 0 };
  for (const part of parts.slice(1)) {
    const time = /time=([\d.]+)(ms|s)/.exec(part);
    const directive = /^ *([a-z]+)\b *(.*)$/i.exec(part);
    if (time) found.timeMs = Number(time[1]) * (time[2] === "s" ? 1000 : 1);
    if (time || !directive) continue;
    found.directive = directive[1].toUpperCase();
    found.reason = directive[2].trim();
  }
  return found;
}

/** Passed, failed and skipped tests of all files. */
export function totals(files) {
  const sum = { passed: 0, failed: 0, skipped: 0 };
  for (const file of files) {
    sum.passed += file.passed;
    sum.failed += file.failed;
    sum.skipped += file.skipped.length;
  }
  return sum;
}

/**
 * The skips that `allowed` (test/skips.json: a list of {file, test, why}) does not name. A test
 * inside a listed one is covered by it.
 */
export function unlistedSkips(files, allowed) {
  const listed = new Set(allowed.map((entry) => `${entry.file} > ${entry.test}`));
  return files.flatMap((file) =>
    file.skipped
      .filter((skip) => !listed.has(`${sourceOf(file.name)} > ${skip.test}`))
      .map((skip) => ({ file: sourceOf(file.name), ...skip })),
  );
}

/** The source of a compiled test: dist/test/a.test.js → test/a.test.ts. */
export function sourceOf(compiled) {
  return compiled.replace(/^dist\//, "").replace(/\.js$/, ".ts");
}
