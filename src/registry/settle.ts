// SPDX-License-Identifier: Apache-2.0
// Transactions whose outcome is unknown (P-B1). A timeout says nothing: the transaction may have
// been applied, may never be, or may be applied in a second from now. A read settles nothing,
// because the transaction may come after it. What settles it is another transaction on the same
// key that is carried out, for then the first one's compare can never hold again.
//
// So a change replaces exactly what the caller saw of one key, and when its outcome is unknown:
//
//   the same change again ──► applied: ours stands
//                         ──► refused, the key shows our value: the first one was applied
//                         ──► refused, the key was changed by others: ours never comes, but it
//                             may have stood for a while (`overtaken`)
//                         ──► refused, the key is as it was (another compare failed): it is
//                             written once more as it is, so that the first one can never come
//
// Until then the stricter of both states holds; that is for the caller to see to.

import { assert } from "../base/assert.js";
import { equalBytes } from "../base/bytes.js";
import { type ErrorCode, messageOf, StorageError } from "../base/errors.js";
import type { Clock } from "../platform/world.js";
import type { Compare, Operation, Registry, RegistryEntry } from "./registry.js";

/** The replacing of one key, with what goes with it in the same transaction. */
export interface Change {
  key: string;
  /** What the caller saw: the change is refused when the key is anything else. null: no key. */
  expected: RegistryEntry | null;
  /** Never written before by anybody to this key (it names an epoch, an incarnation, …). */
  value: Uint8Array;
  /** Lease that the key dies with. */
  lease?: string;
  /** More conditions, of other keys. */
  compares?: Compare[];
  /** More changes, of other keys. */
  operations?: Operation[];
}

export interface Settled {
  /**
   * `refused`: it was never applied. `overtaken`: others changed the key since; whether ours stood
   * in between cannot be told any more. In neither case does it come later.
   */
  outcome: "applied" | "refused" | "overtaken";
  /** The key as it was when the outcome was known; null: there is none. */
  entry: RegistryEntry | null;
  /** Of the registry at that moment. */
  revision: number;
}

export interface SettleOptions {
  /** By `clock.nowMs()`: after it the outcome stays unknown. */
  deadlineMs: number;
  /** Pause after an unknown outcome. */
  pauseMs?: number;
}

const UNKNOWN: readonly ErrorCode[] = ["OVS_TIMEOUT", "OVS_UNAVAILABLE"];

/** True for the errors after which a transaction may have been applied. */
export function isUnknownOutcome(error: unknown): boolean {
  return error instanceof StorageError && UNKNOWN.includes(error.code);
}

/**
 * Carries a change out, or finds out for certain that it was not and never will be. Rejects with
 * OVS_TIMEOUT when that is not known at the deadline: both states must then be reckoned with.
 * Errors that the registry gives before it does anything (OVS_INVALID, OVS_FULL, OVS_BUSY,
 * OVS_NOT_FOUND) pass through only while nothing is unsettled.
 */
export async function settle(
  clock: Pick<Clock, "nowMs" | "sleep">,
  registry: Registry,
  change: Change,
  options: SettleOptions,
): Promise<Settled> {
  const { key, expected, value } = change;
  assert(!expected || expected.key === key, "what was seen is this key");
  assert(!expected || !equalBytes(expected.value, value), "the value is a new one");
  let unsettled: unknown = null;
  while (true) {
    try {
      const { succeeded, entries, revision } = await attempt(registry, change);
      const entry = entries.at(-1) ?? null;
      if (succeeded) return { outcome: "applied", entry, revision };
      if (unsettled === null) return { outcome: "refused", entry, revision };
      if (entry !== null && equalBytes(entry.value, value)) {
        return { outcome: "applied", entry, revision };
      }
      if (!isAs(entry, expected)) {
        return { outcome: changedOnce(entry, expected) ? "refused" : "overtaken", entry, revision };
      }
      const blocked = await block(registry, expected);
      if (blocked) return blocked;
    } catch (error) {
      if (unsettled === null && !isUnknownOutcome(error)) throw error;
      unsettled = error;
    }
    if (clock.nowMs() >= options.deadlineMs) {
      const why = unsettled === null ? "" : `: ${messageOf(unsettled)}`;
      const text = `whether "${key}" was changed is not known${why}`;
      throw new StorageError("OVS_TIMEOUT", text, { cause: unsettled });
    }
    await clock.sleep(options.pauseMs ?? 50);
  }
}

async function attempt(registry: Registry, change: Change) {
  const { key, expected, value, lease } = change;
  return await registry.transact({
    compares: [isUnchanged(key, expected), ...(change.compares ?? [])],
    success: [
      lease === undefined ? { kind: "put", key, value } : { kind: "put", key, value, lease },
      ...(change.operations ?? []),
      { kind: "get", key },
    ],
    failure: [{ kind: "get", key }],
  });
}

/** Writes the key as it is, so that no earlier compare of its revision can hold any more. */
async function block(registry: Registry, expected: RegistryEntry | null): Promise<Settled | null> {
  // Nothing can be put in the place of a missing key: the change itself is tried again.
  if (!expected) return null;
  const { key, value, lease } = expected;
  const { succeeded, entries, revision } = await registry.transact({
    compares: [isUnchanged(key, expected)],
    success: [
      lease === "0" ? { kind: "put", key, value } : { kind: "put", key, value, lease },
      { kind: "get", key },
    ],
    failure: [],
  });
  return succeeded ? { outcome: "refused", entry: entries[1] ?? null, revision } : null;
}

function isUnchanged(key: string, expected: RegistryEntry | null): Compare {
  return { key, target: "modRevision", is: "=", number: expected?.modRevision ?? 0 };
}

/** One change since `expected`: when it is not ours, ours was not there. */
function changedOnce(entry: RegistryEntry | null, expected: RegistryEntry | null): boolean {
  if (!entry || !expected) return false;
  return entry.createRevision === expected.createRevision && entry.version === expected.version + 1;
}

function isAs(entry: RegistryEntry | null, expected: RegistryEntry | null): boolean {
  return (entry?.modRevision ?? 0) === (expected?.modRevision ?? 0);
}
