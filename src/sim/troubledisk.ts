// SPDX-License-Identifier: Apache-2.0
// Troubles of disks. What damages stored data, or fails for good, keeps to the disks that the
// policy survives the loss of (`reach.weak`).

import { assert } from "../base/assert.js";
import { MIB } from "../base/units.js";
import type { Device } from "./device.js";
import type { Dice } from "./dice.js";
import { FaultKind } from "./faults.js";
import type { SimProcess } from "./process.js";
import type { Reach, Trouble } from "./reach.js";

/** What is left about until the router's disk is full. */
const ROOM_BYTES = 4 * MIB;

/** Those of the ASDs' disks and of the router's host. */
export function diskTroubles(reach: Reach) {
  return { ...rates(reach), ...states(reach), ...losses(reach) };
}

/** Operations that go wrong by chance, until the trouble is over. */
function rates(reach: Reach) {
  const some = (dice: Dice, kind: FaultKind, most: number, folder = ""): (() => void) => {
    const bad = reach.someWeak(dice);
    const prefix = `${bad.mount}${folder}`;
    bad.faults.rates(prefix, { [kind]: dice.share() * most });
    return () => bad.faults.rates(prefix, null);
  };
  return {
    "read errors": (dice) => some(dice, FaultKind.ReadError, 0.2),
    "write errors": (dice) => some(dice, FaultKind.WriteError, 0.05),
    "sync errors": (dice) => some(dice, FaultKind.SyncError, 0.1),
    "lost writes": (dice) => some(dice, FaultKind.LostWrite, 0.3, "/extents"),
    "misdirected writes": (dice) => some(dice, FaultKind.MisdirectedWrite, 0.3, "/extents"),
  } satisfies Record<string, Trouble>;
}

/** What a whole disk is for a while. */
function states(reach: Reach) {
  const { cluster } = reach;
  const some = (dice: Dice): Device => {
    const asd = dice.pick(cluster.asds);
    reach.meets(asd.name);
    return reach.deviceOf(asd);
  };
  return {
    "slow disk": (dice) => {
      const { faults } = some(dice);
      faults.slow(2 + dice.around(20));
      return () => faults.slow(1);
    },
    /** Some of its reads take seconds, all others as long as ever. */
    "slow reads": (dice) => {
      const { faults, mount } = some(dice);
      faults.rates(mount, { [FaultKind.SlowRead]: dice.share() * 0.5 });
      return () => faults.rates(mount, null);
    },
    "slow front disk": (dice) => {
      reach.meets(cluster.front.name);
      const { faults } = cluster.front.storage.deviceOf("/router");
      faults.slow(2 + dice.around(10));
      return () => faults.slow(1);
    },
    /** Of journal, maps and caches, and of the registry where it is on the same disk. */
    "full front disk": (dice) => {
      const { faults, usedBytes } = cluster.front.storage.deviceOf("/router");
      faults.capacity(usedBytes + Math.floor(dice.around(ROOM_BYTES)));
      return () => faults.capacity(Number.MAX_SAFE_INTEGER);
    },
    "full disk": (dice) => {
      const { faults } = some(dice);
      faults.capacity(0);
      return () => faults.capacity(Number.MAX_SAFE_INTEGER);
    },
    "dead disk": (dice) => {
      const { faults } = reach.someWeak(dice);
      faults.dead(true);
      return () => faults.dead(false);
    },
  } satisfies Record<string, Trouble>;
}

/** What was stored is not there any more, or not as it was. */
function losses(reach: Reach) {
  const { cluster, held, scene } = reach;
  const replaced = (asd: SimProcess): void => {
    scene.count("disk replaced");
    void cluster.replaceDisk(cluster.asds.indexOf(asd)).then(() => held.delete(asd));
  };
  const take = (dice: Dice): SimProcess | null => {
    const asd = dice.pick(reach.weak);
    if (held.has(asd)) return null;
    held.add(asd);
    reach.meets(asd.name);
    return asd;
  };
  return {
    /** Its content is gone; the daemon must refuse it until an operator replaces the disk. */
    "wiped disk": (dice) => {
      const asd = take(dice);
      if (asd === null) return null;
      asd.kill("SIGKILL");
      reach.deviceOf(asd).faults.wipe();
      return () => {
        assert(!asd.isReady, `${asd.name} serves an emptied disk as if it were its own`);
        replaced(asd);
      };
    },
    "replaced disk": (dice) => {
      const asd = take(dice);
      if (asd !== null) replaced(asd);
      return null;
    },
    /** Keys of it cannot be read, or its log: until then it serves what it can. */
    "damaged index": (dice) => {
      const asd = take(dice);
      if (asd === null) return null;
      const device = reach.deviceOf(asd);
      device.faults.corruptStore(device.mount);
      return () => replaced(asd);
    },
    /** All of it comes from the backend again. */
    "damaged map": () => {
      cluster.front.storage.deviceOf("/router").faults.corruptStore("/router");
      return null;
    },
    "rot of the read cache": (dice) => {
      const { faults } = cluster.front.storage.deviceOf("/router");
      const shard = dice.below(cluster.options.threads);
      for (let i = dice.below(20); i >= 0; i--) faults.rot(`/router/shard-${shard}/read-cache`);
      return null;
    },
    "bit rot": (dice) => {
      const rotten = reach.someWeak(dice);
      for (let i = dice.below(20); i >= 0; i--) rotten.faults.rot(`${rotten.mount}/extents`);
      return null;
    },
  } satisfies Record<string, Trouble>;
}
