// SPDX-License-Identifier: Apache-2.0
// The real disks, io_uring and node:fs, behind the contract, and what only real ones can be put
// through: exits at every step of a life, a kernel that refuses, a device, a full file system.

import { execFileSync, spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import os from "node:os";
import { join } from "node:path";
import t from "tap";
import { MIB } from "../../src/base/units.js";
import { loadDiskAddon } from "../../src/native/disk.js";
import { NodeDescriptors } from "../../src/platform/node/descriptors.js";
import type { DiskEngineName } from "../../src/platform/node/engine.js";
import { createDisk, mapArena } from "../../src/platform/node/engine.js";
import { createWorld, type WorldOptions } from "../../src/platform/node/world.js";
import { Turn } from "../../src/platform/turn.js";
import { diskContract } from "./disk.contract.js";
import { QuietLog } from "./fixture.js";

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
const root = fs.mkdtempSync(join(os.tmpdir(), "ovs-disk-"));
t.teardown(() => fs.rmSync(root, { recursive: true, force: true }));
let names = 0;
const path = () => join(root, `file-${++names}`);
const CHILD = new URL("./disk.child.js", import.meta.url).pathname;
const ENGINES: DiskEngineName[] = ["io_uring", "fs"];

/** "io_uring" only where the kernel has it; the fallback then is what is tested. */
const offered = (() => {
  const log = new QuietLog();
  const turn = new Turn((work) => void setImmediate(work));
  const disk = createDisk({ arena: mapArena(MIB), turn, log }, "io_uring");
  return disk.engine === "io_uring" ? ENGINES : ENGINES.slice(1);
})();
if (!offered.includes("io_uring")) t.test("io_uring", { skip: "no io_uring here" }, () => {});

for (const engine of offered) {
  t.test(`the contract on ${engine}`, async (t) => {
    const options = { name: "test", arenaBytes: 32 * MIB, disk: engine, terminal: null };
    const world = createWorld(options);
    t.equal(world.disk.engine, engine);
    await diskContract(t, { world, path, seed });
    await world.stop();
    const open = { create: true, exclusive: false, write: true, direct: true };
    await t.rejects(world.disk.open(path(), open), { code: "OVS_CLOSED" });
  });
}

const STEPS = [
  "arena",
  "idle",
  "idle-exit",
  "in-flight",
  "in-flight-exit",
  "stop",
  "garbage",
  "handler-throws",
  "worker-idle",
  "worker-in-flight",
  "worker-in-flight-exit",
  "worker-garbage",
  "terminate-idle",
  "terminate-in-flight",
];

/** The pool's operations are Node's own but for fallocate: these steps leave one behind. */
const FS_STEPS = ["in-flight", "in-flight-exit", "worker-in-flight-exit", "terminate-in-flight"];

for (const engine of offered) {
  t.test(`a process may end at every step of a disk's life on ${engine}`, async (t) => {
    const steps = [...(engine === "fs" ? FS_STEPS : STEPS)];
    const work = async () => {
      for (let step = steps.pop(); step !== undefined; step = steps.pop()) {
        const { code, errors } = await endOf(["--expose-gc", CHILD, step, engine, root]);
        t.equal(code, 0, `${step} ${errors}`);
      }
    };
    await Promise.all([work(), work()]);
  });
}

async function endOf(args: string[]): Promise<{ code: number | string | null; errors: string }> {
  const child = spawn(process.execPath, args, {
    stdio: ["ignore", "ignore", "pipe"],
    timeout: 60_000,
    killSignal: "SIGKILL",
  });
  let errors = "";
  child.stderr.on("data", (chunk) => {
    errors += String(chunk);
  });
  return await new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code: code ?? signal, errors }));
  });
}

t.test("where the kernel refuses io_uring, node:fs serves and a warning says so", async (t) => {
  for (const [errno, word] of [
    [-1, "forbids"],
    [-12, "locked memory"],
    [-24, "EMFILE"],
  ] as const) {
    const log = new QuietLog();
    const turn = new Turn((work) => void setImmediate(work));
    const addon = { ...loadDiskAddon(), ringOpen: () => errno };
    const arena = mapArena(MIB);
    const disk = createDisk({ arena, turn, log }, "io_uring", addon);
    t.equal(disk.engine, "fs");
    t.match(log.lines.join(), word);
    const at = arena.region(8192, "test");
    const options = { create: true, exclusive: true, write: true, direct: true };
    const file = await disk.open(path(), options);
    await disk.writeAsync(file, 0, at, 8192);
    t.equal(await disk.readAsync(file, 4096, at, 8192), 4096);
    await disk.stop();
  }
});

t.test("a file that somebody writes is refused in the end, and says why", async (t) => {
  const log = new QuietLog();
  const descriptors = new NodeDescriptors(log, loadDiskAddon().flock, 50);
  const name = path();
  const { fd } = await descriptors.open(name, {
    ...{ create: true, exclusive: true, write: true, direct: true },
  });
  const again = { create: false, exclusive: false, write: true, direct: true };
  const refused = {
    code: "OVS_BUSY",
    message: /being written by another process, or writes of one/,
  };
  await t.rejects(descriptors.open(name, again), refused);
  t.match(log.lines.join(), "waiting for the writes");
  await descriptors.close((await descriptors.open(name, { ...again, write: false })).fd, name);
  await descriptors.close(fd, name);
  await descriptors.close((await descriptors.open(name, again)).fd, name);
});

t.test("a lock is the process's: it ends with it and names it", async (t) => {
  const folder = path();
  fs.mkdirSync(folder);
  const world = createWorld({ name: "test", arenaBytes: MIB, terminal: null });
  const holder = spawn(process.execPath, [CHILD, "hold-lock", "fs", folder], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const left = new Promise((resolve) => holder.on("close", resolve));
  await new Promise((resolve) => holder.stdout.once("data", resolve));
  const named = new RegExp(`in use by the process with pid ${holder.pid}`);
  await t.rejects(world.disk.files.lock(folder), { code: "OVS_BUSY", message: named });
  holder.kill("SIGKILL");
  await left;
  const lock = await world.disk.files.lock(folder);
  t.equal(fs.readFileSync(`${folder}/lock`, "latin1"), `${process.pid}\n`);
  await lock.release();
  await world.stop();
});

/** Why a test cannot run here; false when the program succeeds. */
function unless(program: string, args: string[], reason: string): string | false {
  return spawnSync(program, args).status === 0 ? false : reason;
}

const noLoop = unless("losetup", ["-f"], "no loop devices here");
const noMount = unless("unshare", ["-m", "true"], "no mounts here");

for (const engine of offered) {
  const name = `a block device is a file of fixed size on ${engine}`;
  t.test(name, { skip: noLoop }, async (t) => {
    const image = path();
    fs.writeFileSync(image, "");
    fs.truncateSync(image, 64 * MIB);
    const device = execFileSync("losetup", ["-f", "--show", image]).toString().trim();
    t.teardown(() => void execFileSync("losetup", ["-d", device]));
    const options = { name: "test", arenaBytes: 4 * MIB, disk: engine, terminal: null };
    const { disk, arena, stop } = boundWorld(options);
    const at = arena.region(2 * MIB, "test");
    const open = { create: false, exclusive: false, write: true, direct: true };
    const file = await disk.open(device, open);
    t.equal(await disk.size(file), 64 * MIB);
    t.match(await disk.files.stat(device), { kind: "block", sizeBytes: 64 * MIB });
    arena.bytes.fill(7, at, at + MIB);
    await disk.writeAsync(file, 63 * MIB, at, MIB);
    await disk.syncAsync(file);
    t.equal(await disk.readAsync(file, 63 * MIB, at + MIB, MIB), MIB);
    t.equal(arena.bytes[at + 2 * MIB - 1], 7);
    await disk.punchAsync(file, 63 * MIB, 4096);
    await disk.readAsync(file, 63 * MIB, at + MIB, 8192);
    t.equal(arena.bytes[at + MIB], 0, "punched");
    t.equal(arena.bytes[at + MIB + 4096], 7);
    await disk.allocateAsync(file, 0, 64 * MIB);
    await t.rejects(disk.allocateAsync(file, 0, 65 * MIB), { code: "OVS_FULL" });
    await t.rejects(disk.writeAsync(file, 64 * MIB, at, 4096), { code: "OVS_FULL" });
    t.equal(await disk.readAsync(file, 64 * MIB, at, 4096), 0, "a read behind the end");
    await t.rejects(disk.truncateAsync(file, 0), { code: "OVS_DISK_FAILED", message: /EINVAL/ });
    await stop();
  });
}

t.test("a full file system is OVS_FULL, and the disk goes on", { skip: noMount }, async (t) => {
  const folder = path();
  fs.mkdirSync(folder);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=1M", "ovs-test", folder]);
  t.teardown(() => void execFileSync("umount", [folder]));
  for (const engine of offered) {
    const options = { name: "test", arenaBytes: 8 * MIB, disk: engine, terminal: null };
    const { disk, arena, stop } = boundWorld(options);
    const at = arena.region(4 * MIB, "test");
    const open = { create: true, exclusive: true, write: true, direct: false };
    const file = await disk.open(`${folder}/${engine}`, open);
    await t.rejects(disk.writeAsync(file, 0, at, 4 * MIB), { code: "OVS_FULL", message: /ENOSPC/ });
    await t.rejects(disk.allocateAsync(file, 0, 4 * MIB), { code: "OVS_FULL" });
    await disk.truncateAsync(file, 0);
    await disk.writeAsync(file, 0, at, MIB / 2);
    await disk.truncateAsync(file, 0);
    await stop();
  }
});

t.test(
  "without O_DIRECT a file is opened all the same, and a warning says so once",
  {
    skip: noMount,
  },
  async (t) => {
    const folder = path();
    fs.mkdirSync(folder);
    execFileSync("mount", ["-t", "ramfs", "ovs-test", folder]);
    t.teardown(() => void execFileSync("umount", [folder]));
    const log = new QuietLog();
    const arena = mapArena(MIB);
    const turn = new Turn((work) => void setImmediate(work));
    const disk = createDisk({ arena, turn, log }, "io_uring");
    const at = arena.region(8192, "test");
    const open = { create: true, exclusive: true, write: true, direct: true };
    for (const name of ["a", "b"]) {
      const file = await disk.open(join(folder, name), open);
      await disk.writeAsync(file, 0, at, 8192);
      await disk.syncAsync(file);
      t.equal(await disk.readAsync(file, 0, at, 8192), 8192);
    }
    t.equal(log.lines.filter((line) => line.includes("O_DIRECT")).length, 1);
    await disk.stop();
  },
);

function boundWorld(options: WorldOptions) {
  const world = createWorld(options);
  return { disk: world.disk, arena: world.arena, stop: () => world.stop() };
}
