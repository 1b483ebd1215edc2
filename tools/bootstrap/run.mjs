// SPDX-License-Identifier: Apache-2.0
// Runs other programs. A quiet step keeps the program's output to itself, shows that it is alive
// every few seconds, and shows everything when the program fails. Interrupts reach the child and
// end this process with the code that shells expect.

import { spawn } from "node:child_process";
import { ROOT } from "./project.mjs";

const HEARTBEAT_MS = 10_000;
const GRACE_MS = 5000;
const OUTPUT_MAX = 4 * 1024 * 1024;

/** Ends the bootstrap with `code` after `message`; thrown by steps, caught by the main file. */
export class Stop extends Error {
  constructor(message, code = 1) {
    super(message);
    this.code = code;
  }
}

/** Seconds since `startMs`, for people. */
export function since(startMs) {
  return `${((performance.now() - startMs) / 1000).toFixed(1)} s`;
}

/**
 * Runs one step of the bootstrap: `work` gets a function that runs a program quietly. Prints the
 * step's name and how long it took.
 */
export async function step(name, work) {
  const startMs = performance.now();
  process.stdout.write(`bootstrap: ${name} …\n`);
  const value = await work((program, args, options) =>
    quietly(name, startMs, program, args, options),
  );
  process.stdout.write(`bootstrap: ${name}: done in ${since(startMs)}\n`);
  return value;
}

async function quietly(name, startMs, program, args, options = {}) {
  let output = "";
  let last = "";
  const child = spawn(program, args, {
    cwd: ROOT,
    stdio: ["ignore", "pipe", "pipe"],
    ...options,
    env: { ...process.env, ...options.env },
  });
  const keep = (chunk) => {
    const text = String(chunk);
    output = (output + text).slice(-OUTPUT_MAX);
    last = text.trim().split("\n").at(-1)?.slice(0, 90) || last;
  };
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  const beat = setInterval(() => {
    process.stdout.write(`bootstrap:   ${since(startMs)}  ${last}\n`);
  }, HEARTBEAT_MS);
  const code = await ended(child, program).finally(() => clearInterval(beat));
  if (code !== 0 && !options.tolerate) {
    process.stdout.write(output);
    throw new Stop(`${name} failed: ${[program, ...args].join(" ")} ended with ${code}`);
  }
  return { code, output };
}

/** Runs a program with this process's own input and output; gives its exit code. */
export function inherit(program, args, env = {}) {
  const child = spawn(program, args, {
    cwd: ROOT,
    stdio: "inherit",
    env: { ...process.env, ...env },
  });
  return ended(child, program);
}

/**
 * Runs a program and gives each line of its standard output to `onLine`; gives its exit code. The
 * program leads a process group of its own, so that an interrupt ends all that it has started.
 */
export async function lines(program, args, onLine, env = {}) {
  const child = spawn(program, args, {
    cwd: ROOT,
    detached: true,
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...env },
  });
  let rest = "";
  child.stdout.setEncoding("utf8");
  child.stdout.on("data", (chunk) => {
    const parts = (rest + chunk).split("\n");
    rest = parts.pop();
    for (const line of parts) onLine(line);
  });
  const code = await ended(child, program, endGroup);
  if (rest !== "") onLine(rest);
  return code;
}

// Ends the process group that the child leads; who does not end by himself is killed.
function endGroup(child, signal) {
  const tell = (what) => {
    try {
      process.kill(-child.pid, what);
    } catch {
      // Nobody is left.
    }
  };
  tell(signal);
  setTimeout(() => tell("SIGKILL"), GRACE_MS).unref();
}

// Resolves with the exit code once the child is gone and its output is read. While it runs, a
// signal to this process is given to the child, and counts as this process's end too.
function ended(child, program, interrupt = (each, signal) => each.kill(signal)) {
  let interrupted = "";
  const pass = (signal) => {
    interrupted = signal;
    interrupt(child, signal);
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"];
  for (const signal of signals) process.on(signal, pass);
  return new Promise((resolve, reject) => {
    child.on("error", (error) => reject(new Stop(`cannot run ${program}: ${error.message}`)));
    child.on("close", (code, signal) => {
      for (const each of signals) process.off(each, pass);
      if (interrupted) reject(new Stop(`stopped by ${interrupted}`, SIGNAL_CODES[interrupted]));
      else resolve(code ?? SIGNAL_CODES[signal] ?? 1);
    });
  });
}

const SIGNAL_CODES = { SIGHUP: 129, SIGINT: 130, SIGKILL: 137, SIGSEGV: 139, SIGTERM: 143 };
