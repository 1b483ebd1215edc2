// SPDX-License-Identifier: Apache-2.0
// The disk row: 4 KiB random writes with O_DIRECT through World.disk, against fio's io_uring engine
// on the same file. Ours runs in a process of its own (disk-load.ts), as fio does.

import { runFio } from "./lib/fio.js";
import { runLoad } from "./lib/process.js";
import type { Row, RowContext } from "./lib/row.js";
import type { Line, Round } from "./lib/stats.js";
import { alternate } from "./lib/stats.js";

const FILE_MIB = 4096;
const LOAD = new URL("./disk-load.js", import.meta.url).pathname;

export const diskRow: Row = {
  name: "disk",
  target: "4 KiB random write QD 32, O_DIRECT: ≥ 0.95 × fio's io_uring engine on the same file",
  async run(context: RowContext): Promise<Line[]> {
    const file = `${context.folder}/disk.bin`;
    context.say(`writing ${FILE_MIB} MiB once`);
    await runFio({
      filename: file,
      size: `${FILE_MIB}M`,
      rw: "write",
      bs: "1M",
      iodepth: 8,
      ioengine: "io_uring",
      direct: 1,
      end_fsync: 1,
    });
    const lines: Line[] = [];
    // Many short rounds: a busy neighbour then hits both sides.
    const count = context.rounds * 2;
    const seconds = context.seconds / 2;
    for (const depth of [32, 1]) {
      context.say(`${count} rounds at depth ${depth}`);
      const rounds = await alternate(
        count,
        () => ours(file, depth, seconds),
        () => fio(file, depth, seconds),
      );
      lines.push({
        label: `4 KiB random write, O_DIRECT, QD ${depth}`,
        unit: "IOPS",
        better: "higher",
        peer: "fio io_uring",
        target: depth === 32 ? 0.95 : null,
        ...rounds,
      });
    }
    return lines;
  },
};

async function ours(file: string, depth: number, seconds: number): Promise<Round> {
  return await runLoad(LOAD, [file, depth, seconds], { timeoutMs: (seconds + 60) * 1000 });
}

async function fio(file: string, depth: number, seconds: number): Promise<Round> {
  const result = await runFio({
    filename: file,
    size: `${FILE_MIB}M`,
    rw: "randwrite",
    bs: "4k",
    iodepth: depth,
    ioengine: "io_uring",
    direct: 1,
    norandommap: true,
    runtime: seconds,
    time_based: true,
    ramp_time: 1,
  });
  return { value: result.iops, cpuSeconds: result.cpuSeconds };
}
