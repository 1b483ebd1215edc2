// SPDX-License-Identifier: Apache-2.0
// Reading pieces of fragments, as many as wanted, with one request to each OSD. A piece is
// consecutive pages of one fragment and the memory that they go to. What could not be read comes
// back as a list; what was read is in place and agrees with its checksums.
//
// This is the hot part of cold reads: calls and groups are used again and again, a piece that
// succeeds makes no object.

import { assert } from "../base/assert.js";
import type { StorageError } from "../base/errors.js";
import type { Clock } from "../platform/world.js";
import type { Hedge } from "./hedge.js";
import { DATA_KEY_BYTES } from "./keys.js";
import type { ObjectView } from "./manifests.js";
import {
  type Osd,
  type OsdReadHandler,
  OsdReads,
  type Priority,
  READ_PAGES_MAX,
  READ_PARTS_MAX,
  ReadStatus,
} from "./osd.js";
import type { OsdPool } from "./osdpool.js";

const PAGE_BYTES = 4096;
const IDLE_MAX = 256;

/** Why a piece was not read. */
export const Failure = { Missing: 1, Corrupt: 2, Slow: 3, Down: 4, Error: 5 } as const;
export type Failure = (typeof Failure)[keyof typeof Failure];

export interface FailedPiece {
  view: ObjectView;
  fragment: number;
  page: number;
  pages: number;
  into: number;
  failure: Failure;
}

export interface PieceCounters {
  osdReads: number;
  osdReadBytes: number;
  slowReads: number;
  corruptPieces: number;
  missingPieces: number;
}

/** One set of pieces. Made by `begin`, over when its `done` was called. */
export class PieceCall {
  nowMs = 0;
  timeoutMs = 0;
  priority: Priority = 0;
  /** Waits for slow OSDs instead of giving up early. */
  patient = false;
  outstanding = 0;
  readonly groups: Group[] = [];
  failed: FailedPiece[] = [];
  done: ((failed: FailedPiece[]) => void) | null = null;

  /**
   * Notes a piece that was not read: `pages` from `page` on of a fragment, for the arena at `into`.
   */
  fail(
    view: ObjectView,
    fragment: number,
    page: number,
    pages: number,
    into: number,
    failure: Failure,
  ): void {
    this.failed.push({ view, fragment, page, pages, into, failure });
  }
}

/** The pieces of one call that one OSD reads. */
class Group {
  readonly token: number;
  readonly reads = new OsdReads();
  osdId = 0;
  osd!: Osd;
  call!: PieceCall;
  sentMs = 0;
  /** Its time is shorter than the call's: others are asked when it is over. */
  hedged = false;
  pieces = 0;
  readonly views: ObjectView[] = [];
  readonly fragment: number[] = [];
  readonly page: number[] = [];
  readonly pages: number[] = [];
  readonly into: number[] = [];
  /** Part of `reads` that the piece belongs to. */
  readonly part: number[] = [];

  constructor(token: number) {
    this.token = token;
  }

  begin(osdId: number, osd: Osd, call: PieceCall): void {
    this.osdId = osdId;
    this.osd = osd;
    this.call = call;
    this.pieces = 0;
    this.reads.clear();
  }

  add(view: ObjectView, fragment: number, page: number, pages: number, into: number): void {
    const last = this.pieces - 1;
    const follows =
      last >= 0 &&
      this.views[last] === view &&
      this.fragment[last] === fragment &&
      this.page[last]! + this.pages[last]! === page;
    if (!follows) this.reads.add(view.keys, fragment * DATA_KEY_BYTES, page);
    this.reads.grow(pages, into);
    const i = this.pieces++;
    this.views[i] = view;
    this.fragment[i] = fragment;
    this.page[i] = page;
    this.pages[i] = pages;
    this.into[i] = into;
    this.part[i] = this.reads.count - 1;
  }

  failPiece(i: number, failure: Failure): void {
    const { views, fragment, page, pages, into } = this;
    this.call.fail(views[i]!, fragment[i]!, page[i]!, pages[i]!, into[i]!, failure);
  }
}

/** Asks each OSD once for all pieces of a call, and tells what could not be read. */
export class PieceReader implements OsdReadHandler {
  readonly counters: PieceCounters = {
    osdReads: 0,
    osdReadBytes: 0,
    slowReads: 0,
    corruptPieces: 0,
    missingPieces: 0,
  };
  readonly #clock: Clock;
  readonly #pool: OsdPool;
  readonly #hedge: Hedge;
  readonly #groups: Group[] = [];
  readonly #freeGroups: Group[] = [];
  readonly #freeCalls: PieceCall[] = [];

  constructor(clock: Clock, pool: OsdPool, hedge: Hedge) {
    this.#clock = clock;
    this.#pool = pool;
    this.#hedge = hedge;
  }

  /** A call to `add` pieces to; it must be sent. */
  begin(options: { timeoutMs: number; priority: Priority; patient: boolean }): PieceCall {
    const call = this.#freeCalls.pop() ?? new PieceCall();
    call.nowMs = this.#clock.nowMs();
    call.timeoutMs = options.timeoutMs;
    call.priority = options.priority;
    call.patient = options.patient;
    assert(call.groups.length === 0 && call.failed.length === 0, "a call begins empty");
    return call;
  }

  /** Adds a piece; one whose OSD is known not to answer fails at once. */
  add(
    call: PieceCall,
    view: ObjectView,
    fragment: number,
    page: number,
    pages: number,
    into: number,
  ): void {
    const id = view.osds[fragment]!;
    const osd = id === 0 ? null : this.#pool.get(id);
    if (osd === null || !osd.up) {
      call.fail(view, fragment, page, pages, into, id === 0 ? Failure.Missing : Failure.Down);
      return;
    }
    if (!call.patient && this.#hedge.avoids(id, call.nowMs)) {
      call.fail(view, fragment, page, pages, into, Failure.Slow);
      return;
    }
    this.#groupFor(call, id, osd, pages).add(view, fragment, page, pages, into);
  }

  /** Sends what was added. `done` gets what failed, once, perhaps inside this call. */
  send(call: PieceCall, done: (failed: FailedPiece[]) => void): void {
    call.done = done;
    const { groups } = call;
    call.outstanding = groups.length + 1;
    for (let i = 0; i < groups.length; i++) this.#sendGroup(groups[i]!);
    groups.length = 0;
    this.#ended(call);
  }

  onRead(token: number, error: StorageError | null, statuses: Uint8Array): void {
    const group = this.#groups[token]!;
    const { call, osdId } = group;
    const nowMs = this.#clock.nowMs();
    if (error === null) {
      this.#hedge.answered(osdId, nowMs - group.sentMs);
      for (let i = 0; i < group.pieces; i++) {
        const status = statuses[group.part[i]!]!;
        if (status !== ReadStatus.Ok) this.#failPiece(group, i, status);
      }
    } else {
      const isSlow = group.hedged && error.code === "OVS_TIMEOUT";
      if (isSlow) {
        this.counters.slowReads++;
        this.#hedge.tooSlow(osdId, group.sentMs, nowMs);
      }
      const failure = isSlow ? Failure.Slow : Failure.Down;
      for (let i = 0; i < group.pieces; i++) group.failPiece(i, failure);
    }
    // Views must not be kept alive by an idle group.
    group.views.length = 0;
    this.#freeGroups.push(group);
    this.#ended(call);
  }

  #failPiece(group: Group, i: number, status: number): void {
    if (status === ReadStatus.Missing || status === ReadStatus.Outside) {
      this.counters.missingPieces++;
      group.failPiece(i, Failure.Missing);
    } else if (status === ReadStatus.Corrupt) {
      this.counters.corruptPieces++;
      group.failPiece(i, Failure.Corrupt);
    } else group.failPiece(i, Failure.Error);
  }

  #groupFor(call: PieceCall, id: number, osd: Osd, pages: number): Group {
    const { groups } = call;
    for (let i = groups.length - 1; i >= 0; i--) {
      const group = groups[i]!;
      if (group.osdId !== id) continue;
      const { count, pagesTotal } = group.reads;
      if (count < READ_PARTS_MAX && pagesTotal + pages <= READ_PAGES_MAX) return group;
      break;
    }
    let group = this.#freeGroups.pop();
    if (group === undefined) {
      group = new Group(this.#groups.length);
      this.#groups.push(group);
    }
    group.begin(id, osd, call);
    groups.push(group);
    return group;
  }

  #sendGroup(group: Group): void {
    const { call, reads } = group;
    const bytes = reads.pagesTotal * PAGE_BYTES;
    const hedgeMs = call.patient ? Number.POSITIVE_INFINITY : this.#hedge.delayMs(bytes);
    group.hedged = hedgeMs < call.timeoutMs;
    group.sentMs = call.nowMs;
    this.counters.osdReads++;
    this.counters.osdReadBytes += bytes;
    const timeoutMs = group.hedged ? hedgeMs : call.timeoutMs;
    group.osd.read(reads, timeoutMs, call.priority, this, group.token);
  }

  #ended(call: PieceCall): void {
    if (--call.outstanding > 0) return;
    const { done, failed } = call;
    call.done = null;
    if (failed.length > 0) call.failed = [];
    if (this.#freeCalls.length < IDLE_MAX) this.#freeCalls.push(call);
    done!(failed);
  }
}
