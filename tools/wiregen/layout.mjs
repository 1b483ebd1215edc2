// SPDX-License-Identifier: Apache-2.0
// Sizes and places of the fields of declared formats, and the names that come of them.

export const SCALAR_BYTES = { u8: 1, u16: 2, u32: 4, u64: 8, u64big: 8 };

/** `journalRecord`, `JournalRecord` → `JOURNAL_RECORD`. */
export function upper(name) {
  return name.replace(/([a-z0-9])([A-Z])/g, "$1_$2").toUpperCase();
}

/** Bytes of a field type, or null when its size varies. */
function typeBytes(type, offset) {
  switch (type.kind) {
    case "scalar":
      return SCALAR_BYTES[type.scalar];
    case "bytes":
    case "reserved":
      return type.bytes;
    case "reservedTo": {
      if (offset === null || type.offset < offset)
        throw new Error(`reservedTo(${type.offset}) at ${offset}`);
      return type.offset - offset;
    }
    case "magic":
    case "length":
    case "bodyCrc":
    case "headerCrc":
      return 4;
    case "version":
      return 2;
    case "struct":
      return partBytes(type.struct);
    default:
      return null;
  }
}

/** Bytes of a struct when they are fixed, else null. */
export function partBytes(part) {
  if (part.kind === "union") return null;
  return layoutOf(part).fixedBytes;
}

/** The fewest bytes that a value of the part takes: what a counted list is checked against. */
export function partBytesMin(part) {
  if (part.kind === "union") {
    return 1 + Math.min(...Object.values(part.cases).map((one) => partBytesMin(one.struct)));
  }
  let bytes = 0;
  for (const place of layoutOf(part).places) {
    if (place.field.since > 1 && !place.field.inReserved) continue;
    const { type } = place.field;
    if (place.bytes !== null) bytes += place.bytes;
    else if (type.kind === "struct") bytes += partBytesMin(type.struct);
    else bytes += SCALAR_BYTES[type.count];
  }
  return bytes;
}

const layouts = new Map();

/**
 * {places: [{name, field, offset, bytes}], fixedBytes, headerBytes}: offset null after the first
 * field of varying size; headerBytes (formats) up to and with the header CRC.
 */
export function layoutOf(part) {
  const known = layouts.get(part);
  if (known) return known;
  const places = [];
  let offset = 0;
  let headerBytes = null;
  let sinceLast = 1;
  for (const [name, field] of Object.entries(part.fields)) {
    const bytes = typeBytes(field.type, offset);
    const inHeader = part.kind === "format" && headerBytes === null;
    if (inHeader && bytes === null)
      throw new Error(`${part.name}.${name}: its size varies inside the header`);
    if (!field.inReserved) {
      if (field.since < sinceLast)
        throw new Error(`${part.name}.${name}: fields with "since" come last`);
      if (field.since > 1 && inHeader)
        throw new Error(`${part.name}.${name}: takes reserved bytes in a header`);
      sinceLast = field.since;
    }
    places.push({ name, field, offset, bytes });
    // A field that older versions lack moves what follows: no fixed offsets from here on.
    const moves = field.since > 1 && !field.inReserved;
    offset = offset === null || bytes === null || moves ? null : offset + bytes;
    if (field.type.kind === "headerCrc") headerBytes = offset;
  }
  const layout = { places, fixedBytes: offset, headerBytes };
  layouts.set(part, layout);
  return layout;
}

/** Where the format keeps its body: inside (the codec writes it), outside, or none. */
export function bodyKind(format) {
  if (format.body === "outside") return "outside";
  const { fixedBytes, headerBytes } = layoutOf(format);
  return fixedBytes === headerBytes ? "none" : "inside";
}

/** Fields whose value the caller gives and gets. */
export function isValue(part, field) {
  switch (field.type.kind) {
    case "magic":
    case "version":
    case "headerCrc":
    case "reserved":
    case "reservedTo":
      return false;
    case "length":
    case "bodyCrc":
      return part.body === "outside";
    default:
      return true;
  }
}

/** All structs and unions that a part names, each once. */
export function namedParts(part) {
  if (part.kind === "union") return Object.values(part.cases).map((one) => one.struct);
  const found = [];
  for (const { type } of Object.values(part.fields)) {
    const named = type.kind === "struct" ? type.struct : type.kind === "list" ? type.item : null;
    if (named !== null && typeof named === "object" && !found.includes(named)) found.push(named);
  }
  return found;
}

/** Magic as the u32 that a little-endian read of its four characters gives. */
export function magicNumber(magic) {
  return Buffer.from(magic, "ascii").readUInt32LE(0);
}
