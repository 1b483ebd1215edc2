// SPDX-License-Identifier: Apache-2.0
// What `ovs up` prints when it is ready: lines that do something when they are pasted into a shell,
// from any folder.

import { formatSize, GIB } from "../../base/units.js";

/** A cluster that has just come up, as far as the lines need it. */
export interface Started {
  /** Absolute path of the `ovs` command. */
  command: string;
  data: string;
  /** `unix:PATH` or `tcp:HOST:PORT`. */
  nbd: readonly string[];
  /** The vDisk to show; null when there is none. */
  vdisk: { name: string; sizeBytes: number } | null;
}

/** The text, with an empty line before and after it. */
export function startLines(started: Started): string {
  const { vdisk } = started;
  const ovs = (args: string) => `${quote(started.command)} ${args} --data ${quote(started.data)}`;
  const lines = vdisk
    ? started.nbd.flatMap((address) => linesOf(address, vdisk.name, vdisk.sizeBytes))
    : [line("create", ovs("vdisk create vd0 10G"))];
  return `\n${[...lines, line("status", ovs("status"))].join("\n")}\n`;
}

function linesOf(address: string, name: string, sizeBytes: number): string[] {
  if (!address.startsWith("unix:")) {
    const at = address.lastIndexOf(":");
    const host = address.slice(4, at);
    const port = address.slice(at + 1);
    const bare = host.replace(/^\[(.*)\]$/, "$1");
    const uri = `nbd://${bare.includes(":") ? `[${bare}]` : bare}:${port}/${name}`;
    return [
      line("TCP", `nbdinfo ${quote(uri)}`),
      line("nbd-client", `nbd-client ${bare} ${port} /dev/nbd0 -N ${name} -b 4096`),
    ];
  }
  const path = address.slice("unix:".length);
  const uri = `nbd+unix:///${name}?socket=${path.split("/").map(encodeURIComponent).join("/")}`;
  const fio = "--rw=randwrite --bs=4k --iodepth=32 --time_based --runtime=20";
  const drive = "format=raw,if=virtio,cache=none,discard=unmap";
  return [
    line("fio", `fio --name=t --ioengine=nbd --uri=${quote(uri)} ${fio} --size=${span(sizeBytes)}`),
    line("copy out", `nbdcopy --progress ${quote(uri)} ${name}.img`),
    line("copy in", `nbdcopy --progress ${name}.img ${quote(uri)}`),
    line("qemu", `qemu-system-x86_64 -m 1G -drive ${quote(`file=${uri},${drive}`)}`),
    line("nbd-client", `nbd-client -unix ${quote(path)} /dev/nbd0 -N ${name} -b 4096`),
  ];
}

/** How much of the vDisk fio is to write: 1 GiB, or all of a smaller one. */
function span(sizeBytes: number): string {
  return formatSize(Math.min(GIB, sizeBytes));
}

function line(what: string, command: string): string {
  return `  ${what.padEnd(10)}  ${command}`;
}

/** One word of a shell. */
function quote(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
