// SPDX-License-Identifier: Apache-2.0
// Each source file names its licence in its first line (the second after `#!`).

import { sources } from "./project.mjs";

const LINE = /^(\/\/|#) SPDX-License-Identifier: Apache-2\.0$/;
const WITHOUT_ENDING = /(\.(ts|mjs|js|cc|h|sh|py|yml|css|html)|^ovs|^CMakeLists\.txt|^\.ci\/run)$/;
const HTML = /^<!-- SPDX-License-Identifier: Apache-2\.0 -->$/;
const CSS = /^\/\* SPDX-License-Identifier: Apache-2\.0 \*\/$/;

/** Findings about every source file, generated ones too. */
export function check(project) {
  const files = [...new Set([...sources(project), ...project.files])];
  return files
    .filter((file) => WITHOUT_ENDING.test(file) && !file.includes("/fixtures/"))
    .filter((file) => {
      const [first, second] = project.text(file).split("\n", 2);
      const line = first.startsWith("#!") || first.startsWith("<!doctype") ? second : first;
      return ![LINE, HTML, CSS].some((form) => form.test(line ?? ""));
    })
    .map((file) => `${file}:1: the first line is not the SPDX line of Apache-2.0`);
}
