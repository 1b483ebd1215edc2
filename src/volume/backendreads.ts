// SPDX-License-Identifier: Apache-2.0
// Reads from the backend, collected by volume: the parts of a turn leave in few calls, because a
// call costs more than its parts. Parts are not held for company while other calls are under way:
// that was measured (2 calls of up to 16 or 32 parts) and gave fewer reads a second, not more.

import type { ObjectStore, ReadPart } from "../backend/store.js";
import { assert } from "../base/assert.js";
import type { World } from "../platform/world.js";
import { scoName } from "./names.js";
import { Failure, failureOf } from "./readsource.js";

/** Parts of one call: replies of a call wait for its slowest part. */
const PARTS_MAX = 16;
/** Bytes from which on a call gets no more parts: big reads are answered one by one. */
const CALL_BYTES = 256 * 1024;
const TIMEOUT_MS = 15_000;
const NAMES = 256;

/** The parts of a volume that leave at the end of this turn. */
export class ReadBatch {
  parts: ReadPart[] = [];
  jobs: number[] = [];
}

/** What is needed of a volume. */
export interface BatchSource {
  readonly namespace: string;
  readonly store: ObjectStore;
  /** Calls that are under way (P-A5). */
  readonly backendReads: Set<Promise<void>>;
  readonly readBatch: ReadBatch;
}

/** The calls of a thread for reads that only the backend can answer. */
export class BackendReads {
  readonly #world: World;
  readonly #attempt: Uint8Array;
  readonly #onPart: (job: number, failure: Failure) => void;
  readonly #batches: BatchSource[] = [];
  readonly #nameIds = new Float64Array(NAMES);
  readonly #names = new Array<string>(NAMES).fill("");

  /** `attempt` by job: how often it has failed. `onPart` runs once a part, in a turn. */
  constructor(world: World, attempt: Uint8Array, onPart: (job: number, failure: Failure) => void) {
    this.#world = world;
    this.#attempt = attempt;
    this.#onPart = onPart;
  }

  /** A read of a part of a SCO into the arena, for a job. Borrows the memory until `onPart`. */
  add(
    source: BatchSource,
    job: number,
    scoId: number,
    range: { offset: number; bytes: number; into: number },
  ): void {
    const { parts, jobs } = source.readBatch;
    parts.push({ name: this.#nameOf(scoId), ...range });
    jobs.push(job);
    if (parts.length > 1) return;
    this.#batches.push(source);
    this.#world.turn.request();
  }

  /** At the end of a turn: what was added leaves. */
  flush(): void {
    const count = this.#batches.length;
    if (count === 0) return;
    for (let i = 0; i < count; i++) this.#send(this.#batches[i]!);
    assert(this.#batches.length === count, "a call begins with a promise, not with more parts");
    this.#batches.length = 0;
  }

  #send(source: BatchSource): void {
    const batch = source.readBatch;
    const { parts, jobs } = batch;
    batch.parts = [];
    batch.jobs = [];
    for (let from = 0; from < parts.length; ) {
      const to = this.#endOfCall(parts, jobs, from);
      const isWhole = from === 0 && to === parts.length;
      const call = isWhole
        ? this.#call(source, parts, jobs)
        : this.#call(source, parts.slice(from, to), jobs.slice(from, to));
      source.backendReads.add(call);
      void call.then(() => source.backendReads.delete(call));
      from = to;
    }
  }

  /** What failed before goes alone, so that it cannot fail others again. */
  #endOfCall(parts: ReadPart[], jobs: number[], from: number): number {
    let to = from + 1;
    if (this.#attempt[jobs[from]!]! > 0) return to;
    let bytes = parts[from]!.bytes;
    while (
      to < parts.length &&
      to - from < PARTS_MAX &&
      bytes < CALL_BYTES &&
      this.#attempt[jobs[to]!] === 0
    )
      bytes += parts[to++]!.bytes;
    return to;
  }

  /** Rejects with what is no expected error only. */
  async #call(source: BatchSource, parts: ReadPart[], jobs: number[]): Promise<void> {
    const { turn } = this.#world;
    let failure: Failure = Failure.None;
    try {
      await source.store.read(source.namespace, parts, TIMEOUT_MS);
    } catch (error) {
      failure = failureOf(error);
    }
    turn.begin();
    for (const job of jobs) this.#onPart(job, failure);
    turn.end();
  }

  /** The object's name of a SCO; the same text again and again, which is what maps find fastest. */
  #nameOf(scoId: number): string {
    const place = scoId % NAMES;
    if (this.#nameIds[place] !== scoId) {
      this.#nameIds[place] = scoId;
      this.#names[place] = scoName(scoId);
    }
    return this.#names[place]!;
  }
}
