// SPDX-License-Identifier: Apache-2.0
// Decoding: pieces that cannot be read are computed from the same pages of any k other fragments
// of their object. What the call has read already serves as a source without being read again.
// Sources that fail too are replaced by others until there are none left.

import { assert } from "../base/assert.js";
import { StorageError } from "../base/errors.js";
import { settleAll } from "../base/sync.js";
import { CLUSTER_BYTES } from "../base/units.js";
import type { ReadHost } from "./download.js";
import type { ObjectView } from "./manifests.js";
import { type FailedPiece, Failure } from "./pieces.js";
import type { ReadPart } from "./store.js";

const WAIT_MS = 100;
const WAITS_MAX = 10;

export interface DecodeOptions {
  /** The parts of the call: those that were read are sources. Empty when there are none. */
  parts: readonly ReadPart[];
  deadlineMs: number;
  priority: 0 | 1;
}

/** The lost pieces of one object at the same pages: they share their sources. */
class Job {
  readonly view: ObjectView;
  readonly page: number;
  readonly pages: number;
  readonly wanted: FailedPiece[] = [];
  readonly have: number[] = [];
  readonly haveAt: number[] = [];
  /** Fragments that need not be asked again, with the reason. */
  readonly lost = new Map<number, Failure>();
  /** How often it had to wait for OSDs to come back. */
  waits = 0;
  /** Free memory for sources. */
  readonly slots: number[] = [];

  constructor(view: ObjectView, page: number, pages: number) {
    this.view = view;
    this.page = page;
    this.pages = pages;
  }

  get bytes(): number {
    return this.pages * CLUSTER_BYTES;
  }

  get lacking(): number {
    return this.view.k - this.have.length;
  }

  gain(fragment: number, at: number): void {
    this.have.push(fragment);
    this.haveAt.push(at);
  }
}

/**
 * Computes the pieces. OVS_UNAVAILABLE or OVS_CORRUPT when fewer than k fragments are to be had.
 */
export async function decodePieces(
  host: ReadHost,
  failed: FailedPiece[],
  options: DecodeOptions,
): Promise<void> {
  const jobs = jobsOf(failed);
  for (const job of jobs) takeSiblings(job, failed, options.parts);
  // Several rounds when they do not fit the memory; half of it at most, so that others get on.
  const bytesMax = Math.floor(host.memory.bytes / 2);
  while (jobs.length > 0) {
    let bytes = 0;
    let count = 0;
    while (count < jobs.length) {
      const next = jobs[count]!.lacking * jobs[count]!.bytes;
      assert(next <= bytesMax, "the memory for decoding has room for one piece");
      if (count > 0 && bytes + next > bytesMax) break;
      bytes += next;
      count++;
    }
    await decodeSome(host, jobs.splice(0, count), bytes, options);
  }
}

function jobsOf(failed: FailedPiece[]): Job[] {
  const jobs = new Map<string, Job>();
  for (const piece of failed) {
    const { view, page, pages, fragment, failure } = piece;
    const key = `${view.name}:${view.revision}:${page}:${pages}`;
    let job = jobs.get(key);
    if (job === undefined) {
      job = new Job(view, page, pages);
      jobs.set(key, job);
    }
    job.wanted.push(piece);
    job.lost.set(fragment, failure);
  }
  return [...jobs.values()];
}

/** Data units of the same stripe that this call has read. */
function takeSiblings(job: Job, failed: FailedPiece[], parts: readonly ReadPart[]): void {
  const { view, page, bytes } = job;
  const inFragment = page * CLUSTER_BYTES;
  const stripe = Math.floor(inFragment / view.unitBytes);
  for (let f = 0; f < view.k && job.lacking > 0; f++) {
    if (job.lost.has(f)) continue;
    const offset = (stripe * view.k + f) * view.unitBytes + (inFragment % view.unitBytes);
    const part = parts.find(
      (p) => p.name === view.name && p.offset <= offset && offset + bytes <= p.offset + p.bytes,
    );
    if (part === undefined) continue;
    const at = part.into + (offset - part.offset);
    const isLost = failed.some((p) => p.into < at + bytes && at < p.into + p.pages * CLUSTER_BYTES);
    if (!isLost) job.gain(f, at);
  }
}

async function decodeSome(
  host: ReadHost,
  jobs: Job[],
  bytes: number,
  options: DecodeOptions,
): Promise<void> {
  const memory = bytes === 0 ? 0 : await host.memory.take(bytes);
  try {
    let at = memory;
    for (const job of jobs) {
      for (let i = job.lacking; i > 0; i--, at += job.bytes) job.slots.push(at);
    }
    while (jobs.some((job) => job.lacking > 0)) await readSources(host, jobs, options);
    await settleAll(jobs.map((job) => rebuild(host, job)));
  } finally {
    if (memory !== 0) host.memory.give(memory);
  }
}

/** One round: asks for as many sources as each job lacks. */
async function readSources(host: ReadHost, jobs: Job[], options: DecodeOptions): Promise<void> {
  const { clock } = host.world;
  const nowMs = clock.nowMs();
  const timeoutMs = options.deadlineMs - nowMs;
  if (timeoutMs <= 0) throw new StorageError("OVS_TIMEOUT", "too few fragments answered in time");
  const asked = jobs.map((job) => ({ job, sources: sourcesOf(host, job, nowMs) }));
  const starved = asked.find(({ job, sources }) => sources.fragments.length < job.lacking);
  if (starved !== undefined) {
    await waitForSources(host, jobs, starved.job, timeoutMs);
    return;
  }
  for (const { job, sources } of asked) {
    for (const fragment of sources.fragments) job.lost.delete(fragment);
  }
  const patient = asked.some(({ sources }) => sources.patient);
  const call = host.pieces.begin({ timeoutMs, priority: options.priority, patient });
  const places = new Map<number, { job: Job; fragment: number }>();
  for (const { job, sources } of asked) {
    for (const fragment of sources.fragments) {
      const at = job.slots.pop()!;
      places.set(at, { job, fragment });
      host.pieces.add(call, job.view, fragment, job.page, job.pages, at);
    }
  }
  const failed = await new Promise<FailedPiece[]>((resolve) => host.pieces.send(call, resolve));
  for (const { into, failure } of failed) {
    const { job, fragment } = places.get(into)!;
    places.delete(into);
    job.slots.push(into);
    // A source that was slow even for a patient call is lost to this read.
    job.lost.set(fragment, patient && failure === Failure.Slow ? Failure.Down : failure);
  }
  for (const [at, { job, fragment }] of places) job.gain(fragment, at);
}

/**
 * The fragments to ask for now: those of idle, quick OSDs first. When nothing else is left those
 * that were slow get a second chance, with all the time that there is.
 */
function sourcesOf(
  host: ReadHost,
  job: Job,
  nowMs: number,
): { fragments: number[]; patient: boolean } {
  const { view, lacking } = job;
  if (lacking === 0) return { fragments: [], patient: false };
  const ready: Array<{ fragment: number; rank: number }> = [];
  const slow: number[] = [];
  for (let fragment = 0; fragment < view.k + view.m; fragment++) {
    const id = view.osds[fragment]!;
    const failure = job.lost.get(fragment);
    const osd = id === 0 ? null : host.pool.get(id);
    if (osd === null || !osd.up || job.have.includes(fragment)) continue;
    if (failure === Failure.Slow) slow.push(fragment);
    if (failure !== undefined) continue;
    if (host.hedge.avoids(id, nowMs)) slow.push(fragment);
    else ready.push({ fragment, rank: osd.load });
  }
  ready.sort((a, b) => a.rank - b.rank);
  const fragments = ready.slice(0, lacking).map(({ fragment }) => fragment);
  const patient = fragments.length < lacking;
  if (!patient) return { fragments, patient };
  fragments.push(...slow.slice(0, lacking - fragments.length));
  return { fragments, patient };
}

/**
 * A connection that was just lost is made again in a moment: waits for it, and forgets who did not
 * answer. Throws when that has gone on for too long, or when waiting cannot help.
 */
async function waitForSources(
  host: ReadHost,
  jobs: Job[],
  starved: Job,
  leftMs: number,
): Promise<void> {
  const error = tooFew(starved);
  starved.waits++;
  if (error.code === "OVS_CORRUPT" || starved.waits > WAITS_MAX || leftMs <= WAIT_MS) throw error;
  await host.world.clock.sleep(WAIT_MS);
  for (const { lost } of jobs) {
    for (const [fragment, failure] of lost) {
      if (failure === Failure.Down) lost.set(fragment, Failure.Slow);
    }
  }
}

/** Lost for good, or only not to be had now? */
function tooFew({ view, lost }: Job): StorageError {
  let damaged = 0;
  for (let fragment = 0; fragment < view.k + view.m; fragment++) {
    const failure = lost.get(fragment);
    const isBad = failure === Failure.Missing || failure === Failure.Corrupt;
    if (view.osds[fragment] === 0 || isBad || failure === Failure.Error) damaged++;
  }
  const reasons = [...lost].map(([f, failure]) => `${f} ${failureName(failure)}`).join(", ");
  const all = view.k + view.m;
  return new StorageError(
    damaged > view.m ? "OVS_CORRUPT" : "OVS_UNAVAILABLE",
    `fewer than ${view.k} of ${all} fragments of ${view.name} can be read now (${reasons})`,
  );
}

function failureName(failure: Failure): string {
  for (const [name, value] of Object.entries(Failure)) {
    if (value === failure) return name.toLowerCase();
  }
  return "failed";
}

async function rebuild(host: ReadHost, job: Job): Promise<void> {
  const { view, wanted, bytes } = job;
  host.counters.decodedPieces += wanted.length;
  host.counters.decodedBytes += wanted.length * bytes;
  // The same range may be wanted many times in one call; the codec takes k + m at a time.
  const most = view.k + view.m;
  for (let first = 0; first < wanted.length; first += most) {
    const some = wanted.slice(first, first + most);
    await host.world.codec.rebuild(
      view,
      job.have,
      job.haveAt,
      some.map((piece) => piece.fragment),
      some.map((piece) => piece.into),
      bytes,
    );
  }
}
