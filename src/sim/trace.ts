// SPDX-License-Identifier: Apache-2.0
// What happened in a simulation, in words: the last lines are shown with a failure, all of them on
// request. Log lines of the daemons go in as well; each is part of the digest.

import type { Log, LogFields } from "../platform/log.js";
import type { Timeline } from "./timeline.js";

/** Lines that a failure shows. */
const LAST = 100;

export interface TraceLine {
  timeMs: number;
  /** Who it happened to: a process, a host, `net`, `client` or `nemesis`. */
  node: string;
  text: string;
}

/** A line that a daemon has logged. */
export interface LogLine {
  node: string;
  level: string;
  message: string;
  fields: LogFields;
}

/** The lines of one simulation. */
export class Trace {
  /** Is told each line that a daemon logs. */
  onLog: (line: LogLine) => void = () => {};
  readonly #timeline: Timeline;
  readonly #lines: TraceLine[] = [];
  readonly #all: boolean;
  #next = 0;

  /** `all`: keeps every line, not the last hundred only. */
  constructor(timeline: Timeline, all: boolean) {
    this.#timeline = timeline;
    this.#all = all;
  }

  /** Something happened to `node`. */
  note(node: string, text: string): void {
    const line = { timeMs: this.#timeline.nowMs, node, text };
    for (let i = 0; i < text.length; i++) this.#timeline.mix(text.charCodeAt(i));
    if (this.#all) this.#lines.push(line);
    else this.#lines[this.#next++ % LAST] = line;
  }

  /** In order of time. */
  lines(): TraceLine[] {
    if (this.#all) return [...this.#lines];
    const at = this.#next % LAST;
    return [...this.#lines.slice(at), ...this.#lines.slice(0, at)];
  }
}

/** The log of one process: warnings and errors become lines of the trace. */
export class SimLog implements Log {
  readonly #trace: Trace;
  readonly #node: string;
  readonly #fields: LogFields;

  constructor(trace: Trace, node: string, fields: LogFields = {}) {
    this.#trace = trace;
    this.#node = node;
    this.#fields = fields;
  }

  debug(): void {}

  info(message: string, fields?: LogFields): void {
    this.#write("info", message, fields);
  }

  warn(message: string, fields?: LogFields): void {
    this.#write("warn", message, fields);
  }

  error(message: string, fields?: LogFields): void {
    this.#write("error", message, fields);
  }

  child(fields: LogFields): Log {
    return new SimLog(this.#trace, this.#node, { ...this.#fields, ...fields });
  }

  #write(level: string, message: string, fields?: LogFields): void {
    const all = { ...this.#fields, ...fields };
    const more = Object.entries(all).map(([key, value]) => ` ${key}=${value}`);
    this.#trace.note(this.#node, `${level} ${message}${more.join("")}`);
    this.#trace.onLog({ node: this.#node, level, message, fields: all });
  }
}
