// SPDX-License-Identifier: Apache-2.0
// How the command line prints: tables for people, JSON for programs.

import Table from "cli-table3";
import { GIB, KIB, MIB, TIB } from "../../base/units.js";
import type {
  AsdStatus,
  BackendStatus,
  VdiskStatus,
  VerifyReport,
} from "../operations/operations.js";

/** A size for people: three digits and a unit. */
export function humanSize(bytes: number): string {
  for (const [suffix, unit] of [
    ["TiB", TIB],
    ["GiB", GIB],
    ["MiB", MIB],
    ["KiB", KIB],
  ] as const) {
    if (bytes >= unit) {
      const value = bytes / unit;
      return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ${suffix}`;
    }
  }
  return `${bytes} B`;
}

/** A plain table: no frames, two spaces between columns. */
export function table(head: string[], rows: string[][]): string {
  const none = "";
  const made = new Table({
    head,
    style: { head: [], border: [], "padding-left": 0, "padding-right": 2 },
    chars: {
      top: none,
      "top-mid": none,
      "top-left": none,
      "top-right": none,
      bottom: none,
      "bottom-mid": none,
      "bottom-left": none,
      "bottom-right": none,
      left: none,
      "left-mid": none,
      mid: none,
      "mid-mid": none,
      right: none,
      "right-mid": none,
      middle: none,
    },
  });
  made.push(...rows);
  return made
    .toString()
    .split("\n")
    .map((line) => line.trimEnd())
    .join("\n");
}

/** vDisks for people, a line each. */
export function vdiskTable(vdisks: VdiskStatus[]): string {
  return table(
    ["VDISK", "SIZE", "ALLOCATED", "DIRTY", "WRITTEN", "CORRUPT", "STATE", ""],
    vdisks.map((vdisk) => [
      vdisk.name,
      humanSize(vdisk.sizeBytes),
      humanSize(vdisk.allocatedBytes),
      humanSize(vdisk.dirtyBytes),
      humanSize(vdisk.clientWrittenBytes),
      String(vdisk.corruptions),
      vdisk.state,
      vdisk.reason,
    ]),
  );
}

/** ASDs for people, a line each. */
export function asdTable(asds: AsdStatus[]): string {
  return table(
    ["ASD", "STATE", "USED", "CAPACITY", "FRAGMENTS", "CORRUPT", "ADDRESS"],
    asds.map((asd) => [
      asd.id,
      `${asd.state}${asd.full ? " full" : ""}${asd.slow ? " slow" : ""}`,
      humanSize(asd.usedBytes),
      humanSize(asd.capacityBytes),
      String(asd.fragments),
      String(asd.corruptions),
      asd.address,
    ]),
  );
}

/** The backend's state for people. */
export function backendText(backend: BackendStatus): string {
  return [
    `health    ${backend.health}`,
    `policy    ${backend.policy} (k,m,c,x)`,
    `ASDs      ${backend.osdsUp} of ${backend.osds} up`,
    `used      ${humanSize(backend.usedBytes)} of ${humanSize(backend.capacityBytes)}`,
    `degraded  ${backend.objectsDegraded} objects`,
    `repaired  ${backend.repairedFragments} fragments, ${backend.corruptFragments} found corrupt`,
  ].join("\n");
}

/** How many ASDs may be lost, in words; null: nothing is stored, so all of them. */
export function lossesText(spareMin: number | null): string {
  if (spareMin === null) return "any number of ASDs";
  const losses = Math.max(0, spareMin);
  return losses === 1 ? "1 ASD" : `${losses} ASDs`;
}

/** What a verify found and mended, for people. */
export function verifyText(report: VerifyReport): string {
  const rows: Array<[string, number | string]> = [
    [
      "read",
      `${report.objects} objects, ${report.fragments} fragments, ${humanSize(report.bytesRead)}`,
    ],
    ["missing", report.missing],
    ["corrupt", report.corrupt],
    ["unreachable", report.unreachable],
    ["misplaced", report.misplaced],
    ["leaked", report.leaked],
    ["repaired", report.repaired],
    ["lacking", report.lacking],
    ["unreadable", report.unreadable],
    ["survives", `the loss of ${lossesText(report.spareMin)}`],
  ];
  const lines = rows.map(([name, value]) => `${name.padEnd(12)}${value}`);
  lines.push(...report.samples.map((sample) => `  ${sample}`));
  lines.push(report.clean ? "clean" : "not clean");
  return lines.join("\n");
}
