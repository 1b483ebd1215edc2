// SPDX-License-Identifier: Apache-2.0
// The operations of an ASD over rpc. Multi-gets take no promise and no copy: the request's parts
// go into a pooled job, the pages come from the disk into the arena and leave from there.

import { z } from "zod";
import { assert } from "../base/assert.js";
import { formatUuid } from "../base/bytes.js";
import { StorageError } from "../base/errors.js";
import { Semaphore } from "../base/sync.js";
import { META_BYTES_MAX } from "../platform/network.js";
import { SegmentList } from "../platform/segments.js";
import type { World } from "../platform/world.js";
import { type RpcRequest, RpcServer } from "../rpc/server.js";
import {
  ASD_PAGE_BYTES,
  ASD_PARTS_MAX,
  ASD_READ_PAGES_MAX,
  type AsdApply,
  decodeAsdApply,
} from "../wire/generated/asd.js";
import { keyText } from "./index.js";
import { KeyTexts } from "./keytexts.js";
import {
  ANSWER_BYTES_MAX,
  ASD_ROLE,
  AsdFlag,
  AsdOperation,
  keysSchema,
  rangeSchema,
  scrubSchema,
} from "./protocol.js";
import { type AsdStore, ReadJob, type StoreApply, type StorePut } from "./store.js";

/** Connections carry no state of ours. */
type Session = null;
type Request = RpcRequest<Session>;

const BACKGROUND_APPLIES_MAX = 4;
const JOBS_POOLED_MAX = 1024;

/** Roles that an ASD serves. */
const CALLERS = ["router", "proxy", "manager", "cli", "asd", "test"];

export class AsdService {
  readonly server: RpcServer<Session>;
  readonly #store: AsdStore;
  readonly #jobs: ServiceJob[] = [];
  readonly #backgroundApplies = new Semaphore(BACKGROUND_APPLIES_MAX);
  readonly #reply = new Uint8Array(META_BYTES_MAX);
  readonly #replyView = new DataView(this.#reply.buffer);
  readonly #segments = new SegmentList(1);
  readonly #flags = new Uint8Array(1);
  readonly #keyTexts = new KeyTexts();
  readonly #handlers = {
    onRead: (job: ServiceJob) => this.#onRead(job),
    onSent: (job: ServiceJob) => this.#free(job),
    onDropped: (job: ServiceJob) => this.#onDropped(job),
  };

  constructor(world: World, store: AsdStore, options: { connectionsMax: number }) {
    this.#store = store;
    this.server = new RpcServer<Session>(world, {
      self: {
        role: ASD_ROLE,
        id: formatUuid(store.identity.diskUuid),
        cluster: formatUuid(store.identity.clusterUuid),
      },
      roles: CALLERS,
      session: () => null,
      connectionsMax: options.connectionsMax,
    });
    this.server.handleFast(AsdOperation.multiGet, (request) => this.#multiGet(request));
    this.server.handle(AsdOperation.apply, (request) => this.#apply(request));
    this.server.handle(AsdOperation.dropCache, async (request) => {
      store.dropCache();
      request.reply(null, null, null);
    });
    this.#handleControls();
  }

  #handleControls(): void {
    const { server } = this;
    const store = this.#store;
    server.handleControl(AsdOperation.getSmall, keysSchema, async ({ keys }) => {
      const values = await store.getSmall(keys.map(keyText));
      return { values: values.slice(0, fitting(values)) };
    });
    server.handleControl(AsdOperation.exists, keysSchema, async ({ keys }) => {
      return { exist: await store.exists(keys.map(keyText)) };
    });
    server.handleControl(
      AsdOperation.range,
      rangeSchema,
      async ({ first, end, limit, reverse }) => {
        const [from, to] = [
          first === null ? null : keyText(first),
          end === null ? null : keyText(end),
        ];
        const { keys, lengths, more } = await store.range(from, to, { limit, reverse });
        const count = fitting(keys);
        return {
          keys: keys.slice(0, count),
          lengths: lengths.slice(0, count),
          more: more || count < keys.length,
        };
      },
    );
    server.handleControl(AsdOperation.scrub, scrubSchema, async ({ after, pagesMax }) => {
      return await store.scrub(after === null ? null : keyText(after), pagesMax);
    });
    server.handleControl(AsdOperation.stats, z.object({}), async () => {
      // A disk that does not even say that has failed, and its statistics tell that.
      await store.lookForRoom().catch(() => undefined);
      return store.stats();
    });
  }

  /** Bits that every answer of a data operation carries. */
  get #flagBits(): number {
    return (
      (this.#store.isNearlyFull ? AsdFlag.NearlyFull : 0) | (this.#store.isSlow ? AsdFlag.Slow : 0)
    );
  }

  async #apply(request: Request): Promise<void> {
    const apply = openApply(decodeAsdApply(request.meta), request.payload, request.payloadBytes);
    if (request.priority === 0) await this.#store.apply(apply);
    else await this.#backgroundApplies.with(() => this.#store.apply(apply));
    this.#flags[0] = this.#flagBits;
    request.reply(this.#flags, null, null);
  }

  #multiGet(request: Request): void {
    if (this.#store.failure) throw this.#store.failure;
    const job = this.#jobs.pop() ?? new ServiceJob(this.#handlers);
    job.clear();
    try {
      parseMultiGet(request.meta, job, this.#keyTexts);
      job.isBackground = request.priority !== 0;
      job.request = request;
      this.#store.reads.start(job);
    } catch (error) {
      this.#jobs.push(job);
      throw error;
    }
  }

  #onRead(job: ServiceJob): void {
    const request = job.request!;
    job.request = null;
    const view = this.#replyView;
    const { count, pagesTotal } = job;
    this.#reply[0] = this.#flagBits;
    view.setUint16(1, count, true);
    this.#reply.set(job.statuses.subarray(0, count), 3);
    let at = 3 + count;
    view.setUint16(at, pagesTotal, true);
    at += 2;
    for (let page = 0; page < pagesTotal; page++)
      view.setUint32(at + 4 * page, job.crcs[page]!, true);
    at += 4 * pagesTotal;
    assert(at <= META_BYTES_MAX, "an answer's meta fits a frame");
    const segments = this.#segments.clear().add(job.arena, pagesTotal * ASD_PAGE_BYTES);
    request.reply(this.#reply.subarray(0, at), segments, job.sent);
  }

  #onDropped(job: ServiceJob): void {
    const request = job.request!;
    job.request = null;
    request.fail(
      new StorageError("OVS_TIMEOUT", "the caller's time was over before its turn came"),
    );
    if (this.#jobs.length < JOBS_POOLED_MAX) this.#jobs.push(job);
  }

  #free(job: ServiceJob): void {
    this.#store.reads.release(job);
    if (this.#jobs.length < JOBS_POOLED_MAX) this.#jobs.push(job);
  }
}

/** A read job with the request that it answers, and its two closures, made once. */
class ServiceJob extends ReadJob {
  request: Request | null = null;
  readonly sent: () => void;
  readonly #onDropped: (job: ServiceJob) => void;

  constructor(handlers: {
    onRead: (job: ServiceJob) => void;
    onSent: (job: ServiceJob) => void;
    onDropped: (job: ServiceJob) => void;
  }) {
    super();
    this.done = () => handlers.onRead(this);
    this.sent = () => handlers.onSent(this);
    this.#onDropped = handlers.onDropped;
  }

  override isStale(): boolean {
    return this.request!.expired;
  }

  override dropped(): void {
    this.#onDropped(this);
  }
}

/** As AsdMultiGet, without an object for each part. OVS_PROTOCOL in words. */
function parseMultiGet(meta: Uint8Array, job: ReadJob, texts: KeyTexts): void {
  const end = meta.byteLength;
  if (end < 2) throw wrongMultiGet("no count");
  const count = meta[0]! + 256 * meta[1]!;
  if (count === 0 || count > ASD_PARTS_MAX) throw wrongMultiGet(`${count} parts`);
  let at = 2;
  for (let part = 0; part < count; part++) {
    const keyEnd = at < end ? at + 1 + meta[at]! : end;
    if (keyEnd + 8 > end) throw wrongMultiGet("ends inside a part");
    const pages = wordAt(meta, keyEnd + 4);
    if (pages > ASD_READ_PAGES_MAX) throw wrongMultiGet(`${pages} pages`);
    job.add(texts.at(meta, at + 1, keyEnd), wordAt(meta, keyEnd), pages);
    at = keyEnd + 8;
  }
  if (at !== end) throw wrongMultiGet("bytes follow its end");
}

function wrongMultiGet(what: string): StorageError {
  return new StorageError("OVS_PROTOCOL", `multiGet: ${what}`);
}

function wordAt(bytes: Uint8Array, at: number): number {
  const low = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16);
  return (low | (bytes[at + 3]! << 24)) >>> 0;
}

/** The request with its pages cut out of the payload. */
function openApply(apply: AsdApply, payload: number, payloadBytes: number): StoreApply {
  let at = payload;
  const puts = apply.puts.map((put): StorePut => {
    const key = keyText(put.key);
    if (put.kind === "small") {
      const { value, crc } = put;
      return { key, length: value.byteLength, crcs: Uint32Array.of(crc), value, pieces: null };
    }
    const bytes = put.crcs.length * ASD_PAGE_BYTES;
    const pieces = Uint32Array.of(at, bytes);
    at += bytes;
    return { key, length: put.length, crcs: put.crcs, value: null, pieces };
  });
  if (at - payload !== payloadBytes) {
    const text = `apply: the puts have ${at - payload} bytes of pages, the payload ${payloadBytes}`;
    throw new StorageError("OVS_PROTOCOL", text);
  }
  return {
    asserts: apply.asserts.map((one) => {
      return {
        kind: one.kind,
        key: keyText(one.key),
        value: one.kind === "equals" ? one.value : null,
      };
    }),
    puts,
    deletes: apply.deletes.map(({ key }) => keyText(key)),
  };
}

/** How many of the byte strings fit an answer; at least one. */
function fitting(values: ReadonlyArray<Uint8Array | null>): number {
  let bytes = 0;
  const end = values.findIndex((value) => {
    bytes += 16 + (value?.byteLength ?? 0);
    return bytes > ANSWER_BYTES_MAX;
  });
  return end < 0 ? values.length : Math.max(1, end);
}
