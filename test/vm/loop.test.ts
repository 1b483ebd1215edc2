// SPDX-License-Identifier: Apache-2.0
// A vDisk as a file and that file as a block device, on this machine's own kernel:
//
//   ovs up ◄─ NBD ─ nbdfuse (DIR/file/nbd) ◄─ FUSE ─ /dev/loopN ◄─ ext4, XFS ◄─ fio, files
//
// Detached and attached again, the files are the same. OVS_LONG=1 (`npm run vm`) writes more.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { loadDiskAddon } from "../../src/native/disk.js";
import { NodeDescriptors } from "../../src/platform/node/descriptors.js";
import { Cluster, must, run, until } from "../integration/cluster.js";
import { QuietLog } from "../platform/fixture.js";
import { allocated, MIB, OPTIONS, VDISK_BYTES } from "./scenario.js";

t.setTimeout(900_000);

const LONG = process.env.OVS_LONG === "1";
const FIO_MIB = LONG ? 160 : 32;
const DROPPED_MIB = 48;
const CHILD = new URL("../platform/disk.child.js", import.meta.url).pathname;
const SOURCES = new URL("../../../src", import.meta.url).pathname;

interface FileSystem {
  name: string;
  make: string[];
  /** Options of mount: nothing is written in the background while bytes are counted. */
  mount: string[];
  check: string[];
}

const EXT4: FileSystem = {
  name: "ext4",
  make: ["mkfs.ext4", "-q"],
  mount: ["-o", "noinit_itable"],
  check: ["e2fsck", "-fn"],
};
const XFS: FileSystem = {
  name: "XFS",
  make: ["mkfs.xfs", "-q", "-f"],
  mount: [],
  check: ["xfs_repair", "-n"],
};

/** Why this cannot run here; false when it can. */
function lacking(...programs: string[]): string | false {
  if (process.getuid?.() !== 0) return "only root may mount";
  if (!existsSync("/dev/fuse")) return "no FUSE here";
  if (spawnSync("losetup", ["-f"]).status !== 0) return "no loop devices here";
  const missing = programs.find((name) => spawnSync("which", [name]).status !== 0);
  if (missing !== undefined) return `${missing} is not installed`;
  return spawnSync("unshare", ["-m", "true"]).status === 0 ? false : "no right to mount";
}

/** The vDisk as a loop device, while it is attached; `mount` is where file systems go. */
class LoopDisk {
  readonly mount: string;
  device = "";
  readonly #cluster: Cluster;
  readonly #folder: string;
  #fuse: ChildProcess | null = null;

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
    this.#folder = join(cluster.dir, "file");
    this.mount = join(cluster.dir, "mount");
  }

  async attach(): Promise<void> {
    await mkdir(this.#folder, { recursive: true });
    await mkdir(this.mount, { recursive: true });
    const file = join(this.#folder, "nbd");
    // One request at a time: with several threads nbdfuse 1.14 counts a command as in flight only
    // after it was sent, and aborts or sleeps for ever when the answer was quicker than that.
    this.#fuse = spawn("nbdfuse", ["-s", file, this.#cluster.uri()], { stdio: "inherit" });
    await until("nbdfuse shows the file", () => existsSync(file));
    this.device = (await must("losetup", ["--show", "-f", "--direct-io=on", file])).trim();
  }

  /** Nothing that is asked of the disk is answered, until `goOn`. */
  stall(): void {
    this.#fuse?.kill("SIGSTOP");
  }

  goOn(): void {
    this.#fuse?.kill("SIGCONT");
  }

  /** Gives the device and the file back; throws when one of them is still in use. */
  async detach(): Promise<void> {
    await must("losetup", ["-d", this.device]);
    this.device = "";
    const fuse = this.#fuse;
    if (!fuse) return;
    const ended = once(fuse, "exit");
    // The kernel lets go of the loop device's file a moment later.
    const isFree = async () => (await run("umount", [this.#folder])).code === 0;
    await until("the file is in use no more", isFree);
    const [code] = (await ended) as [number | null];
    this.#fuse = null;
    if (code !== 0) throw new Error(`nbdfuse ended with ${code}`);
  }

  /** Takes all of it away, whatever state a failed test left it in. */
  async destroy(): Promise<void> {
    await run("umount", [this.mount]);
    if (this.device !== "") await run("losetup", ["-d", this.device]);
    if (!this.#fuse) return;
    // First of all: one that does not answer would hold up every look at the folder.
    this.#fuse.kill("SIGKILL");
    await run("umount", ["-l", this.#folder]);
  }
}

/** Verified random writes of many sizes, with an fsync now and then. */
async function fio(folder: string): Promise<void> {
  await must("fio", [
    ...["--name=verified", `--directory=${folder}`, "--ioengine=libaio", "--direct=1"],
    ...["--rw=randwrite", "--bsrange=4k-128k", "--iodepth=16", `--size=${FIO_MIB}M`],
    ...["--fsync=64", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=128"],
    "--randrepeat=0",
  ]);
}

async function life(t: Test, cluster: Cluster, disk: LoopDisk, system: FileSystem): Promise<void> {
  const [make, ...makeOptions] = system.make as [string, ...string[]];
  const [check, ...checkOptions] = system.check as [string, ...string[]];
  await disk.attach();
  const bytes = Number(await must("blockdev", ["--getsize64", disk.device]));
  t.equal(bytes, VDISK_BYTES, "the device has the vDisk's size");
  await must(make, [...makeOptions, disk.device]);
  await must("mount", [...system.mount, disk.device, disk.mount]);
  await must("cp", ["-r", SOURCES, disk.mount]);
  await fio(disk.mount);
  t.pass("fio read what it wrote");

  const dropped = join(disk.mount, "dropped");
  const count = `count=${DROPPED_MIB}`;
  await must("dd", ["if=/dev/urandom", `of=${dropped}`, "bs=1M", count, "conv=fsync"]);
  await must("sync", ["-f", disk.mount]);
  const before = await allocated(cluster);
  await must("rm", [dropped]);
  await must("sync", ["-f", disk.mount]);
  await must("fstrim", [disk.mount]);
  const after = await allocated(cluster);
  const fell = before - after;
  t.ok(fell >= DROPPED_MIB * MIB * 0.9, `TRIM gave back ${fell} of ${before} bytes`);
  const sums = await sumsOf(disk.mount);
  await must("umount", [disk.mount]);
  await must(check, [...checkOptions, disk.device]);
  await disk.detach();
  t.pass("it was unmounted, is clean, and detached");

  t.equal((await cluster.ovs("cache", "drop")).code, 0, "the caches are dropped");
  await disk.attach();
  await must("mount", [disk.device, disk.mount]);
  t.equal(await sumsOf(disk.mount), sums, "the files are the same after the next attach");
  await must("umount", [disk.mount]);
  await must(check, [...checkOptions, disk.device]);
  await must("blkdiscard", ["-f", disk.device]);
  await disk.detach();
  t.equal(await allocated(cluster), 0, "nothing is left of a vDisk that is discarded whole");
}

async function sumsOf(folder: string): Promise<string> {
  return await must("sh", [
    "-c",
    'cd "$0" && find . -type f | sort | xargs -d "\\n" sha256sum',
    folder,
  ]);
}

/** The disk does not answer for a while, and who writes to it is killed meanwhile. */
async function lateWrite(t: Test, disk: LoopDisk): Promise<void> {
  await disk.attach();
  disk.stall();
  const writer = spawn(process.execPath, [CHILD, "write-device", "io_uring", disk.device], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(writer.stdout, "data");
  writer.kill("SIGKILL");
  await once(writer, "exit");
  const log = new QuietLog();
  const descriptors = new NodeDescriptors(log, loadDiskAddon().flock, 60_000);
  const options = { create: false, exclusive: false, write: true, direct: true };
  const opening = descriptors.open(disk.device, options);
  await until("the next one waits", () => log.lines.join().includes("waiting for the writes"));
  disk.goOn();
  const { fd } = await opening;
  const page = await must("dd", [`if=${disk.device}`, ...["bs=4096", "count=1", "iflag=direct"]]);
  t.equal(page.charCodeAt(0), 1, "what the dead one wrote is there before the next one may write");
  await descriptors.close(fd, disk.device);
  await disk.detach();
}

const skip = lacking("nbdfuse", "losetup", "fio", "mkfs.ext4", "mkfs.xfs", "xfs_repair");

t.test("nbdfuse and a loop device: ext4 and XFS live on a vDisk", { skip }, async (t) => {
  const cluster = await Cluster.make();
  t.teardown(() => cluster.destroy());
  await cluster.up(...OPTIONS);
  for (const system of [EXT4, XFS]) {
    await t.test(system.name, async (t) => {
      const disk = new LoopDisk(cluster);
      t.teardown(() => disk.destroy());
      await life(t, cluster, disk, system);
    });
  }
  await t.test("a write that comes later than its writer's end", async (t) => {
    const disk = new LoopDisk(cluster);
    t.teardown(() => disk.destroy());
    await lateWrite(t, disk);
  });
  await cluster.down();
});
