// SPDX-License-Identifier: Apache-2.0
// How a small file is replaced: written beside its place under a name of its own, synced, renamed.
// A kill leaves what was written so far under that name; whoever owns the folder may remove it.

/** Path that a process writes the new content of `path` to; `serial`: never twice in a process. */
export function temporaryOf(path: string, pid: number, serial: number): string {
  return `${path}.${pid}-${serial}.tmp`;
}

/** True when `name` is what a cut off replacement of the file `target`, in its folder, has left. */
export function isLeftOf(name: string, target: string): boolean {
  return name.startsWith(`${target}.`) && /^\d+-\d+\.tmp$/.test(name.slice(target.length + 1));
}
