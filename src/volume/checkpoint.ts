// SPDX-License-Identifier: Apache-2.0
// Checkpoints of the map (P-A9): the whole map at some TLog as objects, so that rebuilding does not
// replay for ever. Written from a snapshot of the store beside destage, when the TLogs since the
// last one outweigh it, so that their cost stays a fraction of that of the TLogs. The last part is
// put last and says so; only then the older TLogs and checkpoints go.
//
//   checkpoint/<TLog number>/<part> …      pages in order, SCOs in the first part

import { StorageError } from "../base/errors.js";
import { KIB, MIB } from "../base/units.js";
import type { KvSnapshot } from "../platform/kv.js";
import type { Checkpoint, MapMark } from "../wire/generated/map.js";
import { bytesCheckpoint, encodeCheckpoint } from "../wire/generated/map.js";
import { CHECKPOINT_PREFIX, checkpointName, numberOf, TLOG_PREFIX } from "./names.js";
import { listAll, putObject } from "./objects.js";
import { type CrcOf, packPage } from "./page.js";
import type { Volume } from "./volume.js";

/** Bytes of pages in one part. */
const PART_BYTES = 2 * MIB;
const SCAN_PAGES = 256;
const SCOS_PER_PART = 64 * KIB;
const PUT_TIMEOUT_MS = 60_000;
const REMOVE_MAX = 32;
/** TLogs since the last checkpoint that are always worth one, and those that never are. */
const TLOGS_MANY = 2048;
const TLOGS_FEW = 64;
const TLOG_BYTES_MIN = 4 * MIB;

export class Checkpointer {
  readonly #volume: Volume;
  #running: Promise<void> | null = null;
  #stopping = false;
  /** TLogs since the last checkpoint, and bytes of both. */
  #tlogs = 0;
  #tlogBytes = 0;
  #checkpointBytes = 0;

  constructor(volume: Volume) {
    this.#volume = volume;
    this.#tlogs = volume.map.mark.tlogNumber - volume.map.mark.checkpointNumber;
  }

  /** A TLog of so many bytes is in the map; begins a checkpoint when it is time for one. */
  onTlog(bytes: number): void {
    this.#tlogs++;
    this.#tlogBytes += bytes;
    if (this.#running !== null || this.#stopping) return;
    const many = this.#volume.thread.options.checkpointTlogs ?? TLOGS_MANY;
    const isWorth = this.#tlogBytes >= Math.max(TLOG_BYTES_MIN, this.#checkpointBytes / 2);
    if (this.#tlogs < Math.min(TLOGS_FEW, many) || (this.#tlogs < many && !isWorth)) return;
    this.begin();
  }

  /** Writes a checkpoint of the map as it is now, beside whatever goes on. */
  begin(): void {
    if (this.#running !== null || this.#stopping) return;
    this.#running = this.#run().finally(() => {
      this.#running = null;
    });
  }

  /** Resolves when none is being written. */
  async wait(): Promise<void> {
    await this.#running;
  }

  /** Begins no more; one that is being written is left unfinished and has no effect. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    const { map, thread } = this.#volume;
    // Nothing is awaited before the snapshot: mark, SCOs and pages are of the same moment.
    const mark = map.mark;
    const scos: Checkpoint["scos"] = [];
    map.scos.forEach((scoId, _live, total) => void scos.push({ scoId, total }));
    const snapshot = thread.kv.snapshot();
    this.#tlogs = 0;
    this.#tlogBytes = 0;
    try {
      const bytes = await this.#write(mark, scos, snapshot);
      if (bytes === 0) return;
      this.#checkpointBytes = bytes;
      await map.writeMark({ checkpointNumber: mark.tlogNumber }, { sync: true });
      await this.#removeOlder(mark.tlogNumber);
    } catch (error) {
      // It is tried again some TLogs later; until then the older one and all TLogs are there.
      if (!(error instanceof StorageError)) throw error;
      const reason = error.message;
      thread.world.log.warn("no checkpoint of the map", { vdisk: this.#volume.name, reason });
    } finally {
      snapshot.release();
    }
  }

  /** Puts all parts; answers their bytes, 0 when it was stopped before the last. */
  async #write(mark: MapMark, scos: Checkpoint["scos"], snapshot: KvSnapshot): Promise<number> {
    const { map, thread } = this.#volume;
    const crcOf: CrcOf = (bytes, seed) => thread.world.codec.crc32cOf(bytes, seed);
    const parts = new Parts(this.#volume, mark);
    for (let i = 0; i < scos.length; i += SCOS_PER_PART) {
      const some = scos.slice(i, i + SCOS_PER_PART);
      if (i + SCOS_PER_PART < scos.length) await parts.put(some, [], false);
      else parts.scos = some;
    }
    let pages: Checkpoint["pages"] = [];
    let bytes = 0;
    const endPage = 2 ** 32;
    for (let page = 0; page >= 0 && !this.#stopping; ) {
      const visit = (index: number, view: Parameters<typeof packPage>[0]): void => {
        const content = packPage(view, crcOf);
        if (content === null) return;
        pages.push({ level: 0, index, content });
        bytes += content.byteLength;
      };
      page = await map.scan({ page, endPage, limit: SCAN_PAGES }, visit, snapshot);
      if (bytes < PART_BYTES) continue;
      await parts.put([], pages, false);
      pages = [];
      bytes = 0;
    }
    for (const node of await map.nodes(snapshot)) {
      pages.push({ level: node.level, index: node.page, content: node.content });
    }
    if (this.#stopping) return 0;
    await parts.put([], pages, true);
    return parts.bytes;
  }

  async #removeOlder(tlogNumber: number): Promise<void> {
    const { store, namespace, config } = this.#volume;
    const tlogs = await listAll(store, namespace, TLOG_PREFIX);
    const checkpoints = await listAll(store, namespace, CHECKPOINT_PREFIX);
    const names = [
      ...tlogs.filter(({ name }) => numberOf(name, TLOG_PREFIX) <= tlogNumber),
      ...checkpoints.filter(({ name }) => numberOf(name, CHECKPOINT_PREFIX) < tlogNumber),
    ].map(({ name }) => name);
    const none = { compares: [], operations: [] };
    for (let i = 0; i < names.length; i += REMOVE_MAX) {
      await store.remove(namespace, names.slice(i, i + REMOVE_MAX), config.epoch, none);
    }
  }
}

/** The objects of one checkpoint, numbered as they are put. */
class Parts {
  readonly #volume: Volume;
  readonly #mark: MapMark;
  #part = 0;
  /** SCOs that wait for the next part. */
  scos: Checkpoint["scos"] = [];
  bytes = 0;

  constructor(volume: Volume, mark: MapMark) {
    this.#volume = volume;
    this.#mark = mark;
  }

  async put(scos: Checkpoint["scos"], pages: Checkpoint["pages"], isLast: boolean): Promise<void> {
    const { config, thread, store, namespace, destager } = this.#volume;
    const mark = this.#mark;
    const checkpoint: Checkpoint = {
      clusterUuid: config.clusterUuid,
      vdiskUuid: config.vdiskId,
      ownerEpoch: config.epoch,
      tlogNumber: mark.tlogNumber,
      tlogEpoch: mark.tlogEpoch,
      sequence: mark.sequence,
      sequenceEpoch: mark.sequenceEpoch,
      sizeBytes: mark.sizeBytes,
      scoIdLast: mark.scoIdLast,
      part: this.#part,
      isLast: isLast ? 1 : 0,
      scos: [...this.scos, ...scos],
      pages,
    };
    this.scos = [];
    const request = {
      namespace,
      name: checkpointName(mark.tlogNumber, this.#part),
      ownerEpoch: config.epoch,
      extras: { compares: [], operations: [] },
      timeoutMs: PUT_TIMEOUT_MS,
    };
    const put = await putObject(thread, store, request, {
      bytes: bytesCheckpoint(checkpoint),
      encode: (target, at) => void encodeCheckpoint(checkpoint, target, at),
    });
    this.#part++;
    this.bytes += put.bytes;
    destager.counts.putBytes += put.bytes;
    destager.counts.storedBytes += put.storedBytes;
  }
}
