// SPDX-License-Identifier: Apache-2.0
// The real world: clock, randomness, identity, the log with its rotation, and an orderly end.

import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import os from "node:os";
import { join } from "node:path";
import t from "tap";
import { formatUuid } from "../../src/base/bytes.js";
import { MIB } from "../../src/base/units.js";
import { createLog, LOG_FILES_MAX, RotatingFile } from "../../src/platform/node/log.js";
import { createWorld } from "../../src/platform/node/world.js";
import { clockContract, randomContract } from "./world.contract.js";

const root = fs.mkdtempSync(join(os.tmpdir(), "ovs-world-"));
t.teardown(() => fs.rmSync(root, { recursive: true, force: true }));
const linesOf = (path: string) =>
  fs
    .readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

t.test("a world has the host's time, randomness and identity", async (t) => {
  const world = createWorld({ name: "test", terminal: null });
  const { clock, random } = world;
  await clockContract(t, clock);
  await randomContract(t, random);
  t.ok(Math.abs(clock.wallMs() - Date.now()) < 1000);
  const bootId = fs.readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
  t.equal(formatUuid(world.bootId), bootId);
  await world.stop();
  await world.stop();
});

t.test("worlds are made lazily and share nothing", async (t) => {
  const first = createWorld({ name: "one", arenaBytes: 4 * MIB, terminal: null });
  const second = createWorld({ name: "two", arenaBytes: 4 * MIB, terminal: null });
  t.not(first.arena.buffer, second.arena.buffer);
  t.not(first.disk, second.disk);
  t.equal(first.disk, first.disk, "a part is made once");
  t.equal(first.arena.buffer.byteLength, 4 * MIB);
  await first.stop();
  const path = join(root, "second");
  const open = { create: true, exclusive: true, write: true, direct: true };
  await second.disk.close(await second.disk.open(path, open));
  await second.stop();
});

t.test("the log is JSON lines with level, time, name and fields, without secrets", async (t) => {
  const folder = join(root, "log");
  const { log, close } = createLog({ name: "asd-1", folder, level: "info", terminal: null });
  log.debug("not written");
  log.info("disk opened", { vdisk: "vd0", epoch: 3 });
  log.child({ session: 9 }).warn("odd\nline", { password: "hunter2", token: "t0", ok: true });
  log.error("bad");
  close();
  const lines = linesOf(join(folder, "asd-1.log"));
  t.match(lines[0], { level: "info", name: "asd-1", msg: "disk opened", vdisk: "vd0", epoch: 3 });
  t.match(lines[0]!.time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  t.match(lines[1], { level: "warn", session: 9, msg: "odd\nline", ok: true });
  t.match(lines[2], { level: "error", msg: "bad" });
  const text = fs.readFileSync(join(folder, "asd-1.log"), "utf8");
  t.notMatch(text, "hunter2");
  t.notMatch(text, "t0");
  t.equal(fs.statSync(join(folder, "asd-1.log")).mode & 0o777, 0o600);
});

t.test("a full log file becomes .1, and so on; the oldest goes", async (t) => {
  const path = join(root, "rotating.log");
  fs.writeFileSync(path, "x".repeat(90));
  const file = new RotatingFile(path, { bytesMax: 100, filesMax: LOG_FILES_MAX });
  for (let i = 0; i < 10; i++) file.write(`${i}${"y".repeat(58)}\n`);
  file.close();
  file.write("after the end\n");
  const contents = fs.readdirSync(root).filter((name) => name.startsWith("rotating"));
  t.same(contents.sort(), ["rotating.log", "rotating.log.1", "rotating.log.2", "rotating.log.3"]);
  t.match(fs.readFileSync(path, "utf8"), /^9y+\n$/);
  t.match(fs.readFileSync(`${path}.3`, "utf8"), /^6y+\n$/);
  fs.chmodSync(root, 0o700);
  const long = new RotatingFile(path, { bytesMax: 10, filesMax: 2 });
  long.write(`${"z".repeat(50)}\n`);
  long.close();
  t.match(fs.readFileSync(path, "utf8"), /^z+\n$/, "a line longer than a file is kept");
});

t.test("the terminal gets human lines, and warnings where there is no file", async (t) => {
  const script = `
    const { createWorld } = await import(process.argv[1]);
    const world = createWorld({ name: "router" });
    world.log.info("quiet");
    world.log.warn("the disk\\x1b is slow", { asd: "a1\\n", ms: 250 });
    await world.stop();`;
  const url = new URL("../../src/platform/node/world.js", import.meta.url).href;
  const args = ["--input-type=module", "-e", script, url];
  const shown = execFileSync("sh", ["-c", 'exec "$@" 2>&1', "sh", process.execPath, ...args]);
  t.match(
    shown.toString(),
    /^\d\d:\d\d:\d\d warn {2}router: the disk {2}is slow {2}asd=a1 {3}ms=250\n$/,
  );
});
