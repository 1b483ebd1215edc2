// SPDX-License-Identifier: Apache-2.0
// A whole virtual machine: QEMU without hardware help, Debian's cloud kernel and a root folder in
// memory that holds busybox and the few programs that the tests use. It is a second opinion beside
// User-mode Linux: a kernel for real machines, and TCP to the cluster's port on 127.0.0.1.
//
// The kernel's package is unpacked, not installed: .cache/vm/kernel.

import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { copyFile, mkdir, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { must } from "../integration/cluster.js";
import { AGENT, Guest } from "./guest.js";

const KERNEL = new URL("../../../.cache/vm/kernel", import.meta.url).pathname;
const KERNEL_PACKAGE = "linux-image-cloud-amd64";
const PROGRAMS = ["nbd-client", "mkfs.ext4", "e2fsck", "blkdiscard", "fstrim", "cmp", "base64"];
// In the order in which they need each other; what is not there is built into the kernel.
const MODULES = [
  ...["failover", "net_failover", "virtio_ring", "virtio", "virtio_pci_legacy_dev"],
  ...["virtio_pci_modern_dev", "virtio_pci", "virtio_net", "nbd", "crc16", "crc32c_generic"],
  ...["mbcache", "jbd2", "ext4"],
];

/** Why there can be no QEMU here; false when there can. Fetches the guest's kernel once. */
export async function noQemu(): Promise<string | false> {
  if (spawnSync("qemu-system-x86_64", ["--version"]).status !== 0) return "QEMU is not installed";
  if (existsSync(join(KERNEL, "boot"))) return false;
  const depends = spawnSync("apt-cache", ["depends", KERNEL_PACKAGE], { encoding: "utf8" });
  const name = /Depends: (linux-image-\S+)/.exec(depends.stdout ?? "")?.[1];
  if (name === undefined) return `apt knows no ${KERNEL_PACKAGE}`;
  await rm(KERNEL, { recursive: true, force: true });
  await mkdir(KERNEL, { recursive: true });
  const fetched = spawnSync("apt-get", ["download", "-qq", name], { cwd: KERNEL });
  if (fetched.status !== 0) return `apt-get cannot download ${name}`;
  const file = readdirSync(KERNEL).find((each) => each.endsWith(".deb")) ?? "";
  await must("dpkg-deb", ["-x", join(KERNEL, file), KERNEL]);
  await rm(join(KERNEL, file));
  return false;
}

/** Boots one; the cluster is reached over `tcp:127.0.0.1:port`. Its files lie in `folder`. */
export async function bootQemu(folder: string, port: number): Promise<Guest> {
  const image = join(KERNEL, "boot", found(join(KERNEL, "boot"), /^vmlinuz-/));
  const initrd = await makeRoot(folder);
  const console = join(folder, "qemu-console");
  const append = "console=ttyS0 panic=-1 mitigations=off random.trust_cpu=on";
  return await Guest.boot({
    command: "qemu-system-x86_64",
    args: [
      ...["-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-m", "768M"],
      ...["-nodefaults", "-no-reboot", "-display", "none"],
      ...["-chardev", `file,id=console,path=${console},append=on`, "-serial", "chardev:console"],
      ...["-chardev", "stdio,id=agent,signal=off", "-serial", "chardev:agent"],
      ...["-kernel", image, "-initrd", initrd, "-append", append],
      ...["-netdev", "user,id=net", "-device", "virtio-net-pci,romfile=,netdev=net"],
    ],
    console,
    server: `10.0.2.2 ${port}`,
  });
}

function found(folder: string, name: RegExp): string {
  const file = readdirSync(folder).find((each) => name.test(each));
  if (file === undefined) throw new Error(`no ${name} in ${folder}`);
  return file;
}

/** The root folder of the guest, packed; resolves with the file. */
async function makeRoot(folder: string): Promise<string> {
  const root = join(folder, "root");
  for (const name of [
    "bin",
    "usr/bin",
    "proc",
    "sys",
    "dev",
    "run",
    "mnt",
    "tmp",
    "etc",
    "modules",
  ]) {
    await mkdir(join(root, name), { recursive: true });
  }
  await copyFile("/bin/busybox", join(root, "bin/busybox"));
  await copyFile("/etc/mke2fs.conf", join(root, "etc/mke2fs.conf"));
  for (const program of PROGRAMS) await addProgram(root, program);
  const modules = join(KERNEL, "lib/modules", found(join(KERNEL, "lib/modules"), /^\d/));
  const lines = [];
  for (const name of MODULES) {
    const path = (await must("find", [modules, "-name", `${name}.ko`])).trim();
    if (path === "") continue;
    await copyFile(path, join(root, "modules", basename(path)));
    const options = name === "nbd" ? " nbds_max=2" : "";
    lines.push(`insmod /modules/${basename(path)}${options}`);
  }
  await writeFile(join(root, "init"), initScript(lines.join("\n")), { mode: 0o755 });
  const packed = join(folder, "initrd.gz");
  const pack = 'cd "$0" && find . | busybox cpio -o -H newc 2> /dev/null | gzip -1 > "$1"';
  await must("sh", ["-c", pack, root, packed]);
  return packed;
}

/** Copies a program of this machine with the libraries that it is linked to. */
async function addProgram(root: string, program: string): Promise<void> {
  const path = (await must("which", [program])).trim();
  await copyFile(path, join(root, "usr/bin", program));
  for (const [library] of (await must("ldd", [path])).matchAll(/\/\S+/g)) {
    await mkdir(join(root, dirname(library)), { recursive: true });
    await copyFile(library, join(root, library));
  }
}

function initScript(loadModules: string): string {
  return `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
${loadModules}
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
cat > /run/agent <<'AGENT'
${AGENT}
AGENT
sh /run/agent /dev/ttyS1
poweroff -f
`;
}
