// SPDX-License-Identifier: Apache-2.0
// The records of vDisks under a registry whose answers get lost: before a transaction was carried
// out, or after it (P-B1). Whatever is answered, names stay unique and nothing of another is hurt.

import t from "tap";
import { equalBytes } from "../../src/base/bytes.js";
import { StorageError } from "../../src/base/errors.js";
import { MIB } from "../../src/base/units.js";
import type { Registry, Transaction, TransactionResult } from "../../src/registry/registry.js";
import { OwnerGate } from "../../src/router/gate.js";
import {
  claimVdisk,
  createVdisk,
  deleteVdisk,
  growRecord,
  listVdisks,
  nameKey,
  ownerKey,
  readOwner,
  readVdisk,
  recordKey,
} from "../../src/router/records.js";
import { OwnerContent, OwnerState } from "../../src/wire/generated/vdisk.js";
import { openTestRegistry } from "../backend/cluster.js";

t.setTimeout(60_000);

const { world, registry, stop } = await openTestRegistry(16 * MIB);
t.teardown(stop);

type Fate = "pass" | "lost before" | "lost after";

/** The registry, with a fate for each of the next transactions. */
function flaky(...fates: Fate[]): Registry {
  const transact = async (transaction: Transaction): Promise<TransactionResult> => {
    const fate = fates.shift() ?? "pass";
    if (fate === "lost before") throw new StorageError("OVS_TIMEOUT", "no answer");
    const result = await registry.transact(transaction);
    if (fate === "lost after") throw new StorageError("OVS_TIMEOUT", "no answer");
    return result;
  };
  return {
    get: (key) => registry.get(key),
    range: (prefix, options) => registry.range(prefix, options),
    transact,
    watch: (prefix, from, handler) => registry.watch(prefix, from, handler),
    leaseGrant: (ttl) => registry.leaseGrant(ttl),
    leaseKeepAlive: (lease) => registry.leaseKeepAlive(lease),
    leaseRevoke: (lease) => registry.leaseRevoke(lease),
    close: () => Promise.resolve(),
  };
}

const FATES: Fate[][] = [
  ["pass"],
  ["lost before"],
  ["lost after"],
  ["lost before", "lost after"],
  ["lost after", "lost before", "lost after"],
];
const INCARNATION = new Uint8Array(16).fill(3);
const SERVE = { router: "r0", incarnation: INCARNATION, purpose: "serve" } as const;
const DELETE = { ...SERVE, purpose: "delete" } as const;
let names = 0;

function options(name: string) {
  return { name, sizeBytes: MIB, scoBytes: MIB, createdMs: 1 };
}

t.test("a vDisk is created once, whatever answers are lost", async (t) => {
  for (const fates of FATES) {
    const name = `create-${names++}`;
    const vdisk = await createVdisk(world, flaky(...fates), options(name));
    const found = (await listVdisks(registry)).filter((one) => one.record.name === name);
    t.equal(found.length, 1, fates.join(", "));
    t.same(found[0]?.entry, vdisk.entry, "and its entry is the registry's");
    t.ok(equalBytes((await registry.get(nameKey(name)))!.value, vdisk.record.vdisk));
    await t.rejects(createVdisk(world, flaky(...fates), options(name)), { code: "OVS_EXISTS" });
  }
});

t.test("a record grows to what was asked, or to more", async (t) => {
  for (const fates of FATES) {
    const vdisk = await createVdisk(world, registry, options(`grow-${names++}`));
    const grown = await growRecord(world, flaky(...fates), vdisk, 4 * MIB);
    t.equal(grown.record.sizeBytes, 4 * MIB, fates.join(", "));
    t.same(await readVdisk(registry, vdisk.id), grown);
    // With an old view, as after a crash: the newer size stands.
    const again = await growRecord(world, flaky(...fates), vdisk, 2 * MIB);
    t.equal(again.record.sizeBytes, 4 * MIB, "a size never shrinks");
    t.equal((await growRecord(world, registry, vdisk, 8 * MIB)).record.sizeBytes, 8 * MIB);
  }
});

t.test("a deletion takes the vDisk's own records and no others", async (t) => {
  for (const fates of FATES) {
    const name = `delete-${names++}`;
    const vdisk = await createVdisk(world, registry, options(name));
    const claimed = (await claimVdisk(registry, vdisk.id, DELETE))!;
    const some = flaky(...fates);
    const attempt = () => deleteVdisk(some, vdisk, claimed.claim);
    for (const fate of fates) if (fate !== "pass") await t.rejects(attempt(), /no answer/);
    await attempt();
    for (const key of [nameKey(name), recordKey(vdisk.id), ownerKey(vdisk.id)]) {
      t.equal(await registry.get(key), null, fates.join(", "));
    }
    await t.rejects(claimVdisk(registry, vdisk.id, SERVE), { code: "OVS_CONFLICT" });
    t.equal(await registry.get(ownerKey(vdisk.id)), null, "what is gone has no owner");
    // One that comes late meets a new vDisk of that name.
    const next = await createVdisk(world, registry, options(name));
    await deleteVdisk(registry, vdisk, claimed.claim);
    t.same(await readVdisk(registry, next.id), next, "the next of that name is not touched");
    t.ok(await registry.get(nameKey(name)));
  }
});

t.test("one that is being deleted is claimed for nothing else", async (t) => {
  const vdisk = await createVdisk(world, registry, options(`claim-${names++}`));
  const first = (await claimVdisk(registry, vdisk.id, SERVE))!;
  t.equal(first.before, null, "nobody ever served it");
  t.equal(first.claim.value.epoch, 1);
  const second = (await claimVdisk(registry, vdisk.id, SERVE))!;
  t.equal(second.claim.value.epoch, 2, "each claim has an epoch of its own (P-A4)");
  const last = (await claimVdisk(registry, vdisk.id, DELETE))!;
  t.equal(await claimVdisk(registry, vdisk.id, SERVE), null, "it is never served again");
  await t.rejects(deleteVdisk(registry, vdisk, { ...last.claim, revision: 1 }), {
    code: "OVS_FENCED",
  });
  const gate = new OwnerGate(world, registry, vdisk.id, second.claim);
  await t.rejects(gate.makeDirty(), { code: "OVS_FENCED" }, "its last owner is fenced off");
});

t.test("the owner's record says dirty or clean as it was told last", async (t) => {
  for (const fates of FATES) {
    const vdisk = await createVdisk(world, registry, options(`gate-${names++}`));
    const { claim } = (await claimVdisk(registry, vdisk.id, SERVE))!;
    const gate = new OwnerGate(world, flaky(...fates, ...fates), vdisk.id, claim);
    t.equal(gate.dirty, false, "a new one is clean");
    await Promise.all([gate.serving(), gate.makeDirty()]);
    t.equal(gate.dirty, true, fates.join(", "));
    const dirty = (await readOwner(registry, vdisk.id))!.value;
    t.match(dirty, { state: OwnerState.serving, content: OwnerContent.dirty, epoch: 1 });
    await gate.makeClean();
    await gate.release();
    const clean = (await readOwner(registry, vdisk.id))!.value;
    t.match(clean, { state: OwnerState.released, content: OwnerContent.clean, epoch: 1 });
  }
});

t.test("a change that waits for the registry gives up when it is closed", async (t) => {
  const vdisk = await createVdisk(world, registry, options(`close-${names++}`));
  const { claim } = (await claimVdisk(registry, vdisk.id, SERVE))!;
  const never = flaky(...new Array<Fate>(1000).fill("lost before"));
  const gate = new OwnerGate(world, never, vdisk.id, claim);
  const change = gate.makeDirty();
  gate.close();
  await t.rejects(change, { code: "OVS_CLOSED" });
});
