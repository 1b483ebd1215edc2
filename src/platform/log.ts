// SPDX-License-Identifier: Apache-2.0
// Logging: JSON lines, each with the fields of the child logger that wrote it. Secrets never go in.

export type LogFields = Record<string, string | number | boolean | null | undefined>;

export interface Log {
  /** What only a developer wants to know; not written unless asked for. */
  debug(message: string, fields?: LogFields): void;
  /** What an operator may want to know. */
  info(message: string, fields?: LogFields): void;
  /** What an operator should look at; the service goes on. */
  warn(message: string, fields?: LogFields): void;
  /** What needs an operator, or ends the daemon. */
  error(message: string, fields?: LogFields): void;
  /** A logger that adds `fields` to every line. */
  child(fields: LogFields): Log;
}
