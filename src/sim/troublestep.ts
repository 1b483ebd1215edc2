// SPDX-License-Identifier: Apache-2.0
// Troubles that fall at a chosen step of a process (steps.ts) and not at a random instant. The more
// there is of a kind of step the more of them pass before.

import type { Dice } from "./dice.js";
import type { SimProcess } from "./process.js";
import type { Reach, Trouble } from "./reach.js";
import { STEPS, type StepKind, Steps } from "./steps.js";

/** Mean number of steps until it falls. */
const MEAN: Record<StepKind, number> = {
  event: 60,
  send: 20,
  departure: 20,
  arrival: 20,
  disk: 10,
  store: 6,
};
const FREEZE_MS = 3000;

/** Kills, freezes and losses of power at a step. */
export function stepTroubles(reach: Reach) {
  const { cluster, scene } = reach;
  const { timeline } = scene;
  const steps = new Steps(cluster);
  /** Waits for some step of some process; what it does then ends by itself. */
  const atStep = (dice: Dice, name: string, work: (process: SimProcess, dice: Dice) => void) => {
    const process = dice.chance(0.5) ? cluster.router : dice.pick(cluster.processes);
    const folder = reach.folderOf(process);
    const kinds = STEPS.filter((kind) => folder !== "" || (kind !== "disk" && kind !== "store"));
    const kind = dice.pick(kinds);
    const number = 1 + Math.floor(dice.around(MEAN[kind]));
    const when = dice.chance(0.5) ? "before" : "after";
    reach.meets(`${process.name}, ${when} step ${number} of kind ${kind}`);
    return steps.arm({ kind, process, folder, number, when }, () => {
      scene.count(`${name} at ${kind}`);
      scene.trace.note("nemesis", `${name}: ${process.name} is at its step`);
      work(process, dice);
    });
  };
  return {
    "kill at a step": (dice) =>
      atStep(dice, "kill", (process) => process.kill("SIGKILL at a step")),
    /** The process, or all of its host: then what its kernel has does not leave it. */
    "freeze at a step": (dice) =>
      atStep(dice, "freeze", (process) => {
        const { host } = process.spec;
        const whom = dice.chance(0.5) ? host : process;
        timeline.after(dice.around(FREEZE_MS), null, whom.freeze());
      }),
    "power at a step": (dice) =>
      atStep(dice, "power", ({ spec }) => {
        const back = reach.power(spec.host, dice);
        if (back !== null) timeline.after(dice.around(FREEZE_MS), null, back);
      }),
  } satisfies Record<string, Trouble>;
}
