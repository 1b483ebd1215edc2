// SPDX-License-Identifier: Apache-2.0
// Where an object's fragments go. One fragment an OSD, at most x in a failure domain of the
// preset's level, spread as evenly as possible over sites, then racks, then nodes; among equals
// OSDs with more free room and less to do are likelier. Random numbers come from the caller, so
// a seed fixes the outcome.

import { assert } from "../base/assert.js";
import type { Random } from "../platform/world.js";
import { FailureDomain } from "../wire/generated/manifest.js";

/** An OSD as placement sees it. */
export interface Place {
  readonly id: number;
  readonly site: string;
  readonly rack: string;
  readonly node: string;
}

/** One that may take a fragment. */
export interface Candidate extends Place {
  readonly freeBytes: number;
  /** Requests that it has in work; 0 idle. */
  readonly load: number;
}

export interface PlacementRules {
  /** Most fragments of the object in one domain. */
  x: number;
  /** Level of the domain that x speaks of. */
  domain: FailureDomain;
}

const WEIGHT_STEPS = 2 ** 30;

/** Name of the domain of that level; a rack of another site is another rack. */
export function domainOf(place: Place, domain: FailureDomain): string {
  if (domain === FailureDomain.site) return place.site;
  if (domain === FailureDomain.rack) return `${place.site}/${place.rack}`;
  if (domain === FailureDomain.node) return `${place.site}/${place.rack}/${place.node}`;
  return String(place.id);
}

/** Usable OSDs of each domain. */
export function countPerDomain(places: Iterable<Place>, domain: FailureDomain): number[] {
  const counts = new Map<string, number>();
  for (const place of places) {
    const name = domainOf(place, domain);
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return [...counts.values()];
}

/** How many fragments of the object lie where; grows with every choice. */
class Spread {
  readonly #counts = new Map<string, number>();
  readonly #osds = new Set<number>();

  add(place: Place): void {
    this.#osds.add(place.id);
    for (const level of [FailureDomain.site, FailureDomain.rack, FailureDomain.node] as const) {
      const key = `${level}:${domainOf(place, level)}`;
      this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1);
    }
  }

  uses(id: number): boolean {
    return this.#osds.has(id);
  }

  in(place: Place, level: FailureDomain): number {
    if (level === FailureDomain.disk) return this.#osds.has(place.id) ? 1 : 0;
    return this.#counts.get(`${level}:${domainOf(place, level)}`) ?? 0;
  }

  /** Fewer is better; site counts before rack before node. */
  rank(place: Place): number {
    const site = this.in(place, FailureDomain.site);
    const rack = this.in(place, FailureDomain.rack);
    return (site * 256 + rack) * 256 + this.in(place, FailureDomain.node);
  }
}

/**
 * Chooses up to `count` OSDs for further fragments of an object that has `taken` already. Gives
 * fewer when the rules allow no more; never one twice.
 */
export function choosePlaces(
  candidates: readonly Candidate[],
  count: number,
  rules: PlacementRules,
  taken: readonly Place[],
  random: Random,
): Candidate[] {
  assert(rules.x >= 1, "a domain may take a fragment");
  const spread = new Spread();
  for (const place of taken) spread.add(place);
  const chosen: Candidate[] = [];
  while (chosen.length < count) {
    const best = bestCandidates(candidates, rules, spread);
    if (best.length === 0) break;
    const next = pickWeighted(best, random);
    spread.add(next);
    chosen.push(next);
  }
  return chosen;
}

/** Those whose domains have the fewest fragments, of all that the rules allow. */
function bestCandidates(
  candidates: readonly Candidate[],
  rules: PlacementRules,
  spread: Spread,
): Candidate[] {
  let best: Candidate[] = [];
  let bestRank = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    if (spread.uses(candidate.id) || spread.in(candidate, rules.domain) >= rules.x) continue;
    const rank = spread.rank(candidate);
    if (rank > bestRank) continue;
    if (rank < bestRank) best = [];
    bestRank = rank;
    best.push(candidate);
  }
  return best;
}

function pickWeighted(candidates: readonly Candidate[], random: Random): Candidate {
  let sum = 0;
  for (const candidate of candidates) sum += weightOf(candidate);
  let left = (random.below(WEIGHT_STEPS) / WEIGHT_STEPS) * sum;
  for (const candidate of candidates) {
    left -= weightOf(candidate);
    if (left < 0) return candidate;
  }
  return candidates[candidates.length - 1]!;
}

function weightOf(candidate: Candidate): number {
  return Math.max(1, candidate.freeBytes) / (1 + Math.max(0, candidate.load));
}

/** True when the places hold one OSD twice or more than x fragments in a domain. */
export function violates(places: readonly Place[], rules: PlacementRules): boolean {
  if (new Set(places.map((place) => place.id)).size !== places.length) return true;
  return countPerDomain(places, rules.domain).some((count) => count > rules.x);
}
