// SPDX-License-Identifier: Apache-2.0
// The generator of codecs: versions N and N − 1, the golden rule, and declarations that it refuses.

import { rmSync, writeFileSync } from "node:fs";
import t from "tap";
import ts from "typescript";
import { toHex } from "../../src/base/bytes.js";
import * as f from "../../src/wire/schema.js";

type Generator = { typescriptOf(area: f.Area, areaOf: (part: unknown) => string): string };
type Golden = {
  goldenOf(
    areas: f.Area[],
    before: unknown[],
    renew: Set<string>,
  ): Array<{ version: number; hex: string }>;
  exampleOf(part: unknown): Record<string, unknown>;
  encodeByDeclaration(part: unknown, value: unknown): Buffer;
};
const tools = new URL("../../../tools/wiregen/", import.meta.url);
const { typescriptOf } = (await import(`${tools.href}typescript.mjs`)) as Generator;
const { goldenOf, encodeByDeclaration } = (await import(`${tools.href}golden.mjs`)) as Golden;

const frame = { magic: f.magic(), version: f.version() };
const close = { length: f.length(), bodyCrc: f.bodyCrc(), headerCrc: f.headerCrc() };
const Item = f.struct({ name: "Item", purpose: "An item.", fields: { number: f.u32("a number") } });
const common = {
  name: "Thing",
  purpose: "A thing.",
  magic: "TEST",
  lies: "disk",
  body: "inside",
} as const;

const first = f.format({
  ...common,
  version: 1,
  fields: { ...frame, reserved: f.reserved(6), ...close, items: f.list("u16", Item, 4, "items") },
});
const second = f.format({
  ...common,
  version: 2,
  fields: {
    ...frame,
    width: f.since(2, f.u32("a width"), "inReserved"),
    reserved: f.reserved(2),
    ...close,
    items: f.list("u16", Item, 4, "items"),
    note: f.since(2, f.text("u8", 20, "a note"), "last"),
  },
});
const areaOf = (part: f.Format): f.Area =>
  f.area({ name: "test", purpose: "Tests.", constants: {}, codes: [], parts: [Item, part] });

interface Codec {
  packThing(value: unknown): Uint8Array;
  decodeThing(bytes: Uint8Array): Record<string, unknown>;
}

/** Compiles and loads the codec of a declaration. */
async function codecOf(part: f.Format, name: string): Promise<Codec> {
  const text = typescriptOf(areaOf(part), () => "test");
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext };
  const file = new URL(`../../src/wire/generated/${name}-${process.pid}.js`, import.meta.url);
  writeFileSync(file, ts.transpileModule(text, { compilerOptions }).outputText);
  t.teardown(() => rmSync(file));
  return (await import(file.href)) as Codec;
}

t.test("a reader of version 2 reads version 1; one of version 1 refuses version 2", async (t) => {
  const one = await codecOf(first, "one");
  const two = await codecOf(second, "two");
  const items = [{ number: 5 }, { number: 6 }];
  const old = one.packThing({ items });
  t.same(two.decodeThing(old), { width: 0, items, note: "" });
  const value = { width: 9, items, note: "né" };
  const now = two.packThing(value);
  t.same(two.decodeThing(now), value);
  t.equal(toHex(now), encodeByDeclaration(second, value).toString("hex"));
  t.throws(() => one.decodeThing(now), { code: "OVS_WRONG_VERSION" });
  const three = await codecOf({ ...second, version: 3 }, "three");
  t.throws(() => three.decodeThing(old), { code: "OVS_WRONG_VERSION" }, "N − 2 is over");
});

t.test("lists and texts are checked before anything is made of them", async (t) => {
  const two = await codecOf(second, "limits");
  const item = { number: 1 };
  t.throws(
    () => two.packThing({ width: 0, items: [item, item, item, item, item], note: "" }),
    /count/,
  );
  t.throws(() => two.packThing({ width: 0, items: [], note: "x".repeat(21) }), /count/);
  t.throws(() => two.packThing({ width: -1, items: [], note: "" }), /32 bits/);
});

t.test("changed bytes without a new version are refused, and old vectors are kept", async (t) => {
  const before = goldenOf([areaOf(first)], [], new Set());
  t.same(goldenOf([areaOf(first)], before, new Set()), before);
  const after = goldenOf([areaOf(second)], before, new Set());
  t.same(
    after.map(({ version }) => version),
    [1, 2],
  );
  const changed = { ...first, fields: { ...first.fields, extra: f.u8("more") } };
  t.throws(() => goldenOf([areaOf(changed)], before, new Set()), /version is still 1/);
  t.equal(goldenOf([areaOf(changed)], before, new Set(["Thing"])).length, 1);
});

t.test("a declaration that breaks the rules is refused", async (t) => {
  const bad = (fields: Record<string, f.Field>) => () =>
    f.format({ ...common, version: 1, fields });
  t.throws(bad({ ...frame, length: f.length() }), /headerCrc/);
  t.throws(
    bad({ magic: f.magic(), number: f.u8("x"), version: f.version(), ...close }),
    /begins with/,
  );
  t.throws(
    bad({ ...frame, length: f.length(), headerCrc: f.headerCrc(), body: f.u8("x") }),
    /body CRC/,
  );
  t.throws(bad({ ...frame, ...close }), /body CRC/, "a body CRC without a body");
  const varies = f.format({
    ...common,
    version: 1,
    fields: { ...frame, text: f.text("u8", 9, "x"), ...close, end: f.u8("x") },
  });
  t.throws(() => typescriptOf(areaOf(varies), () => "test"), /inside the header/);
  t.throws(() => f.format({ ...common, magic: "toolong", version: 1, fields: {} }), /four letters/);
});
