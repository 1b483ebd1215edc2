// SPDX-License-Identifier: Apache-2.0
// A small Linux beside this one, with a kernel of its own, for tests of the kernel's NBD driver. It
// runs an agent that takes shell scripts over a serial line and gives back exit code and output:
//
//   host    NUMBER base64(script)\n             guest  done NUMBER CODE base64(output)\n
//
// The kernel's own messages go to another line, `console`, which failures show. Whatever a guest
// consists of is one process group of one child and ends with it.

import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { until } from "../integration/cluster.js";

const BOOT_MS = 90_000;
const SCRIPT_MS = 300_000;
const CONSOLE_SHOWN = 4000;

/** The end of each guest's init: serves scripts from the terminal $1 until the line ends. */
export const AGENT = `
stty raw -echo < "$1"
exec < "$1" > "$1"
echo "up $(uname -r)"
while read -r number script; do
  echo "$script" | base64 -d > /run/script
  sh -e /run/script > /run/output 2>&1
  code=$?
  echo "done $number $code $(base64 -w 0 /run/output)"
done
`;

export interface GuestStart {
  command: string;
  args: string[];
  /** A file for the messages of the guest's kernel, unless the command writes it by itself. */
  console: string;
  /** Where the guest finds the cluster: `HOST PORT`, as nbd-client takes it. */
  server: string;
  env?: NodeJS.ProcessEnv;
}

export class Guest {
  readonly server: string;
  /** The release of the guest's kernel, once it is up. */
  kernel = "";
  readonly #child: ChildProcess;
  readonly #console: string;
  readonly #waiting = new Map<number, (line: string[]) => void>();
  #number = 0;
  #unread = "";
  #ended = false;

  private constructor(start: GuestStart) {
    this.server = start.server;
    this.#console = start.console;
    const console = openSync(start.console, "a");
    this.#child = spawn(start.command, start.args, {
      stdio: ["pipe", "pipe", console],
      env: { ...process.env, ...start.env },
    });
    closeSync(console);
    this.#child.stdout?.on("data", (chunk: Buffer) => this.#take(chunk.toString("latin1")));
    this.#child.stdin?.on("error", () => undefined);
    this.#child.once("error", () => this.#end());
    this.#child.once("close", () => this.#end());
  }

  /** Starts a guest and waits until its agent answers; throws with its console when it does not. */
  static async boot(start: GuestStart): Promise<Guest> {
    const guest = new Guest(start);
    const isUp = () => {
      if (guest.#ended) throw new Error("the guest ended while it started");
      return guest.kernel !== "";
    };
    await until("the guest is up", isUp, BOOT_MS).catch(async (error: unknown) => {
      await guest.destroy();
      throw new Error(`${String(error)}\n${guest.messages()}`);
    });
    return guest;
  }

  /** The last messages of the guest's kernel. */
  messages(): string {
    return readFileSync(this.#console, "latin1").slice(-CONSOLE_SHOWN);
  }

  /** Runs a shell script in the guest (`sh -e`). */
  async run(script: string): Promise<{ code: number; output: string }> {
    if (this.#ended) throw new Error(`the guest has ended\n${this.messages()}`);
    const number = ++this.#number;
    let answer: string[] | null = null;
    this.#waiting.set(number, (line) => {
      answer = line;
    });
    this.#child.stdin?.write(`${number} ${Buffer.from(script).toString("base64")}\n`);
    await until(
      `the guest is done with: ${script}`,
      () => answer !== null || this.#ended,
      SCRIPT_MS,
    );
    const [code, output] = (answer ?? []) as string[];
    if (code === undefined) throw new Error(`the guest ended in: ${script}\n${this.messages()}`);
    return { code: Number(code), output: Buffer.from(output ?? "", "base64").toString() };
  }

  /** The same, throwing with all that is known when the script fails; resolves with its output. */
  async must(script: string): Promise<string> {
    const { code, output } = await this.run(script);
    if (code === 0) return output;
    throw new Error(`in the guest: exit ${code} of: ${script}\n${output}\n${this.messages()}`);
  }

  /** Ends the guest as a power loss would. */
  async destroy(): Promise<void> {
    if (!this.#ended) this.#child.kill("SIGKILL");
    await until("the guest is gone", () => this.#ended, 10_000);
  }

  #take(text: string): void {
    const lines = (this.#unread + text).split("\n");
    this.#unread = lines.pop() ?? "";
    for (const line of lines) {
      const [word, ...rest] = line.trim().split(" ");
      if (word === "up") this.kernel = rest[0] ?? "?";
      if (word !== "done") continue;
      const number = Number(rest[0]);
      this.#waiting.get(number)?.(rest.slice(1));
      this.#waiting.delete(number);
    }
  }

  #end(): void {
    this.#ended = true;
  }
}
