// SPDX-License-Identifier: Apache-2.0
// An ASD in a process of its own, for tests that kill it.

import { asdMain } from "../../src/bin/asd.js";

process.exit(await asdMain(process.argv.slice(2)));
