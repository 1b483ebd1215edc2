// SPDX-License-Identifier: Apache-2.0
// CRC-32C (Castagnoli) in plain TypeScript, for headers and other small or cold pieces. Data paths
// use the codec's native one, which gives the same values.

const TABLE = makeTable();

function makeTable(): Uint32Array {
  const table = new Uint32Array(256);
  for (let n = 0; n < 256; n++) {
    let crc = n;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    table[n] = crc >>> 0;
  }
  return table;
}

/** CRC-32C of bytes[at, end); `seed` continues an earlier one (0 to begin). */
export function crc32c(bytes: Uint8Array, at = 0, end = bytes.byteLength, seed = 0): number {
  let crc = ~seed;
  for (let i = at; i < end; i++) crc = TABLE[(crc ^ bytes[i]!) & 0xff]! ^ (crc >>> 8);
  return ~crc >>> 0;
}
