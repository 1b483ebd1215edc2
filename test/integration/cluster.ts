// SPDX-License-Identifier: Apache-2.0
// A real one-machine cluster for tests: `ovs up` as a child in a folder of its own, with the calls
// that tests need. Every process is ended by its pid.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const OVS = new URL("../../src/bin/ovs.js", import.meta.url).pathname;
const READY_MS = 60_000;

export interface RunResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end. `timeoutMs` passed: killed, code -1. */
export async function run(
  command: string,
  args: string[],
  options: { timeoutMs: number; cwd?: string } = { timeoutMs: 120_000 },
): Promise<RunResult> {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], cwd: options.cwd });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), options.timeoutMs);
  return await new Promise<RunResult>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      clearTimeout(timer);
      resolve({ code: code ?? -1, stdout, stderr });
    });
  });
}

/** Runs a program and throws with its words when it fails. Resolves with what it printed. */
export async function must(command: string, args: string[], timeoutMs = 300_000): Promise<string> {
  const result = await run(command, args, { timeoutMs });
  if (result.code !== 0) {
    throw new Error(
      `${command} ${args.join(" ")}: exit ${result.code}\n${result.stdout}${result.stderr}`,
    );
  }
  return result.stdout;
}

/** Waits until `condition` holds, asking every 50 ms; throws after the deadline. */
export async function until(
  what: string,
  condition: () => Promise<boolean> | boolean,
  timeoutMs = 60_000,
): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not in ${timeoutMs / 1000} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export interface ProcessRow {
  role: string;
  id: string;
  pid: number;
  state: string;
  restarts: number;
}

/**
 * SIGKILL for one process. A daemon that is just being restarted has the pid 0 in the status, and
 * for the kernel 0 means the caller's whole process group: every test that runs, and its runner.
 */
export function killHard(pid: number): void {
  if (pid <= 1) throw new Error(`${pid} is no process to kill`);
  process.kill(pid, "SIGKILL");
}

/** SHA-256 of a file, by the system's tool. */
export async function sha256(path: string): Promise<string> {
  return (await must("sha256sum", [path])).slice(0, 64);
}

export class Cluster {
  readonly dir: string;
  #child: ChildProcess | null = null;
  #exit: Promise<number> = Promise.resolve(0);
  #output = "";

  private constructor(dir: string) {
    this.dir = dir;
  }

  /** A folder for a cluster, below the system's folder for temporary files. Nothing runs yet. */
  static async make(): Promise<Cluster> {
    return new Cluster(await mkdtemp(join(tmpdir(), "vcluster-")));
  }

  get data(): string {
    return join(this.dir, "data");
  }

  /** What the supervisor printed so far. */
  get output(): string {
    return this.#output;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** URI of a vDisk on the unix socket. */
  uri(vdisk = "vd0"): string {
    return `nbd+unix:///${vdisk}?socket=${this.data}/run/nbd.sock`;
  }

  /** Starts `ovs up` and waits for `ready`. Serves on a unix socket only. */
  async up(...options: string[]): Promise<void> {
    this.start(...options);
    await this.ready();
  }

  start(...options: string[]): void {
    const nbd = options.includes("--nbd") ? [] : ["--nbd", `unix:${this.data}/run/nbd.sock`];
    const child = spawn(process.execPath, [OVS, "up", "--data", this.data, ...nbd, ...options], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#output = "";
    const take = (chunk: Buffer) => {
      this.#output += chunk.toString();
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    this.#child = child;
    this.#exit = new Promise((resolve) => child.once("close", (code) => resolve(code ?? -1)));
  }

  async ready(): Promise<void> {
    let ended = false;
    void this.#exit.then(() => {
      ended = true;
    });
    await until(
      "ovs up says ready",
      () => {
        if (ended) throw new Error(`ovs up ended:\n${this.#output}`);
        return /^ready$/m.test(this.#output);
      },
      READY_MS,
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${this.#output}`);
    });
  }

  /** Resolves with the exit code of the supervisor. */
  async exited(): Promise<number> {
    return await this.#exit;
  }

  /** Clean stop; throws when the supervisor fails. */
  async down(): Promise<void> {
    if (!this.#child || this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill("SIGTERM");
    const code = await this.#exit;
    if (code !== 0) throw new Error(`ovs up ended with ${code}:\n${this.#output}`);
  }

  /** SIGKILL for the supervisor; does not wait for its daemons, which must end by themselves. */
  async killSupervisor(): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, "exit");
    child.kill("SIGKILL");
    await gone;
  }

  /** Runs the command line against this cluster. */
  async ovs(...args: string[]): Promise<RunResult> {
    return await run(process.execPath, [OVS, ...args, "--data", this.data], { timeoutMs: 600_000 });
  }

  /** The same, throwing on failure, parsed from `--json`. */
  async json<T>(...args: string[]): Promise<T> {
    const result = await this.ovs(...args, "--json");
    if (result.code !== 0 && result.code !== 3) {
      throw new Error(
        `ovs ${args.join(" ")}: exit ${result.code}\n${result.stdout}${result.stderr}`,
      );
    }
    return JSON.parse(result.stdout) as T;
  }

  async processes(): Promise<ProcessRow[]> {
    return (await this.json<{ processes: ProcessRow[] }>("status")).processes;
  }

  /** SIGKILL for one daemon by its id (`asd-0`, `router`, …). Resolves with the pid it had. */
  async kill(id: string): Promise<number> {
    const row = (await this.processes()).find((process) => process.id === id);
    if (!row || row.pid === 0) throw new Error(`no process ${id}`);
    killHard(row.pid);
    return row.pid;
  }

  /** Waits until a daemon runs with another pid than before. */
  async restarted(id: string, before: number): Promise<void> {
    await until(`${id} runs again`, async () => {
      const row = (await this.processes()).find((process) => process.id === id);
      return row !== undefined && row.state === "running" && row.pid !== before;
    });
  }

  /** The log of a daemon, for failures. */
  async log(id: string): Promise<string> {
    const path = join(this.data, "log", `${id}.log`);
    return (await stat(path).catch(() => null)) ? await readFile(path, "utf8") : "";
  }

  /** Ends everything and removes the folder, unless OVS_KEEP asks for it. */
  async destroy(): Promise<void> {
    if (this.#child && this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill("SIGTERM");
      const timer = setTimeout(() => this.#child?.kill("SIGKILL"), 30_000);
      await this.#exit;
      clearTimeout(timer);
    }
    if (!process.env.OVS_KEEP) await rm(this.dir, { recursive: true, force: true });
  }
}
