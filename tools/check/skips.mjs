// SPDX-License-Identifier: Apache-2.0
// test/skips.json lists the tests that may be skipped where a machine lacks an ability: entries
// {file, test, why} whose file exists and names the test (an empty one stands for the whole file).

/** Findings about test/skips.json. */
export function check(project) {
  if (!project.files.includes("test/skips.json")) return ["test/skips.json is missing"];
  const findings = [];
  for (const entry of JSON.parse(project.text("test/skips.json"))) {
    const shown = `test/skips.json: ${JSON.stringify(entry)}`;
    const isComplete = ["file", "test", "why"].every((key) => typeof entry[key] === "string");
    if (!isComplete || entry.why === "") findings.push(`${shown} needs file, test and why`);
    else if (!project.files.includes(entry.file)) findings.push(`${shown}: there is no such file`);
  }
  return findings;
}
