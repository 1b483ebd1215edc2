// SPDX-License-Identifier: Apache-2.0
// Policy, placement, layout and keys: the backend's arithmetic.
import t from "tap";
import {
  dataKey,
  keyRange,
  markEnd,
  markKey,
  markPrefix,
  parseKey,
  parseMark,
  recoveryKey,
  writeDataKey,
} from "../../src/backend/keys.js";
import {
  crcIndex,
  dataPieces,
  fragmentAt,
  fragmentBytes,
  layoutFor,
  offsetInFragment,
  UNIT_BYTES_MAX,
} from "../../src/backend/layout.js";
import { checkNamespace, checkObjectName, osdIdOf, osdPath } from "../../src/backend/paths.js";
import {
  type Candidate,
  choosePlaces,
  countPerDomain,
  domainOf,
  violates,
} from "../../src/backend/placement.js";
import {
  choosePolicy,
  fragmentsPossible,
  invalidPolicy,
  invalidPreset,
  parsePolicy,
} from "../../src/backend/policy.js";
import { StorageError } from "../../src/base/errors.js";
import { KIB, MIB } from "../../src/base/units.js";
import { FailureDomain } from "../../src/wire/generated/manifest.js";

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);

function randomOf(start: number) {
  let state = start >>> 0;
  return {
    below(limit: number): number {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * limit);
    },
    bytes: (count: number) => new Uint8Array(count),
  };
}

t.test("a policy says in words what is wrong with it", async (t) => {
  t.same(parsePolicy("4,2,5,6"), { k: 4, m: 2, c: 5, x: 6 });
  t.same(parsePolicy("1,0,1,1"), { k: 1, m: 0, c: 1, x: 1 });
  const wrong: Array<[string, RegExp]> = [
    ["4,2,5", /not k,m,c,x/],
    ["4,2,5,x", /not k,m,c,x/],
    ["4,2,5,6,7", /not k,m,c,x/],
    ["-4,2,5,6", /not k,m,c,x/],
    ["0,2,2,2", /k ≥ 1/],
    ["30,3,31,1", /k \+ m ≤ 32/],
    ["4,2,3,6", /c ≥ k/],
    ["4,2,7,6", /c ≤ k \+ m/],
    ["4,2,5,0", /x ≥ 1/],
    ["4,2,5,300", /0 to 255/],
  ];
  for (const [text, reason] of wrong) t.throws(() => parsePolicy(text), reason, text);
  t.match(invalidPolicy({ k: 1.5, m: 1, c: 2, x: 1 }), /0 to 255/);
  t.equal(
    invalidPreset([
      { k: 4, m: 2, c: 5, x: 3 },
      { k: 2, m: 2, c: 3, x: 4 },
    ]),
    null,
  );
  t.match(invalidPreset([]), /needs a policy/);
  t.match(invalidPreset([{ k: 4, m: 2, c: 9, x: 3 }]), /4,2,9,3 needs c ≤ k \+ m/);
});

t.test("the first policy that the domains satisfy is chosen", async (t) => {
  const policies = [parsePolicy("5,4,8,3"), parsePolicy("2,2,3,4")];
  t.equal(fragmentsPossible(policies[0]!, [3, 3, 3]), 9);
  t.equal(fragmentsPossible(policies[0]!, [30, 1, 1]), 5);
  t.same(choosePolicy(policies, [3, 3, 3]), { policy: policies[0], rank: 0, fragments: 9 });
  t.same(choosePolicy(policies, [3, 3, 2]), { policy: policies[0], rank: 0, fragments: 8 });
  t.same(choosePolicy(policies, [3, 3, 1]), { policy: policies[1], rank: 1, fragments: 4 });
  t.same(choosePolicy(policies, [3]), { policy: policies[1], rank: 1, fragments: 3 });
  t.equal(choosePolicy(policies, [2]), null);
  t.equal(choosePolicy(policies, []), null);
});

function cluster(
  nodes: number,
  disks: number,
  free: (node: number, disk: number) => number,
): Candidate[] {
  const all: Candidate[] = [];
  for (let n = 0; n < nodes; n++) {
    for (let d = 0; d < disks; d++) {
      const id = all.length + 1;
      all.push({
        id,
        site: `s${n % 2}`,
        rack: "r0",
        node: `n${n}`,
        freeBytes: free(n, d),
        load: 0,
      });
    }
  }
  return all;
}

t.test(`placement keeps the rules and spreads evenly (SEED=${seed})`, async (t) => {
  const random = randomOf(seed);
  for (let round = 0; round < 300; round++) {
    const all = cluster(1 + random.below(6), 1 + random.below(8), () => 1 + random.below(1000));
    const domain = ([1, 2, 3, 4] as const)[random.below(4)]!;
    const rules = { x: 1 + random.below(4), domain };
    const wanted = 1 + random.below(12);
    const chosen = choosePlaces(all, wanted, rules, [], random);
    const possible = fragmentsPossible(
      { k: wanted, m: 0, c: wanted, x: rules.x },
      countPerDomain(all, domain),
    );
    if (chosen.length !== possible) t.fail(`${chosen.length} of ${possible} possible places`);
    if (violates(chosen, rules)) t.fail("the rules are broken");
    if (domain !== FailureDomain.node) continue;
    const counts = countPerDomain(chosen, FailureDomain.site);
    const sites = new Set(all.map((place) => place.site)).size;
    const roomy = all.every(
      (place) => all.filter((other) => other.site === place.site).length >= wanted,
    );
    if (
      roomy &&
      rules.x >= wanted &&
      counts.length === sites &&
      Math.max(...counts) - Math.min(...counts) > 1
    ) {
      t.fail(`sites are uneven: ${counts}`);
    }
  }
});

t.test("further fragments respect those that exist", async (t) => {
  const all = cluster(3, 2, () => 100);
  const rules = { x: 2, domain: FailureDomain.node };
  const taken = all.filter((place) => place.node !== "n2");
  const chosen = choosePlaces(all, 6, rules, taken, randomOf(1));
  t.same(
    chosen.map((place) => place.node),
    ["n2", "n2"],
  );
  t.equal(
    choosePlaces(all, 1, { ...rules, x: 1 }, taken.slice(0, 1), randomOf(1))[0]!.node,
    "n1",
    "the other site",
  );
  t.equal(violates([all[0]!, all[0]!], rules), true);
  t.equal(violates(all, { x: 1, domain: FailureDomain.node }), true);
  t.equal(violates(all, rules), false);
  t.not(domainOf({ ...all[0]!, site: "a" }, 3), domainOf({ ...all[0]!, site: "b" }, 3));
});

t.test("free room and idleness make an OSD likelier; a seed fixes the choice", async (t) => {
  const all = cluster(1, 3, (_, disk) => [100, 300, 0][disk]!);
  const counts = [0, 0, 0];
  const random = randomOf(7);
  for (let i = 0; i < 4000; i++)
    counts[choosePlaces(all, 1, { x: 3, domain: 1 }, [], random)[0]!.id - 1]!++;
  t.ok(counts[1]! / counts[0]! > 2.5 && counts[1]! / counts[0]! < 3.5, `${counts}`);
  const busy = all.map((place) => ({ ...place, freeBytes: 100, load: place.id === 1 ? 9 : 0 }));
  const first = choosePlaces(busy, 3, { x: 3, domain: 1 }, [], randomOf(3)).map(
    (place) => place.id,
  );
  t.same(
    choosePlaces(busy, 3, { x: 3, domain: 1 }, [], randomOf(3)).map((place) => place.id),
    first,
  );
});

t.test("every byte of an object has its place in a fragment", async (t) => {
  t.same(layoutFor(1, 4, 2), { k: 4, m: 2, unitBytes: 4096, stripes: 1 });
  t.same(layoutFor(16384, 4, 2), { k: 4, m: 2, unitBytes: 4096, stripes: 1 });
  t.same(layoutFor(16385, 4, 2), { k: 4, m: 2, unitBytes: 8192, stripes: 1 });
  t.same(layoutFor(16 * MIB, 4, 2), { k: 4, m: 2, unitBytes: 64 * KIB, stripes: 64 });
  t.same(layoutFor(64 * MIB, 8, 3), { k: 8, m: 3, unitBytes: 64 * KIB, stripes: 128 });
  const random = randomOf(seed);
  for (let round = 0; round < 200; round++) {
    const k = 1 + random.below(8);
    const bytes = 1 + random.below(3 * MIB);
    const layout = layoutFor(bytes, k, 2);
    const whole = fragmentBytes(layout) * k;
    const waste = whole - Math.ceil(bytes / 4096) * 4096;
    const allowed = layout.stripes === 1 ? k * 4096 : Math.max(k * 4096, bytes * 0.13);
    if (waste < 0 || waste >= allowed) t.fail(`${bytes} bytes on ${k} fragments waste ${waste}`);
    const offset = random.below(bytes);
    const fragment = fragmentAt(layout, offset);
    const pieces = dataPieces(layout, fragment, 4096, Math.ceil(bytes / 4096) * 4096, 2 ** 31);
    let left = offsetInFragment(layout, offset);
    let sum = 0;
    let found = 0;
    for (let i = 0; i < pieces.count; i++) {
      const [at, length] = [pieces.list[2 * i]!, pieces.list[2 * i + 1]!];
      if (left >= 0 && left < length) found = at + left;
      left -= length;
      sum += length;
    }
    if (found !== 4096 + offset) t.fail(`byte ${offset} is at ${found}`);
    if (sum !== fragmentBytes(layout)) t.fail(`the pieces are ${sum} bytes`);
    const page = Math.floor(offset / 4096);
    const index =
      fragment * (fragmentBytes(layout) / 4096) +
      Math.floor(offsetInFragment(layout, offset) / 4096);
    if (crcIndex(layout, page) !== index) t.fail("the page's checksum is elsewhere");
    if (layout.unitBytes > UNIT_BYTES_MAX) t.fail("a unit is too large");
  }
});

t.test("keys on an OSD are ordered and read back", async (t) => {
  const objectId = new Uint8Array(16).map((_, i) => 255 - i);
  const name = { objectId, chunk: 513, fragment: 31, version: 0xfffffffe };
  t.same(parseKey(dataKey(name)), name);
  t.same(parseKey(recoveryKey(name)), name);
  t.equal(parseKey(dataKey(name).subarray(1)), null);
  t.equal(parseKey(Uint8Array.of(1, ...dataKey(name).subarray(1))), null);
  const target = new Uint8Array(40);
  t.equal(writeDataKey(target, 5, objectId, 31, 7), 5 + 24);
  t.same(parseKey(target.slice(5, 29)), { objectId, chunk: 0, fragment: 31, version: 7 });
  const namespaceId = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
  const epoch = 2 ** 40 + 3;
  const mark = markKey(namespaceId, epoch, name);
  t.same(parseMark(mark), { namespaceId, epoch, name });
  t.equal(parseMark(dataKey(name)), null);
  t.ok(Buffer.compare(mark, markEnd(namespaceId, epoch + 1)) < 0);
  t.ok(Buffer.compare(mark, markEnd(namespaceId, epoch)) >= 0);
  t.ok(Buffer.compare(mark, markPrefix(namespaceId)) > 0);
  const range = keyRange("mark");
  t.ok(Buffer.compare(mark, range.first) > 0 && Buffer.compare(mark, range.end) < 0);
});

t.test("names that do not fit the registry are refused", async (t) => {
  for (const name of ["sco/1", "tlog/00000000000001", "checkpoint/4/a.b_c-d"])
    checkObjectName(name);
  for (const name of ["", "/x", "Sco", "sco 1", "x".repeat(129), "sco/ü"]) {
    t.throws(() => checkObjectName(name), StorageError, name);
  }
  checkNamespace("vdisk-1");
  for (const name of ["", "a/b", "A", "x".repeat(64)])
    t.throws(() => checkNamespace(name), StorageError, name);
  t.equal(osdIdOf(osdPath(255)), 255);
  t.equal(osdIdOf("/osd/next"), 0);
});
