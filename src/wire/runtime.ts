// SPDX-License-Identifier: Apache-2.0
// What the generated codecs call: a writer into given memory and a reader that checks every length
// before it allocates anything. Both are for cold and warm paths; the hot path writes fixed headers
// through the generated offset constants.

import { assert } from "../base/assert.js";
import { crc32c } from "../base/crc32c.js";
import { type ErrorCode, StorageError } from "../base/errors.js";

export type CountKind = "u8" | "u16" | "u32";

const TWO_32 = 2 ** 32;
const UTF8 = new TextDecoder("utf-8", { fatal: true });

/** Writes fields one after the other; asserts that values fit their field and the target. */
export class Writer {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  at: number;

  constructor(target: Uint8Array, at: number) {
    this.bytes = target;
    this.view = new DataView(target.buffer, target.byteOffset, target.byteLength);
    this.at = at;
  }

  /** An unsigned number of 8 bits. */
  u8(value: number): void {
    assert(Number.isInteger(value) && value >= 0 && value <= 0xff, "the value fits 8 bits");
    this.view.setUint8(this.at, value);
    this.at += 1;
  }

  /** An unsigned number of 16 bits, little-endian, as all that follow. */
  u16(value: number): void {
    assert(Number.isInteger(value) && value >= 0 && value <= 0xffff, "the value fits 16 bits");
    this.view.setUint16(this.at, value, true);
    this.at += 2;
  }

  /** An unsigned number of 32 bits. */
  u32(value: number): void {
    assert(Number.isInteger(value) && value >= 0 && value < TWO_32, "the value fits 32 bits");
    this.view.setUint32(this.at, value, true);
    this.at += 4;
  }

  /** A safe integer in 64 bits. */
  u64(value: number): void {
    assert(Number.isSafeInteger(value) && value >= 0, "the value is a safe integer");
    this.view.setUint32(this.at, value % TWO_32, true);
    this.view.setUint32(this.at + 4, Math.floor(value / TWO_32), true);
    this.at += 8;
  }

  /** A number of 64 bits that may exceed 2^53: an id or a hash. */
  u64big(value: bigint): void {
    assert(value >= 0n && value < 1n << 64n, "the value fits 64 bits");
    this.view.setBigUint64(this.at, value, true);
    this.at += 8;
  }

  /** Copies `value`, which must have exactly `bytes` bytes. */
  raw(value: Uint8Array, bytes: number): void {
    assert(value.byteLength === bytes, "the value has the field's length");
    this.bytes.set(value, this.at);
    this.at += bytes;
  }

  /** Reserved bytes. */
  zeroes(bytes: number): void {
    this.bytes.fill(0, this.at, this.at + bytes);
    this.at += bytes;
  }

  /** The elements only; their count is a field of its own. */
  u32List(list: Uint32Array): void {
    for (let i = 0; i < list.length; i++) this.view.setUint32(this.at + 4 * i, list[i]!, true);
    this.at += 4 * list.length;
  }

  /** A count in front of what is counted. */
  count(count: number, max: number, kind: CountKind): void {
    assert(count <= max, "the count is within its maximum");
    this[kind](count);
  }

  /** A count of bytes of the given kind, then the text as UTF-8; at most `bytesMax` bytes. */
  text(value: string, bytesMax: number, kind: CountKind): void {
    const encoded = Buffer.from(value, "utf8");
    this.count(encoded.byteLength, bytesMax, kind);
    this.raw(encoded, encoded.byteLength);
  }

  /** Four ASCII characters. */
  magic(value: string): void {
    for (let i = 0; i < 4; i++) this.u8(value.charCodeAt(i));
  }
}

/** Reads fields one after the other; throws a StorageError that names the format and the field. */
export class Reader {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly end: number;
  readonly what: string;
  readonly errorCode: ErrorCode;
  at: number;
  /** Version of the format that is being read; fields of later ones are absent. */
  version = 0;

  constructor(bytes: Uint8Array, at: number, end: number, what: string, errorCode: ErrorCode) {
    assert(at >= 0 && at <= end && end <= bytes.byteLength, "the range lies in the bytes");
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = at;
    this.end = end;
    this.what = what;
    this.errorCode = errorCode;
  }

  /** Throws the reader's error: what is being read, and why it is refused. */
  fail(reason: string): never {
    throw new StorageError(this.errorCode, `${this.what}: ${reason}`);
  }

  /** Refuses input that ends before `bytes` more; nothing is read. */
  need(bytes: number, field: string): void {
    if (bytes > this.end - this.at) this.fail(`ends inside ${field}`);
  }

  /** An unsigned number of 8 bits. `field`, here and below, names it in the error. */
  u8(field: string): number {
    this.need(1, field);
    return this.view.getUint8(this.at++);
  }

  /** An unsigned number of 16 bits, little-endian, as all that follow. */
  u16(field: string): number {
    this.need(2, field);
    this.at += 2;
    return this.view.getUint16(this.at - 2, true);
  }

  /** An unsigned number of 32 bits. */
  u32(field: string): number {
    this.need(4, field);
    this.at += 4;
    return this.view.getUint32(this.at - 4, true);
  }

  /** A number of 64 bits; one above 2^53 - 1 is refused. */
  u64(field: string): number {
    this.need(8, field);
    const value =
      this.view.getUint32(this.at, true) + this.view.getUint32(this.at + 4, true) * TWO_32;
    if (!Number.isSafeInteger(value)) this.fail(`${field} is above 2^53`);
    this.at += 8;
    return value;
  }

  /** A number of 64 bits in full: an id or a hash. */
  u64big(field: string): bigint {
    this.need(8, field);
    this.at += 8;
    return this.view.getBigUint64(this.at - 8, true);
  }

  /** A copy of the next bytes. */
  raw(bytes: number, field: string): Uint8Array {
    this.need(bytes, field);
    this.at += bytes;
    return this.bytes.slice(this.at - bytes, this.at);
  }

  /** `bytes` bytes of UTF-8; anything else is refused. */
  text(bytes: number, field: string): string {
    this.need(bytes, field);
    this.at += bytes;
    try {
      return UTF8.decode(this.bytes.subarray(this.at - bytes, this.at));
    } catch {
      return this.fail(`${field} is not UTF-8`);
    }
  }

  /** Bytes that were checked already. */
  skip(bytes: number): void {
    this.need(bytes, "the header");
    this.at += bytes;
  }

  /** `count` numbers of 32 bits, copied. Their length is checked before memory is taken. */
  u32List(count: number, field: string): Uint32Array {
    this.need(4 * count, field);
    const list = new Uint32Array(count);
    for (let i = 0; i < count; i++) list[i] = this.view.getUint32(this.at + 4 * i, true);
    this.at += 4 * count;
    return list;
  }

  /** `count` numbers as by `u64`. */
  u64List(count: number, field: string): number[] {
    const list: number[] = [];
    for (let i = 0; i < count; i++) list.push(this.u64(field));
    return list;
  }

  /** `count` elements, each read by `read`; the caller has bounded `count`. */
  list<T>(count: number, read: (reader: Reader) => T): T[] {
    const list: T[] = [];
    for (let i = 0; i < count; i++) list.push(read(this));
    return list;
  }

  /** A count, checked against its maximum and against the bytes that are left. */
  count(kind: CountKind, max: number, itemBytesMin: number, field: string): number {
    const count = this[kind](field);
    if (count > max) this.fail(`${field} has ${count} items, more than ${max}`);
    this.need(count * itemBytesMin, field);
    return count;
  }

  /** Reserved bytes: refused unless all are zero. */
  zeroes(bytes: number, field: string): void {
    this.need(bytes, field);
    for (let i = this.at; i < this.at + bytes; i++) {
      if (this.bytes[i] !== 0) this.fail(`${field} is not zero`);
    }
    this.at += bytes;
  }

  /** The end of what has to be read: nothing may follow. */
  finish(): void {
    if (this.at !== this.end) this.fail(`${this.end - this.at} bytes follow its end`);
  }
}

/** Where a format keeps what every format has; offsets from its first byte. */
export interface HeaderLayout {
  readonly name: string;
  readonly magic: string;
  readonly version: number;
  readonly lies: "disk" | "wire";
  readonly headerBytes: number;
  readonly lengthAt: number;
  readonly headerCrcAt: number;
  /** -1: there is none. */
  readonly bodyCrcAt: number;
  readonly body: "inside" | "outside" | "none";
}

/** Begins the reading of a format: magic, version, lengths and checksums are right after it. */
export function openFormat(
  layout: HeaderLayout,
  bytes: Uint8Array,
  at: number,
  end: number,
): Reader {
  const code: ErrorCode = layout.lies === "disk" ? "OVS_CORRUPT" : "OVS_PROTOCOL";
  const reader = new Reader(bytes, at, end, layout.name, code);
  reader.need(layout.headerBytes, "the header");
  for (let i = 0; i < 4; i++) {
    if (bytes[at + i] !== layout.magic.charCodeAt(i)) reader.fail(`has no magic ${layout.magic}`);
  }
  // The checksum comes before the version: a flipped bit there is damage, not another version.
  const crcAt = at + layout.headerCrcAt;
  const crc = reader.view.getUint32(crcAt, true);
  if (crc !== crc32c(bytes, at, crcAt)) reader.fail("the header's checksum is wrong");
  const version = reader.view.getUint16(at + 4, true);
  if (version > layout.version || version < Math.max(1, layout.version - 1)) {
    throw new StorageError(
      "OVS_WRONG_VERSION",
      `${layout.name} has version ${version}; this program reads ${layout.version}`,
    );
  }
  reader.version = version;
  return limitToBody(layout, reader, at);
}

function limitToBody(layout: HeaderLayout, reader: Reader, at: number): Reader {
  const stated = reader.view.getUint32(at + layout.lengthAt, true);
  if (stated < layout.headerBytes) reader.fail(`its length ${stated} is below its header's`);
  const length = layout.body === "inside" ? stated : layout.headerBytes;
  if (length > reader.end - at) reader.fail(`its length ${length} is above what is there`);
  if (layout.body === "none" && stated !== length) reader.fail(`its length is not ${length}`);
  if (layout.body === "inside") {
    const crc = reader.view.getUint32(at + layout.bodyCrcAt, true);
    if (crc !== crc32c(reader.bytes, at + layout.headerBytes, at + length)) {
      reader.fail("the body's checksum is wrong");
    }
  }
  const body = new Reader(reader.bytes, at, at + length, reader.what, reader.errorCode);
  body.version = reader.version;
  return body;
}

/** Ends the writing of a format that begins at `at`: length, body CRC, header CRC. */
export function closeFormat(layout: HeaderLayout, writer: Writer, at: number): number {
  const { view, bytes } = writer;
  if (layout.body !== "outside") view.setUint32(at + layout.lengthAt, writer.at - at, true);
  if (layout.body === "inside") {
    const crc = crc32c(bytes, at + layout.headerBytes, writer.at);
    view.setUint32(at + layout.bodyCrcAt, crc, true);
  }
  const crcAt = at + layout.headerCrcAt;
  view.setUint32(crcAt, crc32c(bytes, at, crcAt), true);
  return writer.at;
}

/** Bytes of a text in UTF-8. */
export function textBytes(text: string): number {
  return Buffer.byteLength(text, "utf8");
}
