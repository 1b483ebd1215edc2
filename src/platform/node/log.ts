// SPDX-License-Identifier: Apache-2.0
// Logs: JSON lines through pino into DIR/<name>.log, rotated by size, and human lines on the
// terminal when asked. A line is written before the call returns, so that the last words of a
// dying daemon are there. Nobody logs on the hot path.
//
//   name.log ──16 MiB──► name.log.1 ──► name.log.2 ──► name.log.3 ──► gone

import * as fs from "node:fs";
import { pino } from "pino";
import type { Log, LogFields } from "../log.js";

export type LogLevel = "debug" | "info" | "warn" | "error";

export const LOG_FILE_BYTES_MAX = 16 * 2 ** 20;
export const LOG_FILES_MAX = 4;

/** Names of fields that are never written, whatever they hold. */
const SECRET_FIELDS = ["secret", "password", "passphrase", "token", "privateKey"];
const LEVEL_NUMBERS: Record<LogLevel, number> = { debug: 20, info: 30, warn: 40, error: 50 };

export interface LogOptions {
  /** Name of the daemon: in each line, and of the file. */
  name: string;
  /** Folder of the file; null for no file. Made when it is missing. */
  folder: string | null;
  /** Lowest level in the file. */
  level: LogLevel;
  /** Lowest level of human lines on stderr; null for none. */
  terminal: LogLevel | null;
}

/**
 * Appends lines to a file and starts a new one when it is full. Errors end the file, not the
 * daemon.
 */
export class RotatingFile {
  readonly #path: string;
  readonly #bytesMax: number;
  readonly #filesMax: number;
  #fd: number;
  #bytes: number;

  constructor(path: string, limits: { bytesMax: number; filesMax: number }) {
    this.#path = path;
    this.#bytesMax = limits.bytesMax;
    this.#filesMax = limits.filesMax;
    this.#fd = fs.openSync(path, "a", 0o600);
    this.#bytes = fs.fstatSync(this.#fd).size;
  }

  /**
   * Appends a line, which has its line end. Never throws: a line that cannot be written is lost.
   */
  write(line: string): void {
    if (this.#fd < 0) return;
    try {
      if (this.#bytes > 0 && this.#bytes + line.length > this.#bytesMax) this.#rotate();
      this.#bytes += fs.writeSync(this.#fd, line);
    } catch {
      // A full disk must not stop storage; the line is lost, the next one is tried again.
    }
  }

  /** Closes the file; lines after it are dropped. Idempotent. */
  close(): void {
    if (this.#fd < 0) return;
    fs.closeSync(this.#fd);
    this.#fd = -1;
  }

  #rotate(): void {
    for (let i = this.#filesMax - 1; i >= 1; i--) {
      const source = i === 1 ? this.#path : `${this.#path}.${i - 1}`;
      if (fs.existsSync(source)) fs.renameSync(source, `${this.#path}.${i}`);
    }
    const fd = fs.openSync(this.#path, "a", 0o600);
    fs.closeSync(this.#fd);
    this.#fd = fd;
    this.#bytes = 0;
  }
}

/** Makes the log of a daemon; `close` ends its file. */
export function createLog(options: LogOptions): { log: Log; close(): void } {
  const file = options.folder === null ? null : openFile(options.folder, options.name);
  const terminal =
    options.terminal === null ? Number.POSITIVE_INFINITY : LEVEL_NUMBERS[options.terminal];
  const lowest = Math.min(file ? LEVEL_NUMBERS[options.level] : Number.POSITIVE_INFINITY, terminal);
  const sink = {
    write(line: string): void {
      const level = levelOf(line);
      if (file && level >= LEVEL_NUMBERS[options.level]) file.write(line);
      if (level >= terminal) process.stderr.write(humanLine(line));
    },
  };
  const settings = {
    level: levelName(lowest),
    base: { name: options.name, pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: { paths: SECRET_FIELDS, censor: "hidden" },
    formatters: { level: (label: string) => ({ level: label }) },
  };
  return { log: new PinoLog(pino(settings, sink)), close: () => file?.close() };
}

class PinoLog implements Log {
  readonly #pino: pino.Logger;

  constructor(logger: pino.Logger) {
    this.#pino = logger;
  }

  debug(message: string, fields?: LogFields): void {
    this.#pino.debug(fields ?? {}, message);
  }

  info(message: string, fields?: LogFields): void {
    this.#pino.info(fields ?? {}, message);
  }

  warn(message: string, fields?: LogFields): void {
    this.#pino.warn(fields ?? {}, message);
  }

  error(message: string, fields?: LogFields): void {
    this.#pino.error(fields ?? {}, message);
  }

  child(fields: LogFields): Log {
    return new PinoLog(this.#pino.child(fields));
  }
}

function openFile(folder: string, name: string): RotatingFile {
  fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  const limits = { bytesMax: LOG_FILE_BYTES_MAX, filesMax: LOG_FILES_MAX };
  return new RotatingFile(`${folder}/${name}.log`, limits);
}

function levelName(number: number): string {
  const found = Object.entries(LEVEL_NUMBERS).find(([, value]) => value === number);
  return found ? found[0] : "silent";
}

/** Every line begins with {"level":"…", as pino writes it first. */
function levelOf(line: string): number {
  const name = line.slice(10, line.indexOf('"', 10));
  return LEVEL_NUMBERS[name as LogLevel] ?? LEVEL_NUMBERS.error;
}

/** `12:00:00 warn  asd-1: message  field=value`. */
function humanLine(line: string): string {
  const {
    level,
    time,
    name,
    pid: _pid,
    msg,
    ...fields
  } = JSON.parse(line) as Record<string, unknown>;
  const clock = new Date(String(time)).toTimeString().slice(0, 8);
  const tail = Object.entries(fields).map(([key, value]) => `${key}=${String(value)}`);
  const text = [`${clock} ${String(level).padEnd(5)} ${name}: ${msg}`, ...tail].join("  ");
  // What came from a stranger must neither break the line nor steer the terminal.
  return `${text.replace(/\p{Cc}/gu, " ")}\n`;
}
