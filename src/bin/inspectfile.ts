// SPDX-License-Identifier: Apache-2.0
// Files of ours in words, for `ovs inspect`. What a file is, is told by its magic (or, for an ASD's
// folder and a map, by its place). Nothing is changed; bad blocks are named, not skipped silently.

import { INSPECT_ARENA_BYTES, inspectAsdFile, isAsdFile } from "../asd/inspect.js";
import { assert } from "../base/assert.js";
import { formatUuid } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { CLUSTER_BYTES, MIB } from "../base/units.js";
import type { World } from "../platform/world.js";
import { HEADER_AREA_BYTES, RecordParser } from "../volume/record.js";
import {
  decodeJournalSegmentHeader,
  JOURNAL_SEGMENT_HEADER_MAGIC_U32,
  JournalKind,
  JournalRangeKind,
} from "../wire/generated/journal.js";
import {
  CHECKPOINT_MAGIC_U32,
  decodeCheckpoint,
  decodeMapMark,
  decodeScoTrailer,
  MAP_MARK_MAGIC_U32,
  SCO_TRAILER_HEADER_BYTES,
  SCO_TRAILER_MAGIC_U32,
} from "../wire/generated/map.js";
import { decodeTlog, TLOG_MAGIC_U32 } from "../wire/generated/tlog.js";

export const INSPECT_BYTES = INSPECT_ARENA_BYTES + 80 * MIB;
const FILE_BYTES_MAX = 64 * MIB;

/** Prints one line of words, or one JSON object. */
export type Print = (words: string, fields: Record<string, unknown>) => void;

/** Explains the file at an absolute path. OVS_NOT_FOUND, OVS_INVALID when it is none of ours. */
export async function inspectFile(world: World, path: string, print: Print): Promise<void> {
  if (isAsdFile(path)) {
    await inspectAsdFile(world, path, (line) => print(line, { line }));
    return;
  }
  const stat = await world.disk.files.stat(path);
  if (!stat) throw new StorageError("OVS_NOT_FOUND", `there is no file ${path}`);
  if (stat.kind === "folder") {
    await inspectMap(world, path, print);
    return;
  }
  const bytes = await load(world, path, stat.sizeBytes);
  const magic =
    bytes.byteLength >= 4 ? new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) : 0;
  if (magic === JOURNAL_SEGMENT_HEADER_MAGIC_U32) inspectSegment(world, bytes, print);
  else if (magic === TLOG_MAGIC_U32) inspectTlog(bytes, print);
  else if (magic === CHECKPOINT_MAGIC_U32) inspectCheckpoint(bytes, print);
  else if (magic === MAP_MARK_MAGIC_U32) print("the mark of a map", plain(decodeMapMark(bytes)));
  else if (path.endsWith(".seg") && isZero(bytes, CLUSTER_BYTES)) {
    print("journal segment that is made ready: nothing was written to it yet", { prepared: true });
  } else inspectSco(bytes, path, print);
}

function isZero(bytes: Uint8Array, count: number): boolean {
  return bytes.subarray(0, count).every((byte) => byte === 0);
}

/** The file's bytes, in the arena. */
async function load(world: World, path: string, sizeBytes: number): Promise<Uint8Array> {
  const bytes = Math.min(sizeBytes, FILE_BYTES_MAX);
  const at = world.arena.region(Math.max(bytes, CLUSTER_BYTES), "file under inspection");
  const file = await world.disk.open(path, {
    create: false,
    exclusive: false,
    write: false,
    direct: false,
  });
  const read = await world.disk.readAsync(file, 0, at, bytes);
  await world.disk.close(file);
  return world.arena.slice(at, read);
}

function nameOf(codes: Readonly<Record<string, number>>, value: number): string {
  return Object.entries(codes).find(([, code]) => code === value)?.[0] ?? `unknown ${value}`;
}

/** Byte strings as text, for JSON and for people. */
function plain(value: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(value).map(([key, field]) => {
      if (!(field instanceof Uint8Array)) return [key, field as unknown];
      return [
        key,
        field.byteLength === 16 ? formatUuid(field) : Buffer.from(field).toString("hex"),
      ];
    }),
  );
}

function inspectSegment(world: World, bytes: Uint8Array, print: Print): void {
  const header = decodeJournalSegmentHeader(bytes);
  const { ownerEpoch, segmentNumber, firstSequence } = header;
  print(
    `journal segment ${segmentNumber} of vDisk ${formatUuid(header.vdiskUuid)}, owner epoch ` +
      `${ownerEpoch}, from record ${firstSequence}`,
    plain(header),
  );
  const { clusterUuid, vdiskUuid } = header;
  const parser = new RecordParser(world.arena, world.codec, { clusterUuid, vdiskUuid });
  const base = bytes.byteOffset;
  assert(base % CLUSTER_BYTES === 0, "the file lies aligned in the arena");
  let at = header.segmentBytes > 0 ? CLUSTER_BYTES : bytes.byteLength;
  while (at + HEADER_AREA_BYTES <= bytes.byteLength) {
    if (!parser.parse(base + at) || parser.record.epoch !== ownerEpoch) break;
    at = inspectRecord(world, parser, { base, at, end: bytes.byteLength }, print);
  }
  print(`no further record at byte ${at}`, { endAt: at });
}

/** Prints the record at `at`; returns the offset after it. */
function inspectRecord(
  world: World,
  parser: RecordParser,
  place: { base: number; at: number; end: number },
  print: Print,
): number {
  const { record } = parser;
  const ranges = Array.from({ length: record.ranges }, (_, i) => ({
    kind: nameOf(JournalRangeKind, record.rangeKinds[i] ?? 0),
    cluster: record.rangeClusters[i] ?? 0,
    count: record.rangeCounts[i] ?? 0,
  }));
  const payload = place.at + HEADER_AREA_BYTES;
  const isWhole = payload + record.clusters * CLUSTER_BYTES <= place.end;
  const bad = isWhole
    ? world.codec.crc32cVerify(place.base + payload, record.clusters, record.crcs, 0)
    : 0;
  const state = bad < 0 ? "ok" : isWhole ? `cluster ${bad} of it is damaged` : "cut off";
  const what = ranges.map((range) => `${range.kind} ${range.cluster}+${range.count}`).join(", ");
  print(
    `record ${record.sequence} at byte ${place.at}: ${nameOf(JournalKind, record.kind)} ${what} ` +
      `(complete ${record.complete}, flushed ${record.flushed}): ${state}`,
    {
      sequence: record.sequence,
      at: place.at,
      kind: nameOf(JournalKind, record.kind),
      complete: record.complete,
      flushed: record.flushed,
      ranges,
      state,
    },
  );
  return payload + record.clusters * CLUSTER_BYTES;
}

function inspectTlog(bytes: Uint8Array, print: Print): void {
  const { entries, ...header } = decodeTlog(bytes);
  print(`TLog with ${entries.length} entries`, plain(header));
  for (const entry of entries) {
    const { kind, ...fields } = entry;
    const text = Object.entries(plain(fields)).map(([key, value]) => `${key} ${String(value)}`);
    print(`${kind}: ${text.join(", ")}`, { kind, ...plain(fields) });
  }
}

function inspectCheckpoint(bytes: Uint8Array, print: Print): void {
  const { scos, pages, ...header } = decodeCheckpoint(bytes);
  print(`map checkpoint with ${pages.length} pages and ${scos.length} SCOs`, plain(header));
}

/** A SCO has no header: its clusters come first, what they are stands behind them. */
function inspectSco(bytes: Uint8Array, path: string, print: Print): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const last = bytes.byteLength - SCO_TRAILER_HEADER_BYTES;
  for (let at = last - (last % 4); at >= 0; at -= 4) {
    if (view.getUint32(at, true) !== SCO_TRAILER_MAGIC_U32) continue;
    const trailer = decodeScoTrailer(bytes, at);
    print(`SCO of ${at / CLUSTER_BYTES} clusters`, plain(trailer));
    return;
  }
  throw new StorageError(
    "OVS_INVALID",
    `${path} is no file of ours: a journal segment, an extent file, a SCO, a TLog, a checkpoint, ` +
      "or the folder of a map",
  );
}

/** A map's folder; its router must not run. */
async function inspectMap(world: World, path: string, print: Print): Promise<void> {
  const kv = await world.kv.open(path, {
    cacheBytes: MIB,
    writeBufferBytes: MIB,
    create: false,
  });
  try {
    const stats = await kv.stats();
    print(`map with about ${stats.keysEstimate} keys`, { ...stats });
    let first: Uint8Array | null = null;
    for (;;) {
      const entries = await kv.range({ first, end: null, reverse: false, limit: 512 });
      for (const { key, value } of entries) inspectMapEntry(key, value, print);
      const lastKey = entries.at(-1)?.key;
      if (entries.length < 512 || lastKey === undefined) return;
      first = Uint8Array.from([...lastKey, 0]);
    }
  } finally {
    await kv.close();
  }
}

function inspectMapEntry(key: Uint8Array, value: Uint8Array, print: Print): void {
  const hex = Buffer.from(key).toString("hex");
  const isMark = value.byteLength >= 4 && Buffer.from(value).readUInt32LE(0) === MAP_MARK_MAGIC_U32;
  if (isMark) print(`mark ${hex}`, { key: hex, ...plain(decodeMapMark(value)) });
  else print(`entry ${hex}: ${value.byteLength} bytes`, { key: hex, bytes: value.byteLength });
}
