// SPDX-License-Identifier: Apache-2.0
// Random stories of one process with key-value stores, a few of them at once: batches, reads,
// snapshots, copies, ends. What comes of each step is a line of text, as in disk.story.ts.

import { StorageError } from "../../src/base/errors.js";
import type { KvEntry, KvFactory, KvRange, KvSnapshot, KvStore } from "../../src/platform/kv.js";
import { KV_OPTIONS, seeded, text } from "./kv.contract.js";

type Below = (limit: number) => number;

const KINDS = [
  ...["write", "write", "write", "write", "get", "getMany", "range", "range", "range"],
  ...["snapshot", "snapshot", "fromSnapshot", "fromSnapshot", "fromSnapshot", "release"],
  ...["open", "open", "close", "checkpoint", "burst", "closeBehind", "readAndRelease"],
] as const;
/** Below the story's folder: "s…" are stores, the others are none, and some cannot be. */
const PATHS = ["s1", "s2", "s1", "s2", "c1", "c2", "none/s", "file", "file/s", "folder"];

interface Change {
  kind: number;
  key: Uint8Array;
  end: Uint8Array;
  value: Uint8Array;
}

interface Step {
  kind: (typeof KINDS)[number];
  path: string;
  nth: number;
  create: boolean;
  sync: boolean;
  keys: Uint8Array[];
  changes: Change[];
  range: KvRange;
}

/** The steps of a story. */
export function kvStory(seed: number, count: number): Step[] {
  const below = seeded(seed);
  return Array.from({ length: count }, () => someStep(below));
}

function someStep(below: Below): Step {
  const key = () => someKey(below);
  return {
    kind: KINDS[below(KINDS.length)]!,
    path: PATHS[below(PATHS.length)]!,
    nth: below(3),
    create: below(3) > 0,
    sync: below(3) === 0,
    keys: Array.from({ length: below(6) }, key),
    changes: Array.from({ length: below(8) }, () => {
      const value = new Uint8Array(below(4) === 0 ? below(20_000) : below(20)).fill(below(256));
      return { kind: below(10), key: key(), end: key(), value };
    }),
    range: {
      first: below(3) === 0 ? null : key(),
      end: below(3) === 0 ? null : key(),
      reverse: below(2) === 0,
      limit: below(12),
    },
  };
}

/** Short ones of few letters, also empty; now and then one that is as long as keys get, or more. */
function someKey(below: Below): Uint8Array {
  if (below(60) === 0) return new Uint8Array(65_535 + below(3)).fill(below(256));
  return Uint8Array.from({ length: below(4) }, () => [0, 97, 98, 255][below(4)]!);
}

/** Tells the story to a factory of stores; `root` has a folder `folder` and a file `file`. */
export class KvTeller {
  readonly #factory: KvFactory;
  readonly #root: string;
  readonly #stores: KvStore[] = [];
  readonly #snapshots: KvSnapshot[] = [];

  constructor(factory: KvFactory, root: string) {
    this.#factory = factory;
    this.#root = root;
  }

  async tell(steps: readonly Step[]): Promise<string[]> {
    const lines: string[] = [];
    for (const step of steps) {
      const words = `${step.kind} ${step.path} #${step.nth} ${step.create ? "create" : "old"}`;
      lines.push(`${words}: ${await outcome(this.#do(step))}`);
    }
    for (const store of this.#stores) await store.close();
    return lines;
  }

  async #do(step: Step): Promise<string> {
    const { kind, path, create, nth } = step;
    if (kind === "open") {
      this.#stores.push(await this.#factory.open(this.#at(path), { ...KV_OPTIONS, create }));
      return "opened";
    }
    const store = this.#stores[nth];
    const snapshot = this.#snapshots[nth];
    switch (kind) {
      case "fromSnapshot":
        return snapshot ? shown(await snapshot.range(step.range)) : "none";
      case "readAndRelease":
        return snapshot ? await readAndRelease(snapshot, step) : "none";
      case "release":
        this.#snapshots.splice(nth, 1);
        return told(snapshot?.release());
      default:
        return store ? await this.#with(store, step) : "none";
    }
  }

  async #with(store: KvStore, step: Step): Promise<string> {
    const { kind, path, nth, keys, range } = step;
    switch (kind) {
      case "write":
        return await write(store, step);
      case "get":
        return digest(await store.get(keys[0] ?? new Uint8Array(0)));
      case "getMany":
        return (await store.getMany(keys)).map(digest).join(" ");
      case "range":
        return shown(await store.range(range));
      case "snapshot":
        if (this.#snapshots.length < 3) this.#snapshots.push(store.snapshot());
        return "taken";
      case "checkpoint":
        return told(await store.checkpoint(this.#at(path)));
      case "burst":
        return await burst(store, step);
      case "closeBehind":
        this.#stores.splice(nth, 1);
        return await closeBehind(store, step);
      default:
        this.#stores.splice(nth, 1);
        return told(await store.close());
    }
  }

  #at(path: string): string {
    return `${this.#root}/${path}`;
  }
}

async function outcome(work: Promise<string>): Promise<string> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    return error.code;
  }
}

async function write(store: KvStore, { changes, sync }: Step): Promise<string> {
  const batch = store.batch();
  for (const { kind, key, end, value } of changes) {
    if (kind < 6) batch.put(key, value);
    else if (kind < 9) batch.delete(key);
    else batch.deleteRange(key, end);
  }
  const written = store.write(batch, { sync });
  // It is given away with the call.
  batch.clear();
  await written;
  return "written";
}

/** Many writes at once; reads that come after them see all. */
async function burst(store: KvStore, step: Step): Promise<string> {
  const half = Math.floor(step.changes.length / 2);
  const first = { ...step, changes: step.changes.slice(0, half), sync: !step.sync };
  const second = { ...step, changes: step.changes.slice(half) };
  const ends = [first, second, first].map((part) => outcome(write(store, part)));
  return `${await Promise.all(ends)} ${shown(await store.range(step.range))}`;
}

async function closeBehind(store: KvStore, step: Step): Promise<string> {
  const before = [outcome(write(store, step)), outcome(store.range(step.range).then(shape))];
  const closed = store.close();
  const after = [outcome(write(store, step)), outcome(store.range(step.range).then(shown))];
  await closed;
  return (await Promise.all([...before, ...after])).join(", ");
}

async function readAndRelease(snapshot: KvSnapshot, { range, keys }: Step): Promise<string> {
  const reads = [
    outcome(snapshot.range(range).then(shown)),
    outcome(snapshot.getMany(keys).then((values) => values.map(digest).join(" "))),
  ];
  snapshot.release();
  reads.push(outcome(snapshot.range(range).then(shown)));
  return (await Promise.all(reads)).join(", ");
}

/** Of a read beside a write: what it finds is one or the other. */
function shape(_entries: KvEntry[]): string {
  return "read";
}

function told(_nothing: unknown): string {
  return "done";
}

function shown(entries: KvEntry[]): string {
  return entries.map(({ key, value }) => `${digest(key)}=${digest(value)}`).join(" ");
}

function digest(bytes: Uint8Array | null): string {
  if (bytes === null) return "null";
  if (bytes.byteLength < 5) return JSON.stringify(text(bytes));
  let sum = bytes.byteLength;
  for (const byte of bytes) sum = (Math.imul(sum, 31) + byte) >>> 0;
  return sum.toString(16);
}
