// SPDX-License-Identifier: Apache-2.0
// Random life of a vDisk against a model of its bytes: writes of all alignments, zeroes, trims,
// flushes, destage, restarts, crashes in the middle of requests, power losses.

import t from "tap";
import { KIB, MIB } from "../../src/base/units.js";
import { RequestFlag } from "../../src/nbd/target.js";
import { findRecords, wipeRecord } from "./damage.js";
import { Host, Seeded } from "./fixture.js";

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
const ROUNDS = Number(process.env.ROUNDS ?? 40);
t.setTimeout(280_000);
const SPAN = 3 * MIB;

interface Change {
  offset: number;
  bytes: Uint8Array;
  acked: boolean;
}

/** What the bytes may be: one value once settled, several after a crash until they are read. */
class Model {
  readonly bytes = new Uint8Array(SPAN);
  round: Change[] = [];

  /** The first byte that is none of the values that it may have; then the content is the truth. */
  settle(content: Uint8Array, unackedMayHaveHappened: boolean): number {
    let bad = -1;
    if (Buffer.compare(content, this.bytes) !== 0 || this.round.length > 0) {
      for (let i = 0; i < SPAN && bad < 0; i++) {
        if (!this.#allowed(i, content[i]!, unackedMayHaveHappened)) bad = i;
      }
    }
    this.bytes.set(content);
    this.round = [];
    return bad;
  }

  #allowed(at: number, value: number, withUnacked: boolean): boolean {
    let isSurelyChanged = false;
    for (const change of this.round) {
      if (at < change.offset || at >= change.offset + change.bytes.byteLength) continue;
      if (!change.acked && !withUnacked) continue;
      if (change.bytes[at - change.offset] === value) return true;
      if (change.acked) isSurelyChanged = true;
    }
    return !isSurelyChanged && this.bytes[at] === value;
  }
}

interface Checked {
  fail(message: string): unknown;
}

class Life {
  readonly host: Host;
  readonly random: Seeded;
  readonly model = new Model();
  stamp = 0;

  constructor(host: Host, random: Seeded) {
    this.host = host;
    this.random = random;
  }

  /**
   * A few requests at once, which may overlap; `crash` ends the process before they are answered.
   */
  async round(crash: boolean): Promise<void> {
    const waiting: Array<Promise<void>> = [];
    for (let n = 1 + this.random.below(12); n > 0; n--) waiting.push(this.#request());
    if (crash) {
      for (let turns = this.random.below(6); turns > 0; turns--) await turn();
      await this.host.crash();
    }
    await Promise.allSettled(waiting);
  }

  async #request(): Promise<void> {
    const { random, host } = this;
    const kind = random.below(20);
    if (kind === 0) return await swallow(host.client.flush());
    const isAligned = random.below(2) === 0;
    const unit = isAligned ? 4096 : random.below(3) === 0 ? 512 : 1;
    const lengthMax = random.below(4) === 0 ? 400 * KIB : 20 * KIB;
    const length = Math.ceil((1 + random.below(lengthMax)) / unit) * unit;
    const offset = Math.floor(random.below(SPAN - length) / unit) * unit;
    const fua = random.below(8) === 0 ? RequestFlag.Fua : 0;
    if (kind < 4) {
      const change = { offset, bytes: new Uint8Array(length), acked: false };
      this.model.round.push(change);
      const isTrim = random.below(2) === 0;
      const done = isTrim
        ? host.client.trim(offset, length, fua)
        : host.client.zero(offset, length, fua);
      return await this.#answer(done, change);
    }
    if (kind < 7) return await swallow(host.client.read(offset, length));
    const bytes = new Uint8Array(length);
    const stamp = ++this.stamp;
    for (let i = 0; i < length; i++) bytes[i] = (stamp * 31 + i * 7 + (i >> 8)) & 0xff;
    const change = { offset, bytes, acked: false };
    this.model.round.push(change);
    await this.#answer(host.client.write(offset, bytes, fua), change);
  }

  async #answer(done: Promise<void>, change: Change): Promise<void> {
    const acknowledged = done.then(() => {
      change.acked = true;
    });
    await swallow(acknowledged);
  }

  #trace(content: Uint8Array, afterCrash: boolean): void {
    const copy = new Model();
    copy.bytes.set(this.model.bytes);
    copy.round = this.model.round;
    const changes = this.model.round;
    const bad = copy.settle(content, afterCrash);
    if (bad < 0) return;
    console.error(
      "BAD",
      bad,
      "is",
      content[bad],
      "was",
      this.model.bytes[bad],
      "epoch",
      this.host.epoch,
    );
    for (const { offset, bytes, acked } of changes) {
      if (Math.floor(offset / 4096) > bad >> 12 || offset + bytes.byteLength <= bad - 4096)
        continue;
      console.error("  change", offset, offset + bytes.byteLength, acked, bytes[bad - offset]);
    }
    let end = bad;
    while (content[end] !== this.model.bytes[end] && end < bad + 100000) end++;
    console.error("  to", end);
  }

  async check(t: Checked, what: string, afterCrash: boolean): Promise<void> {
    const content = await this.host.client.read(0, SPAN);
    if (process.env.TRACE) this.#trace(content, afterCrash);
    const bad = this.model.settle(content, afterCrash);
    if (bad >= 0) t.fail(`${what}: byte ${bad} (cluster ${bad >> 12}) is wrong (SEED=${seed})`);
  }
}

async function swallow(done: Promise<unknown>): Promise<void> {
  await done.then(
    () => undefined,
    () => undefined,
  );
}

async function turn(): Promise<void> {
  await new Promise<void>((resolve) => void setImmediate(resolve));
}

t.test(`a vDisk keeps what it acknowledged through a random life (seed ${seed})`, async (t) => {
  const random = new Seeded(seed);
  const host = new Host({
    config: { journalBytes: 8 * MIB, scoBytes: 256 * KIB, segmentBytes: MIB, batchBytes: MIB },
  });
  t.teardown(() => host.destroy());
  await host.start();
  const life = new Life(host, random);
  for (let round = 0; round < ROUNDS; round++) {
    const dice = random.below(100);
    if (process.env.TRACE) console.error(round, dice, host.volume.status().waiting);
    if (dice < 60) await life.round(false);
    else if (dice < 68) host.volume.closeBatch();
    else if (dice < 74) await host.volume.sync(20_000);
    else if (dice < 78) host.thread.dropCaches();
    else if (dice < 82) {
      await host.stop();
      await host.start();
    } else if (dice < 92) {
      await life.round(true);
      await host.start();
      await life.check(t, `round ${round}, after a crash`, true);
    }
    if (dice < 60) await life.check(t, `round ${round}`, false);
  }
  await host.volume.sync(20_000);
  host.thread.dropCaches();
  await life.check(t, "at the end", false);
  t.ok(life.stamp > 0, `${life.stamp} writes`);
  await host.stop();
});

t.test(
  `a power loss leaves the state after some write since the flush (seed ${seed})`,
  async (t) => {
    const random = new Seeded(seed + 1);
    const host = new Host({ config: { journalBytes: 8 * MIB, segmentBytes: MIB } });
    t.teardown(() => host.destroy());
    const PLACES = 40;
    let content = new Uint32Array(PLACES);
    await host.start();
    for (let life = 0; life < 12; life++) {
      // Writes one after the other; states[i] is the content after i of them.
      const states = [content.slice()];
      let flushed = 0;
      for (let i = 1; i <= 30 + random.below(60); i++) {
        const place = random.below(PLACES);
        const bytes = new Uint8Array(4096);
        const stamp = (life << 16) + i;
        new DataView(bytes.buffer).setUint32(0, stamp, true);
        await host.client.write(place * 4096, bytes);
        content[place] = stamp;
        states.push(content.slice());
        if (random.below(10) === 0) {
          await host.client.flush();
          flushed = i;
        }
        if (random.below(40) === 0) await host.volume.sync(20_000);
      }
      const synced = Math.max(host.volume.writer.flushed, host.volume.map.mark.sequence);
      await host.crash();
      // Any of what was not flushed may be gone, in any order.
      for (const record of findRecords(host.journalFolder)) {
        if (record.epoch === host.epoch && record.sequence > synced && random.below(3) === 0) {
          wipeRecord(record, random.below(2));
        }
      }
      host.rebooted = true;
      await host.start();
      const bytes = await host.client.read(0, PLACES * 4096);
      const view = new DataView(bytes.buffer);
      content = Uint32Array.from({ length: PLACES }, (_, i) => view.getUint32(i * 4096, true));
      const state = states.findLastIndex((one) => one.every((value, i) => value === content[i]));
      t.ok(
        state >= flushed,
        `life ${life}: state ${state} of ${states.length - 1}, flushed ${flushed}`,
      );
    }
    await host.stop();
  },
);
