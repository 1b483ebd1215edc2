// SPDX-License-Identifier: Apache-2.0
// The recent past of a registry, in memory, and those who watch it. The past is bounded in
// revisions and bytes; what falls out is compacted: a watch from there ends, and its owner reads
// again. Events reach a watcher in order of revision, those of one transaction in one call, never
// inside the call that began the watch.
//
//   past:  | compacted … | first kept … newest |     watcher.next ─► first revision it wants

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { MIB } from "../base/units.js";
import type { Clock } from "../platform/world.js";
import type { Watch, WatchEvent, WatchHandler } from "./registry.js";

export const PAST_REVISIONS_MAX = 20_000;
export const PAST_BYTES_MAX = 16 * MIB;
export const WATCHES_MAX = 10_000;
const EVENT_BYTES = 200;

interface Past {
  revision: number;
  events: WatchEvent[];
  bytes: number;
}

interface Watcher {
  prefix: string;
  next: number;
  handler: WatchHandler;
  /** False until the past was told. */
  live: boolean;
  ended: boolean;
}

export interface PastLimits {
  revisionsMax: number;
  bytesMax: number;
}

export class WatchHub {
  readonly #clock: Pick<Clock, "immediate">;
  readonly #limits: PastLimits;
  readonly #watchers = new Set<Watcher>();
  /** A queue in an array: entries before `#first` are gone. */
  #past: Past[] = [];
  #first = 0;
  #bytes = 0;
  /** Events of this revision and all before it are not known. */
  #compacted: number;
  #newest: number;

  constructor(clock: Pick<Clock, "immediate">, revision: number, limits: PastLimits) {
    this.#clock = clock;
    this.#limits = limits;
    this.#compacted = revision;
    this.#newest = revision;
  }

  /** Watches that have not ended. */
  get watchers(): number {
    return this.#watchers.size;
  }

  /** Events of this revision and all before it are not known any more. */
  get compactedRevision(): number {
    return this.#compacted;
  }

  /** Takes the events of one transaction and tells them to the watchers. */
  publish(revision: number, events: WatchEvent[]): void {
    assert(revision > this.#newest && events.length > 0, "each revision has events, once");
    this.#newest = revision;
    let bytes = 0;
    for (const { entry } of events) {
      bytes += EVENT_BYTES + 2 * entry.key.length + entry.value.byteLength;
    }
    this.#past.push({ revision, events, bytes });
    this.#bytes += bytes;
    this.#compact();
    for (const watcher of this.#watchers) if (watcher.live) tell(watcher, revision, events);
  }

  /**
   * Tells `handler` events of keys with `prefix` from `fromRevision` on, beginning with the past,
   * soon. OVS_BUSY beyond WATCHES_MAX.
   */
  watch(prefix: string, fromRevision: number, handler: WatchHandler): Watch {
    if (this.#watchers.size >= WATCHES_MAX) {
      throw new StorageError("OVS_BUSY", `more than ${WATCHES_MAX} watches`);
    }
    const watcher = { prefix, next: fromRevision, handler, live: false, ended: false };
    this.#watchers.add(watcher);
    this.#clock.immediate(() => this.#begin(watcher));
    return { cancel: () => this.#cancel(watcher) };
  }

  /** Ends all watches. */
  end(reason: string): void {
    for (const watcher of [...this.#watchers]) this.#end(watcher, reason);
  }

  #begin(watcher: Watcher): void {
    if (watcher.ended) return;
    if (watcher.next <= this.#compacted) {
      this.#end(
        watcher,
        `revision ${watcher.next} is compacted, the past begins at ${this.#compacted + 1}`,
      );
      return;
    }
    // A handler may change the registry, but publishing happens later: the past stands still here.
    for (let i = this.#first; i < this.#past.length; i++) {
      const { revision, events } = this.#past[i]!;
      tell(watcher, revision, events);
    }
    watcher.live = true;
  }

  #cancel(watcher: Watcher): void {
    watcher.ended = true;
    this.#watchers.delete(watcher);
  }

  #end(watcher: Watcher, reason: string): void {
    if (watcher.ended) return;
    this.#cancel(watcher);
    watcher.handler.onEnd(reason);
  }

  #compact(): void {
    const { revisionsMax, bytesMax } = this.#limits;
    while (
      this.#past.length - this.#first > 1 &&
      (this.#past.length - this.#first > revisionsMax || this.#bytes > bytesMax)
    ) {
      const gone = this.#past[this.#first++]!;
      this.#bytes -= gone.bytes;
      this.#compacted = gone.revision;
    }
    if (this.#first < 1024 || this.#first * 2 < this.#past.length) return;
    this.#past = this.#past.slice(this.#first);
    this.#first = 0;
  }
}

function tell(watcher: Watcher, revision: number, events: WatchEvent[]): void {
  if (watcher.ended || revision < watcher.next) return;
  watcher.next = revision + 1;
  const wanted = events.filter(({ entry }) => entry.key.startsWith(watcher.prefix));
  if (wanted.length > 0) watcher.handler.onEvents(wanted, revision);
}
