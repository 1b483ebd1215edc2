// SPDX-License-Identifier: Apache-2.0
// The generated codecs against the golden vectors: same bytes, and damage is refused or harmless.

import { readFileSync } from "node:fs";
import t from "tap";
import { fromHex, toHex } from "../../src/base/bytes.js";
import { crc32c } from "../../src/base/crc32c.js";
import { StorageError } from "../../src/base/errors.js";

interface Vector {
  area: string;
  name: string;
  version: number;
  value: Record<string, unknown>;
  hex: string;
}

interface Faces {
  encode(value: unknown, target: Uint8Array, at: number): number;
  pack(value: unknown): Uint8Array;
  decode(bytes: Uint8Array, at?: number, end?: number): unknown;
  invalid(bytes: Uint8Array, at?: number, end?: number): string | null;
  headerBytes: number;
  isFormat: boolean;
}

const root = new URL("../../../", import.meta.url);
const vectors = JSON.parse(
  readFileSync(new URL("test/wire/golden.json", root), "utf8"),
) as Vector[];
const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);

async function facesOf(vector: Vector): Promise<Faces> {
  const module = (await import(`../../src/wire/generated/${vector.area}.js`)) as Record<
    string,
    unknown
  >;
  const upper = vector.name.replace(/([a-z0-9])([A-Z])/g, "$1_$2").toUpperCase();
  const face = (verb: string) => module[`${verb}${vector.name}`];
  return {
    encode: face("encode") as Faces["encode"],
    pack: face("pack") as Faces["pack"],
    decode: face("decode") as Faces["decode"],
    invalid: face("invalid") as Faces["invalid"],
    headerBytes: (module[`${upper}_HEADER_BYTES`] as number | undefined) ?? 0,
    isFormat: module[`${upper}_HEADER_BYTES`] !== undefined,
  };
}

/** {"hex"} and {"big"} of the JSON as what they stand for. */
function revive(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(revive);
  if (typeof value !== "object" || value === null) return value;
  const one = value as { hex?: string; big?: string };
  if (typeof one.hex === "string") return fromHex(one.hex);
  if (typeof one.big === "string") return BigInt(one.big);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, revive(item)]));
}

/** Comparable: typed arrays as plain lists. */
function plain(value: unknown): unknown {
  if (ArrayBuffer.isView(value)) return Array.from(value as Uint8Array);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
}

const listsRevived = (value: unknown, like: unknown): unknown => {
  if (like instanceof Uint32Array) return Uint32Array.from(value as number[]);
  if (Array.isArray(like))
    return (value as unknown[]).map((item, i) => listsRevived(item, like[i]));
  if (typeof like !== "object" || like === null || ArrayBuffer.isView(like)) return value;
  const shape = like as Record<string, unknown>;
  return Object.fromEntries(
    Object.entries(value as Record<string, unknown>).map(([key, item]) => [
      key,
      listsRevived(item, shape[key]),
    ]),
  );
};

t.test("CRC-32C has its check value and can be continued", async (t) => {
  const bytes = new TextEncoder().encode("123456789");
  t.equal(crc32c(bytes), 0xe3069283);
  t.equal(crc32c(bytes, 4, 9, crc32c(bytes, 0, 4)), 0xe3069283);
});

for (const vector of vectors) {
  t.test(`${vector.name} version ${vector.version} reads its golden vector`, async (t) => {
    const faces = await facesOf(vector);
    const bytes = fromHex(vector.hex);
    const decoded = faces.decode(bytes);
    const newest = Math.max(...vectors.filter((v) => v.name === vector.name).map((v) => v.version));
    if (vector.version === newest) {
      t.same(plain(decoded), plain(revive(vector.value)), "the value comes back");
      const value = listsRevived(revive(vector.value), decoded);
      t.equal(toHex(faces.pack(value)), vector.hex, "the writer gives the vector");
      const target = new Uint8Array(bytes.byteLength + 20);
      t.equal(faces.encode(value, target, 7), 7 + bytes.byteLength, "at any offset");
      t.equal(toHex(target.subarray(7, 7 + bytes.byteLength)), vector.hex);
    }
    t.equal(faces.invalid(bytes), null);
  });

  t.test(`${vector.name} version ${vector.version} refuses every cut`, async (t) => {
    const faces = await facesOf(vector);
    const bytes = fromHex(vector.hex);
    for (let end = 0; end < bytes.byteLength; end++) {
      if (typeof faces.invalid(bytes, 0, end) !== "string") t.fail(`cut at ${end} was taken`);
    }
  });

  t.test(`${vector.name} version ${vector.version} meets flipped bits`, async (t) => {
    const faces = await facesOf(vector);
    const bytes = fromHex(vector.hex);
    for (let bit = 0; bit < bytes.byteLength * 8; bit++) {
      bytes[bit >> 3] ^= 1 << (bit & 7);
      const reason = faces.invalid(bytes); // Throws when it is anything but a StorageError.
      if (faces.isFormat && reason === null) t.fail(`flipped bit ${bit} was taken`);
      bytes[bit >> 3] ^= 1 << (bit & 7);
    }
  });

  t.test(
    `${vector.name} version ${vector.version} lives through random bytes (seed ${seed})`,
    async () => {
      const faces = await facesOf(vector);
      let state = seed;
      const next = (): number => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return state >>> 16;
      };
      for (let round = 0; round < 300; round++) {
        const bytes = Uint8Array.from({ length: next() % 200 }, () => next() & 255);
        faces.invalid(bytes);
      }
    },
  );
}

t.test("another version is named, not called damage", async (t) => {
  const { packDiskIdentity, decodeDiskIdentity, DISK_IDENTITY_HEADER_CRC } = await import(
    "../../src/wire/generated/asd.js"
  );
  const uuid = new Uint8Array(16).fill(7);
  const bytes = packDiskIdentity({
    folderVersion: 1,
    clusterUuid: uuid,
    diskUuid: uuid,
    createdMs: 1,
    site: "s",
    rack: "r",
    node: "n",
  });
  bytes[4] = 9;
  const crc = crc32c(bytes, 0, DISK_IDENTITY_HEADER_CRC);
  new DataView(bytes.buffer).setUint32(DISK_IDENTITY_HEADER_CRC, crc, true);
  t.throws(() => decodeDiskIdentity(bytes), { code: "OVS_WRONG_VERSION" });
  t.throws(
    () => decodeDiskIdentity(new Uint8Array(300)),
    new StorageError("OVS_CORRUPT", "DiskIdentity: has no magic OVID"),
  );
});
