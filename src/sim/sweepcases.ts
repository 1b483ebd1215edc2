// SPDX-License-Identifier: Apache-2.0
// What the crash-point sweep tries: every point of every story, and at each of them every way in
// which the crash can end, as far as those are few.
//
//   before a change of a disk   its host loses power: all ways of what is unsynced (losses.ts)
//                               its processes are killed: all ways of what is under way
//                               on the router's host, also its router or registry alone
//                               all hosts lose power, with all that is unsynced
//   after it                    its host loses power, nothing unsynced is kept
//   before a frame leaves a     its host loses power, nothing unsynced is kept; its process is
//   host, or is delivered       killed. After it is before the next step of the host
//   in recoveries               from some first crashes on, once more: before each change of a disk
//                               and before every so many frames

import type { MemoryPool } from "./memory.js";
import { type Crash, type CrashPoint, type SweepResult, sweepOnce } from "./sweep.js";
import { STORIES } from "./sweepstory.js";

/** Of the frames of a recovery: they are many, and most of them are the operator's questions. */
const FRAMES_EVERY = 16;

/** One crash at a point, or the last of several; `all`: every way of it is tried. */
export interface SweepCase {
  story: string;
  /** Those before. */
  first: readonly Crash[];
  point: CrashPoint;
  crash: Crash;
  all: boolean;
}

/** What all runs of a sweep have in common. */
export interface SweepBase {
  seed: number;
  pool: MemoryPool;
  /** An error that nobody has caught, once; or null. */
  stray: () => unknown;
}

/** Points of a story without crashes. Throws when it fails already. */
export async function pointsOf(base: SweepBase, story: string): Promise<CrashPoint[]> {
  return await recordedPoints(base, story, []);
}

/** Points of the recovery from the last of the crashes. */
export async function recordedPoints(
  base: SweepBase,
  story: string,
  crashes: readonly Crash[],
): Promise<CrashPoint[]> {
  const { failure, points } = await sweepOnce({ ...base, story, crashes });
  if (failure !== "") throw new Error(`${story} ${JSON.stringify(crashes)}: ${failure}`);
  return points;
}

/** All cases of a story with one crash. */
export function casesOf(story: string, points: readonly CrashPoint[]): SweepCase[] {
  return points.flatMap((point) => {
    const crashes = point.what === "disk" ? diskCrashes(point) : frameCrashes(point);
    return crashes.map(({ crash, all }) => ({ story, first: [], point, crash, all }));
  });
}

/** First crashes whose recovery is swept: in the middle of what each host has to do. */
export function firstCrashes(points: readonly CrashPoint[]): Crash[] {
  const hosts = [...new Set(points.map(({ host }) => host))].sort((a, b) => a - b);
  return hosts.map((host) => {
    const own = points.filter(({ what, when, host: its }) => {
      return what === "disk" && when === "before" && its === host;
    });
    return power(own[Math.floor(own.length / 2)]!, 0);
  });
}

/** All cases in the recovery from a first crash. */
export function recoveryCases(
  story: string,
  first: Crash,
  points: readonly CrashPoint[],
): SweepCase[] {
  const before = points.filter(({ when }) => when === "before");
  const frames = before.filter(({ what }) => what === "frame");
  const disk = before.filter(({ what }) => what === "disk");
  const crashes = [
    ...disk.flatMap((point) => [power(point, 0), kill(point, "host", 1)]),
    ...frames.filter((_, i) => i % FRAMES_EVERY === 0).map((point) => power(point, 0)),
  ];
  const pointAt = new Map(before.map((point) => [point.at, point]));
  return crashes.map((crash) => {
    return { story, first: [first], point: pointAt.get(crash.at)!, crash, all: false };
  });
}

/** Runs a case, with all its ways if that is asked for; `onRun` gets each result. */
export async function runCase(
  base: SweepBase,
  { story, first, crash, all }: SweepCase,
  onRun: (result: SweepResult, crashes: readonly Crash[]) => void,
): Promise<void> {
  const run = async (way: number): Promise<SweepResult> => {
    const crashes = [...first, { ...crash, way }];
    const result = await sweepOnce({ ...base, story, crashes });
    if (result.failure === "" && result.fired < crashes.length) {
      result.failure = "the story did not come to the point of its crash";
    }
    onRun(result, crashes);
    return result;
  };
  const { ways } = await run(crash.way);
  if (!all) return;
  for (const way of ways) if (way !== crash.way) await run(way);
}

/** Crashes as an option of the command line: story/at:victim.host:kind:way/… */
export function wordsOf(story: string, crashes: readonly Crash[]): string {
  const each = crashes.map(({ at, host, victim, kind, way }) => {
    return `${at}:${victim}.${host}:${kind}:${way}`;
  });
  return [story, ...each].join("/");
}

/** The story and crashes of such an option; null when it is none. */
export function crashesOf(words: string): { story: string; crashes: Crash[] } | null {
  const [story, ...each] = words.split("/");
  if (!STORIES.some(({ name }) => name === story)) return null;
  const crashes: Crash[] = [];
  for (const part of each) {
    const match = /^(\d{1,7}):([a-z0-9-]+)\.(\d):(kill|power):(\d{1,5})$/.exec(part);
    if (match === null) return null;
    const [, at, victim, host, kind, way] = match;
    crashes.push({
      at: Number(at),
      victim: victim!,
      host: Number(host),
      kind: kind === "kill" ? "kill" : "power",
      way: Number(way),
    });
  }
  return { story: story!, crashes };
}

function power({ at, host }: CrashPoint, way: number): Crash {
  return { at, host, victim: "host", kind: "power", way };
}

function kill({ at, host }: CrashPoint, victim: string, way: number): Crash {
  return { at, host, victim, kind: "kill", way };
}

function diskCrashes(point: CrashPoint): Array<{ crash: Crash; all: boolean }> {
  const { at, host } = point;
  const blackout: Crash = { at, host, victim: "all", kind: "power", way: 0 };
  if (point.when === "after") return [{ crash: power(point, 0), all: false }];
  const alone = host === 0 ? ["router", "registry"] : [];
  return [
    { crash: power(point, 0), all: true },
    { crash: kill(point, "host", 0), all: true },
    { crash: blackout, all: false },
    ...alone.map((victim) => ({ crash: kill(point, victim, 1), all: false })),
  ];
}

function frameCrashes(point: CrashPoint): Array<{ crash: Crash; all: boolean }> {
  // After it is before the next of its host.
  if (point.when === "after") return [];
  const crashes = [power(point, 0)];
  if (point.process !== "") crashes.push(kill(point, point.process, 0));
  return crashes.map((crash) => ({ crash, all: false }));
}
