// SPDX-License-Identifier: Apache-2.0
// Checks that the backend is a prefix of what was written at every moment (P-A1, P-C7): reads each
// TLog that is committed, and each SCO that it names must have been committed before it. Without
// this one would see it only where the owner dies between the two, and the cluster is read before
// it is written again.

import { objectPath } from "../backend/paths.js";
import { hasCode, StorageError } from "../base/errors.js";
import type { Registry } from "../registry/registry.js";
import { SCO_PREFIX, scoName, TLOG_PREFIX } from "../volume/names.js";
import { decodeTlog, type Tlog } from "../wire/generated/tlog.js";
import type { Timeline } from "./timeline.js";

const AGAIN_MS = 400;

/** The bytes of an object of the backend, a copy; rejects with a StorageError. */
export type ReadObject = (namespace: string, name: string, bytes: number) => Promise<Uint8Array>;

export interface PrefixOptions {
  registry: Registry;
  timeline: Timeline;
  read: ReadObject;
  /** Told in words which rule was broken. */
  onViolation: (words: string) => void;
}

interface Commit {
  namespace: string;
  name: string;
  bytes: number;
  revision: number;
}

export class PrefixCheck {
  readonly #options: PrefixOptions;
  /** Revision at which each SCO was committed first, by its key. */
  readonly #scos = new Map<string, number>();
  /** TLogs that are not read yet. */
  readonly #unread: Commit[] = [];
  #reading = false;
  /** Some commits were not told. */
  #hasGap = false;

  constructor(options: PrefixOptions) {
    this.#options = options;
  }

  /** TLogs that are still to be looked at. */
  get underWay(): number {
    return this.#unread.length;
  }

  /** Commits of before now may not have been told. */
  skipped(): void {
    this.#hasGap = true;
  }

  /** An object was committed; in the order of their revisions. */
  committed(commit: Commit): void {
    const { namespace, name, revision } = commit;
    const key = objectPath(namespace, name);
    if (name.startsWith(SCO_PREFIX) && !this.#scos.has(key)) this.#scos.set(key, revision);
    if (!name.startsWith(TLOG_PREFIX)) return;
    this.#unread.push(commit);
    if (!this.#reading) void this.#readAll();
  }

  async #readAll(): Promise<void> {
    this.#reading = true;
    for (let commit = this.#unread[0]; commit !== undefined; commit = this.#unread[0]) {
      if (await this.#isDone(commit)) this.#unread.shift();
      else await new Promise<void>((go) => void this.#options.timeline.after(AGAIN_MS, null, go));
    }
    this.#reading = false;
  }

  /** False: the backend does not answer just now. */
  async #isDone(commit: Commit): Promise<boolean> {
    const { namespace, name, bytes } = commit;
    try {
      const tlog = decodeTlog(await this.#options.read(namespace, name, bytes));
      for (const sco of scosOf(tlog)) await this.#check(commit, sco);
      return true;
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      // It went after a checkpoint, or with its vDisk.
      return hasCode(error, "OVS_NOT_FOUND");
    }
  }

  async #check({ namespace, name, revision }: Commit, sco: string): Promise<void> {
    const key = objectPath(namespace, sco);
    const { registry, onViolation } = this.#options;
    const seen = this.#scos.get(key);
    const created = seen ?? (this.#hasGap ? (await registry.get(key))?.createRevision : undefined);
    // One that came and went where nobody looked.
    if (created === undefined && this.#hasGap) return;
    if (created !== undefined && created < revision) return;
    const when = created === undefined ? "is not there" : `came at revision ${created}`;
    onViolation(`${name} of ${namespace}, revision ${revision}, names ${sco}, which ${when}`);
  }
}

/** Names of the SCOs that it brings. */
function scosOf({ entries }: Tlog): Set<string> {
  const names = new Set<string>();
  for (const entry of entries) {
    if (entry.kind === "data") names.add(scoName(entry.scoId));
    else if (entry.kind === "relocation") names.add(scoName(entry.toScoId));
  }
  return names;
}
