// SPDX-License-Identifier: Apache-2.0
// The bytes row: what six ASDs store for each byte that a client wrote at random on a fresh vDisk.
// Asked of the ASDs themselves, when every object has its full width; /proc tells what their
// processes wrote to disk in all, the index and its log among it.

import { readFileSync } from "node:fs";
import { parse } from "smol-toml";
import { AsdClient } from "../../src/asd/client.js";
import { MIB } from "../../src/base/units.js";
import { createWorld } from "../../src/platform/node/world.js";
import { diskBytesOf } from "../lib/process.js";
import type { Row } from "../lib/row.js";
import type { Line } from "../lib/stats.js";
import { withOurs } from "./compare.js";
import { type Ours, work } from "./sides.js";

const RATIO_MAX = 1.6;
const ASDS = 6;

export const bytesRow: Row = {
  name: "vdisk-bytes",
  target: `fragment bytes to ASDs per byte written, random 4 KiB over a fresh disk: ≤ ${RATIO_MAX}`,
  run: (context) =>
    withOurs(context, ["--asds", String(ASDS)], async (ours) => {
      const before = await storedBytes(ours);
      const gib = context.quick ? 0.25 : 2;
      const job = { rw: "randwrite", bs: "4k", iodepth: 32, size: "10G" } as const;
      await work(ours, { ...job, io_size: `${gib * 1024}M` });
      await ours.sync();
      const after = await storedBytes(ours);
      const client = await ours.clientBytes();
      const line = (label: string, value: number, target: number | null): Line => ({
        label: `${label}, random 4k over a fresh vDisk`,
        unit: "bytes a byte",
        better: "lower",
        peer: null,
        target,
        ours: [value / client],
        peers: [],
        oursCpuSeconds: [],
        peersCpuSeconds: [],
      });
      const fragments = after.fragments - before.fragments;
      return [
        line("fragment bytes to ASDs", fragments, RATIO_MAX),
        line("size of the ASDs' indexes", after.index - before.index, null),
        line("all that ASDs wrote to disk", after.written - before.written, null),
      ];
    }),
};

interface Stored {
  /** Put to extents since the ASDs started. */
  fragments: number;
  index: number;
  written: number;
}

async function storedBytes(ours: Ours): Promise<Stored> {
  const { cluster } = parse(readFileSync(`${ours.data}/ovs.toml`, "utf8")) as { cluster: string };
  const world = createWorld({ name: "perf", arenaBytes: 16 * MIB, terminal: null });
  const pids = (await ours.processes()).filter(({ role }) => role === "asd").map(({ pid }) => pid);
  const stored = { fragments: 0, index: 0, written: diskBytesOf(pids) };
  for (let i = 0; i < ASDS; i++) {
    const client = new AsdClient(world, {
      address: `unix:${ours.data}/run/asd-${i}.sock`,
      clusterUuid: cluster,
      diskUuid: null,
      self: { role: "router", id: "perf", cluster },
    });
    const stats = await client.stats({ timeoutMs: 10_000 });
    stored.fragments += stats.putBytes;
    stored.index += stats.indexBytes;
    await client.close();
  }
  await world.stop();
  return stored;
}
