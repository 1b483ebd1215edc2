// SPDX-License-Identifier: Apache-2.0
// The NBD server by its protocol: every option, command and error, in all reply styles, with bytes
// cut anywhere and with bytes that make no sense.

import { randomBytes } from "node:crypto";
import t from "tap";
import { GIB, KIB, MIB, TIB } from "../../src/base/units.js";
import { NbdErrno } from "../../src/nbd/errno.js";
import { RequestFlag } from "../../src/nbd/target.js";
import { makeBench } from "./bench.js";
import type { Style } from "./client.js";
import {
  Client,
  Cmd,
  goBytes,
  metaBytes,
  named,
  Opt,
  optionBytes,
  Rep,
  u16,
  u32,
  u64,
} from "./client.js";

const STYLES: Style[] = ["simple", "structured", "extended"];
const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
let state = seed;
function below(limit: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * limit);
}

const bench = makeBench({ slots: 300 });
bench.memory("vd0", 64 * MIB);
bench.memory("vd1", 8 * MIB, true);
bench.memory("huge", 16 * TIB);
t.teardown(() => bench.stop());

async function greeted(): Promise<Client> {
  const client = await Client.connect(bench.address);
  await client.hello(3);
  return client;
}

t.test("negotiation", async (t) => {
  await t.test("lists the exports with their descriptions, and refuses data", async (t) => {
    const client = await greeted();
    const replies = await client.option(Opt.List);
    t.same(
      replies.map((reply) => reply.type),
      [Rep.Server, Rep.Server, Rep.Server, Rep.Ack],
    );
    t.same(replies[1]!.data, Buffer.concat([named("vd1"), Buffer.from("the disk vd1")]));
    t.equal((await client.option(Opt.List, Buffer.from("x")))[0]!.type, Rep.Invalid);
    client.close();
  });

  await t.test("answers INFO with all that was asked, and goes on haggling", async (t) => {
    const client = await greeted();
    await client.use("structured");
    const replies = await client.option(Opt.Info, goBytes("vd1", [1, 2, 3]));
    const infos = new Map(
      replies.map((reply) => [reply.data.length > 1 ? reply.data.readUInt16BE(0) : -1, reply.data]),
    );
    // Read-only: no trim and no zeroing; DF because replies are structured.
    t.same(
      infos.get(0),
      Buffer.concat([u16(0), u64(8 * MIB), u16(1 | 2 | 4 | 8 | 128 | 256 | 1024)]),
    );
    t.same(infos.get(1), Buffer.concat([u16(1), Buffer.from("vd1")]));
    t.same(infos.get(2), Buffer.concat([u16(2), Buffer.from("the disk vd1")]));
    t.same(infos.get(3), Buffer.concat([u16(3), u32(1), u32(4096), u32(32 * MIB)]));
    t.equal(replies.at(-1)!.type, Rep.Ack);
    t.equal(
      (await client.option(Opt.Go, goBytes("")))[0]!.data.readBigUInt64BE(2),
      BigInt(64 * MIB),
    );
    t.equal((await client.ask(Cmd.Read, 0, 16)).error, 0);
    client.close();
  });

  await t.test("says no to unknown exports, unknown options, TLS and malformed data", async (t) => {
    const client = await greeted();
    const type = async (option: number, data: Uint8Array) =>
      (await client.option(option, data)).at(-1)!.type;
    t.equal(await type(Opt.Go, goBytes("nobody")), Rep.Unknown);
    t.equal(await type(Opt.Info, goBytes("nobody")), Rep.Unknown);
    t.equal(await type(Opt.StartTls, Buffer.alloc(0)), Rep.Unsupported);
    t.equal(await type(4, Buffer.alloc(10)), Rep.Unsupported);
    t.equal(await type(0xffffffff, Buffer.alloc(1000)), Rep.Unsupported);
    t.equal(await type(Opt.Go, Buffer.alloc(0)), Rep.Invalid);
    t.equal(await type(Opt.Go, u32(0xffffffff)), Rep.Invalid);
    t.equal(await type(Opt.Go, Buffer.concat([goBytes("vd0"), u16(1)])), Rep.Invalid);
    t.equal(await type(Opt.Go, Buffer.concat([named("vd0"), u16(9), u16(1)])), Rep.Invalid);
    t.equal(await type(Opt.Go, Buffer.alloc(200_000)), Rep.TooBig);
    t.equal(await type(Opt.StructuredReply, Buffer.alloc(1)), Rep.Invalid);
    t.equal(await type(Opt.SetMeta, metaBytes("vd0", ["base:allocation"])), Rep.Invalid);
    t.equal(await type(Opt.StructuredReply, Buffer.alloc(0)), Rep.Ack);
    t.equal(await type(Opt.StructuredReply, Buffer.alloc(0)), Rep.Invalid);
    t.equal(await type(Opt.SetMeta, metaBytes("nobody", ["base:allocation"])), Rep.Unknown);
    t.equal(await type(Opt.SetMeta, metaBytes("vd0", ["nocolon"])), Rep.Invalid);
    t.equal(await type(Opt.SetMeta, Buffer.concat([named("vd0"), u32(5)])), Rep.Invalid);
    t.equal(await type(Opt.ExtendedHeaders, Buffer.alloc(0)), Rep.Ack);
    t.equal(await type(Opt.ExtendedHeaders, Buffer.alloc(0)), Rep.Invalid);
    t.equal(await type(Opt.StructuredReply, Buffer.alloc(0)), Rep.ExtendedHeaders);
    t.equal(await type(Opt.Abort, Buffer.alloc(0)), Rep.Ack);
    t.equal((await client.rest()).length, 0, "and then it closes");
  });

  await t.test("lists and selects base:allocation and nothing else", async (t) => {
    const client = await greeted();
    await client.use("structured");
    const of = async (option: number, queries: string[]) =>
      (await client.option(option, metaBytes("vd0", queries)))
        .slice(0, -1)
        .map((reply) => reply.data.toString("latin1", 4));
    t.same(await of(Opt.ListMeta, []), ["base:allocation"]);
    t.same(await of(Opt.ListMeta, ["base:"]), ["base:allocation"]);
    t.same(await of(Opt.ListMeta, ["qemu:dirty-bitmap:x"]), []);
    t.same(await of(Opt.SetMeta, ["base:allocation", "base:allocation", "x-y:z"]), [
      "base:allocation",
    ]);
    t.same(await of(Opt.SetMeta, []), [], "selects none: the selection before is gone");
    await client.option(Opt.Go, goBytes("vd0"));
    t.equal((await client.ask(Cmd.BlockStatus, 0, 4096)).error, NbdErrno.Einval);
    client.close();
  });

  await t.test("forgets a selection that was made for another export", async (t) => {
    const client = await greeted();
    await client.use("structured");
    await client.option(Opt.SetMeta, metaBytes("vd1", ["base:allocation"]));
    await client.option(Opt.Go, goBytes("vd0"));
    t.equal((await client.ask(Cmd.BlockStatus, 0, 4096)).error, NbdErrno.Einval);
    client.close();
  });

  await t.test("serves old clients by EXPORT_NAME, with and without the zeroes", async (t) => {
    for (const flags of [0, 1, 3]) {
      const client = await Client.connect(bench.address);
      await client.hello(flags);
      client.send(optionBytes(Opt.ExportName, Buffer.from("vd0")));
      const answer = await client.read(flags === 3 ? 10 : 134);
      t.equal(answer.readBigUInt64BE(0), BigInt(64 * MIB));
      t.equal(answer.readUInt16BE(8), 1 | 4 | 8 | 32 | 64 | 256 | 1024 | 2048);
      t.equal((await client.ask(Cmd.Read, 4096, 512)).error, 0);
      client.close();
    }
  });

  await t.test(
    "closes with a reason in the log where the protocol leaves nothing else",
    async (t) => {
      const cases: Array<[Buffer, RegExp]> = [
        [u32(8), /unknown client flags/],
        [Buffer.concat([u32(3), Buffer.from("GET / HTTP/1.1\r\n")]), /wrong magic/],
        [
          Buffer.concat([u32(3), optionBytes(Opt.ExportName, Buffer.from("nobody"))]),
          /does not exist/,
        ],
        [Buffer.concat([u32(3), optionBytes(Opt.ExportName, Buffer.alloc(70_000))]), /too long/],
        [
          Buffer.concat([u32(3), optionBytes(7, Buffer.alloc(0)).subarray(0, 12), u32(0x7fffffff)]),
          /too much data/,
        ],
      ];
      for (const [bytes, reason] of cases) {
        const client = await Client.connect(bench.address);
        client.send(bytes);
        t.equal((await client.rest()).length, 18);
        t.match(bench.lines.at(-1), { message: "a client was turned away", fields: { reason } });
      }
    },
  );

  await t.test("takes bytes cut anywhere, with requests behind them", async (t) => {
    const probe = new Uint8Array(5000).fill(0x5a);
    const client = await greeted();
    client.style = "structured";
    const all = Buffer.concat([
      optionBytes(Opt.StructuredReply, Buffer.alloc(0)),
      optionBytes(Opt.Go, goBytes("vd0")),
      client.requestBytes(Cmd.Write, 1n, 100, probe.length),
      probe,
      client.requestBytes(Cmd.Read, 2n, 99, 5002),
      client.requestBytes(Cmd.Disconnect, 3n, 0, 0),
    ]);
    client.socket.setNoDelay(true);
    for (let at = 0; at < all.length; ) {
      const take = at < 250 ? 1 : 1 + below(2000);
      await new Promise<void>((resolve) => {
        client.socket.write(all.subarray(at, at + take), () => resolve());
      });
      at += take;
    }
    await client.optionReplies(Opt.StructuredReply);
    await client.optionReplies(Opt.Go);
    t.equal((await client.reply(0)).cookie, 1n);
    const { data } = await client.reply(0);
    t.same(data, Buffer.concat([Buffer.alloc(1), probe, Buffer.alloc(1)]));
    t.equal((await client.rest()).length, 0);
  });
});

for (const style of STYLES) {
  await t.test(`transmission, ${style}`, async (t) => {
    const client = await Client.open(bench.address, {
      name: "vd0",
      style,
      meta: style !== "simple",
    });
    t.teardown(() => client.close());

    await t.test("reads what was written, at any offset and length", async (t) => {
      t.comment(`SEED=${seed}`);
      const copy = Buffer.alloc(4 * MIB);
      await client.ask(Cmd.Trim, 0, copy.length);
      for (let i = 0; i < 60; i++) {
        const length = 1 + below(i % 3 === 0 ? 600 * KIB : 9000);
        const offset = below(copy.length - length);
        const data = randomBytes(length);
        data.copy(copy, offset);
        const fua = i % 5 === 0 ? RequestFlag.Fua : 0;
        t.equal((await client.put(offset, data, fua)).error, 0);
        const from = below(copy.length - 70_000);
        const reply = await client.ask(Cmd.Read, from, 70_000);
        if (!reply.data.equals(copy.subarray(from, from + 70_000))) t.fail(`step ${i} at ${from}`);
      }
    });

    await t.test("takes many requests at once and answers all", async (t) => {
      const count = 200;
      const parts: Buffer[] = [];
      for (let i = 0; i < count; i++) {
        const data = Buffer.alloc(4096, i);
        parts.push(
          client.requestBytes(Cmd.Write, BigInt(i), i * 4096, 4096, style === "extended" ? 32 : 0),
          data,
        );
      }
      client.send(...parts);
      const seen = new Set<bigint>();
      for (let i = 0; i < count; i++) seen.add((await client.reply(0)).cookie);
      t.equal(seen.size, count);
      const { data } = await client.ask(Cmd.Read, 0, count * 4096);
      t.ok(data.every((byte, at) => byte === (at >> 12) % 256));
    });

    await t.test("moves 32 MiB in one request, and refuses a byte more", async (t) => {
      const data = randomBytes(32 * MIB);
      t.equal((await client.put(4095, data)).error, 0);
      const reply = await client.ask(Cmd.Read, 4095, data.length);
      t.ok(reply.data.equals(data));
      const large = Buffer.alloc(32 * MIB + 1);
      t.equal((await client.put(0, large)).error, NbdErrno.Einval);
      t.equal((await client.ask(Cmd.Read, 0, large.length)).error, NbdErrno.Einval);
      if (style !== "simple") {
        t.equal(
          (await client.ask(Cmd.Read, 0, large.length, RequestFlag.Df)).error,
          NbdErrno.Eoverflow,
        );
      }
    });

    await t.test("flushes, trims, zeroes and caches", async (t) => {
      await client.put(0, Buffer.alloc(2 * MIB, 1));
      t.equal((await client.ask(Cmd.Flush, 0, 0)).error, 0);
      t.equal((await client.ask(Cmd.Cache, 0, 64 * MIB)).error, 0);
      t.equal((await client.ask(Cmd.Trim, 4096, 8192, RequestFlag.Fua)).error, 0);
      t.equal((await client.ask(Cmd.WriteZeroes, 300_000, 300_000)).error, 0);
      const flags = RequestFlag.NoHole | RequestFlag.FastZero;
      t.equal((await client.ask(Cmd.WriteZeroes, MIB, 10, flags)).error, 0);
      const { data } = await client.ask(Cmd.Read, 0, 2 * MIB);
      const zeroes = data.reduce((sum, byte) => sum + (byte === 0 ? 1 : 0), 0);
      t.equal(zeroes, 8192 + 300_000 + 10);
    });

    await t.test("refuses with the errors of the protocol and goes on", async (t) => {
      const size = 64 * MIB;
      const cases: Array<[number, number, number, number, number]> = [
        [Cmd.Read, size, 1, 0, NbdErrno.Einval],
        [Cmd.Read, size - 1, 2, 0, NbdErrno.Einval],
        [Cmd.Trim, size - 1, 2, 0, NbdErrno.Einval],
        [Cmd.Cache, size, 1, 0, NbdErrno.Einval],
        [Cmd.WriteZeroes, size - 1, 2, 0, NbdErrno.Enospc],
        [Cmd.Flush, 1, 0, 0, NbdErrno.Einval],
        [Cmd.Trim, 0, 1, RequestFlag.NoHole, NbdErrno.Einval],
        [Cmd.Read, 0, 1, 0x100, NbdErrno.Einval],
        [99, 0, 0, 0, NbdErrno.Einval],
        [Cmd.Read, 5, 0, 0, 0],
        [Cmd.Trim, 5, 0, 0, 0],
        [Cmd.WriteZeroes, size, 0, 0, 0],
      ];
      for (const [type, offset, bytes, flags, error] of cases) {
        const reply = await client.ask(type, offset, bytes, flags);
        t.equal(reply.error, error, `command ${type} at ${offset} with ${bytes} bytes`);
        if (error !== 0 && style !== "simple") t.not(reply.message, "", "says why");
      }
      t.equal((await client.ask(Cmd.Read, 2n ** 64n - 1n, 1)).error, NbdErrno.Einval);
      t.equal((await client.put(size - 1, Buffer.alloc(5000))).error, NbdErrno.Enospc);
      t.equal((await client.put(0, Buffer.alloc(5000), RequestFlag.NoHole)).error, NbdErrno.Einval);
      t.equal((await client.put(size, Buffer.alloc(0))).error, 0);
      t.equal((await client.ask(Cmd.Read, 0, 512)).error, 0, "and the connection is in step");
    });

    await t.test("refuses to write where it must not", async (t) => {
      const reader = await Client.open(bench.address, { name: "vd1", style });
      t.equal((await reader.put(0, Buffer.alloc(10))).error, NbdErrno.Eperm);
      t.equal((await reader.ask(Cmd.Trim, 0, 10)).error, NbdErrno.Eperm);
      t.equal((await reader.ask(Cmd.WriteZeroes, 0, 10)).error, NbdErrno.Eperm);
      t.equal((await reader.ask(Cmd.Read, 0, 10)).error, 0);
      t.equal((await reader.ask(Cmd.Flush, 0, 0)).error, 0);
      reader.close();
    });

    await t.test("answers what is in flight when the client says goodbye", async (t) => {
      const leaver = await Client.open(bench.address, { name: "vd0", style });
      leaver.send(
        leaver.requestBytes(Cmd.Flush, 1n, 0, 0),
        leaver.requestBytes(Cmd.Read, 2n, 0, MIB),
        leaver.requestBytes(Cmd.Disconnect, 3n, 0, 0),
        leaver.requestBytes(Cmd.Flush, 4n, 0, 0),
      );
      t.equal((await leaver.reply(0)).cookie, 1n);
      t.equal((await leaver.reply(MIB)).cookie, 2n);
      t.equal((await leaver.rest()).length, 0);
    });

    await t.test(
      "ends the connection of whoever sends no request, with a reason in the log",
      async (t) => {
        const wrong = await Client.open(bench.address, { name: "vd0", style });
        wrong.send(Buffer.alloc(64, 0x41));
        t.equal((await wrong.rest()).length, 0);
        t.match(bench.lines.at(-1)!.fields.reason, /wrong magic/);
      },
    );
  });
}

t.test("block status", async (t) => {
  await t.test("tells holes from data, joined, in 32 bits", async (t) => {
    const client = await Client.open(bench.address, {
      name: "vd0",
      style: "structured",
      meta: true,
    });
    await client.ask(Cmd.Trim, 0, 64 * MIB);
    await client.put(MIB, Buffer.alloc(600 * KIB, 1));
    const { extents } = await client.ask(Cmd.BlockStatus, 100, 8 * MIB);
    t.same(extents, [
      [MIB - 100, 3],
      [768 * KIB, 0],
      [8 * MIB - (MIB - 100) - 768 * KIB, 3],
    ]);
    const one = await client.ask(Cmd.BlockStatus, 100, 8 * MIB, RequestFlag.ReqOne);
    t.same(one.extents, [[MIB - 100, 3]]);
    t.equal((await client.ask(Cmd.BlockStatus, 0, 0)).error, NbdErrno.Einval);
    client.close();
  });

  await t.test("covers terabytes in one request with extended headers", async (t) => {
    const client = await Client.open(bench.address, {
      name: "huge",
      style: "extended",
      meta: true,
    });
    await client.put(5 * TIB, Buffer.alloc(4096, 1));
    const { extents, chunks } = await client.ask(Cmd.BlockStatus, 0, 16 * TIB);
    t.same(extents, [
      [5 * TIB, 3],
      [256 * KIB, 0],
      [11 * TIB - 256 * KIB, 3],
    ]);
    t.same(chunks, [6]);
    t.equal((await client.ask(Cmd.WriteZeroes, GIB, 10 * TIB, RequestFlag.FastZero)).error, 0);
    t.equal((await client.ask(Cmd.Read, 5 * TIB, 10)).data[0], 0);
    t.equal((await client.ask(Cmd.Trim, 0, 16 * TIB)).error, 0);
    client.close();
  });

  await t.test("of 4 GiB and more is cut to what a compact reply can say", async (t) => {
    const client = await Client.open(bench.address, {
      name: "huge",
      style: "structured",
      meta: true,
    });
    const { extents } = await client.ask(Cmd.BlockStatus, 0, 2 ** 32 - 1);
    t.same(extents, [[2 ** 32 - 1, 3]]);
    client.close();
  });
});

t.test("extended headers: payload where none belongs is thrown away and refused", async (t) => {
  const client = await Client.open(bench.address, { name: "vd0", style: "extended" });
  const junk = Buffer.alloc(10_000, 0x25);
  for (const type of [Cmd.Read, Cmd.Trim, Cmd.BlockStatus, Cmd.Flush, 77]) {
    client.send(client.requestBytes(type, 9n, 0, junk.length, RequestFlag.PayloadLen), junk);
    const reply = await client.reply(0);
    t.equal(reply.error, NbdErrno.Einval);
    t.same(reply.chunks, [0x8001]);
  }
  t.same((await client.ask(Cmd.Flush, 0, 0)).chunks, [0], "success is a chunk, too");
  client.request(Cmd.Write, 1n, 0, 5n * BigInt(GIB), RequestFlag.PayloadLen);
  t.equal((await client.rest()).length, 0);
  t.match(bench.lines.at(-1)!.fields.reason, /4 GiB/);
});

t.test("garbage of any kind never harms anybody else", async (t) => {
  t.comment(`SEED=${seed}`);
  const witness = await Client.open(bench.address, { name: "vd0" });
  await witness.put(0, Buffer.alloc(4096, 7));
  for (let i = 0; i < 40; i++) {
    const negotiated = i % 2 === 0;
    const client = negotiated
      ? await Client.open(bench.address, { name: "vd1", style: STYLES[i % 3]! })
      : await Client.connect(bench.address);
    const bytes = randomBytes(1 + below(5000));
    if (i % 4 === 0) client.requestBytes(Cmd.Write, 1n, 0, below(70_000)).copy(bytes);
    client.send(bytes);
    if (i % 8 < 4) client.socket.end();
    else client.socket.destroy();
  }
  t.ok((await witness.ask(Cmd.Read, 0, 4096)).data.every((byte) => byte === 7));
  witness.close();
  const { slotsFree, waiting } = await settled();
  t.equal(slotsFree, 300, "all slots come back");
  t.equal(waiting, 0);
});

/** Counters once nobody is connected any more. */
async function settled() {
  const deadline = Date.now() + 20_000;
  while (bench.server.counters().connections > 0 && Date.now() < deadline) {
    await new Promise<void>((resolve) => void setImmediate(resolve));
  }
  return bench.server.counters();
}
