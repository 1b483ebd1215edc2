// SPDX-License-Identifier: Apache-2.0
// Free pages, the cache of entries, and the rule that read pages are not used again.

import t from "tap";
import { Allocator, EXTENT_PAGES, type Runs } from "../../src/asd/allocator.js";
import { Entry, EntryCache } from "../../src/asd/cache.js";
import { Holds } from "../../src/asd/holds.js";

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);

function randomOf(start: number): (limit: number) => number {
  let state = start >>> 0;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

t.test("pages are given out lowest first and as one run", async (t) => {
  const allocator = new Allocator(1000);
  allocator.addFile(100);
  allocator.addFile(64);
  t.same(Array.from(allocator.take(40)!), [0, 0, 40]);
  t.same(Array.from(allocator.take(50)!), [0, 40, 50]);
  t.same(Array.from(allocator.take(11)!), [1, 0, 11], "the next file, since 10 are left here");
  t.same(Array.from(allocator.take(10)!), [0, 90, 10]);
  allocator.free(Uint32Array.of(0, 10, 20));
  t.same(Array.from(allocator.take(20)!), [0, 10, 20]);
  t.equal(allocator.take(54), null, "no file has such a run");
  t.equal(allocator.usedPages, 111);
});

t.test("a full disk gives scattered pages, or none and then keeps all", async (t) => {
  const allocator = new Allocator(64);
  allocator.addFile(64);
  const runs = Array.from({ length: 32 }, () => allocator.take(2)!);
  t.equal(allocator.take(1), null);
  for (let i = 0; i < 32; i += 2) allocator.free(runs[i]!);
  t.equal(allocator.take(3), null);
  t.equal(allocator.takeScattered(33), null);
  t.equal(allocator.usedPages, 32, "a failed take leaves nothing taken");
  const scattered = allocator.takeScattered(7)!;
  t.same(Array.from(scattered), [0, 0, 2, 0, 4, 2, 0, 8, 2, 0, 12, 1]);
  allocator.free(scattered);
  t.equal(allocator.usedPages, 32);
});

t.test("the limit counts, not only the files", async (t) => {
  const allocator = new Allocator(10);
  allocator.addFile(64);
  t.ok(allocator.take(10));
  t.equal(allocator.take(1), null);
  t.equal(allocator.takeScattered(1), null);
});

t.test("pages that two keys claim are never given out", async (t) => {
  const allocator = new Allocator(100);
  allocator.addFile(100);
  t.ok(allocator.claim(Uint32Array.of(0, 0, 10)));
  t.ok(allocator.claim(Uint32Array.of(0, 8, 4)));
  t.equal(allocator.disputedPages, 2);
  t.equal(allocator.usedPages, 12);
  allocator.free(Uint32Array.of(0, 0, 10));
  allocator.free(Uint32Array.of(0, 8, 4));
  t.equal(allocator.usedPages, 2);
  t.same(Array.from(allocator.take(9)!), [0, 10, 9]);
  for (const runs of [
    [1, 0, 1],
    [0, 99, 2],
    [0, 5, 0],
  ]) {
    t.notOk(allocator.claim(Uint32Array.from(runs)), `${runs} lie outside the files`);
    allocator.free(Uint32Array.from(runs));
  }
  t.equal(allocator.usedPages, 11);
});

t.test(`random takes and frees agree with a plain table (seed ${seed})`, async (t) => {
  const random = randomOf(seed);
  const sizes = [EXTENT_PAGES, 77, 1000, 31, 32];
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const allocator = new Allocator(total);
  for (const size of sizes) allocator.addFile(size);
  const table = sizes.map((size) => new Uint8Array(size));
  const held: Runs[] = [];
  let used = 0;
  const flip = (runs: Runs, value: number) => {
    for (let i = 0; i < runs.length; i += 3) {
      for (let page = runs[i + 1]!; page < runs[i + 1]! + runs[i + 2]!; page++) {
        if (table[runs[i]!]![page] === value) t.fail("a page is given out twice or freed twice");
        table[runs[i]!]![page] = value;
        used += value === 1 ? 1 : -1;
      }
    }
  };
  for (let round = 0; round < 3000; round++) {
    const pages = 1 + random(random(3) === 0 ? 3000 : 40);
    if (random(5) < 3) {
      const runs = allocator.take(pages) ?? allocator.takeScattered(pages);
      if (runs === null) {
        if (total - used >= pages && total - used > 5000) t.fail("there was room");
      } else {
        flip(runs, 1);
        held.push(runs);
      }
    } else if (held.length > 0) {
      const [runs] = held.splice(random(held.length), 1);
      flip(runs!, 0);
      allocator.free(runs!);
    }
    if (used !== allocator.usedPages) t.fail("used pages are counted");
  }
  const copy = new Allocator(total);
  for (const size of sizes) copy.addFile(size);
  for (const runs of held) t.ok(copy.claim(runs));
  t.equal(copy.disputedPages, 0);
  t.equal(copy.usedPages, used);
});

t.test("pages are free only after every read that could know them", async (t) => {
  const free: number[] = [];
  const holds = new Holds((runs) => free.push(runs[1]!));
  const pages = (n: number) => Uint32Array.of(0, n, 1);
  holds.retire(pages(1));
  t.same(free, [1], "nobody reads");
  const first = holds.enter();
  holds.retire(pages(2));
  const second = holds.enter();
  holds.retire(pages(3));
  t.same(free, [1]);
  holds.leave(first);
  t.same(free, [1, 2], "the second reader came after 2 had gone");
  const third = holds.enter();
  holds.leave(second);
  t.same(free, [1, 2, 3]);
  holds.retire(pages(4));
  holds.leave(third);
  t.same(free, [1, 2, 3, 4]);
  t.equal(holds.waiting, 0);
});

t.test(
  `no retired page is freed under a reader, and all are in the end (seed ${seed})`,
  async (t) => {
    const random = randomOf(seed);
    const readers: Array<{ generation: number; knows: Set<number> }> = [];
    const living = new Set<number>();
    const freed = new Set<number>();
    const holds = new Holds((runs) => {
      if (readers.some((reader) => reader.knows.has(runs[1]!)))
        t.fail("a read still knows the page");
      freed.add(runs[1]!);
    });
    let next = 0;
    for (let round = 0; round < 5000; round++) {
      const what = random(4);
      if (what === 0) living.add(++next);
      if (what === 1) readers.push({ generation: holds.enter(), knows: new Set(living) });
      if (what === 2 && readers.length > 0) {
        const [reader] = readers.splice(random(readers.length), 1);
        holds.leave(reader!.generation);
      }
      if (what === 3 && living.size > 0) {
        const page = [...living][random(living.size)]!;
        living.delete(page);
        holds.retire(Uint32Array.of(0, page, 1));
      }
    }
    for (const reader of readers.splice(0)) holds.leave(reader.generation);
    t.equal(freed.size, next - living.size);
    t.equal(holds.waiting, 0);
  },
);

t.test("the cache keeps to its bytes and gives used entries a second chance", async (t) => {
  const cache = new EntryCache(4096);
  const entry = () => new Entry(4096, Uint32Array.of(0, 0, 1), Uint32Array.of(1), null);
  for (let i = 0; i < 10; i++) cache.put(`k${i}`, entry());
  t.ok(cache.get("k0"));
  for (let i = 10; i < 20; i++) {
    cache.put(`k${i}`, entry());
    cache.get("k0");
  }
  t.ok(cache.bytes <= 4096 && cache.count < 16);
  t.ok(cache.get("k0"), "k0 was asked for again and again");
  t.notOk(cache.get("k1"), "k1 never");
  cache.delete("k0");
  t.notOk(cache.get("k0"));
  cache.put("big", new Entry(1, new Uint32Array(0), new Uint32Array(2000), null));
  t.notOk(cache.get("big"), "what would drive out all others is not kept");
  t.ok(cache.count > 0);
});
