// SPDX-License-Identifier: Apache-2.0
// User-mode Linux: Debian's kernel as a process, on this machine's own root folder (read-only). It
// has the real nbd.ko and all programs of this machine, and is up in about two seconds.
//
// Its network is a tap device in a network namespace of its own; socat carries the NBD port on to
// the cluster's unix socket. A process namespace makes all of it end with one child.

import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { AGENT, Guest } from "./guest.js";

const UML = "/usr/bin/linux.uml";
const MODULES = "/usr/lib/uml/modules";
const HOST = "10.99.7.1";
const GUEST = "10.99.7.2";
const PORT = 10809;
const MEMORY = "512M";

/** Why there can be no User-mode Linux here; false when there can. */
export function noUml(): string | false {
  if (!existsSync(UML) || !existsSync(MODULES)) return "user-mode-linux is not installed";
  const tap = "ip tuntap add dev guest mode tap";
  const made = spawnSync("unshare", ["--net", "--pid", "--fork", "--mount-proc", "sh", "-c", tap]);
  return made.status === 0 ? false : "no namespaces or no tap devices here";
}

/**
 * Boots one; the cluster is reached over the unix socket `socket`. Its files lie in `folder`.
 */
export async function bootUml(folder: string, socket: string): Promise<Guest> {
  const modules = join(MODULES, readdirSync(MODULES)[0] ?? "", "kernel");
  const init = join(folder, "uml-init");
  await writeFile(init, initScript(modules), { mode: 0o755 });
  const kernel = [
    ...[UML, `mem=${MEMORY}`, "umid=guest", `uml_dir=${folder}/`],
    ...["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", `init=${init}`],
    ...["vec0:transport=tap,ifname=guest,depth=64,gro=1"],
    ...["con=null", "con0=null,fd:2", "ssl=null", "ssl0=fd:0,fd:1", "selinux=0"],
  ];
  const portInHex = PORT.toString(16).toUpperCase();
  // Copies of mounts that other tests made would hold their devices for as long as this runs.
  const start = `
awk '$2 ~ "/vcluster-" { print $2 }' /proc/mounts | tac | while read -r place; do
  umount -l "$place"
done
set -e
ip link set lo up
ip tuntap add dev guest mode tap
ip addr add ${HOST}/24 dev guest
ip link set guest up
socat TCP-LISTEN:${PORT},bind=${HOST},fork,reuseaddr,nodelay UNIX-CONNECT:${socket} </dev/null >&2 &
until grep -q ":${portInHex} " /proc/net/tcp; do sleep 0.05; done
${kernel.join(" ")}
`;
  const namespaces = ["--net", "--pid", "--mount-proc", "--fork", "--kill-child"];
  return await Guest.boot({
    command: "unshare",
    args: [...namespaces, "sh", "-c", start],
    console: join(folder, "uml-console"),
    server: `${HOST} ${PORT}`,
  });
}

// Only memory is writable in the guest: /run, /mnt, /tmp.
function initScript(modules: string): string {
  return `#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for place in /run /mnt; do mount -t tmpfs tmpfs $place; done
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
ip addr add ${GUEST}/24 dev vec0
ip link set vec0 up
busybox insmod ${modules}/drivers/block/nbd.ko nbds_max=2
cd /run
cat > /run/agent <<'AGENT'
${AGENT}
AGENT
sh /run/agent /dev/ttyS0
busybox poweroff -f
`;
}
