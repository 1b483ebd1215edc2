// SPDX-License-Identifier: Apache-2.0
// Processes of a benchmark: run one to its end, start a server and wait for it, and count the CPU
// seconds of any of them from /proc.

import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";

/** Ticks of utime and stime in /proc; fixed on Linux for user space. */
const TICKS_PER_SECOND = 100;
const OUTPUT_BYTES_MAX = 64 * 2 ** 20;

/** Runs a program to its end and returns what it printed; throws with its stderr when it fails. */
export async function run(
  program: string,
  args: readonly string[],
  options: { timeoutMs: number; env?: NodeJS.ProcessEnv },
): Promise<string> {
  const child = spawn(program, args, {
    stdio: ["ignore", "pipe", "pipe"],
    timeout: options.timeoutMs,
    killSignal: "SIGKILL",
    env: options.env ?? process.env,
  });
  let output = "";
  let errors = "";
  child.stdout.on("data", (chunk: Buffer) => {
    if (output.length < OUTPUT_BYTES_MAX) output += chunk.toString();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    errors = (errors + chunk.toString()).slice(-4096);
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  if (code !== 0) throw new Error(`${program} ${args.join(" ")} ended with ${code}: ${errors}`);
  return output;
}

/** Runs a load of ours, a compiled script, to its end; what it printed is one JSON value. */
export async function runLoad<T>(
  script: string,
  args: readonly (string | number)[],
  options: { timeoutMs: number },
): Promise<T> {
  return JSON.parse(await run(process.execPath, [script, ...args.map(String)], options)) as T;
}

/** A server under test; `stop` sends SIGTERM, after 10 s SIGKILL, and waits for its end. */
export interface Server {
  readonly pid: number;
  stop(): Promise<void>;
}

/**
 * Starts a server and waits until `ready` is true; throws with its output when it ends or is late.
 */
export async function startServer(
  program: string,
  args: readonly string[],
  ready: () => boolean | Promise<boolean>,
  options: { timeoutMs: number; env?: NodeJS.ProcessEnv },
): Promise<Server> {
  const child = spawn(program, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: options.env ?? process.env,
  });
  let output = "";
  const keep = (chunk: Buffer) => {
    output = (output + chunk.toString()).slice(-8192);
  };
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  const ended = new Promise<void>((resolve) => {
    child.on("close", () => resolve());
    child.on("error", (error) => {
      output += error.message;
      resolve();
    });
  });
  const deadline = performance.now() + options.timeoutMs;
  while (!(await ready())) {
    if (child.exitCode !== null || child.pid === undefined || performance.now() > deadline) {
      await end(child, ended);
      throw new Error(`${program} ${args.join(" ")} does not get ready: ${output}`);
    }
    await pause(20);
  }
  return { pid: child.pid!, stop: () => end(child, ended) };
}

async function end(child: ChildProcess, ended: Promise<void>): Promise<void> {
  if (child.pid !== undefined && child.exitCode === null) child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
  await ended;
  clearTimeout(timer);
}

export async function pause(ms: number): Promise<void> {
  await new Promise<void>((resolve) => void setTimeout(resolve, ms));
}

/** CPU seconds (user and system) that living processes and their reaped children have used. */
export function cpuSecondsOf(pids: readonly number[]): number {
  let ticks = 0;
  for (const pid of pids) {
    const fields = statFields(pid);
    if (fields) for (let i = 11; i <= 14; i++) ticks += Number(fields[i]);
  }
  return ticks / TICKS_PER_SECOND;
}

/** Resident bytes of processes. */
export function residentBytesOf(pids: readonly number[]): number {
  let pages = 0;
  for (const pid of pids) pages += Number(statFields(pid)?.[21] ?? 0);
  return pages * 4096;
}

/** Bytes that living processes had written to disks, of any file. */
export function diskBytesOf(pids: readonly number[]): number {
  let bytes = 0;
  for (const pid of pids) {
    const text = readFileSync(`/proc/${pid}/io`, "latin1");
    bytes += Number(/^write_bytes: (\d+)$/m.exec(text)?.[1] ?? 0);
  }
  return bytes;
}

/** A process and all its living descendants. */
export function processTree(root: number): number[] {
  const childrenOf = new Map<number, number[]>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const parent = Number(statFields(Number(name))?.[1] ?? 0);
    childrenOf.set(parent, [...(childrenOf.get(parent) ?? []), Number(name)]);
  }
  const tree = [root];
  for (let i = 0; i < tree.length; i++) tree.push(...(childrenOf.get(tree[i]!) ?? []));
  return tree;
}

/** Fields of /proc/PID/stat behind the name: [0] state, [1] parent, [11] utime, [12] stime, … */
function statFields(pid: number): string[] | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    return text.slice(text.lastIndexOf(")") + 2).split(" ");
  } catch {
    return null; // It has ended.
  }
}
