// SPDX-License-Identifier: Apache-2.0
// A router and its vDisks: what halts is given up and served again, what cannot be opened waits
// and says why, sizes and deletions outlive a crash between their steps.

import { readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { infoPath } from "../../src/backend/paths.js";
import { parseUuid } from "../../src/base/bytes.js";
import { MIB } from "../../src/base/units.js";
import { createWorld } from "../../src/platform/node/world.js";
import { claimVdisk, nameKey, ownerKey, readVdisk, recordKey } from "../../src/router/records.js";
import { treeRange } from "../../src/volume/page.js";
import {
  decodeVdiskOwner,
  OwnerState,
  packVdiskOwner,
  packVdiskRecord,
} from "../../src/wire/generated/vdisk.js";
import { NbdClient } from "../integration/nbdclient.js";
import { findRecords, flipBit } from "../volume/damage.js";
import { RouterRig, until } from "./rig.js";

t.setTimeout(300_000);

const SIZE = 64 * MIB;

t.test("a halted vDisk is shown, cannot be used, and is served again by itself", async (t) => {
  const rig = await RouterRig.start();
  t.teardown(() => rig.stop());
  const { epoch } = await rig.client.create("vd0", SIZE);
  const client = await NbdClient.open(rig.nbd, "vd0");
  await client.write(0, Buffer.alloc(MIB, 0x11), true);

  // One write of the journal fails (P-A2): the vDisk is given up, whatever comes after.
  rig.disk.judge = (kind) => (kind === "writeGather" ? "fail" : "pass");
  await t.rejects(client.write(MIB, Buffer.alloc(4096, 0x22)), "the client is told");
  rig.disk.judge = (kind) => (kind === "read" ? "pass" : "fail");
  await until("it is shown", async () => {
    const info = await rig.client.info("vd0");
    return info.state !== "serving" && /journal/.test(info.reason);
  });
  await until("its connections have ended", () => client.closed);
  await t.rejects(NbdClient.open(rig.nbd, "vd0"), "it is not exported");
  await t.rejects(rig.client.sync("vd0", 1000), /vd0 is not served \(.*journal/, "nor synced");

  rig.disk.judge = null;
  await until("it serves again", async () => (await rig.client.info("vd0")).state === "serving");
  t.ok((await rig.client.info("vd0")).epoch > epoch, "under a new epoch (P-A4)");
  const again = await NbdClient.open(rig.nbd, "vd0");
  t.ok((await again.read(0, MIB)).equals(Buffer.alloc(MIB, 0x11)), "with all that was written");
  await again.write(MIB, Buffer.alloc(4096, 0x33), true);
  await again.close();
  t.same(await rig.client.sync("vd0", 30_000), { full: true, spareMin: 0 });
  t.equal(rig.died, null, "the router lived on");
});

t.test("a journal that is damaged or gone is waited for, told, counted", async (t) => {
  const rig = await RouterRig.start();
  t.teardown(() => rig.stop());
  const { id } = await rig.client.create("vd0", SIZE);
  const client = await NbdClient.open(rig.nbd, "vd0");
  for (let i = 0; i < 16; i++) await client.write(i * 4096, Buffer.alloc(4096, i + 1), true);
  await client.close();
  await rig.stopRouter();
  const journal = join(rig.folder, "router", "shard-0", "journal", id);
  renameSync(journal, `${journal}.away`);

  await rig.startRouter();
  const lost = await rig.client.info("vd0");
  t.equal(lost.state, "waiting");
  t.match(lost.reason, /the journal of vd0 is gone .*accept-loss/, lost.reason);
  t.equal((await rig.client.list()).length, 1, "it is in the list");
  await t.rejects(rig.client.resize("vd0", 2 * SIZE), /vd0 is not served \(waiting: the journal/);
  await t.rejects(rig.client.recover("vd0", false), /the journal of vd0 is gone/);
  // An attempt may have begun a folder of its own.
  rmSync(journal, { recursive: true, force: true });
  renameSync(`${journal}.away`, journal);
  t.equal((await rig.client.recover("vd0", false)).state, "serving", "an operator opens it again");
  await rig.stopRouter();

  const victim = findRecords(journal)[3]!;
  flipBit(victim.path, (victim.block + 1) * 4096 + 77, 3);
  await rig.startRouter();
  const damaged = await rig.client.info("vd0");
  t.equal(damaged.state, "waiting");
  t.match(damaged.reason, /record \d+ of the journal of vd0 is damaged/, damaged.reason);
  t.equal(damaged.corruptions, 1, "the damage is counted");
  await t.rejects(rig.client.recover("vd0", false), /is damaged/);
  t.equal((await rig.client.info("vd0")).corruptions, 1, "once");
  t.equal((await rig.client.recover("vd0", true)).state, "serving", "the loss is accepted");
  t.equal((await rig.client.info("vd0")).corruptions, 1, "and stays counted");
});

t.test("a new size that only the journal knows is the size at the next start", async (t) => {
  const rig = await RouterRig.start();
  t.teardown(() => rig.stop());
  const { id } = await rig.client.create("vd0", SIZE);
  const before = await readVdisk(rig.registry, id);
  t.equal((await rig.client.resize("vd0", 2 * SIZE)).sizeBytes, 2 * SIZE);
  await t.rejects(rig.client.resize("vd0", SIZE), /can only grow/);
  await rig.stopRouter();
  // As a crash between the two leaves it.
  await rig.registry.transact({
    compares: [],
    success: [{ kind: "put", key: recordKey(id), value: packVdiskRecord(before.record) }],
    failure: [],
  });
  await rig.startRouter();
  t.equal((await rig.client.info("vd0")).sizeBytes, 2 * SIZE);
  const client = await NbdClient.open(rig.nbd, "vd0");
  t.equal(client.sizeBytes, 2 * SIZE, "clients see it");
  await client.write(2 * SIZE - 4096, Buffer.alloc(4096, 1), true);
  await client.close();
  const after = await readVdisk(rig.registry, id);
  t.equal(after.record.sizeBytes, 2 * SIZE, "and the registry");
});

t.test("a deletion leaves nothing, and one that was cut short is ended", async (t) => {
  const rig = await RouterRig.start();
  t.teardown(() => rig.stop());
  const names = ["vd0", "vd1", "keep"];
  const ids: string[] = [];
  for (const name of names) {
    ids.push((await rig.client.create(name, SIZE)).id);
    const client = await NbdClient.open(rig.nbd, name);
    await client.write(0, Buffer.alloc(MIB, 0x44), true);
    await client.close();
    await rig.client.sync(name, 30_000);
  }
  await rig.client.remove("vd0");
  await t.rejects(rig.client.info("vd0"), /no vDisk vd0/);
  await rig.stopRouter();

  // As a router leaves it that dies after the first step of a deletion, when the backend is quick.
  const incarnation = new Uint8Array(16).fill(1);
  const claimed = await claimVdisk(rig.registry, ids[1]!, {
    router: "router",
    incarnation,
    purpose: "delete",
  });
  t.ok(claimed, "it can be claimed for its deletion");
  await rig.registry.transact({
    compares: [],
    success: [{ kind: "deletePrefix", prefix: infoPath(ids[1]!) }],
    failure: [],
  });
  await rig.startRouter();
  const left = (await rig.client.list()).map((vdisk) => vdisk.name);
  t.same(left, ["keep"], "it is not served, empty, under its old name");
  await t.rejects(NbdClient.open(rig.nbd, "vd1"));
  await rig.stopRouter();

  for (const key of [nameKey("vd1"), recordKey(ids[1]!), ownerKey(ids[1]!)]) {
    t.equal(await rig.registry.get(key), null, `${key} is gone`);
  }
  const shard = join(rig.folder, "router", "shard-0");
  t.same(readdirSync(join(shard, "journal")), [ids[2]], "journals are gone");
  const world = createWorld({ name: "look", arenaBytes: MIB, terminal: null });
  const kv = await world.kv.open(join(shard, "map"), {
    cacheBytes: MIB,
    writeBufferBytes: MIB,
    create: false,
  });
  for (const [i, id] of ids.entries()) {
    let keys = 0;
    for (const kind of ["page", "sco", "mark"] as const) {
      const { first, end } = treeRange(kind, parseUuid(id));
      keys += (await kv.range({ first, end, reverse: false, limit: 10 })).length;
    }
    t.equal(keys > 0, i === 2, `keys of the map of ${names[i]}: ${keys}`);
  }
  await kv.close();
  await world.stop();

  await rig.startRouter();
  t.equal((await rig.client.create("vd1", SIZE)).state, "serving", "the name is free");
  t.same((await rig.client.info("keep")).state, "serving");
});

t.test("an opening that fails at its last step leaves nothing open", async (t) => {
  const rig = await RouterRig.start();
  t.teardown(() => rig.stop());
  const { id } = await rig.client.create("vd0", SIZE);
  await rig.stopRouter();
  // Another life claims the vDisk whenever this one is about to record that it serves.
  let rivals = 0;
  const { revision } = await rig.registry.range(ownerKey(id), { limit: 1 });
  const watch = await rig.registry.watch(ownerKey(id), revision + 1, {
    onEvents: (events) => {
      for (const { entry } of events) if (rivals < 2) void rival(entry.value);
    },
    onEnd: () => undefined,
  });
  const rival = async (value: Uint8Array) => {
    const owner = decodeVdiskOwner(value);
    if (owner.state !== OwnerState.recovering || owner.router === "rival") return;
    rivals++;
    const next = { ...owner, router: "rival", epoch: owner.epoch + 1 };
    await rig.registry.transact({
      compares: [],
      success: [{ kind: "put", key: ownerKey(id), value: packVdiskOwner(next) }],
      failure: [],
    });
  };
  await rig.startRouter();
  await until("it serves in the end", async () => {
    const info = await rig.client.info("vd0");
    if (info.state === "waiting") await rig.client.recover("vd0", false).catch(() => undefined);
    return info.state === "serving";
  });
  t.equal(rivals, 2, "it was refused twice");
  watch.cancel();
  const client = await NbdClient.open(rig.nbd, "vd0");
  await client.write(0, Buffer.alloc(4096, 1), true);
  await client.close();
  // A volume that stays open would keep the thread from closing.
  await rig.stopRouter();
});
