// SPDX-License-Identifier: Apache-2.0
// Troubles of the network: partitions, slow and lossy links, connections that end or never begin.

import type { Dice } from "./dice.js";
import type { SimHost } from "./host.js";
import type { NetLink } from "./netlink.js";
import type { Reach, Trouble } from "./reach.js";

/** Those that need nothing but a link, which is well again afterwards. */
export function netTroubles(reach: Reach) {
  const { cluster, scene } = reach;
  const { net } = scene;
  const links = (dice: Dice) => {
    const [from, to] = dice.shuffle([...cluster.hosts]) as [SimHost, SimHost];
    reach.meets(`${from.name} > ${to.name}`);
    return { there: net.link(from.net, to.net), back: net.link(to.net, from.net) };
  };
  const oneWay = (spoil: (link: NetLink, dice: Dice) => void): Trouble => {
    return (dice) => {
      const { there } = links(dice);
      spoil(there, dice);
      return () => there.heal();
    };
  };
  const ofPair = (spoil: (link: NetLink, dice: Dice) => void): Trouble => {
    return (dice) => {
      const { from, to } = reach.pair(dice);
      const way = net.link(from.net, to.net);
      spoil(way, dice);
      return () => way.heal();
    };
  };
  return {
    partition: (dice) => {
      const { there, back } = links(dice);
      there.blocked = true;
      back.blocked = true;
      return () => {
        there.blocked = false;
        back.blocked = false;
      };
    },
    "one way": (dice) => {
      const { there } = links(dice);
      there.blocked = true;
      return () => {
        there.blocked = false;
      };
    },
    "slow link": oneWay((link, dice) => {
      link.delayMs = dice.around(50);
      link.jitterMs = dice.around(50);
    }),
    "lossy link": oneWay((link, dice) => {
      link.lossRate = dice.share() * 0.2;
    }),
    "reset connections": oneWay((link, dice) => {
      link.resetRate = dice.share() * 0.1;
    }),
    "half-open connection": (dice) => {
      const { from, to } = reach.pair(dice);
      net.halfOpen(from.net, to.net);
      return null;
    },
    "late frames": (dice) => {
      const { from, to } = reach.pair(dice);
      net.late(from.net, to.net, dice.around(2000));
      return null;
    },
    "refused connections": ofPair((link) => {
      link.refuses = true;
    }),
    "hanging connections": ofPair((link) => {
      link.hangs = true;
    }),
    "narrow link": ofPair((link, dice) => {
      link.bytesPerMs = 20 + dice.around(500);
    }),
  } satisfies Record<string, Trouble>;
}
