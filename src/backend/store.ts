// SPDX-License-Identifier: Apache-2.0
// What the volume layer asks of the backend: an object store with namespaces, conditional commits
// and verified partial reads. The backend's client implements it (uploads through a proxy, reads
// straight from the ASDs); an S3-compatible store can take its place later.

import type { Segments } from "../platform/network.js";
import type { Compare, Operation } from "../registry/registry.js";

export const OBJECT_BYTES_MAX = 64 * 1024 * 1024;
/**
 * Objects' names: `sco/<id>`, `tlog/<n>`, `checkpoint/<n>/<page>`; never reused for another
 * content.
 */
export const OBJECT_NAME_BYTES_MAX = 128;

/** Conditions and writes that join the commit of a manifest, all in the namespace's shard. */
export interface CommitExtras {
  compares: Compare[];
  operations: Operation[];
}

export interface PutRequest {
  namespace: string;
  name: string;
  /** Borrowed until the promise settles. */
  payload: Segments;
  bytes: number;
  /**
   * CRC-32C of each 4 KiB of the payload (the last page padded with zeroes), checked before
   * encoding.
   */
  crcs: Uint32Array;
  /** The caller's owner epoch: compared with the namespace's fence in the commit (P-C5). */
  ownerEpoch: number;
  extras: CommitExtras;
  timeoutMs: number;
}

export interface PutResult {
  /** Registry revision of the commit. */
  revision: number;
  /** Fragments acknowledged when the commit was made, of k + m. */
  fragments: number;
  /** Bytes that the ASDs stored for it so far. */
  storedBytes: number;
}

/** One verified read of a part of an object. Offsets and lengths are multiples of 4 KiB. */
export interface ReadPart {
  name: string;
  offset: number;
  bytes: number;
  /** Arena offset that the bytes go to. */
  into: number;
}

export interface ObjectInfo {
  name: string;
  bytes: number;
  /** Losses of OSDs that it survives now. */
  spare: number;
}

export interface ObjectStore {
  /** Creates the namespace with its fence at `ownerEpoch`; fine when it exists with a lower one. */
  createNamespace(namespace: string, ownerEpoch: number): Promise<void>;
  /** Removes the namespace with all objects, in the background after this returns. */
  deleteNamespace(namespace: string, ownerEpoch: number): Promise<void>;
  /** Raises the fence to `ownerEpoch`; OVS_FENCED when it stands higher (P-C5). */
  raiseFence(namespace: string, ownerEpoch: number): Promise<void>;
  /**
   * Uploads, then commits when at least c fragments are durable. OVS_FENCED: a newer owner, or a
   * compare of `extras` failed; OVS_EXISTS: the name is taken; OVS_UNAVAILABLE / OVS_FULL: nothing
   * was committed, try again later (an unknown outcome is settled inside).
   */
  put(request: PutRequest): Promise<PutResult>;
  /**
   * Deletes objects (missing ones are fine) under the fence; their fragments go in the background.
   */
  remove(
    namespace: string,
    names: readonly string[],
    ownerEpoch: number,
    extras: CommitExtras,
  ): Promise<void>;
  /**
   * Reads parts, all-or-error; every byte was checked against the fragment checksums. Parts of one
   * call are coalesced per ASD. OVS_NOT_FOUND names the object; OVS_UNAVAILABLE: fewer than k
   * fragments answer; OVS_CORRUPT: no k fragments agree with their checksums.
   */
  read(namespace: string, parts: readonly ReadPart[], timeoutMs: number): Promise<void>;
  /** Objects with a name prefix, in order, after `after`. */
  list(
    namespace: string,
    prefix: string,
    options: { after?: string; limit: number },
  ): Promise<ObjectInfo[]>;
  /**
   * Resolves when every object of the namespace has the full width that the living OSDs allow
   * (P-A10).
   */
  waitFullWidth(namespace: string, timeoutMs: number): Promise<{ full: boolean; spareMin: number }>;
}
