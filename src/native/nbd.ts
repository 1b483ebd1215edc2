// SPDX-License-Identifier: Apache-2.0
// Face of the addon `nbd`: the NBD protocol, its sockets, and the table of slots that it shares
// with JavaScript. Names and order are those of native/nbd/binding.cc.

import type { NbdEngine } from "../platform/nbd.js";
import { loadAddon } from "./load.js";

/** The addon's functions. OVS_UNSUPPORTED when it is not built. */
export function loadNbdAddon(): NbdEngine {
  return loadAddon<NbdEngine>("nbd");
}
