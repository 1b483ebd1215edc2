// SPDX-License-Identifier: Apache-2.0
// package-lock.json belongs to package.json, pins every package by its hash, and names no registry,
// so that it installs from whichever registry a machine is set up with.

/** Findings about package-lock.json. */
export function check(project) {
  if (!project.files.includes("package-lock.json")) return ["package-lock.json is missing"];
  const { packages } = JSON.parse(project.text("package-lock.json"));
  const manifest = JSON.parse(project.text("package.json"));
  const findings = [];
  for (const [path, entry] of Object.entries(packages)) {
    if (path === "") continue;
    if (entry.resolved !== undefined) findings.push(`package-lock.json: ${path} names a host`);
    if (!entry.integrity && !entry.link) findings.push(`package-lock.json: ${path} has no hash`);
    if (!entry.version) findings.push(`package-lock.json: ${path} has no version`);
  }
  for (const kind of ["dependencies", "devDependencies"]) {
    const wanted = JSON.stringify(manifest[kind] ?? {});
    if (JSON.stringify(packages[""][kind] ?? {}) !== wanted) {
      findings.push(`package-lock.json: its ${kind} are not those of package.json`);
    }
  }
  return findings;
}
