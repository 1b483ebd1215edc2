// SPDX-License-Identifier: Apache-2.0
// Policies (k, m, c, x): k data + m parity fragments, committed when c are durable, at most x of an
// object in one failure domain. A preset lists them from best to worst; the first that the usable
// OSDs satisfy is used.

import { StorageError } from "../base/errors.js";
import { FailureDomain, type Policy } from "../wire/generated/manifest.js";

export type { Policy } from "../wire/generated/manifest.js";

/** Most fragments (k + m) of an object. */
export const FRAGMENTS_MAX = 32;
export const POLICIES_MAX = 8;

/** What an object would get now. */
export interface PolicyChoice {
  policy: Policy;
  /** Its place in the preset, 0 for the best. */
  rank: number;
  /** Fragments that can be placed: c ≤ fragments ≤ k + m. */
  fragments: number;
}

/** Reads `k,m,c,x`; throws OVS_INVALID in words. */
export function parsePolicy(text: string): Policy {
  const parts = text.split(",");
  if (parts.length !== 4 || !parts.every((part) => /^\d{1,3}$/.test(part))) {
    throw new StorageError("OVS_INVALID", `the policy "${text}" is not k,m,c,x (as in 4,2,5,6)`);
  }
  const [k, m, c, x] = parts.map(Number) as [number, number, number, number];
  const policy = { k, m, c, x };
  const reason = invalidPolicy(policy);
  if (reason !== null) throw new StorageError("OVS_INVALID", `the policy ${text} ${reason}`);
  return policy;
}

/** A policy as the command line takes it: `k,m,c,x`. */
export function formatPolicy({ k, m, c, x }: Policy): string {
  return `${k},${m},${c},${x}`;
}

/** null when the policy is possible, else what is wrong with it. */
export function invalidPolicy({ k, m, c, x }: Policy): string | null {
  for (const value of [k, m, c, x]) {
    if (!Number.isInteger(value) || value < 0 || value > 255)
      return "has a number that is not 0 to 255";
  }
  if (k < 1) return "needs k ≥ 1: without data fragments there is no data";
  if (k + m > FRAGMENTS_MAX) return `needs k + m ≤ ${FRAGMENTS_MAX}: it has ${k + m}`;
  if (c < k) return `needs c ≥ k: ${c} fragments cannot hold what ${k} are needed for`;
  if (c > k + m) return `needs c ≤ k + m: there are only ${k + m} fragments to wait for`;
  if (x < 1) return "needs x ≥ 1: no failure domain could take a fragment";
  return null;
}

/** null when a preset's policies are possible on this cluster, else what is wrong, in words. */
export function invalidPreset(policies: readonly Policy[]): string | null {
  if (policies.length === 0) return "a preset needs a policy";
  if (policies.length > POLICIES_MAX) return `a preset has at most ${POLICIES_MAX} policies`;
  for (const policy of policies) {
    const reason = invalidPolicy(policy);
    if (reason !== null) return `the policy ${formatPolicy(policy)} ${reason}`;
  }
  return null;
}

/**
 * Fragments of one object that can be placed when the domains have so many usable OSDs each: one
 * fragment an OSD, at most x a domain.
 */
export function fragmentsPossible(policy: Policy, osdsPerDomain: Iterable<number>): number {
  let sum = 0;
  for (const osds of osdsPerDomain) sum += Math.min(policy.x, osds);
  return Math.min(sum, policy.k + policy.m);
}

/** The first policy of which at least c fragments can be placed; null: none. */
export function choosePolicy(
  policies: readonly Policy[],
  osdsPerDomain: readonly number[],
): PolicyChoice | null {
  for (let rank = 0; rank < policies.length; rank++) {
    const policy = policies[rank]!;
    const fragments = fragmentsPossible(policy, osdsPerDomain);
    if (fragments >= policy.c) return { policy, rank, fragments };
  }
  return null;
}

/** Name of a failure domain's level, for people. */
export function domainName(domain: FailureDomain): string {
  for (const [name, value] of Object.entries(FailureDomain)) if (value === domain) return name;
  return String(domain);
}
