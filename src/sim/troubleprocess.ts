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
  const stopped = (process: SimProcess): (() => void) => {
    held.add(process);
    scene.count(`stop ${process.spec.role}`);
    const ended = process.stop();
    return () => {
      void ended.then(() => {
        process.keep();
        held.delete(process);
      });
    };
  };
  /** From all hosts that have none of the disks. */
  const cut = ({ spec }: SimProcess): (() => void) => {
    const others = cluster.hosts.filter((host) => !cluster.diskHosts.includes(host));
    const links = others.flatMap(({ net }) => [
      scene.net.link(net, spec.host.net),
      scene.net.link(spec.host.net, net),
    ]);
    for (const link of links) link.blocked = true;
    return () => {
      for (const link of links) link.blocked = false;
    };
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
      reach.meets(process.name);
      return stopped(process);
    },
    /** Fewer than c are left: puts fail, and destage waits (P-A10). */
    "most disks away": (dice) => {
      const { length } = cluster.asds;
      const least = length - cluster.options.policy.c + 1;
      const count = dice.between(least, length);
      const some = dice.shuffle([...cluster.asds]).slice(0, count);
      const how = dice.pick(["stopped", "without power", "cut off"]);
      const undo: Array<() => void> = [];
      for (const asd of some) {
        if (how === "without power") undo.push(reach.power(asd.spec.host, dice) ?? (() => {}));
        else if (how === "cut off") undo.push(cut(asd));
        else if (asd.isReady && !held.has(asd)) undo.push(stopped(asd));
      }
      scene.count("most disks away");
      reach.meets(`${count} disks, ${how}`);
      return () => {
        for (const each of undo) each();
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
