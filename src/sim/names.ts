// SPDX-License-Identifier: Apache-2.0
// The names of a simulated file system: a tree of folders and files, and what of it would be left
// by a power loss. A change of names is durable after a sync of its folder; before, the first few
// of each folder's changes survive, in their order. A rename from one folder to another survives
// in both or in neither.

import { assert } from "../base/assert.js";
import { FileContent, type PagePool } from "./file.js";
import type { KvContent } from "./kvcontent.js";
import type { LossChooser } from "./loss.js";

/** One change of one or two names; null: the name is gone. */
interface NameChange {
  readonly parts: Array<{ folder: Folder; name: string; node: TreeNode | null }>;
}

/** A file: its content, and who has it. */
export class TreeFile {
  readonly kind = "file";
  readonly content: FileContent;
  /** False when no name leads to it any more. */
  isNamed = true;
  /** Descriptors of it. */
  opens = 0;
  /** A descriptor that writes is open, of a process that lives. */
  isWritten = false;
  /** Writes of processes that were killed which have not reached the disk yet. */
  late = 0;
  /** Words for who has locked it; null: nobody has. */
  lockedBy: string | null = null;

  constructor(pool: PagePool) {
    this.content = new FileContent(pool);
  }
}

/** A folder; one that holds a key-value store has its content beside its names. */
export class Folder {
  readonly kind = "folder";
  entries = new Map<string, TreeNode>();
  store: KvContent | null = null;
  #durable = new Map<string, TreeNode>();
  #changes: NameChange[] = [];

  /** Changes that a power loss may take. */
  get unsynced(): number {
    return this.#changes.length;
  }

  /** Gives a name to a node; what had it loses it. */
  put(name: string, node: TreeNode): void {
    change([{ folder: this, name, node }]);
  }

  /** Takes a name away; a loss of power may bring it back until the folder is synced. */
  remove(name: string): void {
    change([{ folder: this, name, node: null }]);
  }

  /** Moves a name to another folder, or to another name in this one. */
  move(name: string, target: Folder, targetName: string): void {
    const node = this.entries.get(name);
    assert(node !== undefined, "what is moved is there");
    change([
      { folder: this, name, node: null },
      { folder: target, name: targetName, node },
    ]);
  }

  /** Makes all names of the folder durable. */
  sync(): void {
    const last = this.#changes.at(-1);
    if (last) this.#commit(last);
  }

  /** Applies a change and remembers it. */
  static apply(parts: NameChange): void {
    for (const { folder, name, node } of parts.parts) {
      if (node === null) folder.entries.delete(name);
      else folder.entries.set(name, node);
      if (folder.#changes.at(-1) !== parts) folder.#changes.push(parts);
    }
  }

  /** The power fails: of these folders' changes only the first few are left. */
  static lose(folders: ReadonlyMap<Folder, string>, chooser: LossChooser): void {
    const kept = new Map<Folder, number>();
    for (const [folder, path] of folders) {
      const count = folder.#changes.length;
      kept.set(folder, count === 0 ? 0 : chooser.names(path, count));
    }
    while (cutMoves(kept, (folder) => folder.#changes)) {}
    for (const [folder, count] of kept) {
      for (const { parts } of folder.#changes.slice(0, count)) {
        for (const part of parts) if (part.folder === folder) folder.#keep(part.name, part.node);
      }
      folder.#changes = [];
    }
    for (const folder of kept.keys()) folder.entries = new Map(folder.#durable);
  }

  /** Makes all changes up to this one durable, with what had to come before them elsewhere. */
  #commit(last: NameChange): void {
    for (;;) {
      const next = this.#changes.shift();
      if (next === undefined) return;
      for (const { folder, name, node } of next.parts) {
        if (folder === this) this.#keep(name, node);
        else if (folder.#changes.includes(next)) folder.#commit(next);
      }
      if (next === last) return;
    }
  }

  #keep(name: string, node: TreeNode | null): void {
    if (node === null) this.#durable.delete(name);
    else this.#durable.set(name, node);
  }

  /** Nodes that a power loss may bring back, and those that are there. */
  *reachable(): Iterable<[string, TreeNode]> {
    yield* this.entries;
    for (const [name, node] of this.#durable) {
      if (this.entries.get(name) !== node) yield [name, node];
    }
    for (const { parts } of this.#changes) {
      for (const { folder, name, node } of parts) {
        if (folder === this && node !== null && this.entries.get(name) !== node) yield [name, node];
      }
    }
  }
}

export type TreeNode = TreeFile | Folder;

function change(parts: NameChange["parts"]): void {
  Folder.apply({ parts });
}

/** Cuts what would keep one half of a move; true when something was cut. */
function cutMoves(
  kept: Map<Folder, number>,
  changesOf: (folder: Folder) => readonly NameChange[],
): boolean {
  for (const [folder, count] of kept) {
    const changes = changesOf(folder);
    for (let i = 0; i < count; i++) {
      for (const part of changes[i]!.parts) {
        if (part.folder === folder) continue;
        const there = changesOf(part.folder).indexOf(changes[i]!);
        if (there < 0 || there < (kept.get(part.folder) ?? 0)) continue;
        kept.set(folder, i);
        return true;
      }
    }
  }
  return false;
}
