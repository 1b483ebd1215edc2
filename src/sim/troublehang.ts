// SPDX-License-Identifier: Apache-2.0
// One operation of a disk hangs while all that were asked for beside and after it are done: so what
// must wait for another is seen to wait, or not. A process often dies of it.

import { CLUSTER_BYTES } from "../base/units.js";
import type { Dice } from "./dice.js";
import type { DiskOperation } from "./faults.js";
import type { SimProcess } from "./process.js";
import type { Reach, Trouble } from "./reach.js";

/** Mean time that it hangs. */
const HANG_MS = [300, 3000, 10_000, 10_000];
const HANG_MS_MAX = 20_000;
/** Of the disks of all others. */
const ROUTER_CHANCE = 0.7;

/** What hangs; the first block of a file says what is in it. */
const MEANT = {
  read: ({ kind }: DiskOperation) => kind === "read",
  write: ({ kind }: DiskOperation) => kind === "write",
  sync: ({ kind }: DiskOperation) => kind === "sync",
  "write of a file's first block": ({ kind, offset, bytes }: DiskOperation) =>
    kind === "write" && offset === 0 && bytes === CLUSTER_BYTES,
  "sync beside another": ({ kind, isBesideOthers }: DiskOperation) =>
    kind === "sync" && isBesideOthers,
};
type Meant = keyof typeof MEANT;
/** What is asked for together is mostly what must wait for each other. */
const OFTEN = [...(Object.keys(MEANT) as Meant[]), "sync beside another"] as const;
/** The first operation of what is rare, one of the first few of what is not. */
const FIRST_FEW: Record<Meant, number> = {
  read: 8,
  write: 8,
  sync: 8,
  "write of a file's first block": 1,
  "sync beside another": 1,
};
/** How it ends: a write says most when it is never done, others when they are. */
const ENDS = ["goes on", "kill", "kill", "power"] as const;
const ENDS_OTHERS = ["goes on", "goes on", "goes on", "goes on", "kill"] as const;

/** Operations that hang, of the files of one process. */
export function hangTroubles(reach: Reach) {
  const { cluster, scene } = reach;
  const end = (process: SimProcess, dice: Dice, isWrite: boolean): void => {
    const what = reach.isOver ? "goes on" : dice.pick(isWrite ? ENDS : ENDS_OTHERS);
    scene.trace.note("nemesis", `what hung of ${process.name}: ${what}`);
    if (what === "kill") {
      scene.count(`kill ${process.spec.role}`);
      process.kill("SIGKILL: its disk hangs");
    } else if (what === "power") {
      const back = reach.power(process.spec.host, dice);
      if (back !== null) scene.timeline.after(dice.around(1000), null, back);
    }
  };
  return {
    "hanging operation": (dice) => {
      const isRouter = dice.chance(ROUTER_CHANCE);
      const process = isRouter ? cluster.router : dice.pick(cluster.asds);
      const what = dice.pick(OFTEN);
      const { faults } = process.spec.host.storage.deviceOf(reach.folderOf(process));
      const folder = `${reach.folderOf(process)}/`;
      let left = dice.between(1, FIRST_FEW[what]);
      const ms = Math.min(dice.around(dice.pick(HANG_MS)), HANG_MS_MAX);
      reach.meets(`a ${what} of ${process.name}`);
      faults.hangNext({
        isMeant: (one) =>
          !reach.isOver && one.path.startsWith(folder) && MEANT[what](one) && --left === 0,
        onHang: (letGo) => {
          scene.trace.note(
            "nemesis",
            `a ${what} of ${process.name} hangs for ${Math.round(ms)} ms`,
          );
          scene.timeline.after(ms, null, () => {
            end(process, dice, what.startsWith("write"));
            letGo();
          });
        },
      });
      return null;
    },
  } satisfies Record<string, Trouble>;
}
