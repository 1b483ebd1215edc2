// SPDX-License-Identifier: Apache-2.0
// The language in which every on-disk and on-wire format is declared, as data. Declarations live in
// `formats/<area>.ts`; `tools/wiregen.mjs` makes from them the codecs (`generated/<area>.ts`), the
// C++ header (`native/common/wire.h`), `docs/formats.md` and the golden vectors.
//
// All numbers are little-endian. A *format* is a block on disk or a frame: it has magic, version,
// length and header CRC, and a body CRC when anything follows the header:
//
//   | magic | version | … fields of fixed size … | length | body CRC | header CRC | body … |
//   '------------------ header, covered by the header CRC ------------'
//
// A *struct* is a part of a format without these; a *message* is the body of a frame, which brings
// its own. A new field takes reserved bytes (`since` with `inReserved`) or comes last with `since`;
// both need a new version. Readers accept version N and N−1; writers write N.

import { assert } from "../base/assert.js";

/** Names of numbers: `{ data: 1, zero: 2 }`, with what each means. */
export interface Codes {
  readonly name: string;
  readonly values: Readonly<Record<string, { readonly value: number; readonly doc: string }>>;
}

export type CountKind = "u8" | "u16" | "u32";
export type ScalarKind = "u8" | "u16" | "u32" | "u64" | "u64big";

export type FieldType =
  | { readonly kind: "scalar"; readonly scalar: ScalarKind; readonly codes?: Codes }
  | { readonly kind: "bytes"; readonly bytes: number }
  | { readonly kind: "reserved"; readonly bytes: number }
  | { readonly kind: "reservedTo"; readonly offset: number }
  | { readonly kind: "magic" }
  | { readonly kind: "version" }
  | { readonly kind: "length" }
  | { readonly kind: "bodyCrc" }
  | { readonly kind: "headerCrc" }
  | { readonly kind: "blob"; readonly count: CountKind; readonly bytesMax: number }
  | { readonly kind: "text"; readonly count: CountKind; readonly bytesMax: number }
  | {
      readonly kind: "list";
      readonly count: CountKind;
      readonly item: ListItem;
      readonly itemsMax: number;
    }
  | { readonly kind: "struct"; readonly struct: Part };

/** u32 items become a Uint32Array, u64 items a number[]; others one object each. */
export type ListItem = "u32" | "u64" | Part;

export interface Field {
  readonly type: FieldType;
  readonly doc: string;
  /** First version that has this field; older ones give zero, empty or false. */
  readonly since: number;
  /** The field's bytes were reserved before `since`: its place is the same in every version. */
  readonly inReserved: boolean;
}

export interface Struct {
  readonly kind: "struct";
  readonly name: string;
  readonly purpose: string;
  readonly fields: Readonly<Record<string, Field>>;
}

/** One of several structs, told apart by a u8 in front: `{ kind: "data", … }` in TypeScript. */
export interface Union {
  readonly kind: "union";
  readonly name: string;
  readonly purpose: string;
  readonly cases: Readonly<Record<string, { readonly tag: number; readonly struct: Struct }>>;
}

export interface Message {
  readonly kind: "message";
  readonly name: string;
  readonly purpose: string;
  readonly fields: Readonly<Record<string, Field>>;
}

export interface Format {
  readonly kind: "format";
  readonly name: string;
  readonly purpose: string;
  /** Four ASCII characters. */
  readonly magic: string;
  readonly version: number;
  /** Where it lies decides what a bad one is: OVS_CORRUPT on disk, OVS_PROTOCOL on a wire. */
  readonly lies: "disk" | "wire";
  /**
   * `inside`: header and body are one piece that the codec writes; length and body CRC are its
   * business. `outside`: the codec knows the header only; length and body CRC are plain values that
   * the writer of the body gives (journal records, network frames: their bodies never pass here).
   */
  readonly body: "inside" | "outside";
  readonly fields: Readonly<Record<string, Field>>;
}

export type Part = Struct | Union;

export interface Constant {
  readonly value: number;
  readonly doc: string;
}

export interface Area {
  readonly name: string;
  readonly purpose: string;
  readonly constants: Readonly<Record<string, Constant>>;
  readonly codes: readonly Codes[];
  readonly parts: ReadonlyArray<Part | Message | Format>;
}

/** Declares all formats of one area: a file of `generated/`. */
export const area = (declaration: Area): Area => declaration;
/** Declares the numbers of a code, each by a name. */
export const codes = (name: string, values: Codes["values"]): Codes => ({ name, values });

/** Declares fields that follow each other, part of something else. */
export function struct(declaration: Omit<Struct, "kind">): Struct {
  return { kind: "struct", ...declaration };
}

/** Declares one of several structs, told apart by a number before it. */
export function union(declaration: Omit<Union, "kind">): Union {
  return { kind: "union", ...declaration };
}

/** Declares the body of a frame. */
export function message(declaration: Omit<Message, "kind">): Message {
  return { kind: "message", ...declaration };
}

/**
 * Declares a block that stands for itself: magic, version, lengths and checksums. Asserts that it
 * has them where they belong.
 */
export function format(declaration: Omit<Format, "kind">): Format {
  const { name, magic, fields } = declaration;
  assert(/^[A-Za-z0-9]{4}$/.test(magic), `${name}: the magic is four letters or digits`);
  const kinds = Object.values(fields).map((field) => field.type.kind);
  for (const kind of ["magic", "version", "length", "headerCrc"] as const) {
    assert(kinds.filter((other) => other === kind).length === 1, `${name} has one ${kind} field`);
  }
  assert(kinds[0] === "magic" && kinds[1] === "version", `${name} begins with magic and version`);
  const hasBody = declaration.body === "outside" || kinds.at(-1) !== "headerCrc";
  assert(hasBody === kinds.includes("bodyCrc"), `${name} has a body CRC when it has a body`);
  return { kind: "format", ...declaration };
}

// Fields. Each takes its meaning in words, for the documentation.

function field(type: FieldType, doc: string): Field {
  return { type, doc, since: 1, inReserved: false };
}

/** 8 bits, unsigned. */
export const u8 = (doc: string): Field => field({ kind: "scalar", scalar: "u8" }, doc);
/** 16 bits, unsigned. */
export const u16 = (doc: string): Field => field({ kind: "scalar", scalar: "u16" }, doc);
/** 32 bits, unsigned. */
export const u32 = (doc: string): Field => field({ kind: "scalar", scalar: "u32" }, doc);
/** A number that is a safe integer; a greater one is refused by the reader. */
export const u64 = (doc: string): Field => field({ kind: "scalar", scalar: "u64" }, doc);
/** All 64 bits, as a bigint: cookies and hashes. */
export const u64big = (doc: string): Field => field({ kind: "scalar", scalar: "u64big" }, doc);
/** A u8 that must be one of the codes. */
export const code = (of: Codes, doc: string): Field =>
  field({ kind: "scalar", scalar: "u8", codes: of }, doc);
/** A fixed number of bytes as they are. */
export const bytes = (count: number, doc: string): Field =>
  field({ kind: "bytes", bytes: count }, doc);
/** The 16 bytes of a uuid. */
export const uuid = (doc: string): Field => field({ kind: "bytes", bytes: 16 }, doc);
/** Zero, and verified to be zero. */
export const reserved = (count: number): Field => field({ kind: "reserved", bytes: count }, "zero");
/** Zero up to that offset of the format or struct. */
export const reservedTo = (offset: number): Field => field({ kind: "reservedTo", offset }, "zero");
/** The format's four characters. */
export const magic = (): Field => field({ kind: "magic" }, "what this is");
/** The format's version, verified by the reader. */
export const version = (): Field => field({ kind: "version" }, "version of this format");
/** The length of what the format begins, header included. */
export const length = (doc = "bytes of header and body together"): Field =>
  field({ kind: "length" }, doc);
/** CRC-32C of the body. */
export const bodyCrc = (doc = "CRC-32C of the body"): Field => field({ kind: "bodyCrc" }, doc);
/** CRC-32C of all bytes of the header before this field. */
export const headerCrc = (): Field =>
  field({ kind: "headerCrc" }, "CRC-32C of all bytes before it");
/** A count of bytes, then these. */
export const blob = (count: CountKind, bytesMax: number, doc: string): Field =>
  field({ kind: "blob", count, bytesMax }, doc);
/** A count of bytes, then UTF-8. */
export const text = (count: CountKind, bytesMax: number, doc: string): Field =>
  field({ kind: "text", count, bytesMax }, doc);
/** A count of items, then these. */
export const list = (count: CountKind, item: ListItem, itemsMax: number, doc: string): Field =>
  field({ kind: "list", count, item, itemsMax }, doc);
/** The fields of another part, in place. */
export const one = (of: Part, doc: string): Field => field({ kind: "struct", struct: of }, doc);
/** Marks the first version that has the field. */
export const since = (first: number, of: Field, place: "inReserved" | "last"): Field => ({
  ...of,
  since: first,
  inReserved: place === "inReserved",
});
