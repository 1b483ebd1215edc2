// SPDX-License-Identifier: Apache-2.0
// A daemon whose supervisor dies must die too, at whatever moment: one that lives on holds the
// folder and the socket of its successor.

import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

const OVS = new URL("../../src/bin/ovs.js", import.meta.url).pathname;
const CLUSTER = "0e9f3c52-8f0f-4f0c-9d2e-5a1e2f3b4c5d";

t.test("a daemon that is still starting when its supervisor dies ends itself", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "orphan-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const args = [
    "registry",
    ...["--path", join(dir, "registry")],
    ...["--address", `unix:${dir}/registry.sock`],
    ...["--cluster", CLUSTER],
  ];
  const child = fork(OVS, args, {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    env: { ...process.env, OVS_SUPERVISED: "1" },
  });
  t.teardown(() => child.kill("SIGKILL"));
  await once(child, "spawn");
  child.disconnect();
  const ended = once(child, "exit").then(() => true);
  const late = new Promise<boolean>((resolve) => setTimeout(() => resolve(false), 20_000).unref());
  t.ok(await Promise.race([ended, late]), "it ended");
  t.equal(child.signalCode, "SIGKILL", "as by a crash, without serving");
});
