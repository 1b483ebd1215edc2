// SPDX-License-Identifier: Apache-2.0
// `npm test` counts what tap reports: passed, failed, skipped and silent tests, and skips that no
// list allows.

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";

interface Skip {
  test: string;
  reason: string;
}

interface FileResult {
  name: string;
  passed: number;
  failed: number;
  skipped: Skip[];
  lines: string[];
}

interface Reader {
  files: FileResult[];
  line(line: string): void;
  end(): void;
}

interface TapModule {
  TapReader: new () => Reader;
  totals(files: FileResult[]): { passed: number; failed: number; skipped: number };
  unlistedSkips(files: FileResult[], allowed: object[]): Array<{ file: string; test: string }>;
}

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const tap = (await import(join(ROOT, "tools/bootstrap/tap.mjs"))) as TapModule;

function read(text: string): FileResult[] {
  const reader = new tap.TapReader();
  for (const line of text.split("\n")) reader.line(line);
  reader.end();
  return reader.files;
}

const MIXED = `TAP version 14
1..3
# Subtest: dist/test/a.test.js
    # Subtest: one thing holds
        ok 1 - should be equal
        ok 2 - inner # SKIP no io_uring
        1..2
    ok 1 - one thing holds # time=4.211ms

    # Subtest: a \\# SKIP in a name is no skip
        not ok 1 - differs
          ---
          diff: |
            not ok 1 - text in a diagnostic
          ...
        1..1
    not ok 2 - a \\# SKIP in a name is no skip # time=3ms

    ok 3 - without namespaces # SKIP none here
    1..3
    # time=99ms
not ok 1 - dist/test/a.test.js # time=99ms
  ---
  exitCode: 1
  ...
# Subtest: dist/test/b.test.js
    ok 1 - plain assertion
    1..1
ok 2 - dist/test/b.test.js # time=1.5s

# Subtest: dist/test/c.test.js
    1..0 # no kernel here
ok 3 - dist/test/c.test.js # SKIP no kernel here
`;

t.test("tests are counted at the first level, skips at every level", async (t) => {
  const [a, b, c] = read(MIXED);
  t.match(a, { name: "dist/test/a.test.js", passed: 1, failed: 1 });
  t.strictSame(a.skipped, [
    { test: "one thing holds > inner", reason: "no io_uring" },
    { test: "without namespaces", reason: "none here" },
  ]);
  t.match(b, { passed: 1, failed: 0, skipped: [] });
  t.match(c, { passed: 0, failed: 0, skipped: [{ test: "", reason: "no kernel here" }] });
  t.strictSame(tap.totals([a, b, c]), { passed: 2, failed: 1, skipped: 3 });
});

t.test("a file that dies, says nothing or is marked as unfinished has failed", async (t) => {
  const died = read("# Subtest: x.js\n    1..0\nnot ok 1 - x.js\n  ---\n  exitCode: 3\n  ...\n");
  t.match(died, [{ passed: 0, failed: 1 }]);
  t.match(died[0].lines.join("\n"), /exitCode: 3/);
  t.match(read("# Subtest: x.js\nok 1 - x.js # SKIP no tests found\n"), [{ failed: 1 }]);
  t.match(read("# Subtest: x.js\nok 1 - x.js # time=1ms\n"), [{ failed: 1 }]);
  const later = ["# Subtest: x.js", "    ok 1 - y # TO", "ok 1 - x.js"].join("\n");
  t.match(read(later.replace("# TO", "# TO".concat("DO later"))), [{ passed: 0, failed: 1 }]);
  const afterwards = "# Subtest: x.js\n    ok 1 - y\n    1..1\nnot ok 1 - x.js\n  ---\n  ...\n";
  t.match(read(afterwards), [{ passed: 1, failed: 1 }], "it failed after its last test");
});

t.test("a skip that is not listed is told", async (t) => {
  const files = read(MIXED);
  const listed = [
    { file: "test/a.test.ts", test: "without namespaces", why: "x" },
    { file: "test/c.test.ts", test: "", why: "x" },
  ];
  t.match(tap.unlistedSkips(files, listed), [
    { file: "test/a.test.ts", test: "one thing holds > inner" },
  ]);
  t.equal(tap.unlistedSkips(files, []).length, 3);
});
