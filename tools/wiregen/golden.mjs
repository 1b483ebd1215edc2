// SPDX-License-Identifier: Apache-2.0
// Golden vectors: one fixed example of every format and message, encoded by this interpreter of the
// declarations, which shares no code with the generated codecs: the test compares the two.
// Values are kept as JSON: bytes as {"hex": …}, bigints as {"big": …}.

import { bodyKind, isValue, layoutOf } from "./layout.mjs";

/** CRC-32C, bit by bit: independent of the product's. */
export function crc32c(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

/** A value that fills every field with something recognizable; `salt` varies it. */
export function exampleOf(part, salt = 1) {
  if (part.kind === "union") {
    const names = Object.keys(part.cases);
    const name = names[salt % names.length];
    return { kind: name, ...exampleOf(part.cases[name].struct, salt + 1) };
  }
  const value = {};
  let n = salt;
  for (const [name, field] of Object.entries(part.fields)) {
    if (isValue(part, field)) value[name] = exampleField(field.type, ++n);
  }
  return value;
}

function exampleField(type, n) {
  const bytes = (count) => ({
    hex: Buffer.from(Array.from({ length: count }, (_, i) => (n * 31 + i * 7) & 255)).toString(
      "hex",
    ),
  });
  switch (type.kind) {
    case "scalar": {
      if (type.codes) {
        const values = Object.values(type.codes.values);
        return values[n % values.length].value;
      }
      const numbers = { u8: n & 255, u16: 0x100 + n, u32: 0x80000000 + n, u64: 2 ** 40 + n };
      return type.scalar === "u64big"
        ? { big: (0xfedcba9876543210n + BigInt(n)).toString() }
        : numbers[type.scalar];
    }
    case "bytes":
      return bytes(type.bytes);
    case "length":
      return 4096 * (n + 1);
    case "bodyCrc":
      return 0xc0000000 + n;
    case "blob":
      return bytes(Math.min(3, type.bytesMax));
    case "text":
      return `é${n}`.slice(0, type.bytesMax - 1);
    case "struct":
      return exampleOf(type.struct, n);
    default: {
      const count = Math.min(
        type.item.kind === "union" ? Object.keys(type.item.cases).length : 2,
        type.itemsMax,
      );
      return Array.from({ length: count }, (_, i) =>
        typeof type.item === "string" ? 7 * n + i : exampleOf(type.item, n + i),
      );
    }
  }
}

/** The bytes of a value, by the declaration alone. */
export function encodeByDeclaration(part, value) {
  if (part.kind === "union") {
    const { tag, struct } = part.cases[value.kind];
    return Buffer.concat([Buffer.from([tag]), encodeByDeclaration(struct, value)]);
  }
  const layout = layoutOf(part);
  const pieces = layout.places.map((place) => encodeField(part, place, value[place.name]));
  const bytes = Buffer.concat(pieces);
  if (part.kind !== "format") return bytes;
  const at = (kind) => layout.places.find((place) => place.field.type.kind === kind)?.offset;
  if (bodyKind(part) !== "outside") bytes.writeUInt32LE(bytes.length, at("length"));
  if (bodyKind(part) === "inside")
    bytes.writeUInt32LE(crc32c(bytes.subarray(layout.headerBytes)), at("bodyCrc"));
  const crcAt = at("headerCrc");
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, crcAt)), crcAt);
  return bytes;
}

function number(bytes, value) {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64LE(BigInt(value));
  return buffer.subarray(0, bytes);
}

const COUNT_BYTES = { u8: 1, u16: 2, u32: 4 };

function encodeField(part, place, value) {
  const { type } = place.field;
  switch (type.kind) {
    case "scalar":
      return number(place.bytes, typeof value === "object" ? value.big : value);
    case "bytes":
      return Buffer.from(value.hex, "hex");
    case "magic":
      return Buffer.from(part.magic, "ascii");
    case "version":
      return number(2, part.version);
    case "length":
    case "bodyCrc":
      return number(4, value ?? 0);
    case "headerCrc":
    case "reserved":
    case "reservedTo":
      return Buffer.alloc(place.bytes);
    case "struct":
      return encodeByDeclaration(type.struct, value);
    case "blob":
      return Buffer.concat([
        number(COUNT_BYTES[type.count], value.hex.length / 2),
        Buffer.from(value.hex, "hex"),
      ]);
    case "text":
      return Buffer.concat([
        number(COUNT_BYTES[type.count], Buffer.byteLength(value)),
        Buffer.from(value),
      ]);
    default:
      return Buffer.concat([
        number(COUNT_BYTES[type.count], value.length),
        ...value.map((item) => encodeItem(type.item, item)),
      ]);
  }
}

function encodeItem(item, value) {
  return typeof item === "string"
    ? number(item === "u32" ? 4 : 8, value)
    : encodeByDeclaration(item, value);
}

/**
 * The vectors of all formats and messages, those of older versions kept from `before`. Throws when
 * a format changed its bytes without a new version, unless it is named in `renew`.
 */
export function goldenOf(areas, before, renew) {
  const vectors = [];
  const problems = [];
  for (const area of areas) {
    for (const part of area.parts) {
      if (part.kind !== "format" && part.kind !== "message") continue;
      const version = part.kind === "format" ? part.version : 1;
      const old = before.filter((vector) => vector.area === area.name && vector.name === part.name);
      const same = old.find((vector) => vector.version === version);
      const value = exampleOf(part);
      const hex = encodeByDeclaration(part, value).toString("hex");
      const renewed = renew.has(part.name) || renew.has("all");
      if (same && same.hex !== hex && part.kind === "format" && !renewed) {
        problems.push(
          `${area.name}.${part.name}: its bytes changed but its version is still ${version}`,
        );
      }
      vectors.push(...old.filter((vector) => vector.version < version), {
        area: area.name,
        name: part.name,
        version,
        value,
        hex,
      });
    }
  }
  if (problems.length > 0) throw new Error(problems.join("\n"));
  return vectors;
}
