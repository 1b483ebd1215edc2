// SPDX-License-Identifier: Apache-2.0
// Troubles of processes and hosts: killed, stopped in order, frozen, without power; and clocks.

import type { SimProcess } from "./process.js";
import type { Reach, Trouble } from "./reach.js";

/** Those that fall at random instants. */
export function processTroubles(reach: Reach) {
  const { cluster, held, scene } = reach;
  const kill = (process: SimProcess): null => {
    if (process.isAlive) scene.count(`kill ${process.spec.role}`);
    process.kill("SIGKILL");
    return null;
  };
  return {
    "kill router": () => kill(cluster.router),
    "kill asd": (dice) => kill(dice.pick(cluster.asds)),
    "kill proxy": (dice) => kill(dice.pick(cluster.proxies)),
    "kill registry": () => kill(cluster.registry),
    "freeze process": (dice) => {
      const process = dice.pick(cluster.processes);
      scene.count("freeze process");
      reach.meets(process.name);
      return process.freeze();
    },
    "freeze host": (dice) => {
      const host = dice.pick(cluster.hosts);
      scene.count("freeze host");
      reach.meets(host.name);
      return host.freeze();
    },
    "power of another host": (dice) => reach.power(dice.pick(cluster.otherHosts), dice),
    "power of the router's host": (dice) => reach.power(cluster.front, dice),
    /** Stopped in order under load, started again after a while. */
    "stop process": (dice) => {
      const process = dice.pick(cluster.processes);
      if (!process.isReady || held.has(process)) return null;
      held.add(process);
      scene.count(`stop ${process.spec.role}`);
      reach.meets(process.name);
      const stopped = process.stop();
      return () => {
        void stopped.then(() => {
          process.keep();
          held.delete(process);
        });
      };
    },
    "clock jump": (dice) => {
      const host = dice.pick(cluster.hosts);
      reach.meets(host.name);
      host.time.skewMs += dice.between(-10_000, 10_000);
      scene.count("clock jump");
      return null;
    },
  } satisfies Record<string, Trouble>;
}
