// SPDX-License-Identifier: Apache-2.0
// The owner's own record of a vDisk. While it says *clean*, the journal may be lost without loss;
// so it must say *dirty* before the first write is acknowledged, and may say *clean* again only
// when everything acknowledged is in the backend. The volume decides when; here the transactions
// run one after the other, and one with an unknown outcome is settled by the next (P-B1).

import { hasCode, messageOf, StorageError } from "../base/errors.js";
import { Semaphore } from "../base/sync.js";
import type { World } from "../platform/world.js";
import type { Registry } from "../registry/registry.js";
import { OwnerContent, OwnerState } from "../wire/generated/vdisk.js";
import { changeOwner, type Owner, type OwnerChange } from "./records.js";

const RETRY_MS = 200;

/** The owner's record of one vDisk, and its changes, one at a time. */
export class OwnerGate {
  readonly #world: World;
  readonly #registry: Registry;
  readonly #id: string;
  readonly #lock = new Semaphore(1);
  #owner: Owner;
  #closed = false;

  constructor(world: World, registry: Registry, id: string, owner: Owner) {
    this.#world = world;
    this.#registry = registry;
    this.#id = id;
    this.#owner = owner;
  }

  /** The epoch that was claimed. */
  get epoch(): number {
    return this.#owner.value.epoch;
  }

  /** False: the registry says clean. */
  get dirty(): boolean {
    return this.#owner.value.content === OwnerContent.dirty;
  }

  /** Resolves when the record says dirty; waits for the registry. Rejects when fenced. */
  async makeDirty(): Promise<void> {
    await this.#change({ content: OwnerContent.dirty });
  }

  /** Resolves when the record says clean. */
  async makeClean(): Promise<void> {
    await this.#change({ content: OwnerContent.clean });
  }

  /** Records that the vDisk is served. */
  async serving(): Promise<void> {
    await this.#change({ state: OwnerState.serving });
  }

  /** Records that the vDisk was closed in order. */
  async release(): Promise<void> {
    await this.#change({ state: OwnerState.released });
  }

  /** A change that waits for the registry gives up. */
  close(): void {
    this.#closed = true;
  }

  async #change(change: OwnerChange): Promise<void> {
    await this.#lock.with(async () => {
      const { state, content } = this.#owner.value;
      if ((change.state ?? state) === state && (change.content ?? content) === content) return;
      for (;;) {
        try {
          this.#owner = await changeOwner(this.#registry, this.#id, this.#owner, change);
          return;
        } catch (error) {
          const isUnknown = hasCode(error, "OVS_TIMEOUT") || hasCode(error, "OVS_UNAVAILABLE");
          if (!isUnknown) throw error;
          if (this.#closed) throw new StorageError("OVS_CLOSED", "the vDisk is closed");
          this.#world.log.warn(`the owner record waits for the registry: ${messageOf(error)}`);
          await this.#world.clock.sleep(RETRY_MS);
        }
      }
    });
  }
}
