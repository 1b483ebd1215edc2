// SPDX-License-Identifier: Apache-2.0
// native.json, binding.gyp and native/ tell the same: each listed source exists, each source below
// core/ is listed, each addon is a target, and a core knows nothing of Node.

const NODE_HEADER = /^#include\s*[<"](napi\.h|node\w*\.h|js_native_api\w*\.h|uv\.h|v8.*\.h)[>"]/m;

/** Findings about the addons. */
export function check(project) {
  if (!project.files.includes("native.json")) return ["native.json is missing"];
  const { addons } = JSON.parse(project.text("native.json"));
  const targets = project.files.includes("binding.gyp") ? project.text("binding.gyp") : "";
  const findings = [];
  const listed = new Set();
  for (const [name, addon] of Object.entries(addons)) {
    if (!targets.includes(`"target_name": "${name}"`))
      findings.push(`binding.gyp: no target ${name}`);
    for (const file of [...addon.core, ...addon.binding]) {
      listed.add(file);
      if (!project.files.includes(file)) findings.push(`native.json: ${file} does not exist`);
    }
  }
  for (const file of project.files) {
    if (!/^native\/\w+\/core\/.*\.(cc|h)$/.test(file)) continue;
    if (file.endsWith(".cc") && !listed.has(file))
      findings.push(`native.json does not list ${file}`);
    if (NODE_HEADER.test(project.text(file)))
      findings.push(`${file}: a core includes Node's headers`);
  }
  return findings;
}
