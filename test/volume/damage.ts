// SPDX-License-Identifier: Apache-2.0
// Finds the records in journal files and damages them, as a power loss or a bad disk would.

import { closeSync, openSync, readdirSync, readFileSync, writeSync } from "node:fs";
import { CLUSTER_BYTES } from "../../src/base/units.js";
import { decodeJournalRecord, invalidJournalRecord } from "../../src/wire/generated/journal.js";

export interface FoundRecord {
  path: string;
  /** Block of the header area in the file. */
  block: number;
  epoch: number;
  sequence: number;
  complete: number;
  flushed: number;
  clusters: number;
}

/** All records with a good header, in order of (epoch, sequence). */
export function findRecords(folder: string): FoundRecord[] {
  const found: FoundRecord[] = [];
  for (const name of readdirSync(folder).sort()) {
    if (!name.endsWith(".seg")) continue;
    const path = `${folder}/${name}`;
    const bytes = readFileSync(path);
    for (let block = 1; (block + 1) * CLUSTER_BYTES <= bytes.byteLength; block++) {
      const at = block * CLUSTER_BYTES;
      if (bytes.readUInt32LE(at) !== 0x524a564f) continue;
      const area = bytes.subarray(at, at + CLUSTER_BYTES);
      if (invalidJournalRecord(area) !== null) continue;
      const { ownerEpoch, sequence, complete, flushed, clusterCount } = decodeJournalRecord(area);
      found.push({
        path,
        block,
        epoch: ownerEpoch,
        sequence,
        complete,
        flushed,
        clusters: clusterCount,
      });
    }
  }
  return found.sort((a, b) => a.epoch - b.epoch || a.sequence - b.sequence);
}

/** Overwrites `bytes.byteLength` bytes of a file. */
export function overwrite(path: string, offset: number, bytes: Uint8Array): void {
  const file = openSync(path, "r+");
  writeSync(file, bytes, 0, bytes.byteLength, offset);
  closeSync(file);
}

/** Flips one bit of a file. */
export function flipBit(path: string, offset: number, bit: number): void {
  const bytes = readFileSync(path);
  overwrite(path, offset, new Uint8Array([bytes[offset]! ^ (1 << bit)]));
}

/** Wipes a record's header, or some block of its payload. */
export function wipeRecord(record: FoundRecord, block: number): void {
  const at = (record.block + Math.min(block, record.clusters)) * CLUSTER_BYTES;
  overwrite(record.path, at, new Uint8Array(CLUSTER_BYTES));
}
