// SPDX-License-Identifier: Apache-2.0
// The books of a cluster that was stopped in order, read from its disks and held against each
// other, past all code that serves them:
//
//   registry: manifests ─► k + m fragments, each on a disk of its own that has it, at most x of
//                          an object in a failure domain
//   ASD: index          ─► no page belongs to two; each fragment is named by a manifest, or marked
//                          as garbage that goes later

import { dataKey, keyRange, parseMark } from "../backend/keys.js";
import { NAMESPACES_PREFIX, OSD_PREFIX, osdIdOf, TRASH_PREFIX } from "../backend/paths.js";
import { domainOf } from "../backend/placement.js";
import { toHex } from "../base/bytes.js";
import { currentRange, keyOfCurrent, readRecord } from "../registry/layout.js";
import { ASD_EXTENT_BYTES, ASD_PAGE_BYTES, decodeAsdEntry } from "../wire/generated/asd.js";
import { decodeManifest, type FailureDomain, type Manifest } from "../wire/generated/manifest.js";
import { decodeOsdRecord, type OsdRecord } from "../wire/generated/osd.js";
import type { KvContent } from "./kvcontent.js";

const OBJECT = /^\/ns\/[^/]+\/o\//;
const EXTENT_PAGES = ASD_EXTENT_BYTES / ASD_PAGE_BYTES;
/** First byte of an index's key for the record that says where a value lies. */
const ENTRY = 0x76;

/** What an audit looks at. */
export interface Books {
  registry: KvContent;
  /** The index of each disk, by the disk's uuid in hex. */
  indexes: ReadonlyMap<string, KvContent>;
  domain: FailureDomain;
}

/** Everything that is wrong, a line each. */
export function audit(books: Books): string[] {
  const auditor = new Auditor(books);
  auditor.manifests();
  for (const [uuid, index] of books.indexes) auditor.disk(uuid, index);
  return auditor.wrong;
}

class Auditor {
  readonly wrong: string[] = [];
  readonly #books: Books;
  readonly #osds = new Map<number, OsdRecord>();
  /** Data keys that manifests name, in hex, of each disk. */
  readonly #named = new Map<string, Set<string>>();

  constructor(books: Books) {
    this.#books = books;
    for (const uuid of books.indexes.keys()) this.#named.set(uuid, new Set());
    for (const { key, value } of this.#entries(OSD_PREFIX)) {
      this.#osds.set(osdIdOf(key), decodeOsdRecord(value));
    }
  }

  manifests(): void {
    for (const { value } of this.#entries(TRASH_PREFIX)) {
      const manifest = decodeManifest(value);
      for (const f of manifest.fragments.keys()) this.#name(manifest, f);
    }
    for (const { key, value } of this.#entries(NAMESPACES_PREFIX)) {
      if (OBJECT.test(key)) this.#object(key, decodeManifest(value));
    }
  }

  disk(uuid: string, index: KvContent): void {
    const marked = this.#marked(index);
    const owners = new Map<number, string>();
    const { first, end } = indexRange(Uint8Array.of(), null);
    const data = keyRange("data");
    for (const { key, value } of index.map.range(first, end, false, Number.MAX_SAFE_INTEGER)) {
      const name = toHex(key.subarray(1));
      for (const { file, page, pages } of decodeAsdEntry(value).runs) {
        for (let at = page; at < page + pages; at++) {
          const place = file * EXTENT_PAGES + at;
          const other = owners.get(place);
          if (other !== undefined) this.#say(`disk ${uuid}: ${other} and ${name} share page ${at}`);
          owners.set(place, name);
        }
      }
      const isData = key[1] === data.first[0];
      if (!isData || this.#named.get(uuid)!.has(name) || marked.has(name)) continue;
      this.#say(`disk ${uuid}: nothing names ${name}, which is not marked as garbage`);
    }
  }

  #object(key: string, manifest: Manifest): void {
    const { domain } = this.#books;
    const domains = new Map<string, number>();
    const disks = new Set<number>();
    for (const [f, { osd }] of manifest.fragments.entries()) {
      if (!this.#name(manifest, f)) this.#say(`${key}: OSD ${osd} lacks fragment ${f}`);
      if (disks.has(osd)) this.#say(`${key}: OSD ${osd} has two of its fragments`);
      disks.add(osd);
      const record = this.#osds.get(osd);
      if (record === undefined) continue;
      const name = domainOf({ id: osd, ...record }, domain);
      domains.set(name, (domains.get(name) ?? 0) + 1);
    }
    const { k, m, x } = manifest.policy;
    if (disks.size !== k + m) this.#say(`${key}: it has ${disks.size} of ${k + m} fragments`);
    for (const [name, count] of domains) {
      if (count > x) this.#say(`${key}: ${count} of its fragments are in ${name}, ${x} may be`);
    }
  }

  /** Notes that the fragment has a name; false when its disk does not have it. */
  #name(manifest: Manifest, f: number): boolean {
    const { osd, version } = manifest.fragments[f]!;
    const record = this.#osds.get(osd);
    if (record === undefined) return false;
    const uuid = toHex(record.diskUuid);
    const index = this.#books.indexes.get(uuid);
    if (index === undefined) return false;
    const key = dataKey({ objectId: manifest.objectId, chunk: 0, fragment: f, version });
    this.#named.get(uuid)!.add(toHex(key));
    return index.map.get(indexRange(key, null).first) !== null;
  }

  /** Data keys, in hex, that are marked as garbage on the disk. */
  #marked(index: KvContent): Set<string> {
    const marked = new Set<string>();
    const range = keyRange("mark");
    const { first, end } = indexRange(range.first, range.end);
    for (const { key } of index.map.range(first, end, false, Number.MAX_SAFE_INTEGER)) {
      const mark = parseMark(key.subarray(1));
      if (mark !== null) marked.add(toHex(dataKey(mark.name)));
    }
    return marked;
  }

  *#entries(prefix: string): Iterable<{ key: string; value: Uint8Array }> {
    const { first, end } = currentRange(prefix, undefined);
    const { map } = this.#books.registry;
    for (const { key, value } of map.range(first, end, false, Number.MAX_SAFE_INTEGER)) {
      yield { key: keyOfCurrent(key), value: readRecord(value).value };
    }
  }

  #say(words: string): void {
    this.wrong.push(words);
  }
}

/** Keys of an index for values from `first` to `end`; null: to the last. */
function indexRange(
  first: Uint8Array,
  end: Uint8Array | null,
): { first: Uint8Array; end: Uint8Array } {
  const tagged = (key: Uint8Array) => Uint8Array.from([ENTRY, ...key]);
  return { first: tagged(first), end: end === null ? Uint8Array.of(ENTRY + 1) : tagged(end) };
}
