// SPDX-License-Identifier: Apache-2.0
// What an operator does to the cluster while clients work: an ASD gets another address, a disk is
// drained and taken out, everything is stopped and started. It is done in the end, whatever else
// goes wrong meanwhile.

import type { SimProcess } from "./process.js";
import type { Reach, Trouble } from "./reach.js";

/** Each goes on by itself; the processes are held until it is done. */
export function operatorTroubles(reach: Reach) {
  const { cluster, held, scene } = reach;
  const numbers = (asds: readonly SimProcess[]) => asds.map((asd) => cluster.asds.indexOf(asd));
  return {
    "changed address": (dice) => {
      const one = dice.pick(cluster.asds);
      const others = cluster.asds.filter(
        (asd) => asd !== one && asd.spec.host === one.spec.host && !held.has(asd),
      );
      const isSwap = others.length > 0 && dice.chance(0.5);
      const some = isSwap ? [one, dice.pick(others)] : [one];
      if (held.has(one)) return null;
      for (const asd of some) {
        held.add(asd);
        reach.meets(asd.name);
      }
      scene.count(isSwap ? "addresses swapped" : "address changed");
      void cluster.moveAsds(numbers(some)).then(() => {
        for (const asd of some) held.delete(asd);
      });
      return null;
    },
    "drained disk": (dice) => {
      const asd = dice.pick(cluster.asds);
      if (held.has(asd)) return null;
      held.add(asd);
      reach.meets(asd.name);
      void cluster.drainDisk(cluster.asds.indexOf(asd)).then((isDone) => {
        if (isDone) scene.count("disk drained");
        held.delete(asd);
      });
      return null;
    },
    /** In order and under load; started again after a while. */
    "restart of all": () => {
      const { processes } = cluster;
      if (processes.some((process) => held.has(process))) return null;
      for (const process of processes) held.add(process);
      scene.count("restart of all");
      const stopped = cluster.stop();
      return () => {
        void stopped.then(() => {
          for (const process of processes) process.keep();
          for (const process of processes) held.delete(process);
        });
      };
    },
  } satisfies Record<string, Trouble>;
}
