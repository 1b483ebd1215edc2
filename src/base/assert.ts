// SPDX-License-Identifier: Apache-2.0
// Assertions that stay on in production. A failed one is our own mistake: the daemon dies and
// restarts from its log, so nothing may catch an AssertionError and go on.

export class AssertionError extends Error {
  override name = "AssertionError";
}

/**
 * Throws when `condition` is false. `message` states what was expected, without values of users.
 */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** For the branch of an exhaustive switch that the types rule out. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable: ${String(value)}`);
}
